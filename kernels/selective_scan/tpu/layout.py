"""How the TPU kernels hold tokens, and the ways between that and their order in memory.

A column is `steps` * 128 tokens in a row, cut into 128 runs of `steps` neighbours: lane c of a
vector has token c * steps + j of the column, for one step j. A recurrence then goes through all
runs at once, one step after the other without moving data between lanes, and only what a run does
as a whole is scanned over lanes: log2(128) rounds for `steps` tokens, where tokens laid along lanes
as they come need them for each.

In memory tokens are (b l d) for blocks of 128 channels, and (b g p l) where groups are no whole
blocks. XLA keeps arrays (b l d) with l on lanes where d is no multiple of 128, and this is a view.
In neither is an axis of a large array padded to 128 lanes.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from typing import Any

from jax import Array, lax
from jax import numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kernels.selective_scan.tpu.plan import LANES, Plan

PART = 32  # rows that are rearranged at a time

Part = tuple[slice, Any]  # rows in memory's order, and an index into a block


def by_step(x: Array, steps: int) -> list[Array]:
    """(rows, tokens of a column) -> for each step, (rows, 128 runs).

    Lane l of vector v has step l % steps of run v * 128 / steps + l / steps. First the low bits of
    l and v change places, one by one; then the runs are put in order.
    """
    bits = steps.bit_length() - 1
    lane = _lane(x)
    order = ((lane & (LANES // steps - 1)) << bits) | (lane >> (7 - bits))
    vectors = [x[:, v * LANES : (v + 1) * LANES] for v in range(steps)]
    return [_take(v, order) for v in _exchanged(vectors)]


def in_order(runs: Sequence[Array]) -> Array:
    """The inverse of `by_step`."""
    steps = len(runs)
    bits = steps.bit_length() - 1
    lane = _lane(runs[0])
    order = ((lane & (steps - 1)) << (7 - bits)) | (lane >> bits)
    return jnp.concatenate(_exchanged([_take(x, order) for x in runs]), axis=1)


def _lane(x: Array) -> Array:
    return lax.broadcasted_iota(jnp.int32, (x.shape[0], LANES), 1)


def _take(x: Array, lanes: Array) -> Array:
    if len(x) == 1:  # JAX then makes a gather of another kind, which cannot be compiled
        x, lanes = (jnp.broadcast_to(m, (8, LANES)) for m in (x, lanes))
        return _take(x, lanes)[:1]
    return jnp.take_along_axis(x, lanes, axis=1, mode="promise_in_bounds")


def _exchanged(vectors: list[Array]) -> list[Array]:
    """Lane l of vector v, with the low bits of l and v exchanged; its own inverse."""
    vectors, lane = list(vectors), _lane(vectors[0])
    bit = 1
    while bit < len(vectors):
        low = (lane & bit) == 0
        for v in range(len(vectors)):
            if not v & bit:
                x, y = vectors[v], vectors[v | bit]
                crossing = _take(jnp.where(low, y, x), lane ^ bit)
                vectors[v] = jnp.where(low, x, crossing)
                vectors[v | bit] = jnp.where(low, crossing, y)
        bit *= 2
    return vectors


class Column:
    """One column of a block's tokens, in memory's order and, in the plan's buffers, by step.

    Row i * steps + j of a buffer has channel i at step j.
    """

    def __init__(self, plan: Plan, refs: dict[str, Any], block: Any, index: Any, inside: Any):
        self.plan, self.refs, self.index = plan, refs, index
        self.start = index * plan.column  # in the block
        self.left = plan.scan.l - block * plan.tokens - self.start  # tokens, or more
        self.inside = inside  # channels

    def parts(self) -> Iterator[Part]:
        """Of the block: rows of a buffer in memory's order, and an index into `refs`."""
        if self.plan.by_token:
            for first in range(0, self.plan.column, LANES):
                rows = pl.ds(pl.multiple_of(self.start + first, LANES), LANES)
                yield slice(first, first + LANES), (rows, slice(None))
            return
        tokens = pl.ds(pl.multiple_of(self.start, LANES), self.plan.column)
        for first in range(0, self.plan.channels, PART):
            rows = slice(first, min(first + PART, self.plan.channels))
            yield rows, (rows, tokens)

    def masked(self, x: Array, rows: slice) -> Array:
        """x with zeros where there is no such token or channel."""
        plan, along = self.plan, 0 if self.plan.by_token else 1
        if plan.scan.l % plan.tokens:
            token = lax.broadcasted_iota(jnp.int32, x.shape, along)
            first = rows.start if plan.by_token else 0
            x = jnp.where(token + first < self.left, x, 0.0)
        if plan.scan.p % plan.channels:
            channel = lax.broadcasted_iota(jnp.int32, x.shape, 0)
            x = jnp.where(channel + rows.start < self.inside, x, 0.0)
        return x

    def read(self, name: str, part: Part) -> Array:
        return self.masked(self.refs[name][part[1]].astype(jnp.float32), part[0])

    def write(self, name: str, part: Part, x: Array) -> None:
        ref = self.refs[name]
        ref[part[1]] = x.astype(ref.dtype)

    def vector(self, name: str, part: Part) -> Array:
        """One number for each channel, to be broadcast over the tokens of a part."""
        return self.refs[name][...] if self.plan.by_token else self.refs[name][part[0], :]

    def spread(self, values: Callable[[Part], tuple[Array, ...]]) -> None:
        """Fill the buffers that the channels take with what `values` gives for each part."""
        plan, refs = self.plan, self.refs
        for part in self.parts():
            for name, free, x in zip(plan.taken, plan.free, values(part), strict=True):
                if plan.by_token:
                    refs[free][part[0], :] = x
                    continue
                for j, run in enumerate(by_step(x, plan.steps)):
                    refs[name][_rows(part[0], plan.steps, j), :] = run
        if plan.by_token:
            for name, free in zip(plan.taken, plan.free, strict=True):
                self._transpose(free, name)

    def collect(self, values: Callable[[Part, list[Array]], None]) -> None:
        """Call `values` for each part, with what the channels have given in memory's order."""
        plan, refs = self.plan, self.refs
        if plan.by_token:
            for name, free in zip(plan.given, plan.taken, strict=False):
                self._transpose(name, free)
        for part in self.parts():
            if plan.by_token:
                found = [refs[name][part[0], :] for name in plan.taken[: len(plan.given)]]
            else:
                found = [self._in_order(name, part[0]) for name in plan.given]
            values(part, found)

    def spread_projections(self) -> None:
        """B and C, if they vary."""
        for name in self.plan.varying:
            self._spread_states(f"{name}_in_order", name)

    def _spread_states(self, name: str, target: str) -> None:
        """B or C; row j * states + i has state i at step j."""
        plan = self.plan
        for rows, index in self._state_parts():
            x = self.refs[name][index].astype(jnp.float32)
            if plan.scan.l % plan.tokens:
                token = lax.broadcasted_iota(jnp.int32, x.shape, 1)
                x = jnp.where(token < self.left, x, 0.0)
            for j, run in enumerate(by_step(x, plan.steps)):
                self.refs[target][pl.ds(j * plan.states + rows.start, len(x)), :] = run

    def collect_states(self, source: str, name: str) -> None:
        """The inverse of `_spread_states`."""
        plan, ref = self.plan, self.refs[name]
        for rows, index in self._state_parts():
            size = rows.stop - rows.start
            runs = [
                self.refs[source][pl.ds(j * plan.states + rows.start, size), :]
                for j in range(plan.steps)
            ]
            ref[index] = in_order(runs).astype(ref.dtype)

    def _state_parts(self) -> Iterator[tuple[slice, Any]]:
        tokens = pl.ds(pl.multiple_of(self.start, LANES), self.plan.column)
        for first in range(0, self.plan.states, PART):
            rows = slice(first, min(first + PART, self.plan.states))
            yield rows, (rows, tokens)

    def _in_order(self, name: str, rows: slice) -> Array:
        steps = self.plan.steps
        return in_order([self.refs[name][_rows(rows, steps, j), :] for j in range(steps)])

    def _transpose(self, source: str, target: str) -> None:
        """Of the 128 runs and 128 channels of each step."""
        steps = self.plan.steps
        for j in range(steps):
            rows = pl.ds(j, LANES, stride=steps)
            self.refs[target][rows, :] = self.refs[source][rows, :].T


