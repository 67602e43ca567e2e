"""Reverse diffusion as one scan over a table of coefficients, which each sampler fills.

DDPM (Ho et al. 2020), DDIM (Song et al. 2021, 2010.02502), DPM-Solver++ 2M (Lu et al. 2022,
2211.01095) and Heun's method (Karras et al. 2022, 2206.00364).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float64, Int32, PRNGKeyArray

from mstg_jax.config import Sampler, SettingsError
from mstg_jax.diffusion.process import Data, Kind, to_x0_eps
from mstg_jax.diffusion.schedule import Schedule, log_alpha_bar
from mstg_jax.shapes import Steps


class Transitions(NamedTuple):
    """Calls of the denoiser in the order they are made, at x and step t; then x becomes

    x0 * x_0 + before * (x_0 of the call before) + xt * x + anchor * (the newest x kept) + noise * z
    and is kept itself where `keep` is.
    """

    t: Int32[np.ndarray, " calls"]
    x0: Float64[np.ndarray, " calls"]
    before: Float64[np.ndarray, " calls"]
    xt: Float64[np.ndarray, " calls"]
    anchor: Float64[np.ndarray, " calls"]
    noise: Float64[np.ndarray, " calls"]
    keep: Bool[np.ndarray, " calls"]


class Edges(NamedTuple):
    """The steps t -> s between which a sampler goes, and log alpha_bar at t and at s."""

    t: Int32[np.ndarray, " steps"]
    log_t: Float64[np.ndarray, " steps"]
    log_s: Float64[np.ndarray, " steps"]


def edges(schedule: Schedule, steps: int) -> Edges:
    """Evenly spaced from T-1 to -1 (clean data, alpha_bar 1), in float64 on the host.

    Raises ValueError unless 1 <= steps <= T.
    """
    total = len(schedule.beta)
    if not 1 <= steps <= total:
        raise SettingsError(f"{steps} sampler steps; the schedule allows 1..{total}")
    places = np.rint(np.linspace(total - 1, -1, steps + 1)).astype(np.int32)
    log_bar = np.append(log_alpha_bar(np.asarray(schedule.beta, np.float64)), 0.0)  # [-1]: clean
    return Edges(places[:-1], log_bar[places[:-1]], log_bar[places[1:]])


def transitions(schedule: Schedule, sampler: Sampler, steps: int, eta: float = 0.0) -> Transitions:
    """The table of a sampler.

    Raises ValueError unless 1 <= steps <= T, and on an eta that the sampler does not take.
    """
    if eta != 0 and sampler != "ddim":
        raise ValueError(f"eta is {eta} with sampler {sampler}; only ddim takes eta")
    between = edges(schedule, steps)
    match sampler:
        case "ddpm":
            return ddim(between, 1.0)
        case "ddim":
            return ddim(between, eta)
        case "dpm++":
            return dpm_solver(between)
        case "heun":
            return heun(between)


def ddim(edges: Edges, eta: float) -> Transitions:
    """Song et al., eq. 12 and 16, with eps eliminated through x_t = sqrt(alpha_bar) x_0 + sigma
    eps, so that a clipped x_0 and x_t stay consistent. With eta = 1 and all T steps this is the
    posterior of Ho et al., eq. 6 and 7.

    Raises ValueError unless 0 <= eta <= 1.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}; it must lie in 0 (deterministic) .. 1 (ancestral)")
    t, log_t, log_s = edges
    variance_t, variance_s = -np.expm1(log_t), -np.expm1(log_s)
    variance = eta**2 * variance_s / variance_t * -np.expm1(log_t - log_s)
    # Where the true difference is 0, rounding may leave it below.
    xt = np.sqrt(np.maximum(variance_s - variance, 0.0) / variance_t)
    x0 = np.exp(log_s / 2) - xt * np.exp(log_t / 2)
    nothing, every = np.zeros(len(t)), np.ones(len(t), np.bool_)
    return Transitions(t, x0, nothing, xt, nothing, np.sqrt(variance), every)


def dpm_solver(edges: Edges) -> Transitions:
    """DPM-Solver++ 2M (Lu et al., algorithm 2): the x_0 of the call before tells its slope over
    lambda = log(signal / sigma). The first step and the last, whose lambda has no end, are DDIM's.
    """
    found = ddim(edges, 0.0)
    if len(edges.t) < 3:
        return found
    x0, before = found.x0.copy(), found.before.copy()
    lambdas = (edges.log_t - np.log(-np.expm1(edges.log_t))) / 2
    h = np.diff(lambdas)  # of all steps but the last
    share = h[1:] / (2 * h[:-1])  # 1 / (2 r)
    before[1:-1] = -share * x0[1:-1]
    x0[1:-1] *= 1 + share
    return found._replace(x0=x0, before=before)


