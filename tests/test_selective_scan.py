"""The op against a float64 loop: whatever runs in it, its casts, its memory.

What each implementation must do is in test_scan_conformance.py.
"""

from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import numpy as jnp
from scan_oracle import (
    arguments,
    cotangents,
    definition,
    draws,
    errors,
    far_from_definition,
    wanted_of,
)

from kernels.selective_scan import selective_scan

TOLERANCE = 1e-5  # of the largest value, float32


@partial(jax.jit, static_argnames=("softplus", "reverse", "implementation"))
def run(given_, dy, dlast, softplus=True, reverse=False, implementation=None):
    """y, the last state and the gradients of every argument."""

    def scan(given_):
        return selective_scan(
            **given_,
            delta_softplus=softplus,
            reverse=reverse,
            return_last_state=True,
            implementation=implementation,
        )

    (y, last), pull = jax.vjp(scan, given_)
    return {"y": y, "last": last} | {f"d{k}": x for k, x in pull((dy, dlast))[0].items()}


@settings(deadline=None)
@given(
    drawn=draws([1, 2, 63, 64, 65, 127, 130]),
    implementation=st.sampled_from([None, "reference", "sequential", "associative"]),
)
def test_any_shape_and_option(drawn, implementation):
    given_, options = drawn
    dy, dlast = cotangents(given_)
    got = run(given_, dy, dlast, **options, implementation=implementation)
    found = far_from_definition(got, given_, dy, dlast, **options)
    assert all(x < TOLERANCE for x in found.values()), found


@pytest.mark.parametrize("implementation", ["sequential", "associative"])
def test_a_long_sequence(implementation):
    given_ = arguments(4096, "grouped", "grouped", n=8)
    dy, dlast = cotangents(given_)
    got = run(given_, dy, dlast, implementation=implementation)
    found = errors(got, wanted_of(given_, dy, dlast))
    assert all(x < TOLERANCE for x in found.values()), found


@pytest.mark.parametrize("implementation", [None, "reference"])
def test_float64(implementation):
    given_ = {k: np.asarray(x, float) for k, x in arguments(70, "grouped", "constant").items()}
    dy, dlast = (np.asarray(x, float) for x in cotangents(given_))
    with jax.enable_x64(True):
        got = run(given_, dy, dlast, implementation=implementation)
    assert {x.dtype for x in got.values()} == {np.dtype(np.float64)}
    found = errors(got, wanted_of(given_, dy, dlast))
    assert all(x < 1e-14 for x in found.values()), found


def test_the_default_and_nothing_optional():
    given_ = {name: arguments(300)[name] for name in ("u", "delta", "A", "B", "C")}
    given_["delta"] = np.abs(given_["delta"])
    y = jax.jit(selective_scan)(**given_)
    assert isinstance(y, jax.Array)  # no last state
    np.testing.assert_allclose(y, definition(given_, softplus=False)[0], rtol=1e-4, atol=2e-5)


def test_half_precision_is_float32_inside():
    half = {name: jnp.asarray(x, jnp.bfloat16) for name, x in arguments(40).items()}
    full = jax.jit(partial(selective_scan, delta_softplus=True, return_last_state=True))
    y, last = full(**half)
    y32, last32 = full(**{name: x.astype(jnp.float32) for name, x in half.items()})
    assert (y.dtype, last.dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_allclose(y.astype(jnp.float32), y32, rtol=2**-8)  # one rounding
    np.testing.assert_allclose(last, last32, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("implementation", "forward", "backward"),
    [("sequential", 0.35, 0.5), ("associative", 0.4, 0.75), ("reference", 0.35, None)],
)
def test_no_state_per_token_in_memory(implementation, forward, backward):
    """Temporaries as a share of b*l*d*n floats: a few arrays of b*l*d, each of 1 / n = 0.06.

    The readable reference saves every state for its gradient, which shows that this would be seen.
    """
    length, d, n = 16384, 32, 16
    like = arguments(1, batch=1, d=d, n=n)
    shapes = {k: jax.ShapeDtypeStruct((1, length, *x.shape[2:]), x.dtype) for k, x in like.items()}
    for name in ("A", "D", "delta_bias", "h0"):
        shapes[name] = jax.ShapeDtypeStruct(like[name].shape, jnp.float32)

    def loss(given_):
        return jnp.sum(selective_scan(**given_, delta_softplus=True, implementation=implementation))

    def share(function):
        compiled = jax.jit(function).lower(shapes).compile()
        return compiled.memory_analysis().temp_size_in_bytes / (length * d * n * 4)

    assert share(loss) < forward
    assert share(jax.grad(loss)) < backward if backward else share(jax.grad(loss)) > 1
