"""Reverse diffusion as one scan over a table of coefficients, which each sampler fills.

DDPM (Ho et al. 2020), DDIM (Song et al. 2021, 2010.02502), DPM-Solver++ 2M (Lu et al. 2022,
2211.01095), Heun's method (Karras et al. 2022, 2206.00364), and the noise of
Improved DDPM (Nichol & Dhariwal 2021, 2102.09672) and Analytic-DPM (Bao et al. 2022, 2201.06503).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float64, PRNGKeyArray, Shaped

from mstg_jax.config import DiffusionConfig, Prediction, SettingsError
from mstg_jax.diffusion.paths import Edges
from mstg_jax.diffusion.process import Data, Level, to_x0_eps


class Transitions(NamedTuple):
    """Calls of the denoiser in the order they are made, at x, which is of level (signal, sigma),
    and told the time; then x becomes

    x0 * x_0 + before * (x_0 of the call before) + xt * x + anchor * (the newest x kept) + noise * z
    and is kept itself where `keep` is. most: the largest `noise`, if its share is learned.
    """

    time: Shaped[np.ndarray, " calls"]
    signal: Float64[np.ndarray, " calls"]
    sigma: Float64[np.ndarray, " calls"]
    x0: Float64[np.ndarray, " calls"]
    before: Float64[np.ndarray, " calls"]
    xt: Float64[np.ndarray, " calls"]
    anchor: Float64[np.ndarray, " calls"]
    noise: Float64[np.ndarray, " calls"]
    most: Float64[np.ndarray, " calls"]
    keep: Bool[np.ndarray, " calls"]


Table = Any
"""Transitions of numpy's arrays, or of JAX's."""


def transitions(
    edges: Edges, config: DiffusionConfig, spread: tuple[float, ...] | None = None
) -> Transitions:
    """The table of `config.sampler`; spread: for `config.variance` optimal, see `optimal`.

    Raises ValueError on an eta that the sampler does not take.
    """
    sampler, eta = config.sampler, config.eta
    if eta != 0 and sampler != "ddim":
        raise ValueError(f"eta is {eta} with sampler {sampler}; only ddim takes eta")
    match sampler:
        case "ddpm":
            table = ddim(edges, 1.0)
        case "ddim":
            table = ddim(edges, eta)
        case "dpm++":
            table = dpm_solver(edges)
        case "heun":
            table = heun(edges)
    if config.variance == "optimal":
        if spread is None:
            raise ValueError("variance optimal needs the variances of x_0, estimated before")
        return optimal(table, np.asarray(spread, np.float64))
    return table


def ddim(edges: Edges, eta: float) -> Transitions:
    """Song et al., eq. 12 and 16, with eps eliminated through x_t = signal x_0 + sigma eps, so that
    a clipped x_0 and x_t stay consistent. With eta = 1 and all T steps of a schedule this is the
    posterior of Ho et al., eq. 6 and 7, and on straight lines eta = 0 is Euler's method.

    Raises ValueError unless 0 <= eta <= 1.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}; it must lie in 0 (deterministic) .. 1 (ancestral)")
    (a_t, s_t), (a_s, s_s) = _ends(edges)
    # Of the noise between s and t, and with it of x_s given x_t and x_0. Where the true difference
    # is 0, rounding may leave it below.
    forward = np.maximum(s_t**2 - (a_t / a_s * s_s) ** 2, 0.0)
    variance = eta**2 * (s_s / s_t) ** 2 * forward
    xt = np.sqrt(np.maximum(s_s**2 - variance, 0.0)) / s_t
    nothing, every = np.zeros(len(a_t)), np.ones(len(a_t), np.bool_)
    most = eta * np.sqrt(forward) * (s_s > 0)
    return Transitions(
        edges.time, a_t, s_t, a_s - xt * a_t, nothing, xt, nothing, np.sqrt(variance), most, every
    )


def dpm_solver(edges: Edges) -> Transitions:
    """DPM-Solver++ 2M (Lu et al., algorithm 2): the x_0 of the call before tells its slope over
    lambda = log(signal / sigma). The first step and the last, whose lambda has no end, are DDIM's.
    """
    found = ddim(edges, 0.0)
    if len(edges.time) < 3:
        return found
    x0, before = found.x0.copy(), found.before.copy()
    with np.errstate(divide="ignore"):
        lambdas = np.log(found.signal) - np.log(found.sigma)
    h = np.diff(lambdas)  # of all steps but the last
    share = h[1:] / (2 * h[:-1])  # 1 / (2 r)
    before[1:-1] = -share * x0[1:-1]
    x0[1:-1] *= 1 + share
    return found._replace(x0=x0, before=before)


