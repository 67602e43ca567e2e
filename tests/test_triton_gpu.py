"""The Triton kernels: their tiles, their machine code, and XLA's programs.

Their other numbers are in test_scan_conformance.py. conftest.py chooses the interpreter; programs
that are started here must not see that choice, and compile.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from scan_implementations import ALL
from scan_oracle import arguments, cotangents, errors, wanted_of

from kernels.selective_scan.form import Options
from kernels.selective_scan.gpu.plan import Plan, Tile, carry_tile, gpu_tiles
from kernels.selective_scan.sizes import Scan

if find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)
import triton
import triton_interpreter
from triton import language as tl

from kernels.bench import traffic
from kernels.selective_scan.gpu import launch as gpu
from kernels.selective_scan.gpu.tiles import compose


@triton.jit
def scans(a, b, forth, back):
    at = tl.arange(0, 4)[:, None] * 2 + tl.arange(0, 2)[None, :]
    x, y = tl.load(a + at), tl.load(b + at)
    _, h = tl.associative_scan((x, y), 0, compose)
    tl.store(forth + at, h)
    _, h = tl.associative_scan((x, y), 0, compose, reverse=True)
    tl.store(back + at, h + tl.flip(x, 0))


ROOT = Path(__file__).parents[1]
TRITON = next(x for x in ALL if x.name == "triton")


def test_channels_in_blocks_and_programs_and_the_same_twice(monkeypatch):
    """5 channels, 2 at a time, in 2 programs: the last one is half empty."""

    def tiles(kernel, scan):
        return Tile(T=8, D=2, R=2, J=2, warps=1, splits=2 if kernel == "gradients" else 1)

    monkeypatch.setattr(gpu, "gpu_tiles", tiles)
    given_ = arguments(19, d=5, batch=1)
    dy, dlast = cotangents(given_)
    first, again = (TRITON.run(given_, dy, dlast) for _ in range(2))
    found = errors(first, wanted_of(given_, dy, dlast))
    assert all(x < 1e-5 for x in found.values()), found  # not max: it may pass NaN over
    for name, x in first.items():
        np.testing.assert_array_equal(x, again[name])


def test_scans_of_slices_are_the_interpreters_own(monkeypatch):
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal((4, 2)).astype(np.float32) for _ in range(2)]

    def results():
        outputs = [np.zeros((4, 2), np.float32) for _ in range(2)]
        scans[(1,)](*map(triton_interpreter.Memory, (*inputs, *outputs)))
        return outputs

    wanted = results()
    triton_interpreter.install(monkeypatch)
    np.testing.assert_array_equal(results(), wanted)


def scan_of(b, l, d, n, g=1):  # noqa: E741
    flags = {k: True for k in ("bias", "softplus", "skip", "gate", "B_varies", "C_varies")}
    return Scan(b=b, l=l, d=d, n=n, g=g, chunk=128, reverse=False, **flags)


@pytest.mark.parametrize("n", [1, 3, 16, 64, 256])
@pytest.mark.parametrize(("d", "g"), [(1, 1), (6, 6), (48, 1), (1536, 2)])
def test_tiles_cover_all_states_and_channels(n, d, g):
    scan = scan_of(1, 1000, d, n, g)
    for kernel in ("chunk_states", "outputs", "gradients"):
        tile = gpu_tiles(kernel, scan)
        plan = Plan(scan, tile)
        assert n <= tile.R * tile.J
        assert plan.per_split * tile.splits * tile.D >= scan.p
        assert tile.warps == max(1, tile.D * tile.J // 32) <= 8
    assert scan.chunks <= carry_tile(scan).T


def traffic_of(b, l, d, chunk):  # noqa: E741
    return traffic.predict(traffic.shapes(b, l, d, 16), Options(True, False, chunk))


@pytest.mark.parametrize("b", [1, 8])
@pytest.mark.parametrize(
    ("length", "d"), [(524288, 16), (65536, 32), (8192, 64), (1024, 64), (2048, 1536)]
)
def test_memory_traffic(b, length, d):
    """Chunks of 64 tokens pass twice as many states on as those of 128."""
    for chunk, most in ((128, 1.7), (64, 1.8)):
        forward, backward = traffic_of(b, length, d, chunk)
        assert 1 < forward.ratio < most
        assert 1 < backward.ratio < 2


def test_why_it_is_unavailable(monkeypatch):
    def installed(**versions):
        def version(name):
            if name not in versions:
                raise gpu.PackageNotFoundError(name)
            return versions[name]

        monkeypatch.setattr(gpu, "version", version)
        gpu.unavailable.cache_clear()
        return gpu.unavailable()

    assert "not installed; pip install" in installed(jax="0.10.2")
    broken = installed(**{"jax": "0.12.0.1", "jax-triton": "0.4.1"})
    assert "jax 0.10.2 with jax-triton 0.3.1" in broken
    monkeypatch.setitem(sys.modules, "jax_triton", None)
    failing = installed(**{"jax": "0.10.2", "jax-triton": "0.3.1"})
    assert "cannot be imported" in failing
    gpu.unavailable.cache_clear()


def program(*arguments):
    """What it prints. jax_triton, once imported, clears the place of triton's cache."""
    hidden = ("TRITON_CACHE_DIR", "TRITON_INTERPRET")
    env = {k: v for k, v in os.environ.items() if k not in hidden}
    env |= {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize(("capability", "dtype"), [(80, "bfloat16"), (90, "float32")])
def test_machine_code(capability, dtype):
    """`python -m kernels.bench --static` has all of it."""
    code = (
        "import json; from kernels.bench import static; "
        f"rows = static.resources(static.WORKLOADS['stage3'], {dtype!r}, {capability}); "
        "print(json.dumps([x._asdict() for x in rows]))"
    )
    rows = {x["kernel"]: x for x in json.loads(program("-c", code))}
    assert rows.keys() == {"chunk_states", "chunk_adjoints", "carry", "outputs", "gradients"}
    for name, x in rows.items():
        assert (x["spills"], x["local"]) == (0, 0), x
        assert x["occupancy"] >= (8 if name == "gradients" else 16), x
    for name in ("chunk_states", "chunk_adjoints"):
        assert rows[name]["shuffles"] == 0, rows[name]  # the scan is within a thread


compiles = pytest.mark.skipif(
    not all(find_spec(name) for name in ("jax_triton", "jax_cuda12_plugin")),
    reason="needs jax-triton and the CUDA plugin: pip install 'jax[cuda12]' jax-triton",
)


@compiles
def test_programs_of_XLA():
    """Value and gradients of a jitted function, for A100 and H100; PTX that XLA's ptxas accepts."""
    lines = program("tests/compile_for_gpu.py", "80", "90").splitlines()
    kernels = ("carry", "carry", "chunk_adjoints", "chunk_states", "gradients", "outputs")
    for target in ("sm_80", "sm_90a"):
        for dtype in ("float32", "bfloat16"):
            found = [x.split()[1] for x in lines if x.startswith(dtype) and target in x.split()]
            assert sorted(found) == sorted(kernels)
