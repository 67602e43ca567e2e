"""A scan in blocks of examples and channels, one after the other.

XLA compiles a loop for the CPU whole, and vectorises it, only if its state is small: on 2 cores
with jax 0.10.2 an element of a step takes 0.9 ns with up to 3072 of them and 3.9 ns with 4096 or
more (5 and 18 ns in a backward pass).
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
from jax import Array, lax
from jax import numpy as jnp

from kernels.selective_scan.form import (
    Arguments,
    Entries,
    Implementation,
    Options,
    State,
    Tokens,
    chunks,
    groups,
    tree_like,
)

SMALL = 2048  # elements of a state


class Block(NamedTuple):
    """Sizes of a block: examples, channels, and groups (1 also for a part of one)."""

    b: int
    d: int
    g: int


def block_of(args: Arguments) -> Block:
    """The largest whose state is small. A group of channels whose size has no fitting divisor of
    at least an eighth of that stays whole."""
    (b, _, d), n, g = args.u.shape, args.A.shape[1], groups(args)
    p = d // g
    if d * n <= SMALL:
        return Block(_divisor(b, SMALL // (d * n)), d, g)
    if p * n <= SMALL:
        several = _divisor(g, SMALL // (p * n))
        return Block(1, several * p, several)
    part = _divisor(p, max(1, SMALL // n))
    return Block(1, part if 8 * part * n >= SMALL else p, 1)


def _divisor(x: int, most: int) -> int:
    return next(k for k in range(min(x, most), 0, -1) if x % k == 0)


class Blocked(NamedTuple):
    """The same implementation, applied to one block at a time."""

    inner: Implementation

    def forward(self, args: Arguments, options: Options) -> tuple[Tokens, State, Entries]:
        block = block_of(args)
        if args.u.shape[::2] == block[:2]:
            return self.inner.forward(args, options)
        count = chunks(args.u.shape[1], options)
        y, last = jnp.zeros_like(args.u), jnp.zeros_like(args.h0)
        entries = jnp.zeros((len(last), count, *last.shape[1:]), last.dtype)

        def run(i: Array) -> Any:
            return self.inner.forward(_cut(args, block, i), options)

        return _each(args, block, run, (y, last, entries), (TOKENS, STATE, ENTRIES))

    def backward(
        self, args: Arguments, entries: Entries, dy: Tokens, dlast: State, options: Options
    ) -> Arguments:
        block = block_of(args)
        if args.u.shape[::2] == block[:2]:
            return self.inner.backward(args, entries, dy, dlast, options)
        # Parts of the gradients of B and C are added up: not in fewer digits than float32's.
        real = args.A.dtype
        wide = args._replace(B=args.B.astype(real), C=args.C.astype(real))

        def run(i: Array) -> Arguments:
            take = partial(_take, args=args, block=block, i=i)
            return self.inner.backward(
                _cut(wide, block, i), take(entries, ENTRIES), take(dy, TOKENS), take(dlast, STATE),
                options,
            )  # fmt: skip

        zeros = jax.tree.map(jnp.zeros_like, wide)
        slopes = _each(args, block, run, zeros, _axes(args))
        return jax.tree.map(lambda x, given: x.astype(given.dtype), slopes, args)


class Axes(NamedTuple):
    """Which axes of an array are cut by examples, by channels and by groups."""

    b: int | None = None
    d: int | None = None
    g: int | None = None


TOKENS, STATE, ENTRIES = Axes(b=0, d=2), Axes(b=0, d=1), Axes(b=0, d=2)
FIXED, PROJECTION = Axes(d=0), Axes(b=0, g=2)


def _axes(args: Arguments) -> Any:
    """`Axes` of every argument."""
    kinds = dict.fromkeys(("u", "delta", "z"), TOKENS) | {"h0": STATE}
    kinds |= dict.fromkeys(("A", "B", "C", "D", "delta_bias"), FIXED)
    kinds |= {k: PROJECTION for k in ("B", "C") if getattr(args, k).ndim == 4}
    return tree_like(args, kinds)


def _each(args: Arguments, block: Block, run: Any, zeros: Any, axes: Any) -> Any:
    """What `run` gives for every block, put together; what several blocks have in common, added."""
    (b, _, d) = args.u.shape

    def step(i: Array, sums: Any) -> Any:
        return jax.tree.map(partial(_add, args=args, block=block, i=i), sums, run(i), axes)

    count = b // block.b * (d // block.d)
    return lax.fori_loop(0, count, step, zeros)


def _cut(args: Arguments, block: Block, i: Array) -> Arguments:
    return jax.tree.map(partial(_take, args=args, block=block, i=i), args, _axes(args))


def _take(x: Array, axes: Axes, *, args: Arguments, block: Block, i: Array) -> Array:
    for axis, start, size in _spans(axes, args, block, i):
        x = lax.dynamic_slice_in_dim(x, start, size, axis)
    return x


def _add(
    whole: Array, part: Array, axes: Axes, *, args: Arguments, block: Block, i: Array
) -> Array:
    starts: list[Any] = [0] * whole.ndim
    for axis, start, _ in _spans(axes, args, block, i):
        starts[axis] = start
    before = lax.dynamic_slice(whole, starts, part.shape)
    return lax.dynamic_update_slice(whole, before + part, starts)


def _spans(axes: Axes, args: Arguments, block: Block, i: Array) -> Iterator[tuple[int, Any, int]]:
    """Axis, first index and size of what block i has of an array."""
    d = args.u.shape[2]
    across = d // block.d
    channel = i % across * block.d
    starts = (i // across * block.b, channel, channel // (d // groups(args)))
    for axis, start, size in zip(axes, starts, block, strict=True):
        if axis is not None:
            yield axis, start, size
