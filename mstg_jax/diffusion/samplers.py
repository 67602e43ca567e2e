"""Reverse diffusion as one scan: DDPM (Ho et al. 2020), DDIM (Song et al. 2021, 2010.02502)."""

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Int32, PRNGKeyArray

from mstg_jax.diffusion.process import Data, Kind, to_x0_eps
from mstg_jax.diffusion.schedule import Schedule, log_alpha_bar
from mstg_jax.shapes import Steps

Sampler: TypeAlias = Literal["ddpm", "ddim"]


class Transitions(NamedTuple):
    """Reverse steps t -> s in the order they are taken: x_s = x0 * x_0 + xt * x_t + noise * z."""

    t: Int32[np.ndarray, " steps"]
    x0: Float64[np.ndarray, " steps"]
    xt: Float64[np.ndarray, " steps"]
    noise: Float64[np.ndarray, " steps"]


def transitions(schedule: Schedule, steps: int, eta: float) -> Transitions:
    """Evenly spaced steps from T-1 to -1 (clean data, alpha_bar 1), in float64 on the host.

    Song et al., eq. 12 and 16, with eps eliminated through x_t = sqrt(alpha_bar) x_0 + sigma eps,
    so that a clipped x_0 and x_t stay consistent. With eta = 1 and all T steps this is the
    posterior of Ho et al., eq. 6 and 7.

    Raises:
        ValueError: unless 1 <= steps <= T and 0 <= eta <= 1.
    """
    total = len(schedule.beta)
    if not 1 <= steps <= total:
        raise ValueError(f"{steps} sampler steps; the schedule allows 1..{total}")
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}; it must lie in 0 (deterministic) .. 1 (ancestral)")
    edges = np.rint(np.linspace(total - 1, -1, steps + 1)).astype(np.int32)
    log_bar = np.append(log_alpha_bar(np.asarray(schedule.beta, np.float64)), 0.0)  # [-1]: clean
    log_t, log_s = log_bar[edges[:-1]], log_bar[edges[1:]]
    variance_t, variance_s = -np.expm1(log_t), -np.expm1(log_s)
    variance = eta**2 * variance_s / variance_t * -np.expm1(log_t - log_s)
    # Where the true difference is 0, rounding may leave it below.
    xt = np.sqrt(np.maximum(variance_s - variance, 0.0) / variance_t)
    return Transitions(
        t=edges[:-1],
        x0=np.exp(log_s / 2) - xt * np.exp(log_t / 2),
        xt=xt,
        noise=np.sqrt(variance),
    )


def reverse_diffusion(
    schedule: Schedule,
    predict_fn: Callable[[Data, Steps], Data],
    x_T: Data,
    key: PRNGKeyArray,
    *,
    kind: Kind,
    sampler: Sampler,
    steps: int,
    eta: float = 0.0,
    clip: tuple[float, float] | None = (-1.0, 1.0),
) -> Data:
    """x_0 from the noise x_T, by `steps` calls of predict_fn(x_t, t) -> prediction of this kind.

    ddim: `eta` scales the noise, 0 is deterministic. ddpm: ancestral sampling with the posterior
    variance when steps = T; with fewer it is ddim with eta = 1. `clip` bounds the predicted x_0 at
    every step. The noise of step t comes from fold_in(key, t). Works under jit with `schedule`
    closed over: its values choose the table of steps, so it cannot be traced.

    Raises:
        ValueError: steps or eta out of range, eta with ddpm, or kind eps on a schedule whose
            alpha_bar ends at 0 (jsd), where eps says nothing about x_0.
    """
    if sampler == "ddpm" and eta != 0:
        raise ValueError(f"eta is {eta} with sampler ddpm; only ddim takes eta")
    table = transitions(schedule, steps, 1.0 if sampler == "ddpm" else eta)
    if kind == "eps" and np.asarray(schedule.alpha_bar)[-1] == 0:
        raise ValueError(
            "alpha_bar ends at 0 (schedule jsd) and the prediction is eps, which does not "
            "determine x_0 there; predict x0 or v, or take another schedule"
        )

    def reverse_step(
        x_t: Data, step: tuple[Int32[Array, ""], Float[Array, " 3"]]
    ) -> tuple[Data, None]:
        t, (a, b, c) = step
        times = jnp.full(x_t.shape[:1], t)
        x0, _ = to_x0_eps(schedule, predict_fn(x_t, times), x_t, times, kind)
        if clip is not None:
            x0 = jnp.clip(x0, *clip)
        noise = jax.random.normal(jax.random.fold_in(key, t), x_t.shape, x_t.dtype)
        return a * x0 + b * x_t + c * noise, None

    coefficients = jnp.asarray(np.stack([table.x0, table.xt, table.noise], axis=1), x_T.dtype)
    x_0, _ = jax.lax.scan(reverse_step, x_T, (jnp.asarray(table.t), coefficients))
    return x_0
