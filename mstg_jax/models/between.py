"""The network that moves both ends to a moment between them."""

from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array, Float

from mstg_jax.config import ModelConfig, MotionConfig
from mstg_jax.models.deformation import DeformationNet, warp
from mstg_jax.models.denoiser import MotionCoder
from mstg_jax.models.layers import Downsample
from mstg_jax.shapes import Flow, Image

FLOWS = 6  # channels of the two flows, before the blending weight and the residual
LOG_ODDS = 10.0  # at most, of an end in the blend


class Motion(NamedTuple):
    """A moment between ED and ES: the frame, both ends moved there, and their flows (voxels)."""

    frame: Image
    ed: Image
    es: Image
    from_ed: Flow
    from_es: Flow


class BetweenNet(MotionCoder):
    """A denoiser whose code drives the motion; images are (b d h w 1) in [0, 1] but for `code`."""

    def __init__(self, config: ModelConfig, motion: MotionConfig, *, rng: np.random.Generator):
        channels, outputs = config.deformation_channels, FLOWS + 1 + motion.residual
        super().__init__(config, rng=rng)
        self.half = Downsample(4, "average", rng=rng)
        self.coarse = (
            DeformationNet(channels[1:] if len(channels) > 2 else channels, ci=4, co=FLOWS, rng=rng)
            if motion.coarse
            else None
        )
        self.deformation = DeformationNet(channels, ci=4, co=outputs, rng=rng)
        self.course = (
            nnx.Param(jax.device_put(np.zeros(2, np.float32))) if motion.time_course else None
        )

    def motion(self, ed: Image, es: Image, code: Image, gamma: Float[Array, " b"]) -> Motion:
        """The flows vanish at their own end, where the frame is that end exactly."""
        s = self.progress(gamma)[:, None, None, None, None]
        moment = jnp.broadcast_to(s, ed.shape)
        start, finish = ed, es
        flows = jnp.zeros((*ed.shape[:-1], FLOWS), ed.dtype)
        if self.coarse is not None:
            whole = jnp.concatenate([2 * ed - 1, 2 * es - 1, code, moment], axis=-1)
            small = self.coarse(self.half(whole[:, None])[:, 0])
            flows = 2 * jax.image.resize(small, flows.shape, "linear")
            start, finish = warp(ed, s * flows[..., :3]), warp(es, (1 - s) * flows[..., 3:])
        moved = jnp.concatenate([2 * start - 1, 2 * finish - 1, code, moment], axis=-1)
        found = self.deformation(moved)
        flows = flows + found[..., :FLOWS]
        from_ed, from_es = s * flows[..., :3], (1 - s) * flows[..., 3:]
        moved_ed, moved_es = warp(ed, from_ed), warp(es, from_es)
        odds = jnp.exp(jnp.clip(found[..., FLOWS : FLOWS + 1], -LOG_ODDS, LOG_ODDS))
        weight = s * odds / (1 - s + s * odds)  # of ES; s itself where the network says 0
        frame = moved_ed + weight * (moved_es - moved_ed)
        if found.shape[-1] > FLOWS + 1:
            frame = frame + 4 * s * (1 - s) * found[..., FLOWS + 1 :]
        return Motion(frame, moved_ed, moved_es, from_ed, from_es)

    def progress(self, gamma: Float[Array, " b"]) -> Float[Array, " b"]:
        """How far the motion is at gamma: 1 - (1 - gamma^a)^b, an S for a, b > 1 (Kumaraswamy
        1980); the identity at first."""
        if self.course is None:
            return gamma
        a, b = jnp.exp(self.course[...])
        inside = jnp.clip(gamma, 1e-6, 1 - 1e-6)  # the powers' slopes are not finite at the ends
        return jnp.where((gamma > 0) & (gamma < 1), 1 - (1 - inside**a) ** b, gamma)
