"""The scan with its tokens split over devices: the same results, and little is exchanged."""

import math
import re

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from jax.sharding import AxisType, PartitionSpec
from scan_oracle import arguments, errors, growing, wanted_of

from kernels.selective_scan import selective_scan

TOKENS = {"u", "delta", "z", "B", "C"}
COLLECTIVE = r"= (.*?) (all-\w+|reduce-scatter|collective-\w+)(?:-start)?\("


def loss(y, last):
    return jnp.sum(jnp.sin(y)) + jnp.sum(jnp.cos(last))


def sharded(given, devices, reverse=False, check_vma=True, softplus=True):
    """A scan over `devices` blocks of tokens, as a function of the arguments."""
    mesh = jax.make_mesh((devices,), ("seq",), axis_types=(AxisType.Auto,))
    along = PartitionSpec(None, "seq")
    specs = {
        name: along if name in TOKENS and x.ndim > 2 else PartitionSpec()
        for name, x in given.items()
    }

    def scan(given):
        return selective_scan(
            **given,
            delta_softplus=softplus,
            reverse=reverse,
            return_last_state=True,
            axis_name="seq",
        )

    return jax.shard_map(
        scan, mesh=mesh, in_specs=(specs,), out_specs=(along, PartitionSpec()), check_vma=check_vma
    )


def split(given, devices, reverse, check_vma=True):
    """The loss of `sharded`."""
    scan = sharded(given, devices, reverse, check_vma)
    return lambda given: loss(*scan(given))


def whole(reverse):
    return lambda given: loss(
        *selective_scan(**given, delta_softplus=True, reverse=reverse, return_last_state=True)
    )


@pytest.mark.parametrize(
    ("devices", "reverse", "check_vma", "forms"),
    [
        (1, False, True, ("varying", "constant")),
        (4, True, True, ("varying", "constant")),
        (4, False, True, ("grouped", "grouped")),
        (4, True, False, ("grouped", "grouped")),
    ],
)
def test_the_same_values_and_gradients(devices, reverse, check_vma, forms):
    given = jax.tree.map(jnp.asarray, arguments(4 * 70, *forms))
    got = jax.jit(jax.value_and_grad(split(given, devices, reverse, check_vma)))(given)
    wanted = jax.jit(jax.value_and_grad(whole(reverse)))(given)
    np.testing.assert_allclose(got[0], wanted[0], rtol=1e-5)
    for name, slope in wanted[1].items():
        far = float(jnp.max(jnp.abs(got[1][name] - slope)) / jnp.max(jnp.abs(slope)))
        assert far < 1e-5, (name, far)


@pytest.mark.parametrize("reverse", [False, True])
def test_states_that_grow(reverse):
    """By exp(96) on one device, which takes nothing to NaN."""
    given, dy, dlast = growing(256, reverse)

    @jax.jit
    def run(given, cotangents):
        out, pull = jax.vjp(sharded(given, 4, reverse, softplus=False), given)
        return out, pull(cotangents)[0]

    (y, last), slopes = run(given, (dy, dlast))
    got = {"y": y, "last": last} | {f"d{name}": x for name, x in slopes.items()}
    far = errors(got, wanted_of(given, dy, dlast, softplus=False, reverse=reverse))
    assert all(x < 1e-5 for x in far.values()), far


def test_only_carries_are_exchanged():
    """In a forward and a backward pass, nothing with an axis of tokens."""
    given = jax.tree.map(jnp.asarray, arguments(4 * 512, "varying", "varying"))
    (batch, _, d), n = given["u"].shape, given["A"].shape[1]
    program = jax.jit(jax.value_and_grad(split(given, 4, False))).lower(given).compile().as_text()
    sizes = [
        math.prod(map(int, shape.split(",")))
        for result, _ in re.findall(COLLECTIVE, program)
        for shape in re.findall(r"\[([\d,]+)\]", result)
    ]
    assert sizes
    assert max(sizes) <= 4 * 2 * batch * d * n < given["u"].size
