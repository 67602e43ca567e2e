"""A model's parameters as a PyTorch state_dict, and back; bit for bit."""

from collections import Counter
from collections.abc import Collection, Mapping

import jax
import numpy as np
from flax import nnx
from jax import numpy as jnp

from mstg_jax.config import Config, SettingsError
from mstg_jax.diffusion.schedule import constants
from mstg_jax.interop.names import (
    MAMBA,
    Entry,
    Path,
    entries,
    frequencies,
    mamba_shapes,
    unwrapped,
)

Tensors = dict[str, np.ndarray]


class Misfit(ValueError):
    """Tensors that are not those of the model; the message names all of them."""


def to_torch(params: nnx.State, config: Config) -> Tensors:
    """The state_dict that DDM's public code loads, or for `mstg` one with mixers in it.

    params: of the model that `config` describes. With the buffers of the schedule, float32.
    """
    arrays = {path: np.asarray(x) for path, x in _flat(params).items()}
    tensors = {}
    for entry in table(params, config):
        x = arrays[entry.path]
        x = x if entry.block is None else x[entry.block]
        tensors[entry.name] = np.ascontiguousarray(entry.layout.to_torch(x))
    return tensors | buffers(config, has_mixers(params))


def from_torch(tensors: Mapping[str, np.ndarray], like: nnx.State, config: Config) -> nnx.State:
    """Parameters like those of the model `like`, with the values of a state_dict, in float32.

    `module.`, `_orig_mod.` and what stands in front of all names (`model.`) are taken off; buffers
    may be there or not.

    Raises:
        Misfit: a tensor is missing, unknown, of another shape, no real number or not finite, or the
            schedule in the buffers is not that of `config`, to the precision they are stored in.
    """
    known = table(like, config)
    own = buffers(config, has_mixers(like))
    given = _named(tensors, own.keys() | {entry.name for entry in known})
    shapes = {path: x.shape for path, x in _flat(like).items()}
    problems = _problems(given, known, shapes, own)
    if problems:
        raise Misfit("; ".join(problems))
    values: dict[Path, np.ndarray] = {}
    for entry in known:
        x = entry.layout.from_torch(_single(given[entry.name]))
        if entry.block is None:
            values[entry.path] = x
        else:
            stacked = values.setdefault(entry.path, np.empty(shapes[entry.path], np.float32))
            stacked[entry.block] = x
    flat = [(path, x.replace(jnp.asarray(values[path]))) for path, x in nnx.to_flat_state(like)]  # pyright: ignore[reportArgumentType]
    return nnx.from_flat_state(flat)


def table(params: nnx.State, config: Config) -> list[Entry]:
    """Every tensor of the model, in the order of its parameters."""
    if config.method not in ("mstg", "ddm", "direct"):
        raise SettingsError(
            f"there is no PyTorch form of method {config.method}; there is one of mstg, ddm and "
            "direct"
        )
    flat, mixers = _flat(params), has_mixers(params)
    return [e for k, x in flat.items() for e in entries(k, x.shape, config.model, mixers=mixers)]


def has_mixers(params: nnx.State) -> bool:
    return any("mixer" in path for path in _flat(params))


def _flat(params: nnx.State) -> dict[Path, jax.Array | np.ndarray]:
    return {tuple(path): x.get_value() for path, x in nnx.to_flat_state(params)}  # pyright: ignore[reportReturnType]


def _named(tensors: Mapping[str, np.ndarray], known: Collection[str]) -> Tensors:
    """The tensors by the model's own names."""
    names = unwrapped(tensors, known)
    given = {names[name]: x for name, x in tensors.items()}
    if len(given) < len(names):
        count = Counter(names.values())
        several = [name for name, own in names.items() if count[own] > 1]
        raise Misfit(f"tensors of one name without their prefixes: {', '.join(several)}")
    return given


def _problems(
    given: Mapping[str, np.ndarray],
    known: list[Entry],
    shapes: Mapping[Path, tuple[int, ...]],
    own: Tensors,
) -> list[str]:
    wanted = {}
    for entry in known:
        shape = shapes[entry.path] if entry.block is None else shapes[entry.path][1:]
        wanted[entry.name] = entry.layout.to_torch(np.broadcast_to(np.float32(0), shape)).shape
    problems = _differences(given, wanted, also=own)
    betas = given.get("betas")
    if not problems and betas is not None and not _same(betas, own["betas"]):
        problems = [
            f"betas are {_range(betas)}, but those of the settings are {_range(own['betas'])}"
        ]
    return problems


def _differences(
    given: Mapping[str, np.ndarray],
    wanted: Mapping[str, tuple[int, ...]],
    also: Collection[str] = (),
) -> list[str]:
    """What is wrong with tensors as values of parameters of these shapes; `also` may be there."""
    present = {name: given[name] for name in wanted if name in given}
    named = {
        "missing": [name for name in wanted if name not in given],
        "unknown": [name for name in given if name not in wanted and name not in also],
        "of another shape": [
            f"{name} {x.shape} instead of {wanted[name]}"
            for name, x in present.items()
            if x.shape != wanted[name]
        ],
        "no real numbers in floating point": [
            f"{name} {x.dtype}" for name, x in present.items() if not _floating(x)
        ],
    }
    if not any(named.values()):
        named["not finite in float32"] = [
            f"{name} {count} of {x.size} values"
            for name, x in present.items()
            if (count := x.size - np.count_nonzero(np.isfinite(_single(x))))
        ]
    return [f"{len(x)} {kind}: {', '.join(x)}" for kind, x in named.items() if x]


