"""Noise schedules: the betas, and everything derived from them (Ho et al. 2020, arXiv:2006.11239).

Step t of 0..T-1 here is step t+1 of the paper: alpha_bar[0] = 1 - beta[0]. Clean data has
alpha_bar 1.
"""

from typing import NamedTuple, assert_never

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Float64, Int

from mstg_jax.config import DiffusionConfig, SettingsError
from mstg_jax.diffusion.process import Level


def betas(config: DiffusionConfig) -> Float64[np.ndarray, " T"]:
    """Variance of the noise added at each step.

    cosine: Nichol & Dhariwal 2021 (arXiv:2102.09672), eq. 17 with s = 0.008, at most 0.999.
    jsd: 1/T, 1/(T-1), ..., 1, so that alpha_bar ends at exactly 0. quad: linear in sqrt(beta).
    warmup10, warmup50: linear over the first 10 or 50 %, then beta_end. const: beta_end.
    cosine and jsd do not use the range, const and warmup of less than one step not its start.

    Raises:
        ValueError: unless steps >= 1 and 0 <= beta_start <= beta_end < 1.
    """
    start, end, steps = config.beta_start, config.beta_end, config.steps
    if steps < 1:
        raise SettingsError(f"diffusion.steps is {steps}; at least 1 step is needed")
    if not 0 <= start <= end < 1:
        raise SettingsError(
            f"diffusion.beta_start is {start} and diffusion.beta_end is {end}; "
            "0 <= beta_start <= beta_end < 1 is needed"
        )
    match config.schedule:
        case "linear":
            return np.linspace(start, end, steps)
        case "quad":
            return np.linspace(start**0.5, end**0.5, steps) ** 2
        case "const":
            return np.full(steps, end)
        case "warmup10":
            return _warmup(start, end, steps, int(steps * 0.1))
        case "warmup50":
            return _warmup(start, end, steps, int(steps * 0.5))
        case "jsd":
            return 1 / np.arange(steps, 0, -1, dtype=np.float64)
        case "cosine":
            offset = 0.008
            time = (np.arange(steps + 1) / steps + offset) / (1 + offset)
            f = np.cos(time * np.pi / 2) ** 2
            return np.minimum(1 - f[1:] / f[:-1], 0.999)
        case "flow" | "edm" | "learned":
            raise SettingsError(
                f"schedule {config.schedule} has no betas, which this method needs; it is for "
                "method direct"
            )
    assert_never(config.schedule)


def _warmup(start: float, end: float, steps: int, warm: int) -> Float64[np.ndarray, " T"]:
    return np.concatenate([np.linspace(start, end, warm), np.full(steps - warm, end)])


class Schedule(NamedTuple):
    """Per-step constants of the diffusion; a pytree.

    The posterior is q(x_{t-1} | x_t, x_0) of Ho et al., eq. 6 and 7, with mean
    `posterior_x0 * x_0 + posterior_xt * x_t`.
    """

    beta: Float32[Array, " T"]
    alpha_bar: Float32[Array, " T"]
    sqrt_alpha_bar: Float32[Array, " T"]
    sqrt_one_minus_alpha_bar: Float32[Array, " T"]
    posterior_x0: Float32[Array, " T"]
    posterior_xt: Float32[Array, " T"]
    posterior_variance: Float32[Array, " T"]
    posterior_log_variance: Float32[Array, " T"]
    """Of the variance clipped at 1e-20: it is 0 at t = 0."""

    def at(self, t: Int[Array, "*b"]) -> Level:
        return Level(self.sqrt_alpha_bar[t], self.sqrt_one_minus_alpha_bar[t], t)


def log_alpha_bar(config: DiffusionConfig) -> Float64[np.ndarray, " T"]:
    """log prod(1 - beta), which keeps 1 - alpha_bar exact for tiny betas; -inf from a beta of 1."""
    with np.errstate(divide="ignore"):
        return np.cumsum(np.log1p(-_floored(config)))


def _floored(config: DiffusionConfig) -> Float64[np.ndarray, " T"]:
    """Betas of 0 would give 0/0: eps is not defined where there is no noise."""
    return np.maximum(betas(config), 1e-20)


def constants(config: DiffusionConfig) -> dict[str, Float64[np.ndarray, " T"]]:
    """The fields of `Schedule`, derived from `betas(config)`, in float64."""
    beta, log_bar = _floored(config), log_alpha_bar(config)
    log_previous = np.concatenate([np.zeros(1), log_bar[:-1]])
    noise, noise_previous = -np.expm1(log_bar), -np.expm1(log_previous)
    variance = beta * noise_previous / noise
    return dict(
        beta=beta,
        alpha_bar=np.exp(log_bar),
        sqrt_alpha_bar=np.exp(log_bar / 2),
        sqrt_one_minus_alpha_bar=np.sqrt(noise),
        posterior_x0=beta * np.exp(log_previous / 2) / noise,
        posterior_xt=np.sqrt(1 - beta) * noise_previous / noise,
        posterior_variance=variance,
        posterior_log_variance=np.log(np.maximum(variance, 1e-20)),
    )


def make_schedule(config: DiffusionConfig) -> Schedule:
    """`constants(config)`, rounded to float32 once."""
    rounded = {name: jnp.asarray(x, jnp.float32) for name, x in constants(config).items()}
    return Schedule(**rounded)
