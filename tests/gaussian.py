"""Data N(mean, variance) voxel by voxel, for which the best prediction is known, and tables."""

import jax
import numpy as np
from jax import numpy as jnp

from mstg_jax.config import DiffusionConfig
from mstg_jax.diffusion.paths import make_path
from mstg_jax.diffusion.process import target
from mstg_jax.diffusion.samplers import transitions

STEPS = 100
KEY, OTHER_KEY = jax.random.key(0), jax.random.key(1)
CONFIG = DiffusionConfig(beta_start=1e-4, beta_end=0.1, steps=STEPS, sampler_steps=10)
LONG = DiffusionConfig(beta_start=1e-4, beta_end=2e-2, steps=1000)


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def table_of(config, spread=None):
    return transitions(make_path(config).edges(config.sampler_steps), config, spread)


def oracle(x0, kind):
    """Predicts what `kind` asks for as if every x_t came from x0."""

    def predict(x_t, level):
        signal, sigma = level.beside(x_t)
        return target(level, x0, (x_t - signal * x0) / sigma, kind), None

    return predict


def optimum(mean, variance, kind):
    """What data N(mean, variance) makes the best prediction: by their E[x_0 | x_t]."""

    def predict(x_t, level):
        signal, sigma = level.beside(x_t)
        spread = signal**2 * variance + sigma**2
        x0 = mean + signal * variance / spread * (x_t - signal * mean)
        return target(level, x0, (x_t - signal * x0) / sigma, kind), None

    return predict


FLOW = {"schedule": "flow", "prediction": "velocity"}
EDM = {"schedule": "edm", "prediction": "edm"}


def spread_of(table, variance):
    """Var[x_0 | x_t] of data of this variance."""
    return tuple(variance * table.sigma**2 / (table.signal**2 * variance + table.sigma**2))
