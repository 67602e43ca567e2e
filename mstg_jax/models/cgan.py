"""The generator and the discriminator of a 3D pix2pix."""

from itertools import pairwise
from typing import Literal

import numpy as np
from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array, Float

from mstg_jax.config import CGANConfig
from mstg_jax.models.init import normal
from mstg_jax.models.layers import Conv3d, GroupNorm
from mstg_jax.shapes import Image, Volume

SLOPE = 0.2
INIT = normal(0.02)


class Generator(nnx.Module):
    """Condition (b d h w 3) -> image (b d h w 1) in [-1, 1].

    d, h and w must be multiples of 2^(stages - 1). The first layer is not normalised: that would
    take the constant channel gamma away.
    """

    def __init__(self, config: CGANConfig, *, rng: np.random.Generator):
        channels, back = config.channels, config.channels[::-1]
        self.stem = Conv3d(3, channels[0], init=INIT, rng=rng)
        self.down = nnx.List([Layer(*pair, "half", rng=rng) for pair in pairwise(channels)])
        self.middle = nnx.List([Residual(channels[-1], rng=rng) for _ in range(config.blocks)])
        self.up = nnx.List([Layer(*pair, "transpose", rng=rng) for pair in pairwise(back)])
        self.out = Conv3d(channels[0], 1, init=INIT, rng=rng)

    def __call__(self, condition: Volume) -> Image:
        x = nnx.leaky_relu(self.stem(condition), SLOPE)
        for layer in (*self.down, *self.middle, *self.up):
            x = layer(x)
        return jnp.tanh(self.out(x))


class Discriminator(nnx.Module):
    """Condition and image (b d h w 4) -> a score per patch (b e i v 1), 1 for a real image.

    d, h and w must be multiples of 2^(channels).
    """

    def __init__(self, channels: tuple[int, ...], *, rng: np.random.Generator):
        self.stem = Conv3d(4, channels[0], size=4, resize="half", init=INIT, rng=rng)
        self.down = nnx.List([Layer(*pair, "half", rng=rng) for pair in pairwise(channels)])
        self.out = Conv3d(channels[-1], 1, init=INIT, rng=rng)

    def __call__(self, x: Volume) -> Float[Array, "b e i v 1"]:
        x = nnx.leaky_relu(self.stem(x), SLOPE)
        for layer in self.down:
            x = layer(x)
        return self.out(x)


class Layer(nnx.Module):
    """Convolution of four taps to half or twice the size, InstanceNorm, leaky ReLU."""

    def __init__(
        self, ci: int, co: int, resize: Literal["half", "transpose"], *, rng: np.random.Generator
    ):
        self.conv = Conv3d(ci, co, size=4, resize=resize, use_bias=False, init=INIT, rng=rng)
        self.norm = GroupNorm(co, co)

    def __call__(self, x: Volume) -> Float[Array, "b e i v co"]:
        return nnx.leaky_relu(self.norm(self.conv(x)), SLOPE)


class Residual(nnx.Module):
    """x + InstanceNorm(conv(leaky ReLU(InstanceNorm(conv(x)))))."""

    def __init__(self, channels: int, *, rng: np.random.Generator):
        self.conv1 = Conv3d(channels, channels, use_bias=False, init=INIT, rng=rng)
        self.norm1 = GroupNorm(channels, channels)
        self.conv2 = Conv3d(channels, channels, use_bias=False, init=INIT, rng=rng)
        self.norm2 = GroupNorm(channels, channels)

    def __call__(self, x: Volume) -> Volume:
        y = nnx.leaky_relu(self.norm1(self.conv1(x)), SLOPE)
        return x + self.norm2(self.conv2(y))
