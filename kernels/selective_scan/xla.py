"""Implementations in plain XLA: they run on every platform. Arguments as in reference.py."""

from collections.abc import Callable

import jax
from jax import Array, lax
from jax import numpy as jnp

from kernels.selective_scan.reference import (
    Projection,
    Rates,
    Sequence,
    State,
    TimeMajor,
    TimeMajorProjection,
    scan_steps,
    time_major,
)

CHUNK = 256


def sequential(
    u: Sequence, delta: Sequence, A: Rates, B: Projection, C: Projection, h0: State
) -> tuple[Sequence, State]:
    """A scan of checkpointed chunks: only the chunks' entry states are kept for the backward pass.

    Fastest on CPU, where the state stays in the first-level cache.
    """
    return _over_chunks(scan_steps, u, delta, A, B, C, h0)


def associative(
    u: Sequence, delta: Sequence, A: Rates, B: Projection, C: Projection, h0: State
) -> tuple[Sequence, State]:
    """Chunks in sequence, `lax.associative_scan` inside a chunk: log(chunk) parallel steps each."""

    def chunk(
        u: TimeMajor,
        delta: TimeMajor,
        A: Rates,
        B: TimeMajorProjection,
        C: TimeMajorProjection,
        h0: State,
    ) -> tuple[TimeMajor, State]:
        B, C = (M if M.ndim == 5 else M[None] for M in (B, C))
        decay = jnp.exp(delta[..., None] * A[None, None])
        entered = (delta * u)[..., None] * B
        product, local = lax.associative_scan(_combine, (decay, entered), axis=0)
        states = product * h0[None] + local
        return jnp.sum(states * C, axis=-1), states[-1]

    return _over_chunks(chunk, u, delta, A, B, C, h0)


def _combine(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
    """(a1, b1) then (a2, b2) of h -> a h + b."""
    return left[0] * right[0], right[0] * left[1] + right[1]


def _over_chunks(
    chunk: Callable[..., tuple[Array, Array]],
    u: Sequence,
    delta: Sequence,
    A: Rates,
    B: Projection,
    C: Projection,
    h0: State,
) -> tuple[Sequence, State]:
    """Run `chunk` over pieces of the l axis, carrying the state; gradients recompute its inside."""
    length = u.shape[1]
    size = min(CHUNK, length)
    pad = -length % size  # delta = 0 leaves the state as it is

    def pieces(x: Array) -> Array:
        x = jnp.pad(time_major(x), [(0, pad)] + [(0, 0)] * (x.ndim - 1))
        return x.reshape(-1, size, *x.shape[1:])

    varying = {name: pieces(M) for name, M in (("B", B), ("C", C)) if M.ndim == 5}

    @jax.checkpoint
    def body(state: Array, at: tuple[Array, Array, dict[str, Array]]) -> tuple[Array, Array]:
        u_c, delta_c, BC = at
        y, state = chunk(u_c, delta_c, A, BC.get("B", B), BC.get("C", C), state)
        return state, y

    last, y = lax.scan(body, h0, (pieces(u), pieces(delta), varying))
    y = y.reshape(-1, *y.shape[2:])[:length]
    return time_major(y), last
