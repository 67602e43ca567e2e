"""Files of PyTorch weights: .safetensors, and .pth or .pt read without running what is in them."""

import pickle
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from mstg_jax.config import SettingsError

NESTED = ("state_dict", "model", "model_state_dict")  # where training scripts put the weights


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of a file, by name; half precision becomes float32.

    Raises:
        FileNotFoundError: there is no such file.
        SettingsError: it is not a file of tensors, or what reads it is not installed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    torch = _torch(f"read {path}")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        first = str(error).splitlines()[0]
        raise SettingsError(
            f"{path} cannot be read as PyTorch weights ({first}); needed is a state_dict as "
            "torch.save writes it: tensors by name, no other objects"
        ) from error
    for name in NESTED:
        if isinstance(found, dict) and isinstance(found.get(name), dict):
            found = found[name]
    if not isinstance(found, dict) or not found:
        raise SettingsError(f"{path} holds a {type(found).__name__}; needed is a state_dict")
    if wrong := [k for k, x in found.items() if not isinstance(x, torch.Tensor)]:
        raise SettingsError(
            f"{path} has entries that are no tensors: {', '.join(map(str, wrong))}; "
            "needed is a state_dict"
        )
    return {name: _array(x) for name, x in found.items()}


def write_tensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """As .safetensors, .pth or .pt, complete or not at all.

    Raises SettingsError for another suffix, or if what writes it is not installed.
    """
    if path.suffix not in (".safetensors", ".pth", ".pt"):
        raise SettingsError(f"{path} must end in .pth, .pt or .safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    if path.suffix == ".safetensors":
        _safetensors(f"write {path}").save_file(tensors, partial)
    else:
        torch = _torch(f"write {path}")
        torch.save({name: torch.from_numpy(x.copy()) for name, x in tensors.items()}, partial)
    partial.replace(path)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        found = _safetensors(f"read {path}").load_file(path)
    except Exception as error:  # its own error class has no public name
        if isinstance(error, SettingsError):
            raise
        raise SettingsError(f"{path} cannot be read as .safetensors: {error}") from error
    return {name: _single(x) for name, x in found.items()}


def _single(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32) if x.dtype.itemsize == 2 else x


def _array(x: Any) -> np.ndarray:
    x = x.detach()
    return (x.float() if x.element_size() == 2 else x).numpy()


def _torch(purpose: str) -> Any:
    return _needed("torch", purpose, "PyTorch", "pip install torch, or use .safetensors")


def _safetensors(purpose: str) -> Any:
    return _needed("safetensors.numpy", purpose, "safetensors", "pip install safetensors")


def _needed(module: str, purpose: str, name: str, remedy: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise SettingsError(f"{name} is needed to {purpose}: {remedy}") from None
