"""The deformation network of DDM and the spatial transformer that applies its field."""

from functools import partial
from itertools import product

import numpy as np
from flax import nnx
from jax import Array, vmap
from jax import numpy as jnp
from jaxtyping import Float

from mstg_jax.models.init import normal
from mstg_jax.models.layers import Conv3d
from mstg_jax.shapes import Flow, Image, Volume

SLOPE = 0.2


class DeformationNet(nnx.Module):
    """A U-Net from (b d h w 2), source and code, to a displacement field in voxels (b d h w 3).

    DDM's registration net (after VoxelMorph): `channels` are the encoder's, each after the first at
    half the size before. d, h and w must be multiples of 2^(len(channels) - 1).
    """

    def __init__(self, channels: tuple[int, ...], *, rng: np.random.Generator):
        conv = partial(Conv3d, init=normal(0.02), rng=rng)
        widths = (2, *channels)
        self.encoder = nnx.List(
            [
                conv(before, after, resize="half" if stage else "keep")
                for stage, (before, after) in enumerate(zip(widths[:-1], channels, strict=True))
            ]
        )
        width, narrow = channels[-1], channels[0] // 2
        self.up, self.decoder = nnx.List([]), nnx.List([])
        self.narrow = conv(channels[1], narrow)
        for stage in reversed(range(len(channels) - 1)):
            out = channels[stage] if stage > 0 else narrow
            width = width if stage > 0 else narrow
            self.up.append(conv(width, width, resize="transpose"))
            self.decoder.append(conv(channels[stage] + width, out))
            width = out
        self.out = conv(narrow, 3)

    def __call__(self, x: Volume) -> Flow:
        activate = partial(nnx.leaky_relu, negative_slope=SLOPE)
        kept = []
        for conv in self.encoder:
            x = activate(conv(x))
            kept.append(x)
        kept.pop()
        for i, (up, conv) in enumerate(zip(self.up, self.decoder, strict=True)):
            if i == len(self.up) - 1:
                x = activate(self.narrow(x))
            x = activate(conv(jnp.concatenate([kept.pop(), up(x)], axis=-1)))
        return self.out(x)


def warp(volume: Image, flow: Flow) -> Image:
    """warped(x) = volume(x + flow(x)), trilinear, in voxels; zero beyond the volume's border.

    Within one voxel of the border the value fades to zero (DDM pads with one voxel of zeros).
    """
    return vmap(_warp)(volume[..., 0], flow)[..., None]


def _warp(volume: Float[Array, "d h w"], flow: Float[Array, "d h w 3"]) -> Float[Array, "d h w"]:
    shape = volume.shape
    _, height, width = (n + 2 for n in shape)
    padded = jnp.pad(volume, 1).reshape(-1)
    corners = []
    for axis, n in enumerate(shape):
        wide = [1, 1, 1]
        wide[axis] = n
        at = jnp.arange(1, n + 1, dtype=flow.dtype).reshape(wide) + flow[..., axis]
        at = jnp.clip(at, 0.0, n + 1.0)  # the border of zeros: nothing lies beyond it
        low = jnp.minimum(jnp.floor(at), n)
        share = at - low
        corners.append(((low.astype(jnp.int32), 1 - share), (low.astype(jnp.int32) + 1, share)))
    total = jnp.zeros(shape, volume.dtype)
    for (d, wd), (h, wh), (w, ww) in product(*corners):
        total = total + padded[(d * height + h) * width + w] * (wd * wh * ww)
    return total
