"""Improved DDPM's loss of a learned variance (Nichol & Dhariwal 2021, arXiv:2102.09672)."""

import math

from jax import numpy as jnp
from jaxtyping import Array, Float

from mstg_jax.diffusion.likelihood import log_likelihood
from mstg_jax.diffusion.process import Data
from mstg_jax.diffusion.schedule import Schedule
from mstg_jax.shapes import Steps


def variational(schedule: Schedule, t: Steps, x0: Data, predicted: Data, share: Data) -> Data:
    """L_t in bits of each voxel: how far p(x_{t-1} | x_t) is from the posterior, and at t = 0
    minus the log likelihood of x_0.

    predicted: x_0, from which comes the mean (that it is not trained by this loss, as the paper
    wants, is the caller's matter); share: of the logarithm of the variance, from the posterior's,
    0, to beta, 1 (eq. 15).
    """

    def at(values: Float[Array, " T"]) -> Float[Array, " b *ones"]:
        return values[t].reshape(t.shape + (1,) * (x0.ndim - 1)).astype(x0.dtype)

    # The posterior of the first step has no variance: it takes the second's, as the paper's code.
    least = schedule.posterior_log_variance
    least = at(least.at[0].set(least[min(1, len(least) - 1)]))
    log_variance = least + share * (jnp.log(at(schedule.beta)) - least)
    error = at(schedule.posterior_x0) * (x0 - predicted)
    divergence = -1 + log_variance - least + jnp.exp(least - log_variance)
    divergence = (divergence + error**2 * jnp.exp(-log_variance)) / 2
    unlikely = -log_likelihood(x0, predicted, log_variance / 2)
    first = (t == 0).reshape(t.shape + (1,) * (x0.ndim - 1))
    return jnp.where(first, unlikely, divergence) / math.log(2)
