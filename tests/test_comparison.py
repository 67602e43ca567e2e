"""`python -m mstg_jax.evaluation` on the phantom: an untrained tiny run beside copy and blend."""

import base64
import csv
import errno
import json
import os
import re
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mstg_jax import runs
from mstg_jax.config import PRESETS, Config
from mstg_jax.data.pipeline import load_examples
from mstg_jax.evaluation.__main__ import Settings, load, main, read_configs, rows_of
from mstg_jax.evaluation.comparing.comparison import compare, over_gamma, summary, typical, worst
from mstg_jax.evaluation.records import results_record
from mstg_jax.evaluation.scoring.measures import FOLDING, PSNR
from mstg_jax.evaluation.scoring.scores import Frame, Quality, Roughness, Score
from mstg_jax.evaluation.showing.report import data_uri
from mstg_jax.methods import make_method
from mstg_jax.training.checkpoint import Checkpoints
from mstg_jax.training.state import init_state, make_optimiser

ROWS = ["tiny", "copy", "blend"]


def write_run(folder: Path, cache: Path, *, saved: bool = True, **data: Any) -> Path:
    config: Config = PRESETS["ddm-tiny"][1]
    config = replace(config, run=str(folder), data=replace(config.data, cache=str(cache), **data))
    runs.create(config)
    if saved:
        optimiser = make_optimiser(config.optim, config.train.steps)
        structure, state = init_state(make_method(config), optimiser, 0)
        with Checkpoints(folder, structure) as checkpoints:
            checkpoints.save(state, config)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("comparison")


@pytest.fixture(scope="module")
def run(cache: Path) -> Path:
    return write_run(cache / "tiny", cache)


@pytest.fixture(scope="module")
def out(run: Path, cache: Path) -> Path:
    folder = cache / "resampled"
    assert main(["--runs", str(run), "--out", str(folder)]) == 0
    return folder


def test_everything_is_written(out: Path):
    names = {path.name for path in out.iterdir()}
    assert names == {"results.csv", "results.json", "table.md", "report.html", "pictures"}


def test_results(out: Path):
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert results["protocol"] == "resampled"
    assert results["data"]["size"] == [16, 32, 32]
    assert list(results["methods"]) == ROWS
    tiny, copy, blend = results["methods"].values()
    assert (tiny["step"], copy["step"], copy["parameters"]) == (0, None, 0)
    assert tiny["parameters"] > 0
    assert tiny["summary"]["seconds"]["mean"] > 0
    psnr = blend["summary"]["between.psnr_fov"]
    assert psnr["patients"] == len(results["validation"]) == 2
    assert psnr["low"] <= psnr["mean"] <= psnr["high"]
    assert psnr["mean"] > copy["summary"]["between.psnr_fov"]["mean"]
    assert copy["summary"]["dice.mean"]["mean"] > 0
    assert copy["summary"]["lv_volume_error"]["mean"] > 0
    for metric in ("dice.mean", "folding", "ejection_fraction.error", "lv_volume_error"):
        assert blend["summary"][metric]["mean"] is None
    assert blend["summary"]["roughness.ratio"]["mean"] < 0.05
    assert len(results["tests"]) == 6
    assert -1 <= results["truth"]["likeness"]["mean"] <= results["truth"]["likeness"]["max"] <= 1


def test_the_keys_of_json(out: Path):
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    ids = ["training", "validation"]
    found = ["methods", "truth", "tests", "data"]
    assert list(results) == ["protocol", "seed", "likeness_threshold", *ids, *found]
    copy = results["methods"]["copy"]
    of_method = ["summary", "over_gamma", "likeness", "patients"]
    assert list(copy) == ["run", "step", "parameters", *of_method]
    tested = [f"between.{name}_fov" for name in ("psnr", "ssim", "nmse")]
    whole = [f"between.{name}" for name in ("psnr", "ssim", "nmse")]
    dice = [f"dice.{name}" for name in ("lv", "rv", "myo", "mean")]
    motion = ["ejection_fraction.error", "lv_volume_error", "folding", "roughness.ratio"]
    assert list(copy["summary"]) == [*tested, *whole, *dice, *motion, "seconds"]
    assert list(copy["summary"]["seconds"]) == ["mean", "low", "high", "patients"]
    assert list(copy["over_gamma"][0]) == ["gamma", *tested]
    likeness = ["mean", "max", "share", "frames", "closest"]
    assert list(copy["likeness"]) == list(results["truth"]["likeness"]) == likeness
    numbers = ["difference", "p", "p_holm"]
    assert list(results["tests"][0]) == ["metric", "first", "second", "patients", *numbers]
    ed, *between, es = copy["patients"][0]["per_frame"]
    assert not {"likeness"} & (ed.keys() | es.keys())
    assert all(list(f["likeness"]) == ["correlation", "patient", "frame"] for f in between)
    assert list(copy["patients"][0])[-1] == "seconds"


