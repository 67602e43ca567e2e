"""The TPU kernels: blocks and layouts of their own, and XLA's programs for TPUs.

Their other numbers are in test_scan_conformance.py. The interpreters take programs that cannot be
compiled; tests/compile_for_tpu.py compiles them.
"""

import os
import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import pytest
from jax import numpy as jnp
from jax.experimental.pallas import tpu as pltpu
from scan_implementations import QUICK, both, small_blocks
from scan_oracle import arguments, cotangents, errors, formed, results, wanted_of

from kernels.selective_scan.form import Options
from kernels.selective_scan.sizes import Scan
from kernels.selective_scan.tpu import launch as tpu
from kernels.selective_scan.tpu.plan import plan_of, vmem

ROOT = Path(__file__).parents[1]


def compare(given_, *, chunk=64, reverse=False, how: Any = True, small=True):
    """With a program of its own: those of test_scan_conformance.py are of other blocks."""
    dy, dlast = cotangents(given_)
    args, options = formed(given_), Options(True, reverse, chunk)
    run = jax.jit(partial(both, tpu), static_argnums=3, compiler_options=QUICK)
    with small_blocks(how) if small else tpu.interpreting(how):
        found = run(args, jnp.asarray(dy), jnp.asarray(dlast), options)
    far = errors(results(given_, args, *found), wanted_of(given_, dy, dlast, reverse=reverse))
    assert all(x < 1e-5 for x in far.values()), far


def test_numbers():
    """In blocks as on the chip."""
    compare(arguments(1134, "grouped", "grouped", batch=1), reverse=True, small=False)


@pytest.mark.parametrize(
    ("length", "forms", "options"),
    [
        (372, {"n": 64, "d": 2, "C": "constant"}, {"chunk": 128}),
        (300, {"C": "constant", "d": 128, "batch": 1}, {"reverse": True}),
    ],
)
def test_numbers_in_small_blocks(length, forms, options):
    compare(arguments(length, **forms), **options)


def test_what_is_beyond_the_arrays_does_not_matter():
    """Memory that was not written to holds NaN; blocks reach beyond the last token and channel."""
    given_ = arguments(590, "grouped", "constant", batch=1, d=6, groups=1)
    compare(given_, reverse=True, how=pltpu.InterpretParams(uninitialized_memory="nan"))


def test_chunks_too_long_for_what_is_kept():
    with pytest.raises(ValueError, match="chunks of 2048 tokens"):
        compare(arguments(2050, batch=1), chunk=2048, small=False)


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
