"""`jax.vmap` for the kernels, which have no rule of their own: the new axis joins the channels.

Not the batch: there, what does not depend on it (A, D, ...) has one gradient for all of it, and
vmap wants one for each.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array
from jax import numpy as jnp
from jax.custom_batching import custom_vmap

from kernels.selective_scan.form import Arguments, tree_like

# Where d, or g, stands in arrays of this name; h0's place is that of every state.
CHANNELS = {"u": 2, "delta": 2, "A": 0, "B": 2, "C": 2, "D": 0, "z": 2, "delta_bias": 0, "h0": 1}
TOKENS, STATE, ENTRIES = CHANNELS["u"], CHANNELS["h0"], 2


def foldable(run: Callable[..., Any]) -> Callable[..., Any]:
    """A forward (args) -> (y, last, entries) or backward (args, entries, dy, dlast) -> gradients
    that can be mapped over further axes."""

    @custom_vmap
    def mapped(*args: Any) -> Any:
        return run(*args)

    @mapped.def_vmap
    def rule(size: int, batched: Any, *args: Any) -> tuple[Any, Any]:
        if size == 0:  # of one example of zeros, nothing
            one = jax.tree.map(lambda x, has: _padded(x) if has else x, args, tuple(batched))
            out, mapped_too = rule(1, batched, *one)
            return jax.tree.map(lambda x: x[:0], out), mapped_too
        places = (_places(args[0]), ENTRIES, TOKENS, STATE)[: len(args)]
        folded = jax.tree.map(
            lambda x, has, place: _fold(x if has else _repeat(x, size), place),
            args,
            tuple(batched),
            places,
        )
        out = foldable(run)(*folded)
        to = _places(args[0]) if len(args) > 1 else (TOKENS, STATE, ENTRIES)
        unfolded = jax.tree.map(lambda x, place: _unfold(x, place, size), out, to)
        return unfolded, jax.tree.map(lambda _: True, unfolded)

    return mapped


def _places(args: Arguments) -> Any:
    """`CHANNELS` for these arguments: a constant B or C is (d n), or (v d n) with the new axis."""
    constant = {k: 0 for k in ("B", "C") if getattr(args, k).ndim < 4}
    return tree_like(args, CHANNELS | constant)


def _padded(x: Array) -> Array:
    return jnp.pad(x, [(0, 1)] + [(0, 0)] * (x.ndim - 1))


def _repeat(x: Array, size: int) -> Array:
    return jnp.broadcast_to(x[None], (size, *x.shape))


def _fold(x: Array, place: int) -> Array:
    """(v ...) with the axis v in front of the one at `place`, as one axis."""
    x = jnp.moveaxis(x, 0, place)
    return x.reshape(*x.shape[:place], -1, *x.shape[place + 2 :])


def _unfold(x: Array, place: int, size: int) -> Array:
    x = x.reshape(*x.shape[:place], size, -1, *x.shape[place + 1 :])
    return jnp.moveaxis(x, place, 0)
