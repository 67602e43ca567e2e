"""The denoiser of frames, with what the members of the diffusion family need beside it."""

import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Float

from mstg_jax.config import DiffusionConfig, DirectConfig, ModelConfig
from mstg_jax.models.conditions import (
    STRUCTURES,
    Known,
    channel_count,
    channels,
    vector,
    vector_size,
)
from mstg_jax.models.denoiser import Denoiser
from mstg_jax.models.layers import Linear
from mstg_jax.models.log_snr import LogSNR
from mstg_jax.shapes import Features, Steps


class FrameDenoiser(Denoiser):
    """A `Denoiser` of frames, and perhaps of their labels, (b f d h w c), that sees conditions.

    With variance learned it has as many channels again, whose half and 1/2 is the share of the
    logarithm of the variance; with schedule learned it holds the noise as well.
    """

    def __init__(
        self,
        config: ModelConfig,
        diffusion: DiffusionConfig,
        direct: DirectConfig,
        *,
        rng: np.random.Generator,
    ):
        self.direct, self.octaves = direct, diffusion.fourier
        made = made_channels(direct)
        ci = made * (1 + 2 * len(self.octaves)) + channel_count(direct)
        co = made * (2 if diffusion.variance == "learned" else 1)
        super().__init__(ci, co, config, rng=rng)
        size = vector_size(direct)
        self.condition = Linear(size, config.time_dim, rng=rng) if size else None
        learned = diffusion.schedule == "learned"
        self.log_snr = LogSNR(diffusion.log_snr, rng=rng) if learned else None

    def given(self, x: Features, t: Steps, known: Known) -> Float[Array, "b f d h w co"]:
        """What it predicts at x, scaled as its input is, with what is known."""
        seen = jnp.concatenate([*self._octaves(x), channels(self.direct, known)], axis=-1)
        beside = None
        if self.condition is not None:
            beside = self.condition(vector(self.direct, known))
        return self(seen, t, beside)

    def _octaves(self, x: Features) -> list[Features]:
        """x, and sin(2^n pi x) and cos(2^n pi x), which show what is small in it (Kingma et al.
        2021, appendix C)."""
        angles = [2.0**n * jnp.pi * x for n in self.octaves]
        return [x, *(f(a) for a in angles for f in (jnp.sin, jnp.cos))]


def made_channels(direct: DirectConfig) -> int:
    """The image, and one for each structure's labels."""
    return 1 + STRUCTURES * ("labels" in direct.makes)
