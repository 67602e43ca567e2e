"""The TPU kernels: their numbers in Pallas' interpreters, and XLA's programs for TPUs.

The interpreters take programs that cannot be compiled; tests/compile_for_tpu.py compiles them.
"""

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from jax import numpy as jnp
from jax.experimental.pallas import tpu as pltpu
from scan_oracle import (
    OPTIONAL,
    arguments,
    cotangents,
    draws,
    errors,
    far_from_definition,
    formed,
    growing,
    results,
    wanted_of,
)

from kernels.selective_scan.form import Options
from kernels.selective_scan.sizes import Scan, cdiv
from kernels.selective_scan.tpu import arrays
from kernels.selective_scan.tpu import launch as tpu
from kernels.selective_scan.tpu.plan import plan_of, vmem

ROOT = Path(__file__).parents[1]
TOLERANCE = 1e-5  # of the largest value, float32
# The interpreter's programs are long: to optimise them takes minutes.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def run(given_, dy, dlast, *, dtype=jnp.float32, chunk=64, softplus=True, reverse=False, how=True):
    """y and the last state, and the gradients of `given_` (a dict as in scan_oracle)."""
    args, options = formed(given_, dtype), Options(softplus, reverse, chunk)

    @partial(jax.jit, compiler_options=QUICK)
    def both(args, dy, dlast):
        y, last, entries = tpu.forward(args, options)
        return y, last, tpu.backward(args, entries, dy, dlast, options)

    with tpu.interpreting(how):
        y, last, slopes = both(args, jnp.asarray(dy, dtype), jnp.asarray(dlast))
    return results(given_, args, y, last, slopes)


def compare(given_, **options):
    """The errors, as test_selective_scan.py measures them."""
    dy, dlast = cotangents(given_)
    if "dtype" in options:
        dy = np.float32(jnp.asarray(dy, options["dtype"]))
    same = {k: options[k] for k in ("softplus", "reverse") if k in options}
    got = run(given_, dy, dlast, **options)
    return far_from_definition(got, given_, dy, dlast, **same)


def assert_exact(given_, **options):
    far = {name: e for name, e in compare(given_, **options).items() if not e < TOLERANCE}
    assert not far, far


def small_plan(scan, backward, itemsize):
    """Columns of 256 tokens and blocks of 4 channels, so that a small scan has several of them."""
    whole = plan_of(scan, backward, itemsize)
    channels = whole.channels if whole.by_token else min(scan.p, 4)
    columns = 1 if whole.by_token else min(4, cdiv(scan.l, 256))
    return replace(whole, steps=2, channels=channels, columns=columns)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(arrays, "plan_of", small_plan)


@pytest.mark.parametrize(
    ("length", "forms", "options"),
    [
        (1134, {"B": "grouped", "C": "grouped", "batch": 1}, {"reverse": True}),
    ],
)
def test_numbers(length, forms, options):
    assert_exact(arguments(length, **forms), **options)


@pytest.mark.parametrize(
    ("length", "forms", "options"),
    [
        (127, {"B": "constant"}, {"reverse": True}),
        (784, {"B": "grouped", "C": "grouped", "d": 12}, {"reverse": True}),
        (372, {"n": 64, "d": 2, "C": "constant"}, {"chunk": 128}),
        (300, {"C": "constant", "d": 128, "batch": 1}, {"reverse": True}),
    ],
)
def test_numbers_in_small_blocks(length, forms, options, small):
    assert_exact(arguments(length, **forms), **options)


@pytest.mark.parametrize(("d", "reverse"), [(6, True)])
def test_what_is_beyond_the_arrays_does_not_matter(d, reverse, small):
    """Memory that was not written to holds NaN; blocks reach beyond the last token and channel."""
    how = pltpu.InterpretParams(uninitialized_memory="nan")
    given_ = arguments(590, "grouped" if d == 6 else "varying", "constant", d=d, groups=1)
    assert_exact(
        {k: x[:1] if x.ndim > 2 else x for k, x in given_.items()}, reverse=reverse, how=how
    )


@pytest.mark.parametrize("A", [0.0, 0.5])
def test_states_that_do_not_decay(A, small):
    given_ = arguments(300)
    assert_exact(given_ | {"A": np.full_like(given_["A"], A), "delta": given_["delta"] - 4})


def test_states_that_grow(small):
    """By exp(96) in a column."""
    given_, dy, dlast = growing(300, reverse=True)
    options = {"softplus": False, "reverse": True}
    found = errors(run(given_, dy, dlast, **options), wanted_of(given_, dy, dlast, **options))
    assert all(x < TOLERANCE for x in found.values()), found


