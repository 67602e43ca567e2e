"""Comparisons of patients without frames between ED and ES, without labels; and of any name."""

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from acdc_files import config_of, make_patient
from PIL import Image

from mstg_jax.config import PRESETS
from mstg_jax.data.pipeline import Example, load_examples
from mstg_jax.evaluation import records
from mstg_jax.evaluation.comparing.comparison import (
    Bin,
    Comparison,
    Contender,
    compare,
    typical,
    worst,
)
from mstg_jax.evaluation.comparing.statistics import Interval
from mstg_jax.evaluation.scoring.measures import TESTED
from mstg_jax.evaluation.scoring.scores import Dice, Frame, Quality, Roughness, Score, average
from mstg_jax.evaluation.showing.charts import gamma_chart, volume_chart
from mstg_jax.evaluation.showing.report import write_report
from mstg_jax.evaluation.showing.sections import sections
from mstg_jax.evaluation.showing.tables import markdown, score_table
from mstg_jax.methods import make_method, new_model
from mstg_jax.methods.base import FrameSequence
from mstg_jax.training.validation import validate

NONE = "no patient has frames strictly between ED and ES"


class Made(Contender):
    """`copy` or `blend` worked out here, so that nothing is compiled."""

    def raw(self, example: Example, seed: int) -> FrameSequence:
        ed, es = example.frames[0], example.frames[-1]
        gammas = example.gammas[:, None, None, None] * (self.parameters == 0)
        flow = np.zeros((len(example.gammas), *ed.shape, 3), np.float32)
        frames = (ed + gammas * (es - ed)).astype(np.float32)
        return FrameSequence(frames, None if self.parameters == 0 else flow)


def contenders(copy: str = "copy", blend: str = "blend") -> list[Contender]:
    method = make_method(replace(PRESETS["ddm-tiny"][1], method="copy"))
    model = new_model(method, seed=0)
    return [Made(copy, method, model, parameters=1), Made(blend, method, model)]


TWO: dict[str, Any] = {"shape": (2, 3, 9, 8), "es": 2}
NEXT: dict[str, Any] = {"ed": 3, "es": 4, "labels": "none"}


def examples(tmp_path: Path, **patients: dict[str, Any]) -> tuple[list[Example], list[Example]]:
    """Two patients to train on, and these to validate on."""
    root = tmp_path / "acdc"
    for seed in (1, 2):
        make_patient(root / "training" / f"patient00{seed}", seed=seed)
    for seed, (name, values) in enumerate(patients.items(), 3):
        make_patient(root / "testing" / name, seed=seed, **values)
    return load_examples(config_of(tmp_path, root))


def compared(
    methods: list[Contender], training: list[Example], validation: list[Example]
) -> Comparison:
    return compare(methods, training, validation, protocol="resampled")