def _floating(x: np.ndarray) -> bool:
    """NumPy itself does not know that bfloat16 is."""
    return jnp.issubdtype(x.dtype, jnp.floating)


def _single(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # what becomes infinite is refused
        return np.asarray(x, np.float32)


def _same(given: np.ndarray, own: np.ndarray) -> bool:
    """Equal to the precision that `given` is stored in."""
    if given.shape != own.shape or not _floating(given):
        return False
    limits = jnp.finfo(given.dtype)
    rtol, atol = max(1e-5, float(limits.eps)), max(1e-9, float(limits.smallest_subnormal))
    return bool(np.allclose(_single(given), _single(own.astype(given.dtype)), rtol, atol))


def _range(betas: np.ndarray) -> str:
    if betas.ndim != 1 or not len(betas) or not _floating(betas):
        return f"of shape {betas.shape} and type {betas.dtype}"
    return f"{len(betas)} steps from {float(betas[0]):.3g} to {float(betas[-1]):.3g}"


def buffers(config: Config, mixers: bool) -> Tensors:
    """What DDM's public code keeps beside its parameters: of the schedule (Ho et al. 2020), and the
    frequencies of the time embedding."""
    known = constants(config.diffusion)
    bar, sigma = known["alpha_bar"], known["sqrt_one_minus_alpha_bar"]
    dim = config.model.time_dim
    with np.errstate(divide="ignore"):  # alpha_bar ends at 0 in jsd
        named = {
            "betas": known["beta"],
            "alphas_cumprod": bar,
            "alphas_cumprod_prev": np.append(1.0, bar[:-1]),
            "sqrt_alphas_cumprod": known["sqrt_alpha_bar"],
            "sqrt_one_minus_alphas_cumprod": sigma,
            "log_one_minus_alphas_cumprod": 2 * np.log(sigma),
            "sqrt_recip_alphas_cumprod": 1 / known["sqrt_alpha_bar"],
            "sqrt_recipm1_alphas_cumprod": sigma / known["sqrt_alpha_bar"],
            "posterior_variance": known["posterior_variance"],
            "posterior_log_variance_clipped": known["posterior_log_variance"],
            "posterior_mean_coef1": known["posterior_x0"],
            "posterior_mean_coef2": known["posterior_xt"],
            frequencies(mixers): np.exp(np.arange(0, dim, 2) * (-np.log(10_000) / dim)),
        }
    return {name: x.astype(np.float32) for name, x in named.items()}


def mamba_from_torch(tensors: Mapping[str, np.ndarray], prefix: str = "") -> Tensors:
    """Values for the parameters of `models.mamba.Mamba` with count = 1, by name, from a block of
    mamba-ssm; `prefix` is what stands before its names, such as "backbone.layers.0.mixer.".

    Half precision becomes float32. Raises Misfit if tensors of the block are missing, if there are
    others below a given prefix, if their shapes do not fit one another, or if their values are no
    finite real numbers.
    """
    own = {
        k.removeprefix(prefix): np.asarray(x) for k, x in tensors.items() if k.startswith(prefix)
    }
    if problems := _differences(own, _mamba_shapes(own)):
        raise Misfit(f"not a Mamba block below {prefix!r}: {'; '.join(problems)}")
    return {
        ours: np.ascontiguousarray(
            layout.from_torch(own[name].astype(np.promote_types(own[name].dtype, np.float32)))
        )[None]
        for ours, (name, layout) in MAMBA.items()
    }


def _mamba_shapes(own: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """Of a block of the sizes that its own tensors have; 0 for one that is not to be found.

    Where tensors are missing, the shapes of the others are their own.
    """
    sizes = {
        "d_model": ("out_proj.weight", 0),
        "d_inner": ("A_log", 0),
        "d_state": ("A_log", 1),
        "dt_rank": ("dt_proj.weight", 1),
        "d_conv": ("conv1d.weight", 2),
    }
    names = {name for name, _ in MAMBA.values()}
    shapes = {name: own[name].shape if name in own else () for name in sorted(names)}
    if not names <= own.keys():
        return shapes
    found = {size: (*shapes[name], 0, 0, 0)[axis] for size, (name, axis) in sizes.items()}
    return mamba_shapes(**found)


def mamba_to_torch(block: Mapping[str, np.ndarray], index: int = 0, prefix: str = "") -> Tensors:
    """The inverse of `mamba_from_torch`, for block `index` of a `Mamba`."""
    return {
        prefix + name: np.ascontiguousarray(layout.to_torch(np.asarray(block[ours])[index]))
        for ours, (name, layout) in MAMBA.items()
    }
