"""Steps drawn by the losses that they had (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 18).

Where the paper remembers ten losses of each step, here each of BINS spans of steps has a running
mean, for batches of one patient would take very long to meet every step ten times.
"""

from typing import NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

BINS, VISITS, UNIFORM, RATE = 50, 10, 1e-3, 0.1
"""Spans; how often each is met before any is preferred; share of draws that prefer none, as in the
paper's code; weight of a new loss in the running mean."""


class Losses(NamedTuple):
    """Of each span: the mean of the squared losses, and how many steps of training met it."""

    squares: Float[Array, " bins"]
    visits: Float[Array, " bins"]


def nothing_seen() -> Losses:
    return Losses(jnp.zeros(BINS), jnp.zeros(BINS))


def shares(losses: Losses) -> Float[Array, " bins"]:
    """How often to draw each span: by the root of its mean square, once all have been met."""
    root = jnp.sqrt(losses.squares)
    wanted = (1 - UNIFORM) * root / jnp.maximum(root.sum(), 1e-12) + UNIFORM / BINS
    return jnp.where(jnp.all(losses.visits >= VISITS), wanted, 1 / BINS)


def draw(
    key: PRNGKeyArray, steps: int, share: Float[Array, " bins"]
) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """A step of the diffusion, 0 to steps - 1, and its span."""
    key_span, key_step = jax.random.split(key)
    span = jax.random.categorical(key_span, jnp.log(share))
    place = (span.astype(jnp.float32) + jax.random.uniform(key_step)) * (steps / BINS)
    return jnp.minimum(place.astype(jnp.int32), steps - 1), span


def seen(span: Int[Array, " b"], loss: Float[Array, " b"]) -> Losses:
    """Of a batch: means over its examples, which devices may average."""
    of = jax.nn.one_hot(span, BINS)
    return Losses(jnp.mean(of * jnp.square(loss)[:, None], axis=0), of.mean(0))


def remembered(losses: Losses, new: Losses) -> Losses:
    """After another step of training."""
    met = new.visits > 0
    square = new.squares / jnp.where(met, new.visits, 1.0)
    rate = jnp.maximum(RATE, 1 / (losses.visits + 1))
    squares = losses.squares + jnp.where(met, rate * (square - losses.squares), 0.0)
    return Losses(squares, losses.visits + met.astype(jnp.float32))
