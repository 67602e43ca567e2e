"""The readable definition: one step after the other (Gu & Dao 2023, section 3.2).

Plain JAX, which has all its derivatives, with the state of every token in memory.
"""

from functools import partial

import jax
from jax import Array, lax
from jax import numpy as jnp

from kernels.selective_scan.form import Arguments, Options, State, Tokens, groups, steps


@partial(jax.jit, static_argnames="options")
def scan(args: Arguments, options: Options) -> tuple[Tokens, State]:
    """h_t = exp(delta A) h_{t-1} + delta B u (Euler, not zero-order hold); y_t = C h_t + D u."""
    u, delta = args.u.astype(args.A.dtype), args.delta.astype(args.A.dtype)
    per_group = u.shape[-1] // groups(args)
    varying = {
        name: jnp.swapaxes(M, 0, 1).astype(args.A.dtype)
        for name, M in (("B", args.B), ("C", args.C))
        if M.ndim == 4
    }
    constant = {name: M[None] for name, M in (("B", args.B), ("C", args.C)) if M.ndim == 2}
    bias = None if args.delta_bias is None else args.delta_bias[None, None]
    delta = steps(delta, bias, options)

    def step(h: Array, token: tuple[Array, Array, dict[str, Array]]) -> tuple[Array, Array]:
        u, delta, own = token
        BC = constant | {name: jnp.repeat(M, per_group, axis=1) for name, M in own.items()}
        h = jnp.exp(delta[..., None] * args.A[None]) * h + (delta * u)[..., None] * BC["B"]
        return h, jnp.sum(h * BC["C"], axis=-1)

    time_major = (jnp.swapaxes(u, 0, 1), jnp.swapaxes(delta, 0, 1), varying)
    last, y = lax.scan(step, args.h0, time_major, reverse=options.reverse)
    y = jnp.swapaxes(y, 0, 1)
    if args.D is not None:
        y = y + args.D[None, None] * u
    if args.z is not None:
        y = y * jax.nn.silu(args.z.astype(args.A.dtype))
    return y.astype(args.u.dtype), last