def heun(edges: Edges) -> Transitions:
    """Karras et al., algorithm 1 without churn, in x / signal over sigma / signal: each step but
    the last, whose sigma is 0, is DDIM's, and then its trapezoid with a second call at its end.
    Where there is no signal at the start, in x / (signal + sigma) over sigma / (signal + sigma),
    which on straight lines is Heun's method in time.
    """
    euler = ddim(edges, 0.0)
    straight = float(edges.signal[0] == 0)
    (a_t, s_t), (a_s, s_s) = (tuple(x[:-1] for x in end) for end in _ends(edges))
    scale_t, scale_s = a_t + straight * s_t, a_s + straight * s_s
    half = (s_s / scale_s - s_t / scale_t) / 2
    # y = x / scale has the slope eps - straight * x_0, and eps is (x - signal x_0) / sigma:
    # y_s = y_t + half ((x_t - a_t x0_t) / s_t + (x_s - a_s x0_s) / s_s - straight (x0_t + x0_s)).
    columns = {name: np.zeros(2 * len(edges.time) - 1) for name in Transitions._fields[1:-1]}
    for name in ("signal", "sigma", "x0", "xt"):
        columns[name][::2] = getattr(euler, name)
    columns["signal"][1::2], columns["sigma"][1::2] = a_s, s_s
    columns["x0"][1::2] = -scale_s * half * (a_s / s_s + straight)
    columns["before"][1::2] = -scale_s * half * (a_t / s_t + straight)
    columns["anchor"][1::2] = scale_s * (1 / scale_t + half / s_t)
    columns["xt"][1::2] = scale_s * half / s_s
    time = np.empty(len(columns["x0"]), edges.time.dtype)
    time[::2], time[1::2] = edges.time, edges.time[1:]
    return Transitions(time, **columns, keep=np.arange(len(time)) % 2 == 1)


def optimal(table: Transitions, spread: Float64[np.ndarray, " calls"]) -> Transitions:
    """Analytic-DPM (Bao et al., theorem 1): the noise that leaves the true variance of x_s.

    spread: at each call the mean over the voxels of the variance of x_0 given x_t, which in their
    terms is (1 - sigma^2 Gamma) sigma^2 / signal^2. Theirs, too, are its bounds for data in
    [-1, 1], and no noise at the last step.
    """
    variance = table.noise**2 + table.x0**2 * np.clip(spread, 0.0, 1.0)
    noise = np.sqrt(variance) * (np.arange(len(variance)) < len(variance) - 1)
    return table._replace(noise=noise, most=noise)


def _ends(edges: Edges) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """(signal, sigma) at each step's beginning, and at its end."""
    return (edges.signal[:-1], edges.sigma[:-1]), (edges.signal[1:], edges.sigma[1:])


def reverse_diffusion(
    table: Table,
    predict_fn: Callable[[Data, Level], tuple[Data, Data | None]],
    noise: Data,
    key: PRNGKeyArray,
    *,
    kind: Prediction,
    clip: tuple[float, float] | None = (-1.0, 1.0),
) -> Data:
    """x_0 from standard normal noise, by calls of predict_fn(x_t, level).

    It gives a prediction of this kind and, or None, the share of the logarithm of the noise, 0 for
    `noise` to 1 for `most` (Improved DDPM, eq. 15). `clip` bounds the predicted x_0 at every call.
    The noise of call i comes from fold_in(key, i).

    Raises SettingsError for kind eps where the table begins with no signal (jsd, flow): eps says
    nothing about x_0 there.
    """
    if kind == "eps" and not isinstance(table.signal, jax.Array) and table.signal[0] == 0:
        raise SettingsError(
            "the schedule begins without any signal (jsd, flow), where eps, the prediction, does "
            "not determine x_0; predict x0, v or velocity, or take another schedule"
        )
    names = ("signal", "sigma", "x0", "before", "xt", "anchor", "noise", "most")
    columns = jnp.stack([jnp.asarray(getattr(table, n), noise.dtype) for n in names], axis=1)
    x_T = noise * jnp.maximum(columns[0, 1], 1.0)

    def call(
        state: tuple[Data, Data, Data], row: tuple[Array, Array, Array, Array]
    ) -> tuple[tuple[Data, Data, Data], None]:
        (x, anchor, before), (number, time, values, keep) = state, row
        signal, sigma, *factors, least, most = values
        level = Level(*(jnp.full(x.shape[:1], value) for value in (signal, sigma, time)))
        predicted, share = predict_fn(x, level)
        if share is not None:
            # Both ends are 0 at the last step.
            tiny = jnp.finfo(x.dtype).tiny
            ratio = jnp.log(jnp.maximum(most, tiny)) - jnp.log(jnp.maximum(least, tiny))
            least = least * jnp.exp(share * ratio)
        x0, _ = to_x0_eps(level, predicted, x, kind)
        if clip is not None:
            x0 = jnp.clip(x0, *clip)
        z = jax.random.normal(jax.random.fold_in(key, number), x.shape, x.dtype)
        terms = zip((*factors, least), (x0, before, x, anchor, z), strict=True)
        after = sum((factor * term for factor, term in terms), jnp.zeros_like(x))
        return (after, jnp.where(keep, after, anchor), x0), None

    rows = jnp.arange(len(columns)), jnp.asarray(table.time), columns, jnp.asarray(table.keep)
    (x_0, *_), _ = jax.lax.scan(call, (x_T, x_T, jnp.zeros_like(x_T)), rows)
    return x_0