def results_of(
    out: Path, methods: list[Contender], training: list[Example], validation: list[Example]
) -> dict[str, Any]:
    """What compare finds, once everything is written to `out`."""
    results = replace(compared(methods, training, validation), data={"root": "a<b>"})
    out.mkdir()
    records.write(out, results)
    write_report(out, results, methods, validation)
    return json.loads((out / "results.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("labels", ["frames", "none"])
def test_two_frames_are_scored_at_es_alone(tmp_path, labels):
    """A 4D of ED and ES: overlap and volumes where there are labels, and nothing else."""
    found = examples(tmp_path, patient003=TWO | {"labels": labels}, patient004=NEXT)
    results = results_of(tmp_path / "out", contenders(), *found)
    copy, blend = (results["methods"][name]["summary"] for name in ("copy", "blend"))
    labelled = labels == "frames"
    assert (0 < (copy["dice.mean"]["mean"] or 0) < 1) == labelled
    assert copy["dice.mean"]["patients"] == copy["ejection_fraction.error"]["patients"] == labelled
    assert copy["folding"]["mean"] == 0
    for metric in ("between.psnr_fov", "between.nmse", "roughness.ratio"):
        assert copy[metric]["mean"] is blend[metric]["mean"] is None
    assert blend["dice.mean"]["mean"] is None
    assert all(test["p"] is None for test in results["tests"])
    assert results["truth"]["likeness"]["frames"] == 0
    text = (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    assert "strictly between ED and ES (patients without any: 2); Dice" in text
    assert "| copy | – | – | – | – | – | – |" in text
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert f"No curves of quality: {NONE}." in html
    assert f"None to rank: {NONE}." in html
    assert re.search(f"patient00[34], {NONE}; on the model", html)
    drawn = {path.name.split("-")[0] for path in (tmp_path / "out" / "pictures").iterdir()}
    assert drawn == {"frames", "slices"} | ({"volumes.png"} if labelled else set())


def test_a_patient_without_frames_between_leaves_the_others_scores_as_they_are(tmp_path):
    training, validation = examples(tmp_path, patient003={}, patient004=TWO)
    both = compared(contenders(), training, validation)
    one = compared(contenders(), training, validation[:1])
    records_of = [records.results_record(r)["methods"] for r in (both, one)]
    for name in ("copy", "blend"):
        found, alone = (methods[name] for methods in records_of)
        assert found["summary"]["between.psnr_fov"] == alone["summary"]["between.psnr_fov"]
        assert found["over_gamma"] == alone["over_gamma"]
        assert found["likeness"] == alone["likeness"]
        patients = both.methods[name].patients
        assert [s.id for s in worst(patients, 2)] == ["patient003"]
        assert typical(patients).id == "patient003"
    assert records_of[0]["copy"]["summary"]["dice.mean"]["patients"] == 2
    means = {name: average(own.patients) for name, own in both.methods.items()}
    for caption in (sections(both)[0].note, score_table(means)):
        assert "ED and ES (patients without any: 1); Dice" in caption


def test_validation_follows_what_there_is(tmp_path):
    method = make_method(replace(PRESETS["ddm-tiny"][1], method="copy"))
    model = new_model(method, seed=0)
    _, (labelled, bare) = examples(tmp_path, patient003=TWO, patient004=TWO | {"labels": "none"})
    picture = tmp_path / "step.png"
    assert validate(method, model, [labelled, bare], picture).keys() == {"dice"}
    assert picture.exists()
    assert validate(method, model, [bare]) == {}


NOTHING = Quality(*[np.nan] * 6)


def patient(name: str, psnr: float, frames: int = 3) -> Score:
    return Score(
        id=name,
        protocol="resampled",
        between=replace(NOTHING, psnr_fov=psnr),
        roughness=Roughness(np.nan, np.nan, np.nan),
        per_frame=(Frame(0.5, NOTHING),) * frames,
    )


def test_a_patient_whose_frames_are_undefined_is_the_worst():
    nan = float("nan")
    scores = [patient("a", 20.0), patient("b", nan), patient("c", 10.0), patient("d", nan, 2)]
    assert [s.id for s in worst(scores, 4)] == ["b", "c", "a"]
    assert typical([patient(name, nan, 2) for name in "abc"]).id == "b"


def bins(*means: float) -> list[Bin]:
    """One bin with these means of the tested metrics."""
    found = {m: Interval(x, x, x, 2) for m, x in zip(TESTED, means, strict=True)}
    return [Bin(0.5, found)]


def test_panels_without_values_are_left_out(tmp_path):
    all_three = {"a": bins(20.0, 0.5, 0.1), "b": bins(1.0, 0.1, 0.0)}
    perfect = {"a": bins(100.0, 1.0, 0.0)}
    two = {"a": bins(20.0, 0.5, np.nan)}
    widths = []
    for i, methods in enumerate((all_three, perfect, two)):
        path = gamma_chart(tmp_path / f"{i}.png", methods)
        assert path is not None
        with Image.open(path) as image:
            widths.append(image.width)
    assert widths[0] == widths[1] > widths[2]
    assert gamma_chart(tmp_path / "none.png", {"a": bins(*[np.nan] * 3)}) is None
    assert not (tmp_path / "none.png").exists()


def test_a_ventricle_that_is_not_there_has_no_curve(tmp_path):
    """Labels without label 3: Dice of the others, no volumes."""
    frames = tuple(Frame(gamma, NOTHING, lv_volume=np.nan) for gamma in (0.0, 1.0))
    dice = Dice(rv=1.0, myo=1.0, lv=np.nan, mean=1.0)
    patients = [replace(patient("a", np.nan), dice=dice, per_frame=frames)]
    assert volume_chart(tmp_path / "v.png", {"a": patients}) == tmp_path / "v.png"


NAMES = ("_a|b<i>&\"c\"'d'$x^$", "_a/b(i)&\"c\"'d'$x^$")


def test_names_mean_themselves(tmp_path):
    """Whatever Markdown, HTML, file systems and matplotlib make of such characters."""
    odd = "patient<b>|`*&'x'$^$"
    short = {"shape": (3, 3, 9, 8), "es": 3}
    training, validation = examples(tmp_path, **{odd: short, "patient-b-|`*&'x'$^$": short})
    methods = contenders(*NAMES)
    results = results_of(tmp_path / "out", methods, training, validation)
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert '<meta charset="utf-8">' in html
    assert not re.search(r"</?[bi]\b", html)
    assert "_a|b&lt;i&gt;&amp;&#34;c&#34;&#39;d&#39;$x^$" in html
    assert "patient&lt;b&gt;|`*&amp;&#39;x&#39;$^$" in html
    assert "Data: root a&lt;b&gt;." in html
    rows = (tmp_path / "out" / "table.md").read_text(encoding="utf-8").splitlines()
    quality = [row for row in rows if row.startswith(r"| _a\|b&lt;i&gt;&amp;" + "\"c\"'d'$x^$ |")]
    assert len(quality) == 4
    assert all("<" not in row for row in rows)
    with (tmp_path / "out" / "results.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert {line["method"] for line in lines} == set(NAMES) == set(results["methods"])
    assert {line["patient"] for line in lines} == {example.id for example in validation}
    drawn = sorted(path.name for path in (tmp_path / "out" / "pictures").iterdir())
    # The strip, two charts, slices of each method, and two worst patients of each.
    assert len(drawn) == 1 + 2 + 2 + 4
    assert all(re.fullmatch(r"[\w.-]+", name) for name in drawn)


def test_files_are_utf_8_whatever_the_locale(tmp_path, monkeypatch):
    """Arrows in the headers, and a run called so."""
    monkeypatch.setattr(io, "text_encoding", lambda encoding, *_: encoding or "latin-1")
    methods = contenders(copy="μ→σ")[:1]
    results_of(tmp_path / "out", methods, *examples(tmp_path, patient003=TWO))
    for name in ("table.md", "report.html", "results.csv"):
        assert "μ→σ" in (tmp_path / "out" / name).read_bytes().decode("utf-8")


def test_cells_keep_their_columns():
    table = [["a|b", "c\\|d"], ["<i>\n`x`", "[1, 2] [a](b)"]]
    header, _, row = markdown(table).splitlines()
    assert header == r"| a\|b | c\\\|d |"
    assert row == r"| &lt;i&gt; \`x\` | [1, 2] [a]\(b) |"
