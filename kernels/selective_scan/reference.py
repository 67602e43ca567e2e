"""The readable definition of the recurrence: one step after the other in float32.

Canonical form of the arguments, made by api.py, for every implementation: d = g * p channels in g
groups; u, delta (b l g p); A (g p n); h0 (b g p n); B and C either vary, (b l g 1 n), or are
constant, (1 g p n). The result is y (b l g p) and the last state (b g p n).
"""

from typing import TypeAlias

from jax import Array, lax
from jax import numpy as jnp
from jaxtyping import Float32

Sequence: TypeAlias = Float32[Array, "b l g p"]
Rates: TypeAlias = Float32[Array, "g p n"]
Projection: TypeAlias = Float32[Array, "b l g 1 n"] | Float32[Array, "1 g p n"]
State: TypeAlias = Float32[Array, "b g p n"]
TimeMajor: TypeAlias = Float32[Array, "l b g p"]
TimeMajorProjection: TypeAlias = Float32[Array, "l b g 1 n"] | Float32[Array, "1 g p n"]


def step(
    state: State,
    u: Float32[Array, "b g p"],
    delta: Float32[Array, "b g p"],
    A: Rates,
    B: Float32[Array, "b g 1 n"] | Float32[Array, "1 g p n"],
    C: Float32[Array, "b g 1 n"] | Float32[Array, "1 g p n"],
) -> tuple[State, Float32[Array, "b g p"]]:
    """h_t = exp(delta A) h_{t-1} + delta B u (Euler, not zero-order hold); y_t = C h_t."""
    state = jnp.exp(delta[..., None] * A[None]) * state + (delta * u)[..., None] * B
    return state, jnp.sum(state * C, axis=-1)


def scan_steps(
    u: TimeMajor,
    delta: TimeMajor,
    A: Rates,
    B: TimeMajorProjection,
    C: TimeMajorProjection,
    h0: State,
) -> tuple[TimeMajor, State]:
    """The scan over a leading axis of tokens."""
    varying = {name: M for name, M in (("B", B), ("C", C)) if M.ndim == 5}

    def body(state: Array, at: tuple[Array, Array, dict[str, Array]]) -> tuple[Array, Array]:
        u_t, delta_t, BC_t = at
        return step(state, u_t, delta_t, A, BC_t.get("B", B), BC_t.get("C", C))

    last, y = lax.scan(body, h0, (u, delta, varying))
    return y, last


def time_major(x: Float32[Array, "b l *rest"]) -> Float32[Array, "l b *rest"]:
    return jnp.swapaxes(x, 0, 1)


def scan(
    u: Sequence, delta: Sequence, A: Rates, B: Projection, C: Projection, h0: State
) -> tuple[Sequence, State]:
    B, C = (time_major(M) if M.ndim == 5 else M for M in (B, C))
    y, last = scan_steps(time_major(u), time_major(delta), A, B, C, h0)
    return time_major(y), last
