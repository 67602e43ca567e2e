"""The scan against a float64 loop: values, gradients, memory, and error messages."""

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
    gradients,
    growing,
    least_sizes,
    wanted_of,
)

from kernels.selective_scan import selective_scan

full = jax.jit(
    partial(selective_scan, delta_softplus=True, return_last_state=True),
    static_argnames="implementation",
)
IMPLEMENTATIONS = ("reference", "sequential", "associative")
TOLERANCE = 1e-5  # of the largest value, float32


@partial(jax.jit, static_argnames=("softplus", "reverse", "implementation"))
def run(given_, dy, dlast, softplus, reverse, implementation):
    """y, the last state and the gradients of every argument."""

    def scan(given_):
        return selective_scan(
            **given_,
            delta_softplus=softplus,
            reverse=reverse,
            return_last_state=True,
            implementation=implementation,
        )

    out, pull = jax.vjp(scan, given_)
    return out, pull((dy, dlast))[0]


def assert_exact(given_, implementation, *, softplus=True, reverse=False):
    dy, dlast = cotangents(given_)
    options = {"softplus": softplus, "reverse": reverse}
    out, slopes = run(given_, dy, dlast, **options, implementation=implementation)
    got = {"y": out[0], "last": out[1]} | {f"d{name}": x for name, x in slopes.items()}
    found = far_from_definition(got, given_, dy, dlast, **options)
    far = {name: e for name, e in found.items() if not e < TOLERANCE}
    assert not far, far


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("length", [1, 7, 63, 64, 65, 300])
def test_values_and_gradients(length, implementation):
    assert_exact(arguments(length), implementation)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("B", "C"),
    [("grouped", "grouped"), ("constant", "varying"), ("grouped", "constant")],
)
def test_forms_of_B_and_C(B, C, implementation):
    assert_exact(arguments(70, B, C), implementation)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_reverse(implementation):
    assert_exact(arguments(150, "grouped", "grouped"), implementation, reverse=True)


MAMBAS = {"batch": 2, "d": 4, "n": 8}  # sizes of mamba's own test; its lengths, and what it skips


@pytest.mark.parametrize("implementation", ["sequential", "associative"])
@pytest.mark.parametrize("length", [8, 256, 372, 784, 1134, 4096])
def test_mambas_lengths(length, implementation):
    assert_exact(arguments(length, "grouped", "grouped", **MAMBAS), implementation)


@pytest.mark.parametrize("implementation", ["sequential", "associative"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_rounded_once(dtype, implementation):
    """At a length that is not a multiple of anything: each result is that of exact arithmetic on
    the rounded arguments, rounded."""
    given_ = arguments(1134, "grouped", "grouped", **MAMBAS)
    dy, dlast = cotangents(given_)
    tokens = ("u", "delta", "B", "C", "z")
    half = given_ | {name: jnp.asarray(given_[name], dtype) for name in tokens}
    exact = {name: np.asarray(x, np.float64) for name, x in half.items()}
    dy = jnp.asarray(dy, dtype)
    (y, last), slopes = run(half, dy, dlast, True, False, implementation)
    wanted_y, wanted_last = definition(exact)
    wanted = {"last": wanted_last} | gradients(exact, np.float64(dy), dlast)
    least = least_sizes(exact, np.float64(dy), dlast)
    ulp = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(
        np.float64(y), wanted_y, rtol=ulp, atol=1e-5 * np.abs(wanted_y).max()
    )
    for name, x in ({"last": last} | slopes).items():
        assert x.dtype == (dtype if name in tokens else jnp.float32)
        size = max(np.abs(wanted[name]).max(), least.get(name, 0.0))
        rounding = ulp if name in tokens else 1e-5
        np.testing.assert_allclose(
            np.float64(x), wanted[name], rtol=rounding, atol=1e-5 * size, err_msg=name
        )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@settings(deadline=None)
@given(drawn=draws([1, 2, 63, 64, 65, 127, 130]))
def test_any_shape_and_option(implementation, drawn):
    given_, options = drawn
    assert_exact(given_, implementation, **options)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_float64(implementation):
    given_ = {name: np.float64(x) for name, x in arguments(150, "grouped", "constant").items()}
    dy, dlast = map(np.float64, cotangents(given_))
    with jax.enable_x64(True):
        (y, last), slopes = run(given_, dy, dlast, True, False, implementation)
    assert {x.dtype for x in (y, last, *slopes.values())} == {np.dtype(np.float64)}
    wanted = dict(zip(("y", "last"), definition(given_), strict=True))
    wanted |= gradients(given_, dy, dlast)
    assert max(errors({"y": y, "last": last} | slopes, wanted).values()) < 1e-14


@pytest.mark.parametrize(
    ("implementation", "reverse"),
    [*((name, False) for name in IMPLEMENTATIONS), ("associative", True)],
)
def test_states_that_grow(implementation, reverse):
    given_, dy, dlast = growing(200, reverse)
    options = {"softplus": False, "reverse": reverse}
    (y, last), slopes = run(given_, dy, dlast, **options, implementation=implementation)
    got = {"y": y, "last": last} | {f"d{name}": x for name, x in slopes.items()}
    far = errors(got, wanted_of(given_, dy, dlast, **options))
    assert all(x < TOLERANCE for x in far.values()), far


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_gradients_are_the_same_bit_for_bit(implementation):
    given_ = arguments(300, "grouped", "grouped")
    first, second = (
        run(
            given_, *cotangents(given_), softplus=True, reverse=False, implementation=implementation
        )
        for _ in range(2)
    )
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_the_default_and_nothing_optional():
    given_ = {name: arguments(300)[name] for name in ("u", "delta", "A", "B", "C")}
    given_["delta"] = np.abs(given_["delta"])
    y = jax.jit(selective_scan)(**given_)
    assert isinstance(y, jax.Array)  # no last state
    np.testing.assert_allclose(y, definition(given_, softplus=False)[0], rtol=1e-4, atol=2e-5)


def test_half_precision_is_float32_inside():
    half = {name: jnp.asarray(x, jnp.bfloat16) for name, x in arguments(40).items()}
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


@settings(max_examples=5, deadline=None)
@given(cut=st.integers(1, 263))
def test_two_halves_with_the_state_handed_over_are_one_scan(cut):
    given_ = arguments(264)
    along = ("u", "delta", "B", "C", "z")
    first = given_ | {name: given_[name][:, :cut] for name in along}
    second = given_ | {name: given_[name][:, cut:] for name in along}
    y1, state = full(**first)
    y2, last = full(**second | {"h0": state})
    for got, wanted in zip((jnp.concatenate([y1, y2], axis=1), last), full(**given_), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=2e-5)
