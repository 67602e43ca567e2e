"""The scan's TPU kernel of the forward pass, and what the backward one shares with it.

Vectors are (states, 128 runs of a column) for one channel and one step; layout.py says what
a run is. Each batch of channels is gone through three times: what every run does on its own, from
zero; the scan of these over the runs; and the runs again, from the states that enter them. What is
of size (d n) has its channels on lanes.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import Array, lax
from jax import numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kernels.selective_scan.growth import grown
from kernels.selective_scan.sizes import cdiv
from kernels.selective_scan.tpu.layout import Column, Part, add_up, channels_inside, sum_states
from kernels.selective_scan.tpu.plan import LANES, ROUNDS, Plan

Refs = dict[str, Any]


def lanes(rows: int) -> Array:
    return lax.broadcasted_iota(jnp.int32, (rows, LANES), 1)


def column_of(x: Array, i: Any) -> Array:
    """Lane i of x, (rows, 1); what other lanes hold does not matter."""
    return jnp.sum(jnp.where(lanes(len(x)) == i, x, 0.0), axis=1, keepdims=True)


def onto_lane(x: Array, i: Any, column: Array) -> Array:
    return jnp.where(lanes(len(x)) == i, column, x)


class Chain:
    """A recurrence over a column, forth or back in time: of states, or of gradients by them."""

    def __init__(self, plan: Plan, name: str, back: bool):
        self.plan, self.name = plan, name
        self.descending = plan.scan.reverse != back
        self.steps = range(plan.steps)[:: -1 if self.descending else 1]
        self.first = LANES - 1 if self.descending else 0

    def later(self, x: Array, by: int) -> Array:
        """x `by` runs later, in a circle."""
        return pltpu.roll(x, LANES - by if self.descending else by, 1)

    def start(self, own: "Channel", carried: Array) -> Array:
        """Zeros, but for the state that enters the column in its first run."""
        entry = onto_lane(jnp.zeros((self.plan.part, LANES)), self.first, column_of(carried, own.i))
        own.refs[f"{self.name}_entry"][own.slot, :] = entry
        return entry

    def stop(self, own: "Channel", state: Array) -> None:
        own.refs[self.name][own.slot, :] = state

    def entering(self, own: "Channel") -> tuple[Array, Array]:
        """The states that enter the runs, and the last one (states, 1), after `through`."""
        after = self.later(own.refs[self.name][own.slot, :], 1)
        entry = own.refs[f"{self.name}_entry"][own.slot, :]
        last = after[:, self.first : self.first + 1]
        return jnp.where(lanes(len(after)) == self.first, entry, after), last

    def sum_steps(self, refs: Refs, sums: Array) -> None:
        """Of each channel and run: half of delta summed over 1, 2, 4, ... runs up to it."""
        sums = 0.5 * sums
        for k in range(ROUNDS):
            refs[f"{self.name}_sums"][pl.ds(k * self.plan.batch, len(sums)), :] = sums
            sums = sums + self.later(sums, 1 << k)

    def through(self, refs: Refs, first: Any, count: int) -> None:
        """Turn the states after each run on its own into those after all runs, for some channels.

        The decay over several runs comes from the sum of their steps: that is one row for all
        states, and its exponential costs less than to roll the product of decays as well. What
        comes from outside is left out whole: it may be inf or NaN.
        """
        part = self.plan.part
        slots = [pl.ds(pl.multiple_of((first + i) * part, 8), part) for i in range(count)]
        states = [refs[self.name][slot, :] for slot in slots]
        age = lanes(part)
        age = LANES - 1 - age if self.descending else age
        for k in range(ROUNDS):
            inside = age >= 1 << k
            for i, slot in enumerate(slots):
                sums = refs[f"{self.name}_sums"][pl.ds(k * self.plan.batch + first + i, 1), :]
                earlier = grown(refs["rates"][slot, :] * sums, self.later(states[i], 1 << k))
                states[i] = states[i] + jnp.where(inside, earlier, 0.0)
        for slot, state in zip(slots, states, strict=True):
            refs[self.name][slot, :] = state


class Channel:
    """One channel's rows of a column, a part of its states, and its place in a batch."""

    def __init__(self, plan: Plan, refs: Refs, i: Any, states: Any, place: Any):
        self.plan, self.refs, self.i, self.states = plan, refs, i, states
        self.slot = pl.ds(pl.multiple_of(place * plan.part, 8), plan.part)

    def row(self, name: str, j: int) -> Array:
        return self.refs[name][pl.ds(self.i * self.plan.steps + j, 1), :]

    def matrix(self, name: str, j: int) -> Array:
        """B or C at step j."""
        if name in self.refs:
            return self.refs[name][self.matrix_rows(j), :]
        return column_of(self.refs[f"constant_{name}"][self.states, :], self.i)

    def matrix_rows(self, j: int) -> Any:
        return pl.ds(j * self.plan.states + self.states.start, self.plan.part)

    def spread_rates(self) -> None:
        """A, the same in all lanes."""
        A = column_of(self.refs["A"][self.states, :], self.i)
        self.refs["rates"][self.slot, :] = jnp.broadcast_to(A, (self.plan.part, LANES))

    def rates(self) -> Array:
        return self.refs["rates"][self.slot, :]

    def decay(self, j: int) -> Array:
        return jnp.exp(self.rates() * self.row("step", j))

    def push(self, j: int) -> Array:
        return self.row("push", j) * self.matrix("B", j)

    def add(self, name: str, rows: list[Array]) -> None:
        """Sums over the states, for each step."""
        at = pl.ds(self.i * self.plan.steps, self.plan.steps)
        found = sum_states(rows)
        if self.plan.states > self.plan.part:
            found = jnp.where(self.states.start == 0, 0.0, self.refs[name][at, :]) + found
        self.refs[name][at, :] = found


