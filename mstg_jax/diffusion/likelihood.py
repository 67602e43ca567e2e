"""The likelihood of data to 256 values, and its variational bound in continuous time."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float

from mstg_jax.diffusion.draws import Keys, apart, normal
from mstg_jax.diffusion.process import Data, Level, q_sample

HALF_BIN = 1 / 255


class Bound(NamedTuple):
    """Bits per voxel of each example; their sum bounds what a lossless code would need."""

    diffusion: Float[Array, " b"]
    prior: Float[Array, " b"]
    reconstruction: Float[Array, " b"]


def quantised(x: Data) -> Data:
    """The nearest of the 256 even values in [-1, 1]."""
    return jnp.clip(jnp.round((x + 1) / (2 * HALF_BIN)), 0, 255) * (2 * HALF_BIN) - 1


def log_likelihood(x: Data, mean: Data, log_deviation: Data) -> Data:
    """Of quantised x under a normal distribution, whose tails count to the outer values."""
    scale = jnp.exp(-log_deviation)
    above = scale * (x + HALF_BIN - mean)
    below = scale * (x - HALF_BIN - mean)
    # Of a difference of two values near 1 nothing would be left.
    mirrored = below > 0
    high = jnp.where(x > 1 - HALF_BIN, jnp.inf, above)
    low = jnp.where(x < -1 + HALF_BIN, -jnp.inf, below)
    first, second = jnp.where(mirrored, -low, high), jnp.where(mirrored, -high, low)
    inside = jax.scipy.stats.norm.cdf(first) - jax.scipy.stats.norm.cdf(second)
    return jnp.log(jnp.maximum(inside, 1e-12))


def bound(
    gamma: Callable[[Float[Array, " b"]], Float[Array, " b"]],
    level: Callable[[Float[Array, " b"]], Level],
    predict_eps: Callable[[Data, Level], Data],
    x0: Data,
    keys: Keys,
) -> Bound:
    """Kingma et al. 2021, eq. 11 and 17 (arXiv:2107.00630), from one draw of u and of the noise.

    gamma(u) rises from 0 to 1 from little noise to much; level: of gamma. x0 is quantised.
    """
    keys_u, keys_noise, keys_first = apart(keys, 3)
    u = jax.vmap(jax.random.uniform)(keys_u)
    at, slope = jax.jvp(gamma, (u,), (jnp.ones_like(u),))
    noise = normal(keys_noise, x0.shape[1:])
    here = level(at)
    error = jnp.square(noise - predict_eps(q_sample(here, x0, noise), here))
    first, last = gamma(jnp.zeros_like(u)), gamma(jnp.ones_like(u))

    def wide(values: Float[Array, " b"]) -> Data:
        return values.reshape(-1, *(1,) * (x0.ndim - 1))

    variance = wide(jax.nn.sigmoid(last))
    prior = (wide(jax.nn.sigmoid(-last)) * x0**2 + variance - jnp.log(variance) - 1) / 2
    # x_t / signal at the least noise is x_0 + exp(gamma / 2) times noise.
    log_deviation = jnp.broadcast_to(wide(first) / 2, x0.shape)
    seen = x0 + jnp.exp(log_deviation) * normal(keys_first, x0.shape[1:])
    unlikely = -log_likelihood(x0, seen, log_deviation)

    def bits(values: Data) -> Float[Array, " b"]:
        return values.reshape(len(values), -1).mean(1) / math.log(2)

    return Bound(slope / 2 * bits(error), bits(prior), bits(unlikely))
