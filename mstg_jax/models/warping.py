"""Images and features at displaced places, and how alike two of them are near each place."""

from itertools import product

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float

from mstg_jax.shapes import Volume

FLOOR = 1e-6


def moved(x: Volume, flow: Float[Array, "b d h w k"]) -> Volume:
    """x(p + flow(p)), linear between voxels, the border's values beyond it.

    flow in voxels: (h w) for k = 2, where slices stay what they are, (d h w) for k = 3.
    """
    if len(x) == 1:  # a scatter without a batch is twice as fast on CPU, in the gradient
        return _moved(x[0], flow[0])[None]
    return jax.vmap(_moved)(x, flow)


def _moved(x: Float[Array, "d h w c"], flow: Float[Array, "d h w k"]) -> Float[Array, "d h w c"]:
    d, h, w, c = x.shape
    axes = flow.shape[-1]
    corners = []
    for axis, n in list(enumerate((d, h, w)))[3 - axes :]:
        wide = [1, 1, 1]
        wide[axis] = n
        place = jnp.arange(n, dtype=flow.dtype).reshape(wide) + flow[..., axis - (3 - axes)]
        place = jnp.clip(place, 0.0, n - 1.0)
        low = jnp.clip(jnp.floor(place), 0.0, max(n - 2.0, 0.0))
        share = place - low
        first = low.astype(jnp.int32)
        corners.append(((first, 1 - share), (jnp.minimum(first + 1, n - 1), share)))
    if axes == 2:
        corners.insert(0, ((jnp.arange(d)[:, None, None], jnp.ones((1, 1, 1), flow.dtype)),))
    rows = x.reshape(-1, c)
    total = jnp.zeros((), x.dtype)
    for (i, wd), (j, wh), (k, ww) in product(*corners):
        at = ((i * h + j) * w + k).reshape(-1)
        found = rows.at[at].get(mode="promise_in_bounds")
        total = total + found * (wd * wh * ww).reshape(-1, 1)
    return total.reshape(x.shape)


def correlation(a: Volume, b: Volume, radius: int) -> Float[Array, "b d h w s"]:
    """Cosine between a at each place and b at the places around it, in plane, up to `radius`
    voxels away: (2 radius + 1)^2 channels (after PWC-Net; Sun et al. 2018, CVPR)."""
    a, b = (x * jax.lax.rsqrt(jnp.sum(x * x, -1, keepdims=True) + FLOOR) for x in (a, b))
    h, w = a.shape[2:4]
    wide = jnp.pad(b, [(0, 0), (0, 0), (radius, radius), (radius, radius), (0, 0)])
    offsets = product(range(2 * radius + 1), repeat=2)
    return jnp.stack(
        [jnp.sum(a * wide[:, :, i : i + h, j : j + w], axis=-1) for i, j in offsets], axis=-1
    )
