"""Volumes in overlapping blocks: a part of a large one in training, all parts in sampling."""

import itertools
from collections.abc import Callable
from typing import TypeAlias

import jax
import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Float, Int, Key

from mstg_jax.models.conditions import Known
from mstg_jax.shapes import Features

Size = tuple[int, int, int]
Made: TypeAlias = Float[Array, "b f _ _ _ co"]
OVERLAP = 0.25
"""Least share of a block that it has in common with its neighbour."""


def fitting(block: Size, size: tuple[int, ...]) -> Size:
    """The block within a volume of this size (d h w); 0 is the whole axis."""
    d, h, w = (min(b, n) if b else n for b, n in zip(block, size, strict=True))
    return d, h, w


def corners(size: Size, block: Size) -> Int[np.ndarray, "blocks 3"]:
    """First voxels of blocks that cover the volume, evenly spread, each sharing at least OVERLAP of
    itself with the next along an axis."""
    along = []
    for n, b in zip(size, block, strict=True):
        count = 1 if n == b else 1 + int(np.ceil((n - b) / max(1, int(b * (1 - OVERLAP)))))
        along.append(np.rint(np.linspace(0, n - b, count)).astype(np.int32))
    return np.array(list(itertools.product(*along)), np.int32)


def taper(block: Size) -> Float[np.ndarray, "d h w"]:
    """Weights of a block's voxels, falling from its middle to its faces, so that seams vanish."""
    ramps = (np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 + 1e-3 for n in block)
    d, h, w = ramps
    return (d[:, None, None] * h[:, None] * w).astype(np.float32)


def cut(x: Array, corner: Int[Array, "3"], block: Size, axis: int) -> Array:
    """The block of an array whose d is at `axis`."""
    starts = [jnp.zeros((), corner.dtype)] * x.ndim
    sizes = list(x.shape)
    for i in range(3):
        starts[axis + i], sizes[axis + i] = corner[i], block[i]
    return jax.lax.dynamic_slice(x, starts, sizes)


def known_in(known: Known, corner: Int[Array, "3"], block: Size) -> Known:
    """What is known of a block, and where it lies in the volume."""
    size = jnp.asarray(known.ed.shape[1:4], jnp.float32)
    last = jnp.maximum(size - 1, 1.0)
    first = corner.astype(jnp.float32)
    ends = jnp.stack([first, first + jnp.asarray(block, jnp.float32) - 1]) / last[None] * 2 - 1
    return known._replace(
        ed=cut(known.ed, corner, block, 1),
        es=cut(known.es, corner, block, 1),
        keys=cut(known.keys, corner, block, 2),
        labels=cut(known.labels, corner, block, 2),
        place=jnp.broadcast_to(ends[None], known.place.shape),
    )


def one_of_each(
    keys: Key[Array, " b"], x: tuple[Features, ...], known: Known, block: Size
) -> tuple[tuple[Made, ...], Known]:
    """A block of each example, drawn by its own key, of everything that lies on the grid."""
    spare = jnp.array([n - b for n, b in zip(known.ed.shape[1:4], block, strict=True)])

    def one(key: Array, x: tuple[Array, ...], known: Known) -> tuple[tuple[Array, ...], Known]:
        corner = jax.random.randint(key, (3,), 0, spare + 1)
        single = jax.tree.map(lambda a: a[None], (x, known))
        parts = tuple(cut(a, corner, block, 2) for a in single[0])
        return jax.tree.map(lambda a: a[0], (parts, known_in(single[1], corner, block)))

    return jax.vmap(one)(keys, x, known)


def by_blocks(
    predict: Callable[[Features, Known], Made], x: Features, known: Known, block: Size
) -> Made:
    """predict(x, known) of a volume, one block after the other, their predictions blended.

    What is predicted may have other channels than x.
    """
    weight = jnp.asarray(taper(block))[None, None, ..., None]
    places = corners((x.shape[2], x.shape[3], x.shape[4]), block)

    def part(corner: Int[Array, "3"]) -> Array:
        return predict(cut(x, corner, block, 2), known_in(known, corner, block))

    channels = jax.eval_shape(part, jnp.asarray(places[0])).shape[-1]
    totals = jnp.zeros((*x.shape[:-1], channels)), jnp.zeros((1, 1, *x.shape[2:5], 1))

    def add(
        totals: tuple[Array, Array], corner: Int[Array, "3"]
    ) -> tuple[tuple[Array, Array], None]:
        made = (part(corner) * weight, weight)
        return (_added(totals[0], made[0], corner), _added(totals[1], made[1], corner)), None

    (total, weights), _ = jax.lax.scan(add, totals, jnp.asarray(places))
    return total / weights


def _added(total: Array, part: Array, corner: Int[Array, "3"]) -> Array:
    zero = jnp.zeros((), corner.dtype)
    starts = (zero, zero, corner[0], corner[1], corner[2], zero)
    before = jax.lax.dynamic_slice(total, starts, part.shape)
    return jax.lax.dynamic_update_slice(total, before + part, starts)
