"""The orders of mstg_jax/models/orders.py as positions in the flattened (f d h w), one by one."""

from functools import lru_cache

import numpy as np
from jaxtyping import Int

Walk = Int[np.ndarray, " l"]
Sizes = tuple[int, int, int, int]


@lru_cache(maxsize=64)
def walks(order: str, branch: str, sizes: Sizes) -> tuple[Walk, ...]:
    """Per walk: token number -> voxel of (f d h w) flattened."""
    several = sizes[0] > 1
    axes = {"spatial": "fdhw", "temporal": "dhwf" if several else "fhwd"}[branch]
    if order == "raster":
        return (_along(axes, sizes),)
    if order == "zigzag":
        return (_zigzag(axes, sizes),)
    if order == "triaxis":
        space = axes.replace("f", "")
        turned = [space[i:] + space[:i] for i in range(3)]
        last = branch == "temporal" and several
        return tuple(_along(t + "f" if last else "f" + t, sizes) for t in turned)
    if order == "hilbert":
        return (_hilbert(sizes, frames_first=branch == "spatial" or not several),)
    raise ValueError(f"unknown order {order}")


def _along(axes: str, sizes: Sizes) -> Walk:
    """Axis after axis, the last one named fastest."""
    voxels = np.arange(np.prod(sizes)).reshape(sizes)
    return voxels.transpose(["fdhw".index(a) for a in axes]).reshape(-1)


def _zigzag(axes: str, sizes: Sizes) -> Walk:
    """As `_along`, but an axis runs backwards at every odd step of the slower ones."""
    lengths = [sizes["fdhw".index(a)] for a in axes]
    token = np.arange(np.prod(sizes))
    slower, at = np.zeros_like(token), {}
    for i, (axis, n) in enumerate(zip(axes, lengths, strict=True)):
        place = token // int(np.prod(lengths[i + 1 :])) % n
        at[axis] = np.where(slower % 2 == 1, n - 1 - place, place)
        slower = slower * n + place
    return np.ravel_multi_index([at[a] for a in "fdhw"], sizes)


def _hilbert(sizes: Sizes, *, frames_first: bool) -> Walk:
    """The curve through one volume; a voxel's frames follow one another last or first."""
    frames, *space = sizes
    bits = max(1, int(max(space) - 1).bit_length())
    points = sorted(np.ndindex(*space), key=lambda point: hilbert_index(point, bits))
    curve = np.array([np.ravel_multi_index(point, space) for point in points])
    table = curve[:, None] + len(curve) * np.arange(frames)  # (voxels, frames)
    return (table.T if frames_first else table).reshape(-1)


def hilbert_index(point: tuple[int, ...], bits: int) -> int:
    """Position along the Hilbert curve of a cube of 2^bits (Skilling 2004)."""
    x = list(point)
    for level in reversed(range(1, bits)):
        below = (1 << level) - 1
        for i in range(len(x)):
            if x[i] >> level & 1:
                x[0] ^= below
            else:
                swapped = (x[0] ^ x[i]) & below
                x[0] ^= swapped
                x[i] ^= swapped
    for i in range(1, len(x)):
        x[i] ^= x[i - 1]
    flips = 0
    for level in range(1, bits):
        if x[-1] >> level & 1:
            flips ^= (1 << level) - 1
    position = 0
    for level in reversed(range(bits)):
        for coordinate in x:
            position = position << 1 | ((coordinate ^ flips) >> level & 1)
    return position
