"""VoxelMorph (Balakrishnan et al. 2019, IEEE TMI 38(8); repository voxelmorph/voxelmorph).

A network maps ED and ES to the displacement between them. Deviations: the network is DDM's
registration net (strided convolutions, transposed ones on the way up), so that mstg and voxelmorph
differ by the denoiser alone; NCC and smoothness are weighted as there; VoxelMorph makes no frames
in between, so here the flow is scaled by gamma.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mstg_jax.config import DiffusionConfig
from mstg_jax.diffusion.draws import Keys
from mstg_jax.diffusion.losses import local_ncc, smoothness
from mstg_jax.methods.base import Batch, Ends, Generated, Method, by_frame, every_axis
from mstg_jax.models.deformation import DeformationNet, warp
from mstg_jax.shapes import Flow, Image


@dataclass(frozen=True)
class VoxelMorph(Method):
    """`channels` of the network's encoder; the weights of the losses are `diffusion`'s."""

    channels: tuple[int, ...]
    diffusion: DiffusionConfig
    deforms: ClassVar[bool] = True

    @property
    def halvings(self) -> tuple[int, int, int]:
        return every_axis(len(self.channels) - 1)

    def build(self, rng: np.random.Generator) -> DeformationNet:
        return DeformationNet(self.channels, rng=rng)

    def loss(
        self, model: DeformationNet, batch: Batch, keys: Keys
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """- w local NCC(warped ED, ES) + w |grad flow|^2 (voxels^2); nothing is drawn."""
        del keys
        ed, es = batch["ed"], batch["es"]
        flow = model(jnp.concatenate([ed, es], axis=-1))
        parts = {"ncc": local_ncc(warp(ed, flow), es), "smooth": smoothness(flow)}
        config = self.diffusion
        return config.smooth_weight * parts["smooth"] - config.ncc_weight * parts["ncc"], parts

    def generate(
        self,
        model: DeformationNet,
        ends: Ends,
        gammas: Float[Array, "b t"],
        key: PRNGKeyArray,
    ) -> Generated:
        """frame(gamma) = ED warped by gamma times the flow."""
        del key
        ed = ends.ed
        whole = model(jnp.concatenate([ed, ends.es], axis=-1))

        def frame(gamma: Float[Array, " b"]) -> tuple[Image, Flow]:
            flow = gamma[:, None, None, None, None] * whole
            return warp(ed, flow), flow

        return Generated(*by_frame(frame, gammas))
