"""Which tensor of a PyTorch state_dict holds which parameter, and in what layout.

Names are those of the public DDM code (`denoise_fn.*`, `field_fn.*`) and, inside a mixer, those of
mamba-ssm; what neither has (branches, gate, ...) is called as here.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from mstg_jax.config import ModelConfig

Path = tuple[str | int, ...]


class Layout(NamedTuple):
    """Both ways between one of our arrays and the tensor; exact."""

    to_torch: Callable[[np.ndarray], np.ndarray]
    from_torch: Callable[[np.ndarray], np.ndarray]


SAME = Layout(lambda x: x, lambda x: x)
LINEAR = Layout(lambda x: x.T, lambda x: x.T)
# (k k k ci co) and (co ci k k k); the transposed convolution has (ci co k k k), and no flip.
CONV = Layout(lambda x: x.transpose(4, 3, 0, 1, 2), lambda x: x.transpose(2, 3, 4, 1, 0))
TRANSPOSED = Layout(lambda x: x.transpose(3, 4, 0, 1, 2), lambda x: x.transpose(2, 3, 4, 0, 1))
# A linear layer over channels, which PyTorch has as a convolution of one voxel.
POINTWISE = Layout(lambda x: x.T[..., None, None, None], lambda x: x[..., 0, 0, 0].T)
DEPTHWISE = Layout(lambda x: x.T[:, None], lambda x: x[:, 0].T)

MAMBA = {  # of one block: our name -> mamba-ssm's
    "in_proj": ("in_proj.weight", LINEAR),
    "conv_kernel": ("conv1d.weight", DEPTHWISE),
    "conv_bias": ("conv1d.bias", SAME),
    "x_proj": ("x_proj.weight", LINEAR),
    "dt_proj": ("dt_proj.weight", LINEAR),
    "dt_bias": ("dt_proj.bias", SAME),
    "A_log": ("A_log", SAME),
    "D": ("D", SAME),
    "out_proj": ("out_proj.weight", LINEAR),
}
RESIDUAL_BLOCK = {
    "norm1": "block1.block.0",
    "conv1": "block1.block.3",
    "norm2": "block2.block.0",
    "conv2": "block2.block.3",
    "time": "mlp.1",
    "skip": "res_conv",
}
TIME = {"expand": "1", "project": "3"}
CONVOLUTIONS = {"stem", "out", "conv", "conv1", "conv2", "skip", "rebuild", "up", "narrow"}


class Entry(NamedTuple):
    """A tensor, and the parameter, or the part `block` of a stacked one, that it holds."""

    name: str
    path: Path
    layout: Layout
    block: int | None = None


def entries(path: Path, blocks: int, config: ModelConfig) -> Iterator[Entry]:
    """The tensors that hold the parameter at `path` of a model; `blocks` is its leading axis."""
    networks = {"denoiser": "denoise_fn", "deformation": "field_fn"}
    prefix = networks.get(str(path[0]), "denoise_fn")
    inner = path[1:] if path[0] in networks else path  # method `direct` is the denoiser alone
    if "mamba" in path:
        name, layout = MAMBA[str(path[-1])]
        owner = _module(inner[:-1], config)
        for block in range(blocks):
            yield Entry(f"{prefix}.{owner}.{block}.{name}", path, layout, block)
        return
    if prefix == "field_fn":
        owner, layout = _deformation(inner[:-1])
    else:
        owner, layout = _module(inner[:-1], config), _layout(inner)
    kind = "bias" if path[-1] == "bias" else "weight"
    yield Entry(f"{prefix}.{owner}.{kind}", path, layout if path[-1] == "kernel" else SAME)


def _layout(path: Path) -> Layout:
    """Of a kernel in the denoiser."""
    owner = [str(x) for x in path[:-1] if isinstance(x, str)]
    if owner[-2:] in (["attention", "out"], ["mixer", "out"]) or owner[-1] == "qkv":
        return POINTWISE
    return CONV if owner[-1] in CONVOLUTIONS else LINEAR


def _module(path: Path, config: ModelConfig) -> str:
    """The name of a module of the denoiser in PyTorch."""
    depth = config.depth
    match path:
        case ("time", part):
            return f"time_mlp.{TIME[str(part)]}"
        case ("stem",):
            return "downs.0"
        case ("encoder", int(stage), int(i), *rest):
            return f"downs.{1 + stage * (depth + 1) + i}.{_block(rest)}"
        case ("down", int(stage), *rest):
            return ".".join((f"downs.{1 + stage * (depth + 1) + depth}", *map(str, rest)))
        case ("middle", int(i), *rest):
            return f"mid.{i}.{_block(rest)}"
        case ("attention", part):
            return f"mid.0.attn.{part}"
        case ("decoder", int(stage), int(i), *rest):
            return f"ups.{stage * (depth + 2) + i}.{_block(rest)}"
        case ("up", int(stage)):
            return f"ups.{stage * (depth + 2) + depth + 1}.conv"
        case ("norm",):
            return "final_conv.block.0"
        case ("out",):
            return "final_conv.block.3"
    raise AssertionError(path)


def _block(rest: list[Any]) -> str:
    """The name of a part of an MSTG module."""
    if rest[0] == "local":
        return f"res_block.{RESIDUAL_BLOCK[rest[1]]}"
    return ".".join(map(str, rest))


def _deformation(path: Path) -> tuple[str, Layout]:
    """The name of a convolution of the deformation network in PyTorch, and its kernel's layout."""
    match path:
        case ("encoder", 0):
            return "inconv.block.block.0", CONV
        case ("encoder", int(i)):
            return f"downconv{i}.block.block.0", CONV
        case ("up", int(i)):
            return f"upconv{i + 1}.upconv", TRANSPOSED
        case ("decoder", int(i)):
            return f"upconv{i + 1}.block.block.0", CONV
        case ("narrow",):
            return "keepblock.block.0", CONV
        case ("out",):
            return "outconv.block", CONV
    raise AssertionError(path)
