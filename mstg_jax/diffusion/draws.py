"""What training draws, for each example with a key of its own: whatever the others in its batch."""

from collections.abc import Sequence
from typing import TypeAlias

import jax
from jax import numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from mstg_jax.shapes import Steps

Keys: TypeAlias = Key[Array, " b"]


def apart(keys: Keys, count: int) -> tuple[Keys, ...]:
    """Keys for `count` purposes, independent of one another."""
    return tuple(jax.vmap(lambda key: jax.random.split(key, count), out_axes=1)(keys))


def chance(keys: Keys, share: float) -> Bool[Array, " b"]:
    """True for a share of the examples."""
    return jax.vmap(lambda key: jax.random.bernoulli(key, share))(keys)


def step_and_noise(
    keys: Keys, shape: Sequence[int], steps: int
) -> tuple[Steps, Float[Array, "b *shape"]]:
    """A step of the diffusion, 0 to steps - 1, and standard normal noise of this shape."""

    def one(key: Array) -> tuple[Array, Array]:
        key_t, key_noise = jax.random.split(key)
        return jax.random.randint(key_t, (), 0, steps), jax.random.normal(key_noise, shape)

    t, noise = jax.vmap(one)(keys)
    return t.astype(jnp.int32), noise
