"""What training draws, for each example with a key of its own: whatever the others in its batch."""

from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar

import jax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from mstg_jax.shapes import Steps

Drawn = TypeVar("Drawn")
Keys: TypeAlias = Key[Array, " b"]


def apart(keys: Keys, count: int) -> tuple[Keys, ...]:
    """Keys for `count` purposes, independent of one another."""
    return tuple(jax.vmap(lambda key: jax.random.split(key, count), out_axes=1)(keys))


def chance(keys: Keys, share: float) -> Bool[Array, " b"]:
    """True for a share of the examples."""
    return jax.vmap(lambda key: jax.random.bernoulli(key, share))(keys)


def normal(keys: Keys, shape: Sequence[int]) -> Float[Array, "b *shape"]:
    """Standard normal noise of this shape."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def level_and_noise(
    keys: Keys, shape: Sequence[int], draw: Callable[[Array], Drawn]
) -> tuple[Drawn, Float[Array, "b *shape"]]:
    """What `draw` makes of a key, a level or a step, and standard normal noise of this shape."""
    keys_level, keys_noise = apart(keys, 2)
    return jax.vmap(draw)(keys_level), normal(keys_noise, shape)


def step_and_noise(
    keys: Keys, shape: Sequence[int], steps: int
) -> tuple[Steps, Float[Array, "b *shape"]]:
    """A step of the diffusion, 0 to steps - 1, and standard normal noise of this shape."""
    keys_t, keys_noise = apart(keys, 2)
    t = jax.vmap(lambda key: jax.random.randint(key, (), 0, steps))(keys_t)
    return t.astype(jnp.int32), normal(keys_noise, shape)
