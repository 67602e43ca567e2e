"""Which tensor of a PyTorch state_dict holds which parameter, and in what layout.

Without mixers, names are those of the public DDM code (`denoise_fn.*`, `field_fn.*`). A denoiser
with mixers has no public counterpart: its modules are called as here, blocks of Mamba as in
mamba-ssm.
"""

from collections.abc import Callable, Iterable, Iterator
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
WRAPPERS = ("module", "_orig_mod")
"""What DataParallel and torch.compile put in front of the names of the module that they wrap."""
RESIDUAL_BLOCK = {
    "norm1": "block1.block.0",
    "conv1": "block1.block.3",
    "norm2": "block2.block.0",
    "conv2": "block2.block.3",
    "time": "mlp.1",
    "skip": "res_conv",
}
TIME = {"expand": "1", "project": "3"}


class Entry(NamedTuple):
    """A tensor, and the parameter, or the part `block` of a stacked one, that it holds."""

    name: str
    path: Path
    layout: Layout
    block: int | None = None


def entries(
    path: Path, shape: tuple[int, ...], config: ModelConfig, *, mixers: bool
) -> Iterator[Entry]:
    """The tensors that hold the parameter of this path and shape of a model."""
    networks = {"denoiser": "denoise_fn", "deformation": "field_fn"}
    prefix = networks.get(str(path[0]), "denoise_fn")
    inner = path[1:] if path[0] in networks else path  # method `direct` is the denoiser alone
    owner, leaf = inner[:-1], str(inner[-1])
    if "mamba" in owner:
        name, layout = MAMBA[leaf]
        for block in range(shape[0]):
            yield Entry(f"{prefix}.{_dotted(owner)}.{block}.{name}", path, layout, block)
        return
    layout = CONV if len(shape) == 5 else LINEAR
    if prefix == "field_fn":
        module = _deformation(owner)
        layout = TRANSPOSED if module.endswith("upconv") else CONV
    elif mixers:
        module = _dotted(owner)
    else:
        module = _denoiser(owner, config.depth)
        layout = POINTWISE if ".attn." in module else layout
    kind = "bias" if leaf == "bias" else "weight"
    yield Entry(f"{prefix}.{module}.{kind}", path, layout if leaf == "kernel" else SAME)


def mamba_shapes(
    d_model: int, d_inner: int, d_state: int, dt_rank: int, d_conv: int
) -> dict[str, tuple[int, ...]]:
    """Of the tensors of one of mamba-ssm's blocks."""
    return {
        "in_proj.weight": (2 * d_inner, d_model),
        "conv1d.weight": (d_inner, 1, d_conv),
        "conv1d.bias": (d_inner,),
        "x_proj.weight": (dt_rank + 2 * d_state, d_inner),
        "dt_proj.weight": (d_inner, dt_rank),
        "dt_proj.bias": (d_inner,),
        "A_log": (d_inner, d_state),
        "D": (d_inner,),
        "out_proj.weight": (d_model, d_inner),
    }


def unwrapped(names: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """Name -> what is left without WRAPPERS and without what stands in front of all names.

    That is what holds the model in a training script (Lightning's `model.` or `net.`): parts that
    all names share and that no name of `known` begins with.
    """
    parts = {name: [p for p in name.split(".") if p not in WRAPPERS] for name in names}
    own = {name.split(".")[0] for name in known}
    while parts and all(len(p) > 1 for p in parts.values()):
        first = {p[0] for p in parts.values()}
        if len(first) > 1 or first & own:
            break
        parts = {name: p[1:] for name, p in parts.items()}
    return {name: ".".join(p) for name, p in parts.items()}


def frequencies(mixers: bool) -> str:
    """The name of the time embedding's buffer."""
    return f"denoise_fn.{'time.embed' if mixers else 'time_mlp.0'}.inv_freq"


def _dotted(path: Path | list[Any]) -> str:
    return ".".join(map(str, path))


def _denoiser(path: Path, depth: int) -> str:
    """DDM's name of a module of a denoiser without mixers."""
    match path:
        case ("time", part):
            return f"time_mlp.{TIME[str(part)]}"
        case ("stem",):
            return "downs.0"
        case ("encoder", int(stage), int(i), _, part):
            return f"downs.{1 + stage * (depth + 1) + i}.res_block.{RESIDUAL_BLOCK[str(part)]}"
        case ("down", int(stage), part):
            return f"downs.{1 + stage * (depth + 1) + depth}.{part}"
        case ("middle", int(i), _, part):
            return f"mid.{i}.res_block.{RESIDUAL_BLOCK[str(part)]}"
        case ("attention", part):
            return f"mid.0.attn.{part}"
        case ("decoder", int(stage), int(i), _, part):
            return f"ups.{stage * (depth + 2) + i}.res_block.{RESIDUAL_BLOCK[str(part)]}"
        case ("up", int(stage)):
            return f"ups.{stage * (depth + 2) + depth + 1}.conv"
        case ("norm",):
            return "final_conv.block.0"
        case ("out",):
            return "final_conv.block.3"
    raise AssertionError(path)


def _deformation(path: Path) -> str:
    """DDM's name of a convolution of the deformation network."""
    match path:
        case ("encoder", 0):
            return "inconv.block.block.0"
        case ("encoder", int(i)):
            return f"downconv{i}.block.block.0"
        case ("up", int(i)):
            return f"upconv{i + 1}.upconv"
        case ("decoder", int(i)):
            return f"upconv{i + 1}.block.block.0"
        case ("narrow",):
            return "keepblock.block.0"
        case ("out",):
            return "outconv.block"
    raise AssertionError(path)
