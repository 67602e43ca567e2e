"""Between: MSTG with motion from both ends. Frames are warped from ED and from ES, and blended.

The paper's MSTG (methods/mstg.py) warps ED alone. Here the denoiser's code drives two flows and a
blending weight for every moment, after video interpolation (Jiang et al. 2018, CVPR, "Super
SloMo") and UVI-Net (Kim et al. 2024, CVPR), and the frames between ED and ES, which the data has,
supervise them. Items are flags of `motion`; frames at gamma 0 and 1 are ED and ES exactly.
"""

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import jax
import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mstg_jax.config import DiffusionConfig, ModelConfig, MotionConfig
from mstg_jax.diffusion.process import q_sample, smoothness
from mstg_jax.diffusion.schedule import make_schedule
from mstg_jax.methods.base import Batch, Generated, Method, by_frame, every_axis
from mstg_jax.models.between import BetweenNet
from mstg_jax.shapes import Image

Moments: TypeAlias = Float[Array, " b"]
AT_ES = 0.2  # share of the steps in which ES is the frame that supervises the flows
AT_END = 0.5  # the same without frames in between; in all others it is ED
CLEAN = 0.5  # share of the steps in which the denoiser sees ES itself, as when it generates
ALONE = 0.2  # weight of each warped end beside the blended frame


@dataclass(frozen=True)
class Between(Method):
    model: ModelConfig
    diffusion: DiffusionConfig
    motion: MotionConfig
    deforms: ClassVar[bool] = True

    @property
    def halvings(self) -> tuple[int, int, int]:
        networks = max(len(self.model.channels), len(self.model.deformation_channels)) - 1
        coarse = 2 if self.motion.coarse else 0  # it begins at half the size, with 2 stages or more
        return every_axis(max(networks, coarse))

    def build(self, rng: np.random.Generator) -> BetweenNet:
        return BetweenNet(self.model, self.motion, rng=rng)

    def loss(
        self, model: BetweenNet, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """MSE(noise, code) + w MSE(frame) + w |grad flows|^2 at one of the frames in between.

        In some steps it is ES, which only the flows have to reach: they make the labels at ES.
        Without `motion.between` it is ED in all others.
        """
        schedule = make_schedule(self.diffusion)
        ed, es = (2 * batch[name] - 1 for name in ("ed", "es"))
        key_t, key_noise, key_clean, key_end = jax.random.split(key, 4)
        count = es.shape[0]
        clean = jax.random.bernoulli(key_clean, CLEAN, (count,))
        t = jnp.where(clean, 0, jax.random.randint(key_t, (count,), 0, self.diffusion.steps))
        noise = jax.random.normal(key_noise, es.shape, es.dtype)
        x_t = jnp.where(_wide(clean), es, q_sample(schedule, es, t, noise))
        code = model.code(ed, es, x_t, t)

        if self.motion.between:
            share, other, moment = AT_ES, batch["frames"][:, 0], batch["gammas"][:, 0]
        else:
            share, other, moment = AT_END, batch["ed"], jnp.zeros(count)
        at_es = jax.random.bernoulli(key_end, share, (count,))
        truth = jnp.where(_wide(at_es), batch["es"], other)
        gamma = jnp.where(at_es, 1.0, moment)
        motion = model.motion(batch["ed"], batch["es"], code, gamma)
        parts = {
            "noise": jnp.mean(jnp.where(_wide(clean), 0.0, jnp.square(noise - code))),
            "frame": jnp.mean(jnp.square(motion.frame - truth)),
            "ends": jnp.mean(jnp.square(motion.ed - truth) + jnp.square(motion.es - truth)),
            "smooth": smoothness(motion.from_ed) + smoothness(motion.from_es),
        }
        supervised = parts["frame"] + ALONE * parts["ends"]
        total = (
            parts["noise"]
            + self.motion.frame_weight * supervised
            + self.diffusion.smooth_weight * parts["smooth"]
        )
        return total, parts

    def generate(
        self,
        model: BetweenNet,
        ed: Image,
        es: Image,
        gammas: Float[Array, "b t"],
        key: PRNGKeyArray,
    ) -> Generated:
        """One pass of the denoiser with x_t := ES, then one of the motion for each frame."""
        del key  # nothing is drawn
        scaled_ed, scaled_es = 2 * ed - 1, 2 * es - 1
        code = model.code(scaled_ed, scaled_es, scaled_es, jnp.zeros(ed.shape[0], jnp.int32))

        def frame(gamma: Moments) -> tuple[Image, Array]:
            motion = model.motion(ed, es, code, gamma)
            return motion.frame, motion.from_ed

        return Generated(*by_frame(frame, gammas))


def _wide(x: Array) -> Array:
    """(b,) to broadcast against images."""
    return x[:, None, None, None, None]
