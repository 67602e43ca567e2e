"""What frames are generated from, as channels beside them and as a vector beside the time."""

from typing import NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from mstg_jax.config import GROUPS, DirectConfig
from mstg_jax.shapes import Features, Image

Frames = Float[Array, "b f d h w 1"]
STRUCTURES = 3


class Known(NamedTuple):
    """Of each example; images have ED's range as [0, 1].

    gammas: the frames' moments. here: whether there is such a frame, in sequences of different
    lengths. keys: frames of the sequence, at those of `keys_at`. labels: 255 where there are none.
    group: its place in GROUPS, ef in [0, 1], -1 for unknown ones. given: which of the settings'
    conditions are given. place: of the first voxel and of the last in the whole volume, (d h w) in
    [-1, 1].
    """

    gammas: Float[Array, "b f"]
    here: Bool[Array, "b f"]
    ed: Image
    es: Image
    keys: Frames
    keys_at: Bool[Array, "b f"]
    labels: UInt8[Array, "b f d h w 1"]
    group: Int[Array, " b"]
    ef: Float[Array, " b"]
    place: Float[Array, "b 2 3"]
    given: dict[str, Bool[Array, " b"]]

    def without(self) -> "Known":
        """The same with nothing given."""
        return self._replace(given=jax.tree.map(jnp.zeros_like, self.given))


def nothing(gammas: Float[Array, "b f"], size: tuple[int, ...], config: DirectConfig) -> Known:
    """To be filled with what is known; size: d, h, w."""
    batch, count = gammas.shape
    image, frames = jnp.zeros((batch, *size, 1)), jnp.zeros((batch, count, *size, 1))
    return Known(
        gammas=gammas,
        here=jnp.ones((batch, count), jnp.bool_),
        ed=image,
        es=image,
        keys=frames,
        keys_at=jnp.zeros((batch, count), jnp.bool_),
        labels=jnp.full(frames.shape, 255, jnp.uint8),
        group=jnp.full(batch, -1),
        ef=jnp.full(batch, -1.0),
        place=jnp.broadcast_to(jnp.array([-1.0, 1.0])[None, :, None], (batch, 2, 3)),
        given={name: jnp.zeros(batch, jnp.bool_) for name in config.given},
    )


def channel_count(config: DirectConfig) -> int:
    flags = config.drop > 0
    each = {"ed": 1 + flags, "es": 1 + flags, "keys": 2, "labels": STRUCTURES + 1}
    return (
        sum(each.get(name, 0) for name in config.given)
        + 1
        + config.any_length
        + 3 * config.in_blocks
    )


def channels(config: DirectConfig, known: Known) -> Features:
    """(b f d h w c): images in [-1, 1] and labels by structure, 0 where they are not given, what
    tells that they are, and the moment."""
    shape = (*known.gammas.shape, *known.ed.shape[1:])

    def spread(values: Float[Array, "b #f"]) -> Frames:
        return jnp.broadcast_to(values[:, :, None, None, None, None], shape)

    found: list[Array] = []
    for name in config.given:
        if name in ("group", "ef"):
            continue
        given = known.given[name].astype(jnp.float32)[:, None]
        if name in ("ed", "es"):
            image: Image = getattr(known, name)
            found.append(spread(given) * jnp.broadcast_to((2 * image - 1)[:, None], shape))
            if config.drop > 0:
                found.append(spread(given))
        elif name == "keys":
            at = spread(given * known.keys_at.astype(jnp.float32))
            found += [at * (2 * known.keys - 1), at]
        else:
            at = spread(given) * (known.labels != 255).astype(jnp.float32)
            structures = [(known.labels == i).astype(jnp.float32) for i in (1, 2, 3)]
            found += [at * jnp.concatenate(structures, axis=-1), at]
    found.append(spread(known.gammas))
    if config.in_blocks:
        found.append(_position(known.place, shape))
    together = jnp.concatenate(found, axis=-1)
    if not config.any_length:
        return together
    here = spread(known.here.astype(jnp.float32))
    return jnp.concatenate([together * here, here], axis=-1)


def _position(place: Float[Array, "b 2 3"], shape: tuple[int, ...]) -> Float[Array, "b f d h w 3"]:
    """Of each voxel in the whole volume, (d h w) in [-1, 1]."""
    axes = []
    for axis in range(3):
        along = jnp.linspace(place[:, 0, axis], place[:, 1, axis], shape[2 + axis], axis=1)
        wide = [shape[0], 1, 1, 1, 1, 1]
        wide[2 + axis] = shape[2 + axis]
        axes.append(jnp.broadcast_to(along.reshape(wide), shape))
    return jnp.concatenate(axes, axis=-1)


def vector_size(config: DirectConfig) -> int:
    return ("group" in config.given) * len(GROUPS) + ("ef" in config.given) * 2


def vector(config: DirectConfig, known: Known) -> Float[Array, "b v"]:
    """The class, one of all, and the ejection fraction in [-1, 1] beside a 1 if it is given."""
    found = []
    for name in config.given:
        given = known.given[name].astype(jnp.float32)[:, None]
        if name == "group":
            found.append(given * jax.nn.one_hot(known.group, len(GROUPS)))
        elif name == "ef":
            at = given * (known.ef >= 0).astype(jnp.float32)[:, None]
            found += [at * (2 * known.ef[:, None] - 1), at]
    return jnp.concatenate(found, axis=-1)
