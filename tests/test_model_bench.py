"""python -m mstg_jax.bench: it measures what it says, beside PyTorch, and says why it cannot."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from mstg_jax.bench import worker
from mstg_jax.bench.request import QUANTITIES, Request
from mstg_jax.bench.worker import forget_peak, peak
from mstg_jax.bench.workloads import prepared

ROOT = Path(__file__).parents[1]
SIZE = (4, 8, 8)


def bench(*flags, **env):
    return subprocess.run(
        [sys.executable, "-m", "mstg_jax.bench", *flags],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | env,
        capture_output=True,
        encoding="utf-8",
    )


@pytest.mark.skipif(find_spec("torch") is None, reason="needs PyTorch: pip install torch")
def test_table_and_figures(tmp_path):
    path = tmp_path / "figures.json"
    chosen = ("deformation forward", "sequence of 10 frames")
    done = bench(
        "--vs", "torch", "--presets", "ddm-tiny", "--rounds", "2", "--size", "16", "16", "16",
        "--quantities", *chosen, "--json", str(path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    title, _, *lines = done.stdout.splitlines()
    assert title == "| 1 x 16 x 16 x 16 | PyTorch, DDM | ddm-tiny |"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    assert [(r["quantity"], r["who"]) for r in rows] == [
        (quantity, who) for quantity in chosen for who in ("torch", "ddm-tiny")
    ]
    for line, torch, ours in zip(lines, rows[::2], rows[1::2], strict=True):
        assert len(torch["seconds_all"]) == len(ours["seconds_all"]) == 2
        assert f"({ours['seconds'] / torch['seconds']:.2f})" in line
        assert min(torch["peak"], ours["peak"]) > 100  # a process with its libraries


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_every_quantity_runs(quantity, monkeypatch):
    monkeypatch.setattr("mstg_jax.bench.workloads.prepare", lambda *configs: None)  # as conftest.py
    run = prepared(Request("jax", "ddm-tiny", quantity, SIZE, "bf16"))
    run()
    run()  # the training step's state was donated and is a new one


def test_peak_is_of_what_comes_after():
    before = bytearray(b"x") * (256 << 20)
    del before
    forget_peak()
    start = peak("jax")
    held = bytearray(b"x") * (64 << 20)
    assert 60 < peak("jax") - start < 100
    del held


def test_without_a_checkout(monkeypatch, tmp_path):
    monkeypatch.setattr(worker, "TESTS", tmp_path)
    with pytest.raises(FileNotFoundError, match="runs from a checkout"):
        worker.prepare(Request("torch", "ddm", "training step", SIZE))


def test_errors_are_said(tmp_path):
    done = bench("--presets", "ddm", "huge")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no preset ['huge']; there are demo, acdc-small" in done.stderr
    done = bench("--size", "30", "128", "128")
    assert (done.returncode, done.stdout) == (1, "")
    assert "they must be multiples of (16, 16, 16)" in done.stderr
    done = bench("--size", "0", "128", "128")
    assert (done.returncode, done.stdout) == (1, "")
    assert "ddm: data.size is (0, 128, 128), but it must be greater than 0" in done.stderr
    (tmp_path / "torch.py").write_text("raise ImportError('no PyTorch here')", encoding="utf-8")
    done = bench(
        "--vs", "torch", "--quantities", "denoiser forward", PYTHONPATH=f"{tmp_path}:{ROOT}"
    )
    assert done.returncode == 1
    assert "torch: no PyTorch here" in done.stderr
    assert "Traceback" not in done.stderr
