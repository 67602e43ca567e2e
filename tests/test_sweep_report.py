"""What the runs of a sweep teach: `python -m mstg_jax.sweep report`."""

import csv
import json
import math
from pathlib import Path

import pytest
from PIL import Image

from mstg_jax.evaluation.scoring.measures import DICE, PSNR
from mstg_jax.sweep.report import text, write
from mstg_jax.sweep.scores import METRICS, RunScores
from mstg_jax.sweep.table import Row, differences, effects, rows, shown

PATIENTS = ("patient001", "patient002", "patient003")


def scores(psnr: float, *, dice: float = 0.8) -> RunScores:
    """Patients 1 dB apart, the middle one at `psnr`."""
    values = {m.key: 0.01 for m in METRICS} | {DICE.key: dice}
    patients = {
        name: values | {PSNR.key: float(psnr + i - 1), DICE.key: dice}
        for i, name in enumerate(PATIENTS)
    }
    return RunScores(100, 12345, 0.5, 1.5, patients)


def grid() -> list[Row]:
    """Of two settings, whose effects add, and two seeds 0.2 dB apart."""
    found = {}
    for mixer, gain in (("mamba", 0.0), ("none", -1.0)):
        for gate, more in (("true", 0.0), ("false", -0.5)):
            for seed in (0, 1):
                settings = {"model.mixer": mixer, "model.gate": gate, "train.seed": str(seed)}
                name = f"mixer={mixer},gate={gate},seed={seed}"
                found[name] = settings, scores(30 + gain + more + 0.2 * seed)
    return rows(found)


def test_seeds_of_a_cell_are_one_row():
    table = grid()
    assert [row.name for row in table] == [
        "mixer=mamba,gate=true", "mixer=mamba,gate=false",
        "mixer=none,gate=true", "mixer=none,gate=false",
    ]  # fmt: skip
    assert [len(row.runs) for row in table] == [2] * 4
    assert table[0].of_seeds(PSNR) == pytest.approx([30, 30.2])
    assert table[0].of_patients(PSNR, PATIENTS) == pytest.approx([29.1, 30.1, 31.1])
    header, first, second, *_ = shown(table)
    assert header[:3] == ["Cell", "Seeds", "PSNR (dB) ↑"]
    assert first[1:3] == ["2", "30.10 ± 0.14"]
    assert first[7:9] == ["", ""]
    assert second[7] == "-0.50"
    assert first[-3:] == ["12,345", "0.50", "1.5"]


def test_seeds_alone_are_one_base():
    (row,) = rows({f"base,seed={i}": ({"train.seed": str(i)}, scores(30 + i)) for i in (0, 1)})
    assert (row.name, len(row.runs)) == ("base", 2)
    (row,) = rows({f"seed={i}": ({"train.seed": str(i)}, scores(30 + i)) for i in (0, 1)})
    assert (row.name, len(row.runs)) == ("base", 2)


def test_runs_of_no_sweep_keep_their_names():
    table = rows({"a,seed=1": ({}, scores(30)), "b": ({}, scores(31))})
    assert [row.name for row in table] == ["a,seed=1", "b"]
    assert shown(table)[1][2] == "30.00"


def test_rows_are_tested_against_the_first_over_patients():
    (test,) = (t for t in differences(grid())[:1] if t.metric == PSNR.key)
    assert (test.second, test.patients) == ("mixer=mamba,gate=false", 3)
    assert test.difference == pytest.approx(0.5)
    assert test.p == pytest.approx(0.25)
    assert differences(grid()[:1]) == []


def test_a_patient_that_one_run_lacks_is_left_out_of_the_test():
    one, other = scores(30), scores(29)
    del other.patients["patient001"]
    table = rows({"a": ({}, one), "b": ({}, other)})
    assert {t.patients for t in differences(table)} == {2}


def test_main_effects_of_a_whole_grid():
    found = {(e.setting, e.value): e.difference for e in effects(grid()) if e.metric is PSNR}
    assert found == {
        ("model.mixer", "mamba"): pytest.approx(0.5),
        ("model.mixer", "none"): pytest.approx(-0.5),
        ("model.gate", "true"): pytest.approx(0.25),
        ("model.gate", "false"): pytest.approx(-0.25),
    }
    assert effects(grid()[:3]) == []  # a cell is missing
    assert effects(grid()[:2]) == []  # one setting alone


@pytest.mark.parametrize("count", [2, 30])
def test_results_on_disk(tmp_path: Path, count: int):
    found = {
        f"d_state={i}": ({"model.d_state": str(i)}, scores(30 - i / 10, dice=math.nan))
        for i in range(1, count + 1)
    }
    table = rows(found)
    words = text(table, {"d_state=99": "SIGKILL"}, ["d_state=98"])
    write(tmp_path, table, words)
    assert "Failed: d_state=99: SIGKILL." in words
    assert "Not finished, and left out: d_state=98." in words
    assert "Main effects" not in words
    assert (tmp_path / "sweep.md").read_text(encoding="utf-8") == words
    with (tmp_path / "sweep.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 3 * count
    assert float(lines[1][PSNR.key]) == pytest.approx(29.9)
    assert lines[0][DICE.key] == ""
    record = json.loads((tmp_path / "sweep.json").read_text(encoding="utf-8"))
    assert record["cells"][1]["settings"] == {"model.d_state": "2"}
    assert record["cells"][0]["means"][DICE.key] == [None]
    assert len(record["tests"]) == (count - 1) * len(METRICS)
    with Image.open(tmp_path / "sweep.png") as picture:
        assert picture.size[0] > 1000
