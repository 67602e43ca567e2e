"""The op: checks its arguments, brings them to one form, and differentiates by hand."""

from functools import partial
from typing import Any

import jax
from jax import Array
from jax import numpy as jnp

from kernels.selective_scan.batching import foldable
from kernels.selective_scan.check import check
from kernels.selective_scan.choose import dispatch
from kernels.selective_scan.form import Arguments, Entries, Options, State, Tokens, chunk_length


def selective_scan(
    u: Array,
    delta: Array,
    A: Array,
    B: Array,
    C: Array,
    D: Array | None = None,
    z: Array | None = None,
    delta_bias: Array | None = None,
    delta_softplus: bool = False,
    *,
    h0: Array | None = None,
    reverse: bool = False,
    return_last_state: bool = False,
    implementation: str | None = None,
) -> Array | tuple[Array, Array]:
    """Scan of the selective state-space model, with mamba's `selective_scan_ref` semantics.

    delta = softplus(delta + delta_bias); h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t;
    y_t = (C_t h_t + D u_t) * SiLU(z_t). Everything is computed in float32; nothing of size
    b*l*d*n reaches memory, forward or backward: a backward pass gets the arguments and the states
    that enter each chunk of 64 or 128 tokens. Gradients of all arguments are the same bit for bit
    each time; forward-mode derivatives (`jax.jvp`) are not defined.

    Args:
        u, delta, z: (b l d).
        A: (d n), negative for a decaying state.
        B, C: (b l n), or (b l g n) where each of g groups serves d/g neighbouring channels,
            or (d n) where they do not depend on the input.
        D, delta_bias: (d,).
        h0: (b d n), the state before the first token; zeros by default.
        reverse: time runs from the last token to the first; no flipped copy is made.
        return_last_state: also return the state after the last token in time, float32 (b d n).
        implementation: "reference", "sequential", "associative", or None to choose by the
            platform that the computation is lowered for; `explain` says which.
    Returns:
        y (b l d) in u's dtype, or (y, last state).
    Raises:
        ValueError: shapes that do not fit, or an unknown implementation.
    """
    check(u, delta, A, B, C, D, z, delta_bias, h0)
    (batch, length, d), n = u.shape, A.shape[-1]

    def single(x: Array | None) -> Array | None:
        return None if x is None else x.astype(jnp.float32)

    def grouped(M: Array) -> Array:
        if M.ndim == 2:
            return M.astype(jnp.float32)
        return M if M.ndim == 4 else M[:, :, None]

    state = jnp.zeros((batch, d, n)) if h0 is None else h0.astype(jnp.float32)
    args = Arguments(
        u, delta, A.astype(jnp.float32), grouped(B), grouped(C), single(D), z, single(delta_bias),
        state,
    )  # fmt: skip
    options = Options(delta_softplus, reverse, chunk_length(batch, length, d))
    out: Any = _scan(implementation, options, _varying_alike(args))  # custom_vjp hides the type
    y, last = out
    return (y, last) if return_last_state else y


def _varying_alike(args: Arguments) -> Arguments:
    """Inside shard_map, arguments that vary over the same mesh axes, as loops over them must carry.

    The cast's own gradient sums that of a shared argument over the devices.
    """

    def varying(x: Array) -> frozenset[str]:
        return jax.typeof(x).manual_axis_type.varying

    axes = frozenset[str]().union(*map(varying, jax.tree.leaves(args)))

    def cast(x: Array) -> Array:
        missing = tuple(sorted(axes - varying(x)))
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(cast, args)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _scan(name: str | None, options: Options, args: Arguments) -> tuple[Tokens, State]:
    return _forward(name, options, args)[0]


def _forward(
    name: str | None, options: Options, args: Arguments
) -> tuple[tuple[Tokens, State], tuple[Arguments, Entries]]:
    run = dispatch(name, lambda i: lambda args: i.forward(args, options))
    y, last, entries = foldable(run)(args)
    return (y, last), (args, entries)


def _backward(
    name: str | None,
    options: Options,
    saved: tuple[Arguments, Entries],
    cotangents: tuple[Tokens, State],
) -> tuple[Arguments]:
    run = dispatch(name, lambda i: lambda args, *more: i.backward(args, *more, options=options))
    return (foldable(run)(*saved, *cotangents),)


_scan.defvjp(_forward, _backward)
