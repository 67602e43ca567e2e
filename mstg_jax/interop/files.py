"""Files of PyTorch weights: .safetensors, and .pth or .pt read without running what is in them.

What torch.save writes (a zip archive) has a checksum of every tensor, which torch.load does not
look at; `read_tensors` does. PyTorch's format before 1.6, .safetensors, and archives that were
written without checksums have none: there, damage that leaves numbers cannot be told from weights.
"""

import io
import re
import warnings
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
from jax import numpy as jnp

from mstg_jax.config import SettingsError

NESTED = ("state_dict", "model", "model_state_dict")  # where training scripts put the weights
ZIP = b"PK\x03\x04"


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of a file, by name, in the type that it is stored in.

    Raises:
        FileNotFoundError: there is no such file.
        SettingsError: it is not a file of tensors, it is damaged, it has a tensor that NumPy has no
            form of (sparse, quantised, float8, without values), or what reads it is not installed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    torch = _torch(f"read {path}")
    try:
        found = _load(torch, path)
    except MemoryError:
        raise
    except Exception as error:  # on arbitrary bytes torch and zipfile raise nearly every type
        raise SettingsError(
            f"{path} cannot be read as PyTorch weights ({_reason(error)}); needed is a state_dict "
            "as torch.save writes it: tensors by name, no other objects"
        ) from error
    for _ in NESTED:
        inside = [found[k] for k in NESTED if isinstance(found, dict) and k in found]
        found = next((x for x in inside if isinstance(x, dict)), found)
    if not isinstance(found, dict) or not found:
        what = "an empty dict" if found == {} else f"a {type(found).__name__}"
        raise SettingsError(f"{path} holds {what}; needed is a state_dict")
    if wrong := [k for k, x in found.items() if not isinstance(x, torch.Tensor)]:
        raise SettingsError(
            f"{path} has entries that are no tensors: {', '.join(map(str, wrong))}; "
            "needed is a state_dict"
        )
    if wrong := [k for k in found if not isinstance(k, str)]:
        raise SettingsError(
            f"{path} has tensors whose names are no strings: {', '.join(map(str, wrong))}; "
            "needed is a state_dict"
        )
    return {name: _array(torch, x, f"{path}: {name}") for name, x in found.items()}


def write_tensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """As .safetensors, .pth or .pt, complete or not at all.

    Raises SettingsError for another suffix, or if what writes it is not installed; OSError where
    the disk refuses it.
    """
    if path.suffix not in (".safetensors", ".pth", ".pt"):
        raise SettingsError(f"{path} must end in .pth, .pt or .safetensors")
    content = io.BytesIO()
    if path.suffix == ".safetensors":
        content.write(_safetensors(f"write {path}").numpy.save(tensors))
    else:
        torch = _torch(f"write {path}")
        torch.save({name: _tensor(torch, x) for name, x in tensors.items()}, content)
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content.getbuffer())
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink()


def _load(torch: Any, path: Path) -> Any:
    """What torch.load finds; raises anything at all."""
    with path.open("rb") as file:
        start = file.read(len(ZIP))
    if not start:
        raise ValueError("the file is empty")
    source: Any = path
    if start == ZIP:
        with ZipFile(path) as archive:
            if any(part.CRC for part in archive.infolist()):
                source = _checked(archive)
    else:
        source = io.BytesIO(path.read_bytes())  # where no length in the file asks for more than it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(source, map_location="cpu", weights_only=True)


def _checked(archive: ZipFile) -> io.BytesIO:
    """A copy of what has the right checksum. torch.load would read damaged headers in a way of its
    own: a tensor that they call a folder becomes what happens to be in memory."""
    copy = io.BytesIO()
    with ZipFile(copy, "w") as sound:
        for part in archive.infolist():
            sound.writestr(part.filename, archive.read(part))
    copy.seek(0)
    return copy


def _reason(error: Exception) -> str:
    """One line of an error; PyTorch's on other objects is a page, with colours."""
    if found := re.search(r"GLOBAL (\S+)", str(error)):
        return f"it holds {found[1]}, which is no tensor"
    line = next(iter(str(error).strip().splitlines()), "")
    return line if " " in line else f"{type(error).__name__} {line}".strip()


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    library = _safetensors(f"read {path}")
    name = ""
    try:
        with library.safe_open(path, framework="np") as file:
            tensors = {}
            for name in file.keys():  # noqa: SIM118  it is no dict
                tensors[name] = file.get_tensor(name)
            return tensors
    except MemoryError:
        raise
    except Exception as error:  # its own error class has no public name
        at = f"at {name}: " if name else ""
        raise SettingsError(
            f"{path} cannot be read as .safetensors ({at}{_reason(error)})"
        ) from error


def _array(torch: Any, x: Any, name: str) -> np.ndarray:
    half = x.dtype == torch.bfloat16  # which torch does not give to NumPy itself
    try:
        array = (x.view(torch.int16) if half else x).numpy(force=True)
    except (TypeError, RuntimeError, NotImplementedError) as error:
        kind = f"{x.dtype}, {x.layout}, on {x.device}".replace("torch.", "")
        raise SettingsError(
            f"{name} is no plain tensor ({kind}); needed are float32, float64, float16 or "
            "bfloat16 values, dense and on the CPU"
        ) from error
    return array.view(jnp.bfloat16) if half else array


def _tensor(torch: Any, x: np.ndarray) -> Any:
    """A copy: torch.save would write all of an array of which this is a part."""
    if x.dtype == jnp.bfloat16:
        return torch.from_numpy(x.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(x.copy())


def _torch(purpose: str) -> Any:
    return _needed("torch", purpose, "PyTorch", "pip install torch, or use .safetensors")


def _safetensors(purpose: str) -> Any:
    _needed("safetensors.numpy", purpose, "safetensors", "pip install safetensors")
    return import_module("safetensors")


def _needed(module: str, purpose: str, name: str, remedy: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise SettingsError(f"{name} is needed to {purpose}: {remedy}") from None