def _rows(channels: slice, steps: int, j: int) -> Any:
    """Of a buffer: one step of these channels."""
    return pl.ds(channels.start * steps + j, channels.stop - channels.start, stride=steps)


def add_up(terms: list[Array]) -> Array:
    return reduce(jnp.add, terms)


def sum_states(vectors: list[Array]) -> Array:
    """Row j is the sum of the rows of vector j.

    Two vectors are added up in one, each in half of its rows: 28 operations for 8 vectors, where 8
    sums take 55.
    """
    count = len(vectors)
    found = [add_up([x[i : i + 8] for i in range(0, len(x), 8)]) for x in vectors]
    row = lax.broadcasted_iota(jnp.int32, found[0].shape, 0)
    by = 1
    while len(found) > 1:
        even = (row & by) == 0
        found = [
            jnp.where(even, x, y) + pltpu.roll(jnp.where(even, y, x), by, 0)
            for x, y in zip(found[::2], found[1::2], strict=True)
        ]
        by *= 2
    total = found[0]
    while by < 8:
        total = total + pltpu.roll(total, by, 0)
        by *= 2
    return total[:count]


def channels_inside(plan: Plan) -> Any:
    """How many channels of this block there are."""
    if plan.scan.p % plan.channels == 0:
        return plan.channels
    block = lax.rem(pl.program_id(1), plan.blocks)
    return jnp.minimum(plan.channels, plan.scan.p - block * plan.channels)
