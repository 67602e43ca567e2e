"""The scan's TPU kernel of the gradients; kernels.py says how it goes through a column."""

from typing import Any

import jax
from jax import Array
from jax import numpy as jnp
from jax.experimental import pallas as pl

from kernels.selective_scan.tpu.kernels import (
    Chain,
    Channel,
    Refs,
    carry_on,
    clear,
    for_batches,
    onto_lane,
    steps_of,
    walk,
)
from kernels.selective_scan.tpu.layout import Column, Part, add_up
from kernels.selective_scan.tpu.plan import LANES, Plan


def backward_kernel(plan: Plan, refs: Refs) -> None:
    state, adjoint = Chain(plan, "state", back=False), Chain(plan, "adjoint", back=True)
    constant = [name for name in ("B", "C") if name not in plan.varying]
    summed = [f"d{name}" for name in ("A", "D", "bias", *constant) if f"d{name}" in refs]

    @pl.when(pl.program_id(2) == 0)
    def _() -> None:
        refs["carry"][...] = refs["dlast"][...]
        clear(plan, refs)
        for name in summed:
            refs[name][...] = jnp.zeros(refs[name].shape, jnp.float32)

    def column(tokens: Column) -> None:
        tokens.spread(lambda part: prepared(tokens, part))
        tokens.spread_projections()
        for name in plan.varying:
            refs[f"by_{name}"][...] = jnp.zeros(refs[name].shape, jnp.float32)
        entry = refs["entries"].at[tokens.index]
        visits = [
            lambda channels: alone(plan, refs, entry, state, adjoint, channels),
            lambda channels: entered(plan, refs, state, adjoint, channels),
        ]
        for_batches(tokens, [state, adjoint], visits)
        tokens.collect(lambda part, found: finished(tokens, part, found))
        for name in plan.varying:
            tokens.collect_states(f"by_{name}", f"d{name}")

    walk(plan, refs, column)

    @pl.when(pl.program_id(2) == plan.token_blocks - 1)
    def _() -> None:
        refs["dh0"][...] = refs["carry"][...]


def prepared(tokens: Column, part: Part) -> tuple[Array, ...]:
    step, slope = steps_of(tokens, part), tokens.read("dy", part)
    if tokens.plan.scan.gate:
        slope = slope * jax.nn.silu(tokens.read("z", part))
    return step, step * tokens.read("u", part), slope


def alone(
    plan: Plan, refs: Refs, entry: Any, state: Chain, adjoint: Chain, channels: list[Channel]
) -> None:
    """Each run's own last state, and the gradient by the state that enters it."""
    states = channels[0].states
    for own in channels:
        own.spread_rates()
    decays = [[own.decay(j) for j in range(plan.steps)] for own in channels]
    h = [state.start(own, entry[states, :]) for own in channels]
    r = [adjoint.start(own, refs["carry"][states, :]) for own in channels]
    for j, back in zip(state.steps, adjoint.steps, strict=True):
        for k, own in enumerate(channels):
            h[k] = decays[k][j] * h[k] + own.push(j)
            r[k] = decays[k][back] * (r[k] + own.row("slope", back) * own.matrix("C", back))
    for k, own in enumerate(channels):
        state.stop(own, h[k])
        adjoint.stop(own, r[k])


def entered(plan: Plan, refs: Refs, state: Chain, adjoint: Chain, channels: list[Channel]) -> None:
    """Gradients, from the states that enter the runs and the gradients by those that leave."""
    h = [state.entering(own)[0] for own in channels]
    found = [adjoint.entering(own) for own in channels]
    carry_on(refs, channels, [last for _, last in found])
    r = [x for x, _ in found]
    zero = jnp.zeros((plan.part, LANES))
    totals = {name: [zero for _ in channels] for name in ("A", "B", "C")}
    decays, kept, outputs, pushes, decayed = (
        [[zero] * plan.steps for _ in channels] for _ in range(5)
    )
    for j in state.steps:
        for k, own in enumerate(channels):
            decays[k][j] = own.decay(j)
            kept[k][j] = decays[k][j] * h[k]
            h[k] = kept[k][j] + own.push(j)
            outputs[k][j] = h[k] * own.matrix("C", j)
        to_C = [h[k] * own.row("slope", j) for k, own in enumerate(channels)]
        add_step(refs, "C", j, channels, to_C, totals)
    for j in adjoint.steps:
        to_B = []
        for k, own in enumerate(channels):
            by_state = r[k] + own.row("slope", j) * own.matrix("C", j)
            r[k] = decays[k][j] * by_state
            by_exponent = by_state * kept[k][j]
            totals["A"][k] = totals["A"][k] + by_exponent * own.row("step", j)
            decayed[k][j] = by_exponent * own.rates()
            pushes[k][j] = by_state * own.matrix("B", j)
            to_B.append(by_state * own.row("push", j))
        add_step(refs, "B", j, channels, to_B, totals)
    for k, own in enumerate(channels):
        own.add("by_push", pushes[k])
        own.add("by_decay", decayed[k])
        if plan.scan.gate:
            own.add("output", outputs[k])
    for name, found in totals.items():
        if name not in plan.varying:
            add_total(refs[f"d{name}"], channels, found)


def add_step(
    refs: Refs, name: str, j: int, channels: list[Channel], found: list[Array], totals: dict
) -> None:
    """What the channels find for B or C at one step: summed over them, or each over the tokens."""
    if name not in channels[0].plan.varying:
        totals[name] = [x + y for x, y in zip(totals[name], found, strict=True)]
        return
    rows = channels[0].matrix_rows(j)
    refs[f"by_{name}"][rows, :] += add_up(found)


def add_total(ref: Any, channels: list[Channel], found: list[Array]) -> None:
    """Add sums over lanes to the channels' own lanes."""
    rows = channels[0].states
    total = ref[rows, :]
    for own, x in zip(channels, found, strict=True):
        total = onto_lane(total, own.i, total + jnp.sum(x, axis=1, keepdims=True))
    ref[rows, :] = total


def finished(tokens: Column, part: Part, found: list[Array]) -> None:
    scan = tokens.plan.scan
    by_push, by_decay = found[:2]
    u, dy = tokens.read("u", part), tokens.read("dy", part)
    slope = dy
    if scan.gate:
        z = tokens.read("z", part)
        sigma = jax.nn.sigmoid(z)
        slope = dy * z * sigma
        y = found[2]
        if scan.skip:
            y = y + tokens.vector("D", part) * u
        tokens.write("dz", part, dy * y * (sigma * (1.0 + z * (1.0 - sigma))))
    du = by_push * steps_of(tokens, part)
    if scan.skip:
        du = du + tokens.vector("D", part) * slope
        add_sums(tokens, "dD", part, slope * u)
    tokens.write("du", part, du)
    ddelta = by_push * u + by_decay
    if scan.softplus:
        delta = tokens.read("delta", part)
        ddelta = ddelta * jax.nn.sigmoid(
            delta + tokens.vector("bias", part) if scan.bias else delta
        )
    tokens.write("ddelta", part, ddelta)
    if scan.bias:
        add_sums(tokens, "dbias", part, tokens.masked(ddelta, part[0]))


def add_sums(tokens: Column, name: str, part: Part, x: Array) -> None:
    """Sums over tokens, but for the 8 rows or 128 lanes of a register."""
    ref = tokens.refs[name]
    if tokens.plan.by_token:
        ref[...] += add_up([x[i : i + 8] for i in range(0, len(x), 8)])
    else:
        ref[part[0], :] += add_up([x[:, i : i + LANES] for i in range(0, x.shape[1], LANES)])
