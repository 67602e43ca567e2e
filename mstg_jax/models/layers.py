"""Layers of the U-Net: convolution, normalisation, time embedding, residual block, resampling."""

import math
from functools import partial
from typing import Literal

import jax
import numpy as np
from flax import nnx
from jax import lax
from jax import numpy as jnp
from jaxtyping import Array, Float

from mstg_jax.config import SettingsError
from mstg_jax.models.conv3d import conv3d, conv3d_nearest_twice, conv3d_transpose_twice
from mstg_jax.models.init import Initializer, orthogonal
from mstg_jax.models.precision import product, weighted
from mstg_jax.models.rescale import Factor, gathered, scattered
from mstg_jax.shapes import Features, Steps

GROUP_NORM_EPSILON = 1e-5


class Conv3d(nnx.Module):
    """3D convolution over (*b d h w ci); kernel (k k k ci co), or (1 k k ci co) if `flat`.

    resize "keep" and "half" (stride 2) pad with zeros; "nearest" and "transpose" double d, h and w,
    by nearest neighbour before the convolution or by a transposed convolution.
    """

    def __init__(
        self,
        ci: int,
        co: int,
        *,
        rng: np.random.Generator,
        size: int = 3,
        flat: bool = False,
        resize: Literal["keep", "half", "nearest", "transpose"] = "keep",
        use_bias: bool = True,
        init: Initializer = orthogonal,
    ):
        self.resize = resize
        depth = 1 if flat else size
        self.kernel = nnx.Param(jax.device_put(init(rng, (depth, size, size, ci, co))))
        self.bias = nnx.Param(jax.device_put(np.zeros(co, np.float32))) if use_bias else None

    def __call__(self, x: Float[Array, "*b d h w ci"]) -> Float[Array, "*b e i v co"]:
        volumes = x.reshape(-1, *x.shape[-4:])
        y = weighted(RESIZED[self.resize], volumes, self.kernel[...])
        if self.bias is not None:
            y = y + self.bias[...][None, None, None, None, :]
        return y.reshape(*x.shape[:-4], *y.shape[1:])


RESIZED = {
    "keep": conv3d,
    "half": partial(conv3d, stride=2),
    "nearest": conv3d_nearest_twice,
    "transpose": conv3d_transpose_twice,
}


class Linear(nnx.Module):
    """x (... ci) -> (... co); by default as DDM starts it: orthogonal kernel, zero bias."""

    def __init__(
        self,
        ci: int,
        co: int,
        *,
        rng: np.random.Generator,
        use_bias: bool = True,
        init: Initializer = orthogonal,
    ):
        self.kernel = nnx.Param(jax.device_put(init(rng, (ci, co))))
        self.bias = nnx.Param(jax.device_put(np.zeros(co, np.float32))) if use_bias else None

    def __call__(self, x: Float[Array, "*b ci"]) -> Float[Array, "*b co"]:
        y = product(x, self.kernel[...])
        if self.bias is None:
            return y
        return y + self.bias[...].reshape(*(1,) * (y.ndim - 1), -1)