def test_one_row_per_patient_method_and_frame(out: Path):
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    with (out / "results.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    frames = sum(len(s["per_frame"]) for s in results["methods"]["copy"]["patients"])
    assert len(rows) == 3 * frames
    assert {row["method"] for row in rows} == set(ROWS)
    between = [row for row in rows if 0 < float(row["gamma"]) < 1]
    assert all(row["nearest_training_patient"].startswith("patient00") for row in between)
    assert all(row["folding"] == "" for row in rows if row["method"] == "blend")
    assert all(row["lv_volume_truth"] for row in rows if row["method"] == "copy")


def test_tables_have_every_method(out: Path):
    text = (out / "table.md").read_text(encoding="utf-8")
    for title in ("Image quality", "Anatomy and motion", "Cost", "Paired tests", "Memorisation"):
        assert f"## {title}" in text
    assert "Protocol: resampled." in text
    assert len(re.findall(r"^\| (tiny|copy|blend) ", text, re.M)) == 12
    assert re.search(r"^\| blend \| – \| – ", text, re.M)


def test_report_needs_no_other_file(out: Path):
    text = (out / "report.html").read_text(encoding="utf-8")
    sources = re.findall(r"""(?:src|href)=["']([^"']*)["']""", text)
    # The strip, slices of each method, two charts, and two worst patients of each method.
    assert len(sources) == 1 + 3 + 2 + 6
    for source in sources:
        head, _, content = source.partition(",")
        assert head == "data:image/png;base64"
        with Image.open(BytesIO(base64.b64decode(content))) as image:
            assert image.width > 300
    assert "<script" not in text
    assert len(text) < 15_000_000
    assert text.count("<table>") == 5


@pytest.mark.parametrize("name", ["truth", "blend"])
def test_a_run_does_not_take_the_name_of_another_row(name: str, cache: Path):
    folder = write_run(cache / "named" / name, cache)
    settings = Settings((str(folder),), cache)
    contenders = load(rows_of(read_configs(settings), settings), settings)
    assert [c.name for c in contenders] == [str(folder), "copy", "blend"]


def test_native_scores_the_same_sequences_on_other_grids(run: Path, out: Path):
    settings = Settings((str(run),), out, protocol="native")
    configs = read_configs(settings)
    training, validation = load_examples(configs[run].data)
    found = results_record(
        compare(load(rows_of(configs, settings), settings), training, validation, protocol="native")
    )
    assert found["protocol"] == "native"
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert found["truth"] == results["truth"]
    for name, method in found["methods"].items():
        assert method["likeness"] == results["methods"][name]["likeness"]
        summary = method["summary"]
        padded, inside = (summary[f"between.psnr{end}"]["mean"] for end in ("", "_fov"))
        # The phantom's 6 x 32 x 32 voxels are 1.2 % of the padded volume.
        assert padded - inside == pytest.approx(-10 * np.log10(6 / 32 / 16), abs=0.1)
    dice = found["methods"]["copy"]["summary"]["dice.mean"]["mean"]
    assert dice == pytest.approx(
        results["methods"]["copy"]["summary"]["dice.mean"]["mean"], abs=0.1
    )


def test_large_pictures_shrink(tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 256, (300, 1500), np.uint8)
    noise[:100] = 255
    Image.fromarray(noise).save(tmp_path / "large.png")
    content = base64.b64decode(data_uri(tmp_path / "large.png", 600).partition(",")[2])
    with Image.open(BytesIO(content)) as image:
        assert image.size == (600, 120)
        assert image.convert("RGB").getpixel((300, 10)) == (255, 255, 255)


def quality(psnr: float) -> Quality:
    return Quality(psnr=np.nan, ssim=np.nan, nmse=np.nan, psnr_fov=psnr, ssim_fov=0.5, nmse_fov=0.1)


def scores(*psnrs: float) -> list[Score]:
    """Patients with two frames between, at a third and two thirds, of PSNR p - 1 and p + 1."""
    return [
        Score(
            id=f"p{i}",
            protocol="resampled",
            between=quality(p),
            roughness=Roughness(np.nan, np.nan, np.nan),
            per_frame=tuple(
                Frame(gamma, quality(value))
                for gamma, value in ((0.0, 100.0), (0.333333, p - 1), (0.666667, p + 1), (1.0, 5.0))
            ),
        )
        for i, p in enumerate(psnrs)
    ]


def test_bins_over_gamma_hold_the_frames_between():
    bins = over_gamma(scores(20.0, 30.0))
    assert [b.gamma for b in bins] == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])
    means = [b.intervals[PSNR].mean for b in bins]
    assert means == pytest.approx([np.nan, 24, np.nan, 26, np.nan], nan_ok=True)
    assert bins[1].intervals[PSNR].patients == 2


