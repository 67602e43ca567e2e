"""A model's parameters as a PyTorch state_dict, and back; bit for bit."""

from collections.abc import Mapping

import jax
import numpy as np
from flax import nnx
from jax import numpy as jnp

from mstg_jax.config import Config, SettingsError
from mstg_jax.diffusion.schedule import constants
from mstg_jax.interop.names import MAMBA, Entry, Path, entries, frequencies

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
    """Parameters like those of the model `like`, with the values of a state_dict.

    `module.` in front of all names (DataParallel) is taken off; buffers may be there or not.

    Raises:
        Misfit: a tensor is missing, unknown or of another shape, or the schedule in the buffers is
            not that of `config`.
    """
    given = {name.removeprefix("module."): x for name, x in tensors.items()}
    known = table(like, config)
    shapes = {path: x.shape for path, x in _flat(like).items()}
    problems = _problems(given, known, shapes, buffers(config, has_mixers(like)))
    if problems:
        raise Misfit("; ".join(problems))
    values: dict[Path, np.ndarray] = {}
    for entry in known:
        x = entry.layout.from_torch(np.asarray(given[entry.name], np.float32))
        if entry.block is None:
            values[entry.path] = x
        else:
            stacked = values.setdefault(entry.path, np.empty(shapes[entry.path], np.float32))
            stacked[entry.block] = x
    flat = [(path, x.replace(jnp.asarray(values[path]))) for path, x in nnx.to_flat_state(like)]  # pyright: ignore[reportArgumentType]
    return nnx.from_flat_state(flat)


def table(params: nnx.State, config: Config) -> list[Entry]:
    """Every tensor of the model, in the order of its parameters."""
    if config.method not in ("mstg", "ddm", "direct") or config.motion.ends == "both":
        raise SettingsError(
            f"there is no PyTorch form of method {config.method} with motion.ends "
            f"{config.motion.ends}; there is one of mstg and ddm that warp ED, and of direct"
        )
    flat, mixers = _flat(params), has_mixers(params)
    return [e for k, x in flat.items() for e in entries(k, x.shape, config.model, mixers=mixers)]


def has_mixers(params: nnx.State) -> bool:
    return any("mixer" in path for path in _flat(params))


def _flat(params: nnx.State) -> dict[Path, jax.Array]:
    return {tuple(path): x.get_value() for path, x in nnx.to_flat_state(params)}  # pyright: ignore[reportReturnType]


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
    missing = [name for name in wanted if name not in given]
    unknown = [name for name in given if name not in wanted and name not in own]
    misshapen = [
        f"{name} {tuple(given[name].shape)} instead of {shape}"
        for name, shape in wanted.items()
        if name in given and tuple(given[name].shape) != shape
    ]
    named = {"missing": missing, "unknown": unknown, "of another shape": misshapen}
    problems = [f"{len(x)} {kind}: {', '.join(x)}" for kind, x in named.items() if x]
    if not problems and "betas" in given and not _same(given["betas"], own["betas"]):
        found, needed = (
            f"{len(b)} steps from {b[0]:.3g} to {b[-1]:.3g}" for b in (given["betas"], own["betas"])
        )
        problems.append(f"betas are {found}, but those of the settings are {needed}")
    return problems


def _same(given: np.ndarray, own: np.ndarray) -> bool:
    return given.shape == own.shape and bool(np.allclose(given, own, rtol=1e-5, atol=1e-9))


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

    Raises Misfit if tensors of the block are missing or there are others below a given prefix.
    """
    own = {k.removeprefix(prefix): x for k, x in tensors.items() if k.startswith(prefix)}
    names = {name for name, _ in MAMBA.values()}
    named = {"missing": sorted(names - own.keys()), "unknown": sorted(own.keys() - names)}
    problems = [f"{len(x)} {kind}: {', '.join(x)}" for kind, x in named.items() if x]
    if problems:
        raise Misfit(f"not a Mamba block below {prefix!r}: {'; '.join(problems)}")
    return {
        ours: np.ascontiguousarray(layout.from_torch(np.asarray(own[name])))[None]
        for ours, (name, layout) in MAMBA.items()
    }


def mamba_to_torch(block: Mapping[str, np.ndarray], index: int = 0, prefix: str = "") -> Tensors:
    """The inverse of `mamba_from_torch`, for block `index` of a `Mamba`."""
    return {
        prefix + name: np.ascontiguousarray(layout.to_torch(np.asarray(block[ours])[index]))
        for ours, (name, layout) in MAMBA.items()
    }
