"""A path whose gamma, minus the logarithm of signal^2 / sigma^2, a network learns (VDM)."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from mstg_jax.config import DiffusionConfig
from mstg_jax.diffusion.paths import Edges
from mstg_jax.diffusion.process import Level
from mstg_jax.diffusion.samplers import Transitions, transitions

Gamma = Callable[[Float[Array, "*b"]], Float[Array, "*b"]]
"""Of u, 0 at data to 1 at noise."""


def learned_level(gamma: Float[Array, "*b"], config: DiffusionConfig) -> Level:
    """Of variance 1. The time that a denoiser is told is 0 to T between the settings' ends."""
    signal, sigma = jnp.sqrt(jax.nn.sigmoid(-gamma)), jnp.sqrt(jax.nn.sigmoid(gamma))
    return Level(signal, sigma, _time(gamma, config))


def learned_table(gamma: Gamma, config: DiffusionConfig, spread: tuple[float, ...] | None) -> Any:
    """`transitions` of `config.sampler_steps` levels, even in u, the last of which is gamma's
    least; made on the host of what the weights say there."""

    def host(found: ArrayLike) -> Any:
        at = np.asarray(found, np.float64)
        noise = 1 / (1 + np.exp(-at))
        signal, sigma = np.append(np.sqrt(1 - noise), 1.0), np.append(np.sqrt(noise), 0.0)
        table = transitions(Edges(_time(at, config), signal, sigma), config, spread)
        columns = (np.asarray(x, np.float32) for x in table[:-1])
        return Transitions(*columns, keep=table.keep)

    places = jnp.linspace(1.0, 0.0, config.sampler_steps)
    like = host(np.linspace(1.0, -1.0, config.sampler_steps))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), like)
    return jax.pure_callback(host, shapes, gamma(places))


def _time(gamma: Any, config: DiffusionConfig) -> Any:
    most, least = config.log_snr
    return config.steps * (gamma + most) / (most - least)
