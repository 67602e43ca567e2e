"""What every implementation of the scan must do; scan_implementations.py has their list.

Each is called as the op calls it, with arguments in their one form, and compared with a loop in
float64. Errors are shares of the largest value.
"""

from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import numpy as jnp
from scan_implementations import ALL
from scan_oracle import (
    OPTIONAL,
    arguments,
    cotangents,
    draws,
    errors,
    far_from_definition,
    growing,
    wanted_of,
)

from kernels.selective_scan import choose, selective_scan

TOLERANCE = 1e-5  # in float32
ALONG = ("u", "delta", "B", "C", "z")  # what varies with the tokens
every = pytest.mark.parametrize("scan", [pytest.param(x, id=x.name, marks=x.marks) for x in ALL])


def close(found):
    far = {name: e for name, e in found.items() if not e < TOLERANCE}  # also NaN
    assert not far, far


def rounded(x, dtype):
    return np.asarray(jnp.asarray(x, dtype), np.float32)


def assert_exact(scan, given_, **options):
    dy, dlast = cotangents(given_)
    same = {k: options[k] for k in ("softplus", "reverse") if k in options}
    got = scan.run(given_, dy, dlast, **options)
    close(errors(got, wanted_of(given_, dy, dlast, **same)))


def test_the_list_is_whole():
    assert [x.name for x in ALL] == list(choose.NAMES)


CASES = {
    "one token": (lambda scan: 1, {"B": "grouped", "C": "grouped", "n": 1}, {}),
    "short of a border": (
        lambda scan: scan.border - 1,
        {"C": "constant", "n": 16, "d": 2, "batch": 1},
        {"reverse": True},
    ),
    "up to a border": (lambda scan: scan.border, {"B": "grouped", "C": "constant"}, {}),
    "past a border": (lambda scan: scan.border + 1, {"B": "constant"}, {"reverse": True}),
    "several in other chunks": (
        lambda scan: scan.several,
        {"B": "constant", "C": "constant", "d": 3, "batch": 1},
        {"chunk": 20},  # no multiple of a tile
    ),
    "several in reverse": (
        lambda scan: scan.several,
        {"B": "grouped", "C": "grouped", "d": 12, "batch": 1},  # a group is no whole block
        {"reverse": True},
    ),
}


@every
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case, scan):
    length, forms, options = CASES[case]
    assert_exact(scan, arguments(length(scan), **forms), **options)


@every
def test_any_shape_and_option(scan):
    @settings(deadline=None, max_examples=scan.examples)
    @given(drawn=draws(scan.lengths, **scan.sizes), chunk=st.sampled_from([16, 20, 64]))
    def holds(drawn, chunk):
        given_, options = drawn
        dy, dlast = cotangents(given_)
        got = scan.run(given_, dy, dlast, chunk=chunk, **options)
        close(far_from_definition(got, given_, dy, dlast, **options))

    holds()


@every
def test_nothing_optional(scan):
    given_ = {k: x for k, x in arguments(scan.usual).items() if k not in OPTIONAL}
    given_["delta"] = np.abs(given_["delta"])
    assert_exact(scan, given_, softplus=False)


@every
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_rounded_once(dtype, scan):
    """Each result is that of exact arithmetic on the rounded arguments, rounded."""
    given_ = arguments(scan.usual, "grouped", "grouped", batch=1, d=12)
    dy, dlast = cotangents(given_)
    given_ |= {name: rounded(given_[name], dtype) for name in ALONG}
    dy = rounded(dy, dtype)
    got = scan.run(given_, dy, dlast, dtype=jnp.dtype(dtype))
    halved = {"y", *(f"d{name}" for name in ALONG)}
    digit = float(jnp.finfo(dtype).eps)
    for name, wanted in wanted_of(given_, dy, dlast).items():
        rounding = scan.rounding * digit if name in halved else 0
        size = np.abs(wanted).max()
        np.testing.assert_allclose(
            np.float64(got[name]), wanted, rtol=rounding, atol=TOLERANCE * size, err_msg=name
        )


