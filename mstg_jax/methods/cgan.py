"""Conditional GAN (Mirza & Osindero 2014, arXiv:1411.1784) as a 3D pix2pix.

After pix2pix (Isola et al. 2017, CVPR, arXiv:1611.07004; repository
junyanz/pytorch-CycleGAN-and-pix2pix), with the losses of LSGAN (Mao et al. 2017). The paper names
no code for its CGAN. Deviations from pix2pix: 3D; the condition is ED, ES and a constant channel
gamma, the output the frame at gamma; the generator has strided convolutions around residual blocks
instead of a U-Net, and no dropout, so that nothing is drawn; widths and the number of layers are
scaled to the data (the discriminator ends in one convolution of three taps, which thin volumes
bear); InstanceNorm learns scale and shift; the optimiser's settings are `optim`'s for both networks
(pix2pix: Adam 2e-4, betas 0.5 and 0.999), and the weights that generate are averaged (`optim.ema`).
"""

from dataclasses import dataclass

import numpy as np
from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mstg_jax.config import CGANConfig
from mstg_jax.diffusion.draws import Keys
from mstg_jax.methods.base import (
    Batch,
    Ends,
    Generated,
    Method,
    Turn,
    by_frame,
    conditions,
    every_axis,
)
from mstg_jax.models.cgan import Discriminator, Generator
from mstg_jax.shapes import Image, Volume


class Adversaries(nnx.Module):
    """The two networks; images are (b d h w 1) in [-1, 1], conditions (b d h w 3)."""

    def __init__(self, config: CGANConfig, *, rng: np.random.Generator):
        self.generator = Generator(config, rng=rng)
        self.discriminator = Discriminator(config.discriminator, rng=rng)

    def score(self, condition: Volume, image: Image) -> Float[Array, "b e i v 1"]:
        return self.discriminator(jnp.concatenate([condition, image], axis=-1))


@dataclass(frozen=True)
class CGAN(Method):
    """In each step first the discriminator is updated, then the generator."""

    config: CGANConfig

    @property
    def halvings(self) -> tuple[int, int, int]:
        return every_axis(max(len(self.config.channels) - 1, len(self.config.discriminator)))

    @property
    def turns(self) -> tuple[Turn, ...]:
        return Turn("discriminator", self.discriminator_loss), Turn("generator", self.loss)

    def build(self, rng: np.random.Generator) -> Adversaries:
        return Adversaries(self.config, rng=rng)

    def discriminator_loss(
        self, model: Adversaries, batch: Batch, keys: Keys
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Half the mean of (score - 1)^2 of the true frames and score^2 of the generated ones."""
        del keys
        condition, frame = _examples(batch)
        real = model.score(condition, frame)
        fake = model.score(condition, model.generator(condition))
        loss = (jnp.mean(jnp.square(real - 1)) + jnp.mean(jnp.square(fake))) / 2
        return loss, {"discriminator": loss}

    def loss(
        self, model: Adversaries, batch: Batch, keys: Keys
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The generator's: mean (score - 1)^2 + w |generated - true|, with pix2pix' w = 100."""
        del keys
        condition, frame = _examples(batch)
        made = model.generator(condition)
        parts = {
            "adversarial": jnp.mean(jnp.square(model.score(condition, made) - 1)),
            "l1": jnp.mean(jnp.abs(made - frame)),
        }
        return parts["adversarial"] + self.config.l1_weight * parts["l1"], parts

    def generate(
        self,
        model: Adversaries,
        ends: Ends,
        gammas: Float[Array, "b t"],
        key: PRNGKeyArray,
    ) -> Generated:
        """Every frame by itself; nothing is drawn."""
        del key

        def frame(gamma: Float[Array, " b"]) -> Image:
            return (model.generator(conditions(ends.ed, ends.es, gamma[:, None])[:, 0]) + 1) / 2

        return Generated(by_frame(frame, gammas), None)


def _examples(batch: Batch) -> tuple[Volume, Image]:
    """Conditions and true frames, both (b * f d h w c)."""
    condition = conditions(batch["ed"], batch["es"], batch["gammas"])
    frames = 2 * batch["frames"] - 1
    return condition.reshape(-1, *condition.shape[2:]), frames.reshape(-1, *frames.shape[2:])