class GroupNorm(nnx.Module):
    """Group normalisation (Wu & He 2018) over all axes but the batch; x (b ... c)."""

    def __init__(self, channels: int, groups: int):
        if channels % groups:
            raise SettingsError(
                f"{groups} groups do not divide {channels} channels: "
                "choose model.groups and model.channels that fit"
            )
        self.groups = groups
        self.scale = nnx.Param(jax.device_put(np.ones(channels, np.float32)))
        self.bias = nnx.Param(jax.device_put(np.zeros(channels, np.float32)))

    def __call__(self, x: Float[Array, "b *s c"]) -> Float[Array, "b *s c"]:
        # Moments per channel first: a reduction that keeps the channel axis vectorises on CPU, and
        # the product that averages over a group compiles faster than moving axes about.
        channels = x.shape[-1]
        group = np.kron(np.eye(self.groups), np.ones((channels // self.groups,) * 2))
        average = jnp.asarray(group * (self.groups / channels), x.dtype)
        axes, lone = tuple(range(1, x.ndim - 1)), (1,) * (x.ndim - 2)
        mean = (x.mean(axes) @ average).reshape(-1, *lone, channels)
        centred = x - mean
        variance = jnp.square(centred).mean(axes) @ average
        scale = lax.rsqrt(variance + GROUP_NORM_EPSILON) * self.scale[...][None]
        return centred * scale.reshape(-1, *lone, channels) + self.bias[...].reshape(1, *lone, -1)


class TimeEmbedding(nnx.Module):
    """Sines and cosines of the diffusion step, then a perceptron (DDM): (b,) -> (b dim)."""

    def __init__(self, dim: int, *, rng: np.random.Generator):
        self.dim = dim
        self.expand = Linear(dim, 4 * dim, rng=rng)
        self.project = Linear(4 * dim, dim, rng=rng)

    def __call__(self, t: Steps) -> Float[Array, "b dim"]:
        dtype = self.expand.kernel.dtype
        exponents = jnp.arange(0, self.dim, 2, dtype=dtype)
        frequencies = jnp.exp(exponents * (-math.log(10_000) / self.dim))
        angles = t.astype(dtype)[:, None] * frequencies[None, :]
        embedding = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        return self.project(nnx.silu(self.expand(embedding)))


class ResidualBlock(nnx.Module):
    """GroupNorm-SiLU-conv, + Linear(SiLU(t)), GroupNorm-SiLU-conv, + skip (1x1x1 if c changes)."""

    def __init__(
        self,
        ci: int,
        co: int,
        *,
        time_dim: int,
        groups: int,
        flat: bool = False,
        rng: np.random.Generator,
    ):
        self.norm1 = GroupNorm(ci, groups)
        self.conv1 = Conv3d(ci, co, flat=flat, rng=rng)
        self.time = Linear(time_dim, co, rng=rng)
        self.norm2 = GroupNorm(co, groups)
        self.conv2 = Conv3d(co, co, flat=flat, rng=rng)
        self.skip = Conv3d(ci, co, size=1, rng=rng) if ci != co else None

    def __call__(self, x: Features, time: Float[Array, "b dim"]) -> Float[Array, "b f d h w co"]:
        y = self.conv1(nnx.silu(self.norm1(x)))
        y = y + self.time(nnx.silu(time))[:, None, None, None, None, :]
        y = self.conv2(nnx.silu(self.norm2(y)))
        return y + (x if self.skip is None else self.skip(x))


class LinearAttention(nnx.Module):
    """Attention of linear cost over all voxels, + input: (softmax(k) v^T)^T q.

    The softmax runs over the positions and only on k, as in DDM (after Shen et al. 2021).
    """

    def __init__(self, channels: int, *, heads: int, groups: int, rng: np.random.Generator):
        if channels % heads:
            raise SettingsError(f"{heads} attention heads do not divide {channels} channels")
        self.heads = heads
        self.norm = GroupNorm(channels, groups)
        self.qkv = Linear(channels, 3 * channels, use_bias=False, rng=rng)
        self.out = Linear(channels, channels, rng=rng)

    def __call__(self, x: Features) -> Features:
        batch, channels = x.shape[0], x.shape[-1]
        qkv = self.qkv(self.norm(x)).reshape(batch, -1, 3, self.heads, channels // self.heads)
        q, k, v = (qkv[:, :, i] for i in range(3))
        context = jnp.einsum("blhi,blhj->bhij", jax.nn.softmax(k, axis=1), v)
        mixed = jnp.einsum("bhij,blhi->blhj", context, q)
        return self.out(mixed.reshape(x.shape)) + x


class Downsample(nnx.Module):
    """Each axis smaller by its factor, by a strided convolution (DDM) or by pooling.

    Where the factors differ the convolution is one of each block of voxels by itself.
    """

    def __init__(
        self,
        channels: int,
        kind: Literal["conv", "average", "max"],
        *,
        factor: Factor = (2, 2, 2),
        rng: np.random.Generator,
    ):
        self.kind, self.factor = kind, factor
        alike, width = factor == (2, 2, 2), math.prod(factor) * channels
        strided, own = kind == "conv" and alike, kind == "conv" and not alike
        self.conv = Conv3d(channels, channels, resize="half", rng=rng) if strided else None
        self.blocks = Linear(width, channels, rng=rng) if own else None

    def __call__(self, x: Features) -> Float[Array, "b f e i v c"]:
        if self.conv is not None:
            return self.conv(x)
        volumes = gathered(x.reshape(-1, *x.shape[2:]), self.factor)
        if self.blocks is not None:
            y = self.blocks(volumes)
        else:
            parts = volumes.reshape(*volumes.shape[:-1], -1, x.shape[-1])
            y = (parts.mean if self.kind == "average" else parts.max)(-2)
        return y.reshape(*x.shape[:2], *y.shape[1:])


class Spread(nnx.Module):
    """Each axis larger by its factor: a block of voxels from each one by itself."""

    def __init__(self, channels: int, *, factor: Factor, rng: np.random.Generator):
        self.factor = factor
        self.blocks = Linear(channels, math.prod(factor) * channels, rng=rng)

    def __call__(self, x: Features) -> Float[Array, "b f e i v c"]:
        y = scattered(self.blocks(x.reshape(-1, *x.shape[2:])), self.factor)
        return y.reshape(*x.shape[:2], *y.shape[1:])