def test_a_nan_spoils_later_tokens_only(small):
    given_ = arguments(300)
    given_["u"][:, 250] = np.nan
    with tpu.interpreting():
        forward = jax.jit(partial(tpu.forward, options=Options(True, False, 64)))
        y, *_ = forward(formed(given_))
    assert jnp.isfinite(y[:, :250]).all()
    assert jnp.isnan(y[:, 250:]).all()


def test_nothing_optional(small):
    given_ = {k: x for k, x in arguments(300).items() if k not in OPTIONAL}
    given_["delta"] = np.abs(given_["delta"])
    assert_exact(given_, softplus=False)


def test_small_steps_keep_their_digits(small):
    """softplus(-10) = 4.5e-5, of which log(1 + exp(-10)) in float32 has three digits."""
    given_ = arguments(8, batch=1)
    given_["delta"] = np.full_like(given_["delta"], -10)
    given_["delta_bias"] = np.zeros_like(given_["delta_bias"])
    assert_exact(given_)


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 2**-8), ("float16", 2**-11)])
def test_half_precision_is_float32_inside(dtype, tolerance, small):
    """One rounding of each result."""
    given_ = arguments(300, batch=1, d=6)
    halved = ("u", "delta", "B", "C", "z")
    given_ |= {k: np.float32(jnp.asarray(given_[k], dtype)) for k in halved}
    found = compare(given_, dtype=jnp.dtype(dtype))
    assert all(x < tolerance for x in found.values()), found
    assert all(found[k] < 1e-5 for k in ("last", "dA", "dD", "ddelta_bias", "dh0")), found


MOST = settings().max_examples
WIDE = {"per_group": [1, 2, 5, 9], "n": [1, 3, 16, 17]}


@settings(deadline=None, max_examples=MOST if MOST > 8 else 2)  # slow to compile
@given(drawn=draws([1, 2, 127, 128, 255, 257, 600, 1100], **WIDE))
def test_any_shape_and_option(drawn):
    given_, options = drawn
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "plan_of", small_plan)
        assert_exact(given_, **options)


def test_the_same_bit_for_bit(small):
    given_ = arguments(600, "grouped", "grouped")
    first, second = (run(given_, *cotangents(given_)) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_chunks_too_long_for_what_is_kept():
    with pytest.raises(ValueError, match="chunks of 2048 tokens"):
        run(arguments(2050, batch=1), *cotangents(arguments(2050, batch=1)), chunk=2048)


def scan_of(b, l, d, n, g=1):  # noqa: E741
    flags = {k: True for k in ("bias", "softplus", "skip", "gate", "B_varies", "C_varies")}
    return Scan(b=b, l=l, d=d, n=n, g=g, chunk=128, reverse=False, **flags)


@pytest.mark.parametrize("n", [1, 3, 16, 32, 64, 128, 256])
@pytest.mark.parametrize(("d", "g"), [(1, 1), (6, 6), (16, 1), (100, 1), (1536, 1), (1536, 2)])
@pytest.mark.parametrize("backward", [False, True])
def test_blocks_fit_on_the_chip_and_cover_everything(n, d, g, backward):
    scan = scan_of(1, 10000, d, n, g)
    plan = plan_of(scan, backward, itemsize=4)
    assert vmem(plan, itemsize=4) < 14 * 2**20  # of 16
    assert plan.states >= n
    assert plan.blocks * plan.channels >= scan.p
    assert plan.padded >= plan.channels
    assert plan.token_blocks * plan.tokens >= scan.l
    assert plan.channels == scan.p or plan.channels % 32 == 0  # as blocks of bfloat16 must be
    assert plan.entries <= scan.chunks


@pytest.mark.skipif(find_spec("libtpu") is None, reason="needs libtpu: pip install 'jax[tpu]'")
@pytest.mark.parametrize("target", ["v5e", "v5p", "v6e"])
def test_programs_of_XLA(target):
    """Mosaic compiles the kernels, and nothing of the arguments' size is copied.

    XLA itself takes 0.3 MB for the smallest of programs. On v5e and v6e it keeps temporary arrays
    on the chip, where they are not counted. One at a time: libtpu allows one process.
    """
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "tests/compile_for_tpu.py", target]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr[-4000:]
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(target)]
    assert len(rows) == 14
    for _, *case, arguments_, outputs, temporary in rows:
        whole = float(arguments_) + float(outputs)
        assert whole + float(temporary) - 0.5 <= 1.5 * whole, case
