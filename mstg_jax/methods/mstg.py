"""MSTG and DDM: a denoiser whose code drives a deformation of ED (Kim & Ye 2022, MICCAI).

Both are the same code: `ddm` is MSTG without a mixer.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, TypeAlias

import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mstg_jax.config import DiffusionConfig, ModelConfig
from mstg_jax.diffusion.draws import Keys, step_and_noise
from mstg_jax.diffusion.losses import local_ncc, smoothness
from mstg_jax.diffusion.process import q_sample
from mstg_jax.diffusion.schedule import make_schedule
from mstg_jax.methods.base import Batch, Ends, Generated, Method, by_frame, every_axis
from mstg_jax.models.deformation import DeformationNet, warp
from mstg_jax.models.denoiser import MotionCoder
from mstg_jax.shapes import Flow, Image

Gamma: TypeAlias = Float[Array, " b"]
Frame: TypeAlias = tuple[Image, Flow]


class DeformableDiffusion(MotionCoder):
    """The two networks. Images are (b d h w 1) in [-1, 1]."""

    def __init__(self, config: ModelConfig, *, rng: np.random.Generator):
        super().__init__(config, rng=rng)
        self.deformation = DeformationNet(config.deformation_channels, rng=rng)

    def flow(self, ed: Image, code: Image) -> Flow:
        return self.deformation(jnp.concatenate([ed, code], axis=-1))


@dataclass(frozen=True)
class Deform(Method):
    """Train on noised ES; generate with one pass at t = 0 and a code scaled by gamma."""

    model: ModelConfig
    diffusion: DiffusionConfig
    deforms: ClassVar[bool] = True

    @property
    def halvings(self) -> tuple[int, int, int]:
        return every_axis(max(len(self.model.channels), len(self.model.deformation_channels)) - 1)

    def build(self, rng: np.random.Generator) -> DeformableDiffusion:
        return DeformableDiffusion(self.model, rng=rng)

    def loss(
        self, model: DeformableDiffusion, batch: Batch, keys: Keys
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """MSE(noise, code) - w local NCC(warped ED, ES) + w |grad flow|^2, with DDM's w = 20."""
        schedule = make_schedule(self.diffusion)
        ed, es = (2 * batch[name] - 1 for name in ("ed", "es"))
        t, noise = step_and_noise(keys, es.shape[1:], self.diffusion.steps)
        code = model.code(ed, es, q_sample(schedule.at(t), es, noise), t)
        flow = model.flow(ed, code)
        parts = {
            "noise": jnp.mean(jnp.square(noise - code)),
            "ncc": local_ncc(warp(batch["ed"], flow), batch["es"]),
            "smooth": smoothness(flow),
        }
        config = self.diffusion
        total = (
            parts["noise"]
            - config.ncc_weight * parts["ncc"]
            + config.smooth_weight * parts["smooth"]
        )
        return total, parts

    def generate(
        self,
        model: DeformableDiffusion,
        ends: Ends,
        gammas: Float[Array, "b t"],
        key: PRNGKeyArray,
    ) -> Generated:
        del key  # nothing is drawn: the code comes from one pass with x_t := ES
        ed = ends.ed
        scaled_ed, scaled_es = 2 * ed - 1, 2 * ends.es - 1
        start = jnp.zeros(ed.shape[0], jnp.int32)
        code = model.code(scaled_ed, scaled_es, scaled_es, start)

        def frame(gamma: Gamma) -> Frame:
            flow = model.flow(scaled_ed, gamma[:, None, None, None, None] * code)
            return warp(ed, flow), flow

        return Generated(*by_frame(frame, gammas))


def ddm(model: ModelConfig, diffusion: DiffusionConfig) -> Deform:
    """DDM's exact architecture: no mixer in any stage."""
    return Deform(replace(model, mixer="none"), diffusion)
