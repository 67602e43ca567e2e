"""The Mamba block (Gu & Dao 2023, arXiv:2312.00752), parametrised as in mamba-ssm."""

import math
from collections.abc import Callable
from functools import partial
from typing import cast

import jax
import numpy as np
from flax import nnx
from jax import lax
from jax import numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Float32

from kernels.selective_scan import selective_scan
from mstg_jax.models.init import Initializer, uniform
from mstg_jax.models.precision import product
from mstg_jax.shapes import Tokens

DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 1e-1, 1e-4


class Mamba(nnx.Module):
    """`count` independent Mamba blocks, each on its own sequence, in one scan.

    tokens (b l count * width) -> the same shape; block i has channels [i * width, (i + 1) * width).
    Parameters have a leading axis of blocks. Their names and, per block, their values are those of
    mamba-ssm, with kernels as (in, out).
    """

    def __init__(
        self,
        width: int,
        *,
        count: int = 1,
        d_state: int,
        d_conv: int,
        expand: int,
        scan: str | None = None,
        rng: np.random.Generator,
    ):
        inner, self.rank = expand * width, math.ceil(width / 16)
        self.d_state, self.scan = d_state, scan

        def param(init: Initializer, *shape: int) -> nnx.Param:
            return nnx.Param(jax.device_put(init(rng, (count, *shape))))

        # Bounds as torch's linear and convolution layers start: 1 / sqrt(fan in).
        self.in_proj = param(uniform(width**-0.5), width, 2 * inner)
        self.conv_kernel = param(uniform(d_conv**-0.5), d_conv, inner)
        self.conv_bias = param(uniform(d_conv**-0.5), inner)
        self.x_proj = param(uniform(inner**-0.5), inner, self.rank + 2 * d_state)
        self.dt_proj = param(uniform(self.rank**-0.5), self.rank, inner)
        self.dt_bias = param(initial_dt_bias, inner)
        self.A_log = param(lambda _, shape: np.log(_one_to_n(shape)), inner, d_state)
        self.D = param(lambda _, shape: np.ones(shape, np.float32), inner)
        self.out_proj = param(uniform(inner**-0.5), inner, width)

    def __call__(self, tokens: Tokens) -> Tokens:
        count, _, inner = self.dt_proj.shape
        x, z = _halves(product(tokens, block_diagonal(self.in_proj[...])), count, inner)
        kernel = jnp.moveaxis(self.conv_kernel[...], 1, 0).reshape(-1, count * inner)
        u = nnx.silu(causal_conv(x, kernel, self.conv_bias[...].reshape(-1)))
        projected = product(u, block_diagonal(self.x_proj[...]))
        projected = projected.reshape(*u.shape[:2], count, -1)
        low, B, C = jnp.split(projected, (self.rank, self.rank + self.d_state), axis=-1)
        delta = product(low.reshape(*u.shape[:2], -1), block_diagonal(self.dt_proj[...]))
        A = -jnp.exp(self.A_log[...].reshape(count * inner, -1))
        D, dt_bias = self.D[...].reshape(-1), self.dt_bias[...].reshape(-1)
        y = self._scanned()(u, delta, A, B, C, D, z, dt_bias)
        return product(y, block_diagonal(self.out_proj[...]))

    def _scanned(self) -> Callable[..., Array]:
        """The scan, by each device for its own share of the channels.

        The compiler does not look into a kernel: over a mesh it would gather what devices share,
        and have every one scan all of it. Those that share a volume's slices share its channels
        here, which no order of the tokens minds.
        """
        scan = cast(
            Callable[..., Array],
            partial(selective_scan, delta_softplus=True, implementation=self.scan),
        )
        mesh = jax.sharding.get_abstract_mesh()
        space = mesh.shape["space"] if "space" in mesh.auto_axes else 1
        if space == 1:
            return scan
        count, inner = self.D.shape
        each = max(1, space // count)  # devices that share a block's channels
        if count * each % space or inner % each:
            space = each = 1
        axis = None if space == 1 else "space"
        tokens, of_channels = PartitionSpec(None, None, axis), PartitionSpec(axis)
        specs = (tokens, tokens, of_channels, tokens, tokens, of_channels, tokens, of_channels)
        split = jax.shard_map(
            scan, in_specs=specs, out_specs=tokens, axis_names={"space"}, check_vma=False
        )

        def shared(u: Array, delta: Array, A: Array, B: Array, C: Array, *rest: Array) -> Array:
            B, C = (jnp.repeat(x, each, axis=2) for x in (B, C))
            return split(u, delta, A, B, C, *rest)

        return shared


def block_diagonal(kernels: Float[Array, "k ci co"]) -> Float[Array, "k*ci k*co"]:
    """One wide matrix of k thin ones: a single product over all blocks without moving an axis."""
    k, ci, co = kernels.shape
    spread = kernels[:, :, None, :] * jnp.eye(k, dtype=kernels.dtype)[:, None, :, None]
    return spread.reshape(k * ci, k * co)


def causal_conv(
    x: Float[Array, "b l d"], kernel: Float[Array, "k d"], bias: Float[Array, " d"]
) -> Float[Array, "b l d"]:
    """Depthwise convolution that sees the present and k - 1 past tokens."""
    taps, length = kernel.shape[0], x.shape[1]
    padded = jnp.pad(x, [(0, 0), (taps - 1, 0), (0, 0)])
    # Shifted copies fuse into one loop; XLA's grouped convolution on CPU does not vectorise.
    shifted = (
        lax.slice_in_dim(padded, k, k + length, axis=1) * kernel[k][None, None, :]
        for k in range(taps)
    )
    return sum(shifted, start=jnp.broadcast_to(bias[None, None, :], x.shape))


def initial_dt_bias(rng: np.random.Generator, shape: tuple[int, ...]) -> Float32[np.ndarray, "k d"]:
    """softplus(bias) is log-uniform in [DT_MIN, DT_MAX]."""
    dt = np.maximum(np.exp(rng.uniform(math.log(DT_MIN), math.log(DT_MAX), shape)), DT_FLOOR)
    return (dt + np.log(-np.expm1(-dt))).astype(np.float32)


def _one_to_n(shape: tuple[int, ...]) -> Float32[np.ndarray, "k d n"]:
    return np.broadcast_to(np.arange(1, shape[-1] + 1, dtype=np.float32), shape)


def _halves(
    xz: Float[Array, "b l both"], count: int, inner: int
) -> tuple[Float[Array, "b l half"], Float[Array, "b l half"]]:
    """x and z of every block, which in_proj lays out block by block."""
    both = xz.reshape(*xz.shape[:2], count, 2, inner)
    x, z = (both[:, :, :, i].reshape(*xz.shape[:2], -1) for i in (0, 1))
    return x, z
