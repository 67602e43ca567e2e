"""The op: checks its arguments, brings them to one form, and differentiates by hand."""

from functools import partial
from typing import Any

import jax
from jax import Array
from jax import numpy as jnp

from kernels.selective_scan import reference
from kernels.selective_scan.batching import foldable
from kernels.selective_scan.check import ArrayLike, check_flags, checked
from kernels.selective_scan.choose import check_named
from kernels.selective_scan.form import Arguments, Entries, Options, State, Tokens, chunk_length
from kernels.selective_scan.primitive import backward, forward
from kernels.selective_scan.reverse_mode import reverse_only
from kernels.selective_scan.sequence import across
from kernels.selective_scan.varying import varying_alike


def selective_scan(
    u: ArrayLike,
    delta: ArrayLike,
    A: ArrayLike,
    B: ArrayLike,
    C: ArrayLike,
    D: ArrayLike | None = None,
    z: ArrayLike | None = None,
    delta_bias: ArrayLike | None = None,
    delta_softplus: bool = False,
    *,
    h0: ArrayLike | None = None,
    reverse: bool = False,
    return_last_state: bool = False,
    axis_name: str | None = None,
    implementation: str | None = None,
) -> Array | tuple[Array, Array]:
    """Scan of the selective state-space model, with mamba's `selective_scan_ref` semantics.

    delta = softplus(delta + delta_bias); h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t;
    y_t = (C_t h_t + D u_t) * SiLU(z_t). Everything is computed in float32 (in float64 if u is; the
    GPU and TPU kernels cannot); nothing of size b*l*d*n reaches memory, forward or backward: a
    backward pass gets the arguments and the states that enter each chunk of 64 or 128 tokens.
    Gradients of all arguments are the same bit for bit each time.

    States may grow (A > 0, or a negative delta). Results are right as long as every exp(delta_t A),
    the states and the gradients by them are within the range of float32 (3.4e38), and are inf or
    NaN beyond it.

    "reference" is plain JAX: it alone has second derivatives and forward mode (`jax.jvp`), and
    `checkify` and `jax.disable_jit` go into it step by step; of the others they see the results.

    Arrays are JAX's or NumPy's, each of float16, bfloat16, float32 or, if u is too, float64.

    Args:
        u, delta, z: (b l d).
        A: (d n), negative for a decaying state.
        B, C: (b l n), or (b l g n) where each of g groups serves d/g neighbouring channels,
            or (d n) where they do not depend on the input.
        D, delta_bias: (d,).
        h0: (b d n), the state before the first token; zeros by default.
        reverse: time runs from the last token to the first; no flipped copy is made.
        return_last_state: also return the state after the last token in time, (b d n).
        axis_name: inside `jax.shard_map`, the mesh axis over which l is split: the tokens here are
            one block of the sequence. h0 and the last state are those of the whole sequence. The
            devices exchange only b d (n + 1) numbers each; each goes over its tokens twice.
        implementation: one of `choose.NAMES`, or None to choose by the platform that the
            computation is lowered for; `explain` says which.
    Returns:
        y (b l d) in u's dtype, or (y, last state); that is float32, or float64 if u is.
    Raises:
        TypeError: what is no array, or not of these types; a flag that is neither True nor False.
        ValueError: shapes that do not fit, or an unknown implementation.
        NotImplementedError: a named implementation that cannot run here, or a derivative that it
            does not have, with the remedy.
    """
    check_flags(delta_softplus=delta_softplus, reverse=reverse, return_last_state=return_last_state)
    given = checked(u=u, delta=delta, A=A, B=B, C=C, D=D, z=z, delta_bias=delta_bias, h0=h0)
    double = given.u.dtype == jnp.float64
    check_named(implementation, double)
    (batch, length, d), n = given.u.shape, given.A.shape[-1]

    real = jnp.float64 if double else jnp.float32

    def single(x: Array | None) -> Array | None:
        return None if x is None else x.astype(real)

    def grouped(M: Array) -> Array:
        if M.ndim == 2:
            return M.astype(real)
        return M if M.ndim == 4 else M[:, :, None]

    args = Arguments(
        u=given.u,
        delta=given.delta,
        A=given.A.astype(real),
        B=grouped(given.B),
        C=grouped(given.C),
        D=single(given.D),
        z=given.z,
        delta_bias=single(given.delta_bias),
        h0=jnp.zeros((batch, d, n), real) if given.h0 is None else given.h0.astype(real),
    )
    options = Options(bool(delta_softplus), bool(reverse), chunk_length(batch, length, d))

    def scan(args: Arguments) -> Any:  # custom_vjp hides the type
        if implementation == "reference":
            return reference.scan(args, options)
        results = _scan(implementation, options, reverse_only(args))
        # checkify sees NaN in products, not in what a primitive of ours gives. XLA drops the 1.
        return jax.tree.map(lambda x: x * 1.0, results)

    args = varying_alike(args, like=args)
    y, last = scan(args) if axis_name is None else across(axis_name, scan, args, options)
    return (y, last) if return_last_state else y


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _scan(name: str | None, options: Options, args: Arguments) -> tuple[Tokens, State]:
    return _forward(name, options, args)[0]


def _forward(
    name: str | None, options: Options, args: Arguments
) -> tuple[tuple[Tokens, State], tuple[Arguments, Entries]]:
    y, last, entries = foldable(partial(forward, name=name, options=options))(args)
    return (y, last), (args, entries)


def _backward(
    name: str | None,
    options: Options,
    saved: tuple[Arguments, Entries],
    cotangents: tuple[Tokens, State],
) -> tuple[Arguments]:
    return (foldable(partial(backward, name=name, options=options))(*saved, *cotangents),)


_scan.defvjp(_forward, _backward)