def test_the_worst_come_first_and_the_typical_is_in_the_middle():
    patients = scores(30.0, 20.0, 25.0)
    assert [s.id for s in worst(patients, 2)] == ["p1", "p2"]
    assert typical(patients).id == "p2"
    assert summary(patients)[PSNR].mean == 25
    assert np.isnan(summary(patients)[FOLDING].mean)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--runs", "absent"), "absent is not a run: it has no config.json"),
        (("--runs",), "--runs names no run"),
        (("--runs", "tiny", "tiny"), "--runs names tiny twice"),
        (("--runs", "empty"), "no checkpoint in"),
        (("--runs", "tiny", "coarse"), "coarse has data.spacing (8.0, 4.5, 4.5) but tiny has (6.0"),
        (("--runs", "tiny", "elsewhere"), "name one folder with --data.root"),
        (("--runs", "tiny", "--data.root", "absent"), "absent: no such folder; the layout needed"),
        (("--runs", "tiny", "--likeness-threshold", "2"), "--likeness-threshold is 2.0"),
        (("--runs", "tiny", "--out", "tiny/config.json"), "--out tiny/config.json cannot be"),
    ],
)
def test_wrong_use_says_what_is_needed(
    args: tuple[str, ...], message: str, run: Path, cache: Path, monkeypatch, capsys
):
    monkeypatch.chdir(cache)
    others: dict[str, dict[str, Any]] = {
        "empty": {"saved": False},
        "coarse": {"spacing": (8.0, 4.5, 4.5)},
        "elsewhere": {"root": "absent"},
    }
    for name, data in others.items():
        if name in args and not Path(name).exists():
            write_run(Path(name), cache, **data)
    out = () if "--out" in args else ("--out", "results")
    assert main([*args, *out]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "write", "row"),
    [
        ("between", "mstg_jax.evaluation.records.write", "| blend |"),
        ("upsample", "mstg_jax.evaluation.upsampling.write", "| linear |"),
    ],
)
def test_results_that_the_disk_refuses_are_on_stdout(
    task: str, write: str, row: str, run: Path, tmp_path: Path, monkeypatch, capsys
):
    """The disk fills up while the methods are compared, which may take hours."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(write, refuse)
    out = ("--out", str(tmp_path / "out"))
    assert main(["--runs", str(run), "--task", task, "--factor", "2", *out]) == 1
    printed = capsys.readouterr()
    assert row in printed.out
    assert "cannot be written: No space left on device" in printed.err


def test_an_unknown_protocol_is_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--runs", "tiny", "--out", "results", "--protocol", "other"])
    assert stopped.value.code == 2
    assert "resampled" in capsys.readouterr().err