@pytest.mark.parametrize(
    ("scan", "reverse"),
    [
        pytest.param(x, reverse, id=f"{x.name}-{reverse}", marks=x.marks)
        for x in ALL
        for reverse in (False, True)
        if reverse or not x.slow  # gradients of the scan in reverse grow forwards
    ],
)
def test_states_that_grow(reverse, scan):
    """By exp(96) in a chunk."""
    given_, dy, dlast = growing(max(scan.usual, 150), reverse)
    options = {"softplus": False, "reverse": reverse}
    got = scan.run(given_, dy, dlast, chunk=64, **options)
    close(errors(got, wanted_of(given_, dy, dlast, **options)))


@every
@pytest.mark.parametrize("A", [0.0, 0.5])
def test_states_that_do_not_decay(A, scan):
    given_ = arguments(scan.usual)
    given_ |= {"A": np.full_like(given_["A"], A), "delta": given_["delta"] - 4}
    assert_exact(scan, given_)


@every
def test_small_steps_keep_their_digits(scan):
    """softplus(-10) = 4.5e-5, of which log(1 + exp(-10)) in float32 has three digits."""
    given_ = arguments(scan.usual)
    given_["delta"] = np.full_like(given_["delta"], -10)
    given_["delta_bias"] = np.zeros_like(given_["delta_bias"])
    assert_exact(scan, given_)


@every
def test_the_same_twice_bit_for_bit(scan):
    given_ = arguments(scan.usual)
    first, second = (scan.run(given_, *cotangents(given_)) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, second)


@every
def test_a_nan_spoils_later_tokens_only(scan):
    given_, at = arguments(scan.usual), scan.border - 6
    given_["u"][:, at] = np.nan
    y = scan.run(given_, *cotangents(given_))["y"]
    assert jnp.isfinite(y[:, :at]).all()
    assert jnp.isnan(y[:, at:]).all()


@every
def test_two_halves_with_the_state_handed_over_are_one_scan(scan):
    """And the gradient by that state handed back."""
    cut = scan.usual
    given_ = arguments(2 * cut)
    dy, dlast = cotangents(given_)
    early, late = (
        given_ | {name: given_[name][:, part] for name in ALONG}
        for part in (slice(cut), slice(cut, None))
    )
    handed = scan.run(early, dy[:, :cut], dlast)["last"]
    second = scan.run(late | {"h0": handed}, dy[:, cut:], dlast)
    first = scan.run(early, dy[:, :cut], second["dh0"])
    along = ("y", *(f"d{name}" for name in ALONG))
    got = {k: first[k] + second[k] for k in ("dA", "dD", "ddelta_bias")}
    got |= {k: jnp.concatenate([first[k], second[k]], axis=1) for k in along}
    got |= {"last": second["last"], "dh0": first["dh0"]}
    close(errors(got, wanted_of(given_, dy, dlast)))


@pytest.mark.parametrize("scan", [pytest.param(x, id=x.name) for x in ALL if x.double])
def test_float64(scan):
    given_ = {k: np.asarray(x, float) for k, x in arguments(150, "grouped", "constant").items()}
    dy, dlast = (np.asarray(x, float) for x in cotangents(given_))
    with jax.enable_x64(True):
        got = scan.run(given_, dy, dlast, dtype=jnp.float64)
    assert {x.dtype for x in got.values()} == {np.dtype(np.float64)}
    far = errors(got, wanted_of(given_, dy, dlast))
    assert all(x < 1e-14 for x in far.values()), far


@pytest.mark.parametrize("name", [x.name for x in ALL if not x.double])
def test_without_float64_it_is_refused(name, monkeypatch):
    monkeypatch.setattr(choose, "unavailable", lambda name: None)
    given_: dict[str, Any] = {k: np.asarray(x, float) for k, x in arguments(3).items()}
    with jax.enable_x64(True), pytest.raises(NotImplementedError, match="no float64; use float32"):
        selective_scan(**given_, implementation=name)
