"""Orders in which the voxels of (f d h w) are laid out as tokens for the scan.

raster   axis after axis, the last one fastest (VideoMamba, nnMamba)
zigzag   raster with every other row reversed, so that neighbours stay neighbours (after ZigMa)
hilbert  a space-filling curve, cut out of the smallest enclosing power-of-two cube (after Skilling
         2004, "Programming the Hilbert curve"); frames follow one another
triaxis  raster along each of the three spatial axes: three sequences (after SegMamba, TSSC-Net)
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jax import numpy as jnp
from jaxtyping import Array, Float, Int

from mstg_jax.config import BranchName, Order
from mstg_jax.shapes import Features

# The axes of (f d h w), slowest first, that a branch walks. The temporal branch runs along the
# frames; a single volume has none, and there the slices take their place.
SPATIAL = (0, 1, 2, 3)
TEMPORAL = (1, 2, 3, 0)
SLICES = (0, 2, 3, 1)


class Walk(NamedTuple):
    """Axes laid out slowest first, then a permutation of what that gives (None: as it is)."""

    axes: tuple[int, ...]
    permutation: Int[np.ndarray, " l"] | None = None

    def serialise(self, x: Features) -> Float[Array, "b l c"]:
        tokens = jnp.transpose(x, (0, *(a + 1 for a in self.axes), 5))
        tokens = tokens.reshape(x.shape[0], -1, x.shape[-1])
        return tokens if self.permutation is None else tokens[:, self.permutation]

    def restore(self, tokens: Float[Array, "b l c"], shape: tuple[int, ...]) -> Features:
        """The inverse of `serialise`, for features of `shape` (b f d h w c)."""
        if self.permutation is not None:
            tokens = tokens[:, self.permutation.argsort()]
        laid = tokens.reshape(shape[0], *(shape[a + 1] for a in self.axes), shape[-1])
        return jnp.transpose(laid, (0, *(a + 1 for a in np.argsort(self.axes)), 5))


@lru_cache(maxsize=64)
def walks(order: Order, branch: BranchName, shape: tuple[int, int, int, int]) -> tuple[Walk, ...]:
    """The walks of an order through the voxels of `shape` (f d h w)."""
    axes = SPATIAL
    if branch == "temporal":
        axes = TEMPORAL if shape[0] > 1 else SLICES
    if order == "triaxis":
        space = tuple(a for a in axes if a != 0)
        turns = [space[i:] + space[:i] for i in range(3)]
        return tuple(Walk((*t, 0) if axes == TEMPORAL else (0, *t)) for t in turns)
    if order == "hilbert":
        return (_hilbert(TEMPORAL if axes == TEMPORAL else SPATIAL, shape),)
    if order == "zigzag":
        laid = tuple(shape[a] for a in axes)
        return (Walk(axes, _zigzag(np.arange(np.prod(laid)).reshape(laid)).reshape(-1)),)
    return (Walk(axes),)


def _zigzag(laid: np.ndarray) -> np.ndarray:
    """Reverse every axis at each odd step of the walk along the slower axes."""
    laid = laid.copy()
    for axis in range(1, laid.ndim):
        rows = laid.reshape(-1, *laid.shape[axis:])
        rows[1::2] = rows[1::2, ::-1]
    return laid


def _hilbert(axes: tuple[int, ...], shape: tuple[int, int, int, int]) -> Walk:
    frames, *space = shape
    bits = max(1, int(np.ceil(np.log2(max(space)))))
    points = np.stack(np.meshgrid(*map(np.arange, space), indexing="ij"), axis=-1).reshape(-1, 3)
    curve = np.argsort(_hilbert_distance(points, bits), kind="stable")
    if axes == TEMPORAL:
        return Walk(axes, (curve[:, None] * frames + np.arange(frames)[None, :]).reshape(-1))
    return Walk(axes, (curve[None, :] + curve.size * np.arange(frames)[:, None]).reshape(-1))


def _hilbert_distance(points: np.ndarray, bits: int) -> np.ndarray:
    """Position of each point (l 3) along the Hilbert curve of a cube of 2^bits (Skilling 2004)."""
    x = points.astype(np.int64).T.copy()
    top = 1 << (bits - 1)
    q = top
    while q > 1:  # undo the excess work of the axes-to-transpose step
        for i in range(3):
            here = (x[i] & q) != 0
            swapped = np.where(here, 0, (x[0] ^ x[i]) & (q - 1))
            x[0] = np.where(here, x[0] ^ (q - 1), x[0] ^ swapped)
            x[i] ^= swapped
        q >>= 1
    for i in (1, 2):  # Gray code
        x[i] ^= x[i - 1]
    flips = np.zeros_like(x[0])
    q = top
    while q > 1:
        flips ^= np.where(x[2] & q, q - 1, 0)
        q >>= 1
    x ^= flips
    distance = np.zeros_like(x[0])
    for bit in range(bits - 1, -1, -1):
        for i in range(3):
            distance = (distance << 1) | ((x[i] >> bit) & 1)
    return distance
