"""Cycles thinned out and made whole again."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from acdc_files import config_of, write
from PIL import Image

from mstg_jax.config import PRESETS, SettingsError
from mstg_jax.data.acdc import read_patient
from mstg_jax.data.pipeline import Example, load_examples
from mstg_jax.evaluation.__main__ import Settings, check
from mstg_jax.evaluation.comparing.comparison import Contender
from mstg_jax.evaluation.upsampling import LINEAR, SPLINE, summary, upsample
from mstg_jax.evaluation.upsampling import write as write_results
from mstg_jax.methods import make_method, new_model


@pytest.fixture
def found(tmp_path: Path) -> tuple[list[Example], Contender]:
    """Patients of 9 frames, and a linear blend as a method."""
    write(tmp_path / "acdc", 1, 2, 3, shape=(9, 3, 14, 13), ed=2, es=6)
    training, validation = load_examples(replace(config_of(tmp_path), depth="native"))
    method = make_method(replace(PRESETS["demo-tiny"][1], method="blend"))
    return training + validation, Contender("blend", method, new_model(method, seed=0))


def test_what_was_left_out_is_made_and_scored(found):
    examples, blend = found
    made = upsample([blend], examples, (2, 4))
    patient = read_patient(examples[0].folder)
    own = [f for f in made if (f.patient, f.factor) == (patient.id, 4)]
    assert sorted({f.frame for f in own}) == [1, 2, 3, 5, 6, 7]
    assert {f.method for f in own} == {LINEAR, SPLINE, "blend"}
    assert {f.frame: f.phase for f in own}[1] == 0  # ED
    unit = np.percentile(patient.frames[1], 99.9)
    middle = (patient.frames[0] + patient.frames[4]) / 2
    expected = -10 * np.log10(np.mean(((middle - patient.frames[2]) / unit) ** 2))
    for name in (LINEAR, "blend"):
        (frame,) = (f for f in own if (f.method, f.frame) == (name, 2))
        assert frame.psnr == pytest.approx(expected, abs=1e-3)


def test_results_on_disk(found, tmp_path: Path):
    examples, blend = found
    made = upsample([blend], examples, (3,))
    out = tmp_path / "out"
    out.mkdir()
    write_results(out, made)
    means = summary(made)
    shown = (out / "upsample.md").read_text(encoding="utf-8")
    assert f"| linear | {means[3, LINEAR].mean:.2f} [" in shown
    with (out / "upsample.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(made) == 3 * 6 * len(examples)
    record = json.loads((out / "upsample.json").read_text(encoding="utf-8"))["factor 3"]
    assert record[SPLINE]["mean"]["mean"] == pytest.approx(means[3, SPLINE].mean)
    assert len(record[LINEAR]["phases"]) == 10
    with Image.open(out / "upsample.png") as picture:
        assert picture.size[0] > 400


@pytest.mark.parametrize("factor", [(), (2, 1)])
def test_a_factor_that_leaves_nothing_out_is_refused(tmp_path: Path, factor):
    settings = Settings(runs=("a",), out=tmp_path, task="upsample", factor=factor)
    with pytest.raises(SettingsError, match=r"--factor is .*; each must be 2 or more"):
        check(settings)
