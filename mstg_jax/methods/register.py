"""Registration alone: both ends moved to each frame's moment without a network, and blended.

What the two images show by themselves, as a mark for trained methods, and what refines these on the
patient in hand.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import optax
from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mstg_jax.config import RegisterConfig
from mstg_jax.diffusion.losses import local_ncc
from mstg_jax.methods.base import Ends, Generated, by_frame
from mstg_jax.methods.interpolation import Trivial
from mstg_jax.models.between import in_space
from mstg_jax.models.warping import moved
from mstg_jax.shapes import Image, Stage

FINEST = 2
"""Voxels between the control points of the last grid; those of the two before it are twice and four
times as far apart."""
GRIDS = 3


def displacement(
    first: Image,
    last: Image,
    s: Float[Array, " b"],
    how: RegisterConfig,
    start: tuple[Stage, Stage] | None = None,
) -> Float[Array, "b d h w 2"]:
    """u in plane (h w), voxels, such that first(x + s u) and last(x - (1 - s) u) look alike.

    how.steps are shared out evenly over the grids of control points, from coarse to fine.
    start: flows of both ends that are there already and to which s u and -(1 - s) u are added. The
    local correlation is that of DDM's loss; u lies on control points, linear between them, and is
    found symmetrically at the moment itself (Avants et al. 2008, Med Image Anal, "SyN").
    """
    b, d, h, w, _ = first.shape
    wide = s[:, None, None, None, None]
    before = start or (jnp.zeros((b, d, h, w, 2)),) * 2
    out_of_plane = before[0].shape[-1] - 2
    sizes = [(d, -(-h // step), -(-w // step)) for step in (FINEST << 2, FINEST << 1, FINEST)]
    points = [jnp.zeros((b, *size, 2)) for size in sizes]
    adam = optax.adam(how.learning_rate)

    def whole(points: list[Array]) -> Array:
        dense = [jax.image.resize(p, (b, d, h, w, 2), "linear") for p in points]
        return jnp.sum(jnp.stack(dense), axis=0)

    def loss(points: list[Array]) -> Float[Array, ""]:
        u = whole(points)
        v = jnp.pad(u, [(0, 0)] * 4 + [(out_of_plane, 0)])
        a = moved(first, before[0] + wide * v)
        z = moved(last, before[1] - (1 - wide) * v)
        slopes = (jnp.diff(u, axis=axis) for axis in (1, 2, 3) if u.shape[axis] > 1)
        rough = jnp.stack([jnp.mean(jnp.square(slope)) for slope in slopes])
        return how.smooth_weight * jnp.sum(rough) - local_ncc(
            a, z, (how.window, how.window, how.window)
        )

    for grid in range(1, GRIDS + 1):

        def step(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], None]:
            points, state = carry
            with jax.numpy_dtype_promotion("standard"):  # optax mixes its counters with floats
                updates, state = adam.update(jax.grad(loss)(points), state)
                return (optax.apply_updates(points, updates), state), None

        used = points[:grid]
        (used, _), _ = jax.lax.scan(step, (used, adam.init(used)), None, how.steps // GRIDS)
        points = [*used, *points[grid:]]
    return whole(points)


@dataclass(frozen=True)
class Register(Trivial):
    config: RegisterConfig
    deforms: ClassVar[bool] = True

    def generate(
        self,
        model: nnx.Module,
        ends: Ends,
        gammas: Float[Array, "b t"],
        key: PRNGKeyArray,
    ) -> Generated:
        del model, key

        def frame(gamma: Float[Array, " b"]) -> tuple[Image, Array]:
            s = gamma[:, None, None, None, None]
            u = displacement(ends.ed, ends.es, gamma, self.config)
            first, last = moved(ends.ed, s * u), moved(ends.es, (s - 1) * u)
            return first + s * (last - first), in_space(s * u)

        return Generated(*by_frame(frame, gammas))
