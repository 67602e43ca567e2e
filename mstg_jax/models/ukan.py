"""U-KAN's denoiser: a U-Net whose middle is made of tokens and Kolmogorov-Arnold layers."""

import jax
import numpy as np
from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array, Float

from mstg_jax.config import ModelConfig, UKANConfig
from mstg_jax.models.denoiser import Denoiser
from mstg_jax.models.init import uniform
from mstg_jax.models.layers import Conv3d, GroupNorm, Linear
from mstg_jax.shapes import Features

Time = Float[Array, "b dim"]
NOISE = 0.1
"""Of the first splines, over the number of intervals (half of it on either side of 0)."""


class UKANDenoiser(Denoiser):
    """x (b f d h w ci), t (b,) -> (b f d h w co), with the U-Net of `unet` around the tokens.

    d, h and w must be multiples of 2^(stages + 1).
    """

    def __init__(
        self, ci: int, co: int, unet: ModelConfig, config: UKANConfig, *, rng: np.random.Generator
    ):
        self.kan = config
        super().__init__(ci, co, unet, rng=rng)

    def new_middle(self, width: int, *, rng: np.random.Generator) -> None:
        self.middle = KANMiddle(width, self.kan, rng=rng)

    def run_middle(self, x: Features, time: Time) -> Features:
        return self.middle(x, time)


class KANMiddle(nnx.Module):
    """x (b f d h w c) -> the same shape: down to two stages of tokens, and back with skips."""

    def __init__(self, width: int, config: UKANConfig, *, rng: np.random.Generator):
        first, second = config.tokens
        self.first = TokenStage(width, first, config, rng=rng)
        self.second = TokenStage(first, second, config, rng=rng)
        self.up_first = TokensUp(second, first, config, rng=rng)
        self.block = KANBlock(first, config, rng=rng)
        self.norm = GroupNorm(first, 1)
        self.up_second = TokensUp(first, width, config, rng=rng)

    def __call__(self, x: Features, time: Time) -> Features:
        first = self.first(x, time)
        y = self.up_first(self.second(first, time), time) + first
        y = by_token(self.norm, self.block(y, time))
        return self.up_second(y, time) + x


class TokenStage(nnx.Module):
    """Patches of half the size, LayerNorm, KAN block, LayerNorm."""

    def __init__(self, ci: int, co: int, config: UKANConfig, *, rng: np.random.Generator):
        self.embed = Conv3d(ci, co, resize="half", rng=rng)
        self.norm1 = GroupNorm(co, 1)
        self.block = KANBlock(co, config, rng=rng)
        self.norm2 = GroupNorm(co, 1)

    def __call__(self, x: Features, time: Time) -> Float[Array, "b f e i v co"]:
        tokens = by_token(self.norm1, self.embed(x))
        return by_token(self.norm2, self.block(tokens, time))


class TokensUp(nnx.Module):
    """GroupNorm-SiLU-conv, + Linear(SiLU(t)), twice the size by trilinear interpolation, SiLU."""

    def __init__(self, ci: int, co: int, config: UKANConfig, *, rng: np.random.Generator):
        self.norm = GroupNorm(ci, config.groups)
        self.conv = Conv3d(ci, co, rng=rng)
        self.time = Linear(config.time_dim, co, rng=rng)

    def __call__(self, x: Features, time: Time) -> Float[Array, "b f e i v co"]:
        y = self.conv(nnx.silu(self.norm(x))) + _spread(self.time(nnx.silu(time)))
        b, f, d, h, w, c = y.shape
        return nnx.silu(jax.image.resize(y, (b, f, 2 * d, 2 * h, 2 * w, c), "linear"))


class KANBlock(nnx.Module):
    """x -> KAN(LayerNorm(x)) + Linear(SiLU(t)); as in the source, x itself is not added."""

    def __init__(self, channels: int, config: UKANConfig, *, rng: np.random.Generator):
        self.norm = GroupNorm(channels, 1)
        self.kan = KANLinear(channels, channels, config.grid, config.order, rng=rng)
        self.time = Linear(config.time_dim, channels, rng=rng)

    def __call__(self, x: Features, time: Time) -> Features:
        return self.kan(by_token(self.norm, x)) + _spread(self.time(nnx.silu(time)))


class KANLinear(nnx.Module):
    """x (... ci) -> (... co): y_o = sum_i base_io SiLU(x_i) + scaler_io spline_io(x_i).

    After Liu et al. 2024, arXiv:2404.19756. The splines have degree `order` and `grid` intervals
    in [-1, 1]; they fade to 0 over `order` further intervals on either side.
    """

    def __init__(self, ci: int, co: int, grid: int, order: int, *, rng: np.random.Generator):
        self.grid, self.order = grid, order
        bound = uniform(ci**-0.5)
        self.base = nnx.Param(jax.device_put(bound(rng, (ci, co))))
        self.scaler = nnx.Param(jax.device_put(bound(rng, (ci, co))))
        noise = uniform(NOISE / grid / 2)(rng, (ci, grid + order, co))
        self.spline = nnx.Param(jax.device_put(noise))

    def __call__(self, x: Float[Array, "*b ci"]) -> Float[Array, "*b co"]:
        spline = self.spline[...] * self.scaler[...][:, None, :]
        bases = b_splines(x, self.grid, self.order)
        return nnx.silu(x) @ self.base[...] + jnp.einsum("...ik,iko->...o", bases, spline)


def b_splines(x: Float[Array, "*b ci"], grid: int, order: int) -> Float[Array, "*b ci bases"]:
    """The `grid + order` B-splines of degree `order` on uniform knots, `grid` intervals in [-1, 1].

    Cox and de Boor's recursion; the knots go on for `order` intervals on either side.
    """
    at = (x[..., None] + 1) * (grid / 2) + order  # in intervals from the first knot
    knots = jnp.arange(grid + 2 * order + 1, dtype=x.dtype).reshape(*(1,) * x.ndim, -1)
    bases = ((at >= knots[..., :-1]) & (at < knots[..., 1:])).astype(x.dtype)
    for k in range(1, order + 1):
        rising = (at - knots[..., : -k - 1]) / k
        falling = (knots[..., k + 1 :] - at) / k
        bases = rising * bases[..., :-1] + falling * bases[..., 1:]
    return bases


def by_token(norm: GroupNorm, x: Features) -> Features:
    """With one group and every voxel on its own, GroupNorm is LayerNorm."""
    return norm(x.reshape(-1, x.shape[-1])).reshape(x.shape)


def _spread(x: Float[Array, "b c"]) -> Float[Array, "b 1 1 1 1 c"]:
    return x[:, None, None, None, None, :]
