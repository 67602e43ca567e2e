"""Diffusion U-KAN (Li et al. 2025, AAAI, arXiv:2406.02918; repository CUHK-AIM-Group/U-KAN).

The source generates 2D images out of noise alone. Here a frame is denoised given ED, ES and gamma,
which stand beside it as channels, and all of it is 3D. Further deviations: the width is scaled to
the data (0.5 instead of 27 million parameters: channels 8, 16, 32 and tokens 32, 48 instead of 64
to 256 and 320, 512; one residual block per stage instead of two; 4 groups instead of 32), no
dropout, no weight decay, the U-Net's layers and their initial weights are DDM's
(models/denoiser.py), and frames are sampled by DDIM in `diffusion.sampler_steps` steps, or by DDPM.
The network predicts what `diffusion.prediction` says. In the source that is the noise, which after
short trainings gives frames of noise: at late steps its small errors are large ones of the frame
(600 steps on ACDC: 8.2 dB on one patient, and 19.8 dB with v).
"""

from dataclasses import dataclass, field, replace

import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Float

from mstg_jax.config import DiffusionConfig, ModelConfig, UKANConfig
from mstg_jax.diffusion.process import Level
from mstg_jax.methods.base import every_axis
from mstg_jax.methods.direct import Direct
from mstg_jax.models.conditions import Known, channel_count, channels
from mstg_jax.models.ukan import UKANDenoiser
from mstg_jax.shapes import Features


@dataclass(frozen=True)
class UKAN(Direct):
    """Frames are denoised one by one."""

    network: UKANConfig = field(kw_only=True)

    @property
    def halvings(self) -> tuple[int, int, int]:
        return every_axis(len(self.network.channels) - 1 + len(self.network.tokens))

    def build(self, rng: np.random.Generator) -> UKANDenoiser:
        return UKANDenoiser(1 + channel_count(self.direct), 1, self.model, self.network, rng=rng)

    def made(
        self, model: UKANDenoiser, seen: Features, level: Level, known: Known
    ) -> Float[Array, "b f d h w co"]:
        return model(jnp.concatenate([seen, channels(self.direct, known)], axis=-1), level.time)


def ukan(config: UKANConfig, diffusion: DiffusionConfig, *, quick: bool = False) -> UKAN:
    """With U-KAN's own diffusion; prediction, sampler and its steps are those of `diffusion`.

    quick: with fewer reverse steps, as training validates.
    """
    sampler_steps = diffusion.sampler_steps
    own = replace(
        diffusion,
        schedule="linear",
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        steps=config.steps,
        frames=1,
        sampler_steps=min(config.validation_steps, sampler_steps) if quick else sampler_steps,
    )
    unet = ModelConfig(
        channels=config.channels,
        depth=config.depth,
        groups=config.groups,
        time_dim=config.time_dim,
        mixer="none",
    )
    return UKAN(unet, own, network=config)
