"""Both passes as a primitive of JAX, so that the implementation is chosen when it is lowered.

Then the platform is known, and only what runs on it is traced. A kernel's trace takes seconds.
"""

from functools import cache, partial
from typing import Any

import jax
from jax import Array
from jax import numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad

from kernels.selective_scan.choose import implementation_for
from kernels.selective_scan.form import Arguments, Entries, Options, State, Tokens, chunks
from kernels.selective_scan.lowering import lower_by_platform
from kernels.selective_scan.reverse_mode import refuse

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def forward(
    args: Arguments, *, name: str | None, options: Options
) -> tuple[Tokens, State, Entries]:
    """`Implementation.forward` of the named implementation, or of the platform's own."""
    leaves, tree = jax.tree.flatten((args,))
    y, last, entries = scan_pass.bind(*leaves, name=name, options=options, tree=tree)
    return y, last, entries


def backward(
    args: Arguments,
    entries: Entries,
    dy: Tokens,
    dlast: State,
    *,
    name: str | None,
    options: Options,
) -> Arguments:
    """`Implementation.backward`, likewise."""
    leaves, tree = jax.tree.flatten((args, entries, dy, dlast))
    slopes = scan_pass.bind(*leaves, name=name, options=options, tree=tree)
    return jax.tree.unflatten(jax.tree.structure(args), slopes)


def _types(*leaves: Any, name: str | None, options: Options, tree: Any) -> list[Any]:
    """Of the results: those of y, the last state and the entries, or those of the arguments."""
    del name
    args, *more = jax.tree.unflatten(tree, leaves)
    if more:
        return jax.tree.leaves(args)
    batch, d, n = args.h0.shape
    entries = args.h0.update(shape=(batch, chunks(args.u.shape[1], options), d, n))
    return [args.u, args.h0, entries]


def _run(
    *leaves: Array, platform: str, name: str | None, options: Options, tree: Any
) -> list[Array]:
    args, *more = jax.tree.unflatten(tree, leaves)
    implementation = implementation_for(platform, name, args.A.dtype == jnp.float64)
    run = implementation.backward if more else implementation.forward
    return jax.tree.leaves(run(args, *more, options=options))


@cache
def _compiled(**parameters: Any) -> Any:
    return jax.jit(partial(scan_pass.bind, **parameters))


def _eager(*leaves: Array, **parameters: Any) -> list[Array]:
    """Outside jax.jit: compiled all the same, as JAX does with its own primitives."""
    with jax.disable_jit(False):
        return _compiled(**parameters)(*leaves)


scan_pass = Primitive("selective_scan")
scan_pass.multiple_results = True
scan_pass.def_abstract_eval(_types)
scan_pass.def_impl(_eager)
ad.primitive_jvps[scan_pass] = refuse
lower_by_platform(scan_pass, _run, PLATFORMS)
