"""The eight symmetries of a square in plane, and displacements under them."""

from itertools import product
from typing import NamedTuple

from jax import numpy as jnp

from mstg_jax.shapes import Flow, Image, Stage


class Symmetry(NamedTuple):
    """Flips of h and of w, then a transpose of both."""

    flip_h: bool = False
    flip_w: bool = False
    transpose: bool = False

    def turned(self, x: Image) -> Stage:
        axes = [axis for axis, flip in ((2, self.flip_h), (3, self.flip_w)) if flip]
        x = jnp.flip(x, axes)
        return jnp.swapaxes(x, 2, 3) if self.transpose else x

    def back(self, x: Stage) -> Stage:
        """The inverse of `turned`."""
        x = jnp.swapaxes(x, 2, 3) if self.transpose else x
        return jnp.flip(x, [axis for axis, flip in ((2, self.flip_h), (3, self.flip_w)) if flip])

    def flow_back(self, flow: Flow) -> Flow:
        """`back` for displacements (d h w), whose components turn along."""
        flow = self.back(flow)
        d, h, w = (flow[..., i : i + 1] for i in range(3))
        h, w = (w, h) if self.transpose else (h, w)
        return jnp.concatenate([d, -h if self.flip_h else h, -w if self.flip_w else w], axis=-1)


def symmetries(plane: tuple[int, ...]) -> tuple[Symmetry, ...]:
    """All eight of a square plane (h w); the four without a transpose of any other."""
    square = plane[0] == plane[1]
    flips = product((False, True), repeat=3)
    return tuple(Symmetry(*one) for one in flips if square or not one[2])