def heun(edges: Edges) -> Transitions:
    """Karras et al., algorithm 1 without churn, in x / signal over sigma / signal: each step but
    the last, whose sigma is 0, is DDIM's, and then its trapezoid with a second call at its end.
    """
    if np.isinf(edges.log_t[0]):
        raise SettingsError(
            "alpha_bar ends at 0 (schedule jsd), where sigma / signal, over which heun steps, has "
            "no end; take another sampler or schedule"
        )
    euler = ddim(edges, 0.0)
    log_t, log_s = edges.log_t[:-1], edges.log_s[:-1]
    sigma_t, sigma_s = (np.sqrt(np.expm1(-x)) for x in (log_t, log_s))
    half = (sigma_s - sigma_t) / 2
    # x_s = x_t + half ((x_t - x0_t) / sigma_t + (y_s - x0_s) / sigma_s), y_s being DDIM's.
    y_x = sigma_s / sigma_t
    anchor = 1 + half / sigma_t + half / sigma_s * y_x
    before = -half / sigma_t + half / sigma_s * (1 - y_x)
    signal_s = np.exp(log_s / 2)
    calls = 2 * len(edges.t) - 1
    columns = {name: np.zeros(calls) for name in ("x0", "before", "xt", "anchor", "noise")}
    columns["x0"][::2], columns["xt"][::2] = euler.x0, euler.xt
    columns["x0"][1::2] = signal_s * -half / sigma_s
    columns["before"][1::2] = signal_s * before
    columns["anchor"][1::2] = signal_s * anchor / np.exp(log_t / 2)
    times = np.empty(calls, np.int32)
    times[::2], times[1::2] = edges.t, edges.t[1:]
    keep = np.arange(calls) % 2 == 1
    return Transitions(times, **columns, keep=keep)


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
    """x_0 from the noise x_T, by calls of predict_fn(x_t, t) -> prediction of this kind.

    ddim: `eta` scales the noise, 0 is deterministic. ddpm: ancestral sampling with the posterior
    variance when steps = T; with fewer it is ddim with eta = 1. dpm++ and heun solve the same
    equation as ddim with eta = 0 to second order, heun with two calls for each step but the last.
    `clip` bounds the predicted x_0 at every call. The noise of step t comes from fold_in(key, t).
    Works under jit with `schedule` closed over: its values choose the table, so it cannot be
    traced.

    Raises:
        ValueError: steps or eta out of range, eta with ddpm, or kind eps on a schedule whose
            alpha_bar ends at 0 (jsd), where eps says nothing about x_0.
    """
    table = transitions(schedule, sampler, steps, eta)
    if kind == "eps" and np.asarray(schedule.alpha_bar)[-1] == 0:
        raise SettingsError(
            "alpha_bar ends at 0 (schedule jsd) and the prediction is eps, which does not "
            "determine x_0 there; predict x0 or v, or take another schedule"
        )

    def call(
        state: tuple[Data, Data, Data], row: tuple[Int32[Array, ""], Float[Array, " 5"], Array]
    ) -> tuple[tuple[Data, Data, Data], None]:
        (x, anchor, before), (t, columns, keep) = state, row
        times = jnp.full(x.shape[:1], t)
        x0, _ = to_x0_eps(schedule, predict_fn(x, times), x, times, kind)
        if clip is not None:
            x0 = jnp.clip(x0, *clip)
        noise = jax.random.normal(jax.random.fold_in(key, t), x.shape, x.dtype)
        terms = zip(columns, (x0, before, x, anchor, noise), strict=True)
        after = sum((c * term for c, term in terms), jnp.zeros_like(x))
        return (after, jnp.where(keep, after, anchor), x0), None

    columns = np.stack([table.x0, table.before, table.xt, table.anchor, table.noise], axis=1)
    rows = jnp.asarray(table.t), jnp.asarray(columns, x_T.dtype), jnp.asarray(table.keep)
    (x_0, *_), _ = jax.lax.scan(call, (x_T, x_T, jnp.zeros_like(x_T)), rows)
    return x_0
