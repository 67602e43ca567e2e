"""The day with a GPU: what its command finds, and how it ends; and that day's test, `-m gpu`."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from kernels.device_check import __main__ as device_check
from kernels.device_check import exact, speed
from kernels.device_check.__main__ import Part

ROOT = Path(__file__).parents[1]
SMALL = exact.SUITE[0]


@pytest.mark.parametrize(
    "case",
    [SMALL, exact.SUITE[3], exact.Case(1, 20, 4, 3, dtype="bfloat16")],
    ids=["grouped", "reverse", "bfloat16"],
)
def test_the_scan_is_exact_here(case):
    error, wrong = exact.check(case, seed=0)
    assert not wrong
    assert error < exact.TOLERANCE + exact.ROUNDING[case.dtype]


def test_a_wrong_scan_is_found(monkeypatch):
    """Of the tested implementation alone: one gradient off by a thousandth, and not the same."""
    results, calls = exact.results, []

    def wrong(case, given, implementation):
        found = results(case, given, implementation)
        if implementation is None:
            calls.append(case)
            found["dA"] = found["dA"] * (1 + 1e-3 * len(calls))
        return found

    monkeypatch.setattr(exact, "results", wrong)
    _, found = exact.check(SMALL, seed=0)
    assert [x.split(":")[0] for x in found] == ["dA", "dA"]
    assert found[0] == "dA: not the same twice"


def test_what_is_drawn_fits():
    """As the op checks it."""
    cases = list(exact.drawn(200))
    assert len({case[:5] for case in cases}) > 100
    for case in cases:
        given = exact.arguments(case, 0)
        assert case.d % case.g == 0
        assert {"u", "delta", "A", "B", "C"} <= given.keys()
        assert not {*case.without} & given.keys()


def test_times_are_of_one_call():
    calls = []
    x = jax.numpy.ones(3)
    taken = speed.seconds(lambda: calls.append(None) or x, rounds=3)
    assert 0 < taken < speed.AT_LEAST
    assert len(calls) > 1000
    forward, both = speed.ideal(speed.WORKLOADS["stage4"])
    assert both > 2 * forward > 2 * 4 * 1024 * 64 * 4


def test_a_part_that_fails_leaves_the_others(monkeypatch, tmp_path, capsys):
    python = (sys.executable, "-c")
    monkeypatch.setattr(
        device_check,
        "parts",
        lambda dry: [
            Part("exact", (*python, 'print(\'{"implementation": "triton"}\')'), 1),
            Part("speed", (*python, "raise SystemExit('no such device')"), 1),
            Part("slow", (*python, "import time; time.sleep(60)"), 0.001),
        ],
    )
    monkeypatch.setattr(device_check, "default", lambda: "triton, the default on cuda")
    out = tmp_path / "found.json"
    assert device_check.main(["--json", str(out)]) == 1
    found = json.loads(out.read_text(encoding="utf-8"))
    assert [bool(x["failed"]) for x in found.values()] == [False, True, True]
    assert "no such device" in found["speed"]["failed"][0]
    assert "FAILED not done within 0 s" in capsys.readouterr().out


def test_without_a_device_it_says_so(monkeypatch, tmp_path, capsys):
    text = 'print(\'{"implementation": "sequential, the default on cpu"}\')'
    monkeypatch.setattr(
        device_check, "parts", lambda dry: [Part("exact", (sys.executable, "-c", text), 1)] * 2
    )
    out = str(tmp_path / "found.json")
    assert device_check.main(["--json", out]) == 1
    assert "default here is sequential, the default on cpu; --dry tries" in capsys.readouterr().out
    assert device_check.main(["--json", out, "--dry"]) == 0
    assert device_check.main(["--json", str(tmp_path / "no" / "x"), "--dry"]) == 1
    assert "cannot be written: No such file" in capsys.readouterr().out


def test_its_commands_are_real():
    """Each program of it knows its flags."""
    for part in device_check.parts(dry=True):
        at = part.command.index("-m")
        done = subprocess.run(
            [*part.command[at - 1 : at + 2], "--help"],
            cwd=ROOT,
            capture_output=True,
            encoding="utf-8",
        )
        flags = {x for x in part.command[at + 2 :] if x.startswith("--")}
        assert done.returncode == 0
        assert flags <= {*done.stdout.replace(",", " ").split()}, part.name


@pytest.mark.gpu
@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="needs an NVIDIA GPU")
def test_kernels_on_a_gpu():
    hidden = ("JAX_PLATFORMS", "XLA_FLAGS", "TRITON_INTERPRET")
    env = {k: v for k, v in os.environ.items() if k not in hidden}
    command = [sys.executable, "-m", "kernels.device_check.exact", "--drawn", "200"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["implementation"].startswith("triton")
    assert found["failed"] == []
    assert np.isfinite(list(found["largest error"].values())).all()
