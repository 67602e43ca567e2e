"""What a comparison leaves on disk besides its report: results.csv, results.json and table.md."""

import csv
import json
from pathlib import Path
from typing import Any, NamedTuple

from mstg_jax.evaluation.protocol import none_between
from mstg_jax.evaluation.tables import (
    MISSING,
    MOTION,
    QUALITY,
    SECONDS,
    TESTED,
    Table,
    caption,
    markdown,
)

QUALITY_COLUMNS = tuple(metric.path[-1] for metric in QUALITY)
FRAME_COLUMNS = (*QUALITY_COLUMNS, "folding", "lv_volume", "lv_volume_truth")
MATCH_COLUMNS = ("correlation", "patient", "frame")


class Section(NamedTuple):
    title: str
    note: str
    table: Table


def write(out: Path, results: dict[str, Any]) -> None:
    """results: what comparison.compare returns. Existing files are replaced."""
    text = json.dumps(results, indent=1, allow_nan=False) + "\n"
    (out / "results.json").write_text(text, encoding="utf-8")
    parts = [f"## {s.title}\n\n{s.note}\n\n{markdown(s.table)}\n" for s in sections(results)]
    (out / "table.md").write_text("\n".join(parts), encoding="utf-8")
    nearest = [f"nearest_training_{name}" for name in MATCH_COLUMNS]
    with (out / "results.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["protocol", "patient", "method", "frame", "gamma", *FRAME_COLUMNS, *nearest]
        )
        for name, method in results["methods"].items():
            for score in method["patients"]:
                for i, frame in enumerate(score["per_frame"]):
                    values = [frame.get(column) for column in ("gamma", *FRAME_COLUMNS)]
                    match = frame.get("likeness", {})
                    values += [match.get(column) for column in MATCH_COLUMNS]
                    writer.writerow([results["protocol"], score["id"], name, i, *values])


def sections(results: dict[str, Any]) -> list[Section]:
    """The tables, in the order in which they are shown."""
    methods: dict[str, dict[str, Any]] = results["methods"]
    first = next(iter(methods.values()))["patients"]
    count = f"{len(first)} held-out patients, {len(results['training'])} training patients."
    means = "Means over patients with 95 % bootstrap intervals."
    return [
        Section(
            "Image quality",
            f"{caption([results['protocol']], none_between(first))} {count} {means}",
            _intervals(methods, QUALITY),
        ),
        Section(
            "Anatomy and motion",
            "Labels of ED, warped by a method's displacements, against those of ES; methods "
            "without displacements have none. EF error: absolute difference of the left "
            "ventricle's ejection fraction. LV volume error: mean absolute difference over the "
            "labelled frames after ED, as a share of the volume at ED. Folding: share of voxels "
            "with a non-positive Jacobian determinant. Roughness: mean squared second difference "
            "over time, as a ratio to the real frames' (1 is as lively as the truth, noise "
            "included; a blend has 0).",
            _intervals(methods, MOTION),
        ),
        Section(
            "Cost",
            "Seconds per sequence on this machine, compiled beforehand.",
            _costs(methods),
        ),
        Section(
            "Paired tests",
            "The first method against each other one: Wilcoxon signed-rank over patients, "
            "two-sided; p (Holm) is corrected over all rows. Difference: median of first minus "
            "second. With n patients p is at least 2 / 2^n.",
            _tests(results["tests"]),
        ),
        Section(
            "Memorisation",
            "Each generated frame strictly between ED and ES against all training frames: "
            "correlation inside the field of view with the nearest one. The truth's own frames are "
            "the reference: far above them, a model repeats its training data.",
            _likeness(results),
        ),
    ]


def _intervals(methods: dict[str, dict[str, Any]], metrics: tuple[Any, ...]) -> Table:
    rows = [["Method", *(metric.header for metric in metrics)]]
    for name, method in methods.items():
        rows.append([name, *(m.interval(method["summary"][m.key]) for m in metrics)])
    return rows


def _costs(methods: dict[str, dict[str, Any]]) -> Table:
    rows = [["Method", "Run", "Step", "Parameters", SECONDS.header]]
    for name, method in methods.items():
        step = MISSING if method["step"] is None else f"{method['step']:,}"
        seconds = SECONDS.interval(method["summary"][SECONDS.key])
        rows.append([name, method["run"] or MISSING, step, f"{method['parameters']:,}", seconds])
    return rows


def _tests(tests: list[dict[str, Any]]) -> Table:
    metrics = {metric.key: metric for metric in TESTED}
    rows = [["Metric", "First", "Second", "Patients", "Difference", "p", "p (Holm)"]]
    for test in tests:
        metric = metrics[test["metric"]]
        p = [MISSING if test[k] is None else f"{test[k]:.3g}" for k in ("p", "p_holm")]
        difference = metric.cell(test["difference"])
        names = [metric.title, test["first"], test["second"], str(test["patients"])]
        rows.append([*names, difference, *p])
    return rows


def _likeness(results: dict[str, Any]) -> Table:
    share = f"Share at or above {results['likeness_threshold']:g}"
    rows = [["Frames of", "Mean", "Max", share, "Closest pair"]]
    named = {"truth": results["truth"], **results["methods"]}
    for name, own in named.items():
        found = own["likeness"]
        forms = {"mean": "{:.3f}", "max": "{:.3f}", "share": "{:.1%}"}
        cells = [MISSING if found[k] is None else f.format(found[k]) for k, f in forms.items()]
        rows.append([name, *cells, found["closest"] or MISSING])
    return rows
