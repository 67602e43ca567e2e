"""R2Net (Joshi & Hong 2023, Medical Image Analysis; repository ankitajoshi15/R2Net).

A U-Net gives a first velocity, residual blocks with bounded Lipschitz constant integrate it to the
deformation phi = grid + v. Deviations: any size that is a multiple of 16, strided convolutions pad
one voxel on both sides (TensorFlow pads behind), all kernels start as He et al. 2015, the spectral
norm's power iteration starts anew at each step instead of keeping its vector, and of the published
determinant's terms the one with a wrong index is written right. R2Net makes no frames in between:
`r2net.frames` says how they come about here.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mstg_jax.config import R2NetConfig
from mstg_jax.diffusion.draws import Keys
from mstg_jax.methods.base import Batch, Ends, Generated, Method, by_frame, every_axis
from mstg_jax.models.deformation import warp
from mstg_jax.models.r2net import ENCODER, R2Net
from mstg_jax.shapes import Flow, Image


@dataclass(frozen=True)
class LipschitzRegistration(Method):
    config: R2NetConfig
    deforms: ClassVar[bool] = True

    @property
    def halvings(self) -> tuple[int, int, int]:
        return every_axis(len(ENCODER))

    def build(self, rng: np.random.Generator) -> R2Net:
        return R2Net(self.config, rng=rng)

    def loss(
        self, model: R2Net, batch: Batch, keys: Keys
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """MSE(warped ED, ES) + w folding, with R2Net's w = 0.001; nothing is drawn."""
        del keys
        ed, es = batch["ed"], batch["es"]
        flow = model(jnp.concatenate([ed, es], axis=-1))[-1]
        parts = {
            "mse": jnp.mean(jnp.square(warp(ed, flow) - es)),
            "folding": folding(flow, 2.0 if self.config.double_identity else 1.0),
        }
        return parts["mse"] + self.config.folding_weight * parts["folding"], parts

    def generate(
        self,
        model: R2Net,
        ends: Ends,
        gammas: Float[Array, "b t"],
        key: PRNGKeyArray,
    ) -> Generated:
        """ED warped by a part of the deformation.

        "scale" takes gamma times the last flow. "blocks" stops at gamma of the way through the
        flows 0, v0, v1, ...; between two of them it is linear.
        """
        del key
        ed = ends.ed
        flows = model(jnp.concatenate([ed, ends.es], axis=-1))
        if self.config.frames == "scale":
            flows = flows[-1:]
        stops = jnp.stack([jnp.zeros_like(flows[0]), *flows], axis=1)  # (b s d h w 3)

        def frame(gamma: Float[Array, " b"]) -> tuple[Image, Flow]:
            distance = jnp.abs(gamma[:, None] * len(flows) - jnp.arange(len(flows) + 1.0)[None])
            flow = jnp.einsum("bs,bsdhwc->bdhwc", jnp.maximum(1 - distance, 0), stops)
            return warp(ed, flow), flow

        return Generated(*by_frame(frame, gammas))


def folding(flow: Flow, identity: float = 1.0) -> Float[Array, ""]:
    """Sum over the voxels of (|J| - J) / 2, mean over the batch; J = det(identity I + grad flow).

    Forward differences of a flow in voxels, so each axis has one voxel less. R2Net's published
    loss adds the identity to differences of phi, which has it already: identity 2.
    """
    here = flow[:, :-1, :-1, :-1]
    ahead = (flow[:, 1:, :-1, :-1], flow[:, :-1, 1:, :-1], flow[:, :-1, :-1, 1:])
    a, b, c = (
        [(f - here)[..., i] + (identity if i == axis else 0.0) for i in range(3)]
        for axis, f in enumerate(ahead)
    )
    determinant = (
        a[0] * (b[1] * c[2] - b[2] * c[1])
        - a[1] * (b[0] * c[2] - b[2] * c[0])
        + a[2] * (b[0] * c[1] - b[1] * c[0])
    )
    return jnp.mean(jnp.sum(jnp.maximum(-determinant, 0.0), axis=(1, 2, 3)))
