"""python -m kernels.bench: what it compares is the same scan, and what it prints and writes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from kernels.bench import baselines
from kernels.bench.__main__ import main
from kernels.bench.measure import Settings, candidates
from kernels.bench.workloads import WORKLOADS, Workload, arguments
from kernels.selective_scan import selective_scan

SMALL = Workload(2, 512, 8, 4)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("baseline", ["whole", "checkpointed", "torch_loop"])
def test_baselines_are_the_same_scan(baseline, plain):
    given, softplus = jax.device_put(arguments(SMALL, plain)), not plain
    wanted = jax.jit(lambda given: selective_scan(**given, delta_softplus=softplus))(given)
    if baseline == "torch_loop":
        torch = pytest.importorskip("torch", reason="pip install torch to compare with its loop")
        given = {name: torch.tensor(np.asarray(x)) for name, x in given.items()}
    y = getattr(baselines, baseline)(**given, delta_softplus=softplus)
    np.testing.assert_allclose(np.asarray(y), wanted, rtol=1e-4, atol=1e-5)


def test_figures(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(WORKLOADS, "small", SMALL)
    path = tmp_path / "figures.json"
    methods = ("sequential", "checkpointed")
    main(Settings(workloads=("small",), methods=methods, rounds=1, json=path))
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    assert [(r["method"], r["what"]) for r in rows] == [
        (method, what) for method in methods for what in ("forward", "forward+backward")
    ]
    assert all(row["ms"] > 0 and row["temporaries"] > 0 for row in rows)
    printed = capsys.readouterr().out
    assert "small (b 2, l 512, d 8, n 4)" in printed
    assert all(f"\n{method} " in printed for method in methods)


def test_scans_that_would_not_fit_are_left_out():
    settings = Settings(methods=("whole",))
    assert candidates(WORKLOADS["long-512k"], settings) == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--workloads", "stage9"), "no workload ['stage9']; there are stage1"),
        (("--methods", "warp"), "no method ['warp']; there are reference"),
    ],
)
def test_unknown_names(flags, message):
    done = subprocess.run(
        [sys.executable, "-m", "kernels.bench", *flags],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 1
    assert message in done.stderr
