"""From one resolution to another, axis by axis: `factor` is 1 or 2 for each of d, h and w."""

from math import prod

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float

from mstg_jax.shapes import Volume

Factor = tuple[int, int, int]


def gathered(x: Volume, factor: Factor) -> Float[Array, "b e i v m"]:
    """Neighbours side by side on the channels (space to depth)."""
    b, d, h, w, c = x.shape
    p, q, r = factor
    blocks = x.reshape(b, d // p, p, h // q, q, w // r, r, c)
    return blocks.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(b, d // p, h // q, w // r, -1)


def scattered(x: Volume, factor: Factor) -> Float[Array, "b e i v m"]:
    """The inverse of `gathered`."""
    b, d, h, w, c = x.shape
    p, q, r = factor
    blocks = x.reshape(b, d, h, w, p, q, r, c // prod(factor))
    return blocks.transpose(0, 1, 4, 2, 5, 3, 6, 7).reshape(b, d * p, h * q, w * r, -1)


def mean_of_blocks(x: Volume, factor: Factor) -> Float[Array, "b e i v c"]:
    b, d, h, w, c = x.shape
    p, q, r = factor
    return x.reshape(b, d // p, p, h // q, q, w // r, r, c).mean((2, 4, 6))


def enlarged(x: Volume, factor: Factor) -> Float[Array, "b e i v c"]:
    """By linear interpolation between the centres of voxels; beyond the outer ones it is constant.

    The inverse direction of `mean_of_blocks`: both keep the grid's extent.
    """
    for axis, times in enumerate(factor, 1):
        if times == 2:
            x = _doubled(x, axis)
    return x


def _doubled(x: Array, axis: int) -> Array:
    n = x.shape[axis]
    first = jax.lax.slice_in_dim(x, 0, 1, axis=axis)
    last = jax.lax.slice_in_dim(x, n - 1, n, axis=axis)
    before = jnp.concatenate([first, jax.lax.slice_in_dim(x, 0, n - 1, axis=axis)], axis)
    after = jnp.concatenate([jax.lax.slice_in_dim(x, 1, n, axis=axis), last], axis)
    both = jnp.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis=axis + 1)
    return both.reshape(*x.shape[:axis], 2 * n, *x.shape[axis + 1 :])