Visit = Callable[[list[Channel]], None]


def for_batches(tokens: Column, chains: list[Chain], visits: list[Visit]) -> None:
    """Visit the channels of a column, two at a time, before and after `Chain.through`.

    One at a time takes 14 % longer, because operations wait for each other; four take as long as
    two.
    """
    plan, refs, inside = tokens.plan, tokens.refs, tokens.inside
    at_once = plan.at_once

    def part(index: Any, _: Any) -> None:
        loop(batches, lambda k, _: batch(k, pl.ds(index * plan.part, plan.part)))

    def batch(k: Any, states: Any) -> None:
        first = k * plan.batch
        count = jnp.minimum(plan.batch, inside - first)
        rows = [
            pl.ds(first * plan.steps + j, plan.batch, stride=plan.steps) for j in range(plan.steps)
        ]
        sums = add_up([refs["step"][x, :] for x in rows])
        for chain in chains:
            chain.sum_steps(refs, sums)

        def group(visit: Visit, g: Any) -> None:
            places = [2 * g, 2 * g + 1]
            visit([Channel(plan, refs, first + x, states, x) for x in places])

        def through(g: Any, _: Any) -> None:
            for chain in chains:
                chain.through(refs, g * at_once, at_once)

        before, after = visits
        loop(pl.cdiv(count, 2), lambda g, _: group(before, g))
        loop(pl.cdiv(count, at_once), through)
        loop(pl.cdiv(count, 2), lambda g, _: group(after, g))

    batches = 1 if plan.padded == plan.batch else pl.cdiv(inside, plan.batch)
    loop(cdiv(plan.states, plan.part), part)


def loop(count: Any, body: Any) -> None:
    if isinstance(count, int) and count == 1:
        body(0, None)
    else:
        lax.fori_loop(0, count, body, None)


def walk(plan: Plan, refs: Refs, visit: Callable[[Column], None]) -> None:
    """Visits the columns of a block in the kernel's order.

    Not those after the last token, which have no entry.
    """
    t, count, inside = pl.program_id(2), plan.columns, channels_inside(plan)
    block = plan.token_blocks - 1 - t if plan.descending else t
    if plan.entries % plan.columns:
        count = jnp.minimum(count, plan.entries - block * plan.columns)

    def column(k: Any, _: Any) -> None:
        visit(Column(plan, refs, block, count - 1 - k if plan.descending else k, inside))

    loop(count, column)


def steps_of(column: Column, part: Part) -> Array:
    """delta after bias and softplus; 0 outside, which leaves states alone."""
    delta = column.read("delta", part)
    if column.plan.scan.bias:
        delta = delta + column.vector("bias", part)
    if column.plan.scan.softplus:
        delta = jax.nn.softplus(delta)
    return column.masked(delta, part[0])


def clear(plan: Plan, refs: Refs) -> None:
    """Rows of channels that there are not are gone through as well, and must hold numbers."""
    if plan.padded > plan.channels:
        for name in plan.taken:
            refs[name][...] = jnp.zeros(refs[name].shape, jnp.float32)


def carry_on(refs: Refs, channels: list[Channel], last: list[Array]) -> None:
    """Keep the channels' last states for the next column."""
    states = channels[0].states
    carry = refs["carry"][states, :]
    for own, column in zip(channels, last, strict=True):
        carry = onto_lane(carry, own.i, column)
    refs["carry"][states, :] = carry


def forward_kernel(plan: Plan, refs: Refs) -> None:
    scan, chain = plan.scan, Chain(plan, "state", back=False)

    @pl.when(pl.program_id(2) == 0)
    def _() -> None:
        refs["carry"][...] = refs["h0"][...]
        clear(plan, refs)

    def alone(channels: list[Channel]) -> None:
        carried = refs["carry"][channels[0].states, :]
        for own in channels:
            own.spread_rates()
        h = [chain.start(own, carried) for own in channels]
        for j in chain.steps:
            h = [own.decay(j) * x + own.push(j) for own, x in zip(channels, h, strict=True)]
        for own, x in zip(channels, h, strict=True):
            chain.stop(own, x)

    def entered(channels: list[Channel]) -> None:
        found = [chain.entering(own) for own in channels]
        carry_on(refs, channels, [last for _, last in found])
        h = [x for x, _ in found]
        outputs = {}
        for j in chain.steps:
            h = [own.decay(j) * x + own.push(j) for own, x in zip(channels, h, strict=True)]
            outputs[j] = [x * own.matrix("C", j) for own, x in zip(channels, h, strict=True)]
        for k, own in enumerate(channels):
            own.add("output", [outputs[j][k] for j in range(plan.steps)])

    def prepared(tokens: Column, part: Part) -> tuple[Array, ...]:
        step = steps_of(tokens, part)
        return step, step * tokens.read("u", part)

    def finished(tokens: Column, part: Part, found: list[Array]) -> None:
        (y,) = found
        if scan.skip:
            y = y + tokens.vector("D", part) * tokens.read("u", part)
        if scan.gate:
            y = y * jax.nn.silu(tokens.read("z", part))
        tokens.write("y", part, y)

    def column(tokens: Column) -> None:
        refs["entries"][tokens.index] = refs["carry"][...]
        tokens.spread(lambda part: prepared(tokens, part))
        tokens.spread_projections()
        for_batches(tokens, [chain], [alone, entered])
        tokens.collect(lambda part, found: finished(tokens, part, found))

    walk(plan, refs, column)

    @pl.when(pl.program_id(2) == plan.token_blocks - 1)
    def _() -> None:
        refs["last"][...] = refs["carry"][...]
