"""The forward process x_t = signal x_0 + sigma eps, and what a denoiser may predict of it."""

from typing import NamedTuple, TypeAlias, assert_never

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from mstg_jax.config import Prediction

Data: TypeAlias = Float[Array, " b *rest"]
Coefficient: TypeAlias = Float[Array, " b *ones"]
SIGMA_DATA = 0.5
"""Standard deviation of the data that Karras et al. 2022 scale by."""


class Level(NamedTuple):
    """How much data and noise each x_t holds, and the time that the denoiser is told."""

    signal: Float[Array, "*b"]
    sigma: Float[Array, "*b"]
    time: Num[Array, "*b"]

    def beside(self, x: Data) -> tuple[Coefficient, Coefficient]:
        """signal and sigma in the type of x, with axes of length 1 to broadcast against it."""
        shape = self.signal.shape + (1,) * (x.ndim - 1)
        return self.signal.reshape(shape).astype(x.dtype), self.sigma.reshape(shape).astype(x.dtype)


def q_sample(level: Level, x0: Data, noise: Data) -> Data:
    """x_t; with a schedule of betas Ho et al. 2020, eq. 4."""
    signal, sigma = level.beside(x0)
    return signal * x0 + sigma * noise


def target(level: Level, x0: Data, noise: Data, kind: Prediction) -> Data:
    """What a denoiser of this kind is trained to predict.

    v = signal eps - sigma x_0 (Salimans & Ho 2022, arXiv:2202.00512). velocity = eps - x_0, the
    slope of a straight line (Liu et al. 2023, arXiv:2209.03003; Lipman et al. 2023,
    arXiv:2210.02747). edm: what lacks to x_0 beside the share of x_t that it holds, scaled to
    variance 1 (Karras et al. 2022, arXiv:2206.00364, eq. 8 and table 1).
    """
    match kind:
        case "eps":
            return noise
        case "x0":
            return x0
        case "v":
            signal, sigma = level.beside(x0)
            return signal * noise - sigma * x0
        case "velocity":
            return noise - x0
        case "edm":
            signal, sigma = level.beside(x0)
            scale = _deviation(signal, sigma)
            return (sigma / SIGMA_DATA * x0 - SIGMA_DATA * signal * noise) / scale
    assert_never(kind)


def to_x0_eps(level: Level, prediction: Data, x_t: Data, kind: Prediction) -> tuple[Data, Data]:
    """The (x_0, eps) that a prediction at x_t stands for; inverts `target` given `q_sample`.

    Not finite for kind eps where the signal is 0 (last step of jsd): x_t says nothing of x_0 there.
    """
    signal, sigma = level.beside(x_t)
    match kind:
        case "eps":
            return (x_t - sigma * prediction) / signal, prediction
        case "x0":
            return prediction, (x_t - signal * prediction) / sigma
        case "v":
            norm = signal**2 + sigma**2
            return (
                (signal * x_t - sigma * prediction) / norm,
                (sigma * x_t + signal * prediction) / norm,
            )
        case "velocity":
            total = signal + sigma
            return (x_t - sigma * prediction) / total, (x_t + signal * prediction) / total
        case "edm":
            scale = _deviation(signal, sigma)
            share = SIGMA_DATA**2 * signal / scale**2
            x0 = share * x_t + SIGMA_DATA * sigma / scale * prediction
            return x0, sigma / scale**2 * x_t - SIGMA_DATA * signal / scale * prediction
    assert_never(kind)


def as_input(level: Level, x_t: Data, kind: Prediction) -> Data:
    """x_t as the denoiser sees it: for kind edm scaled to variance 1, else as it is."""
    return x_t / _deviation(*level.beside(x_t)) if kind == "edm" else x_t


def _deviation(signal: Coefficient, sigma: Coefficient) -> Coefficient:
    return jnp.sqrt((SIGMA_DATA * signal) ** 2 + sigma**2)
