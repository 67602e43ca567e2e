"""What a comparison leaves on disk besides its report, and scores as JSON has them.

There undefined numbers are null, and a score has no key for what its method or patient has not.
"""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mstg_jax.evaluation.comparing.comparison import Bin, Comparison, MethodResult
from mstg_jax.evaluation.comparing.likeness import Match
from mstg_jax.evaluation.scoring.scores import Average, Frame, Numbers, Score
from mstg_jax.evaluation.showing.tables import markdown, sections

QUALITY_COLUMNS = ("psnr_fov", "ssim_fov", "nmse_fov", "psnr", "ssim", "nmse")
FRAME_COLUMNS = (*QUALITY_COLUMNS, "folding", "lv_volume", "lv_volume_truth")
# First of the keys, in this order.
SCORE = ("id", "protocol", "between", "roughness", "per_frame")
AVERAGE = ("protocol", "patients", "none_between")


def write(out: Path, results: Comparison) -> None:
    """results.csv, results.json and table.md; existing files are replaced."""
    record = results_record(results)
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    (out / "results.json").write_text(text, encoding="utf-8")
    parts = [f"## {s.title}\n\n{s.note}\n\n{markdown(s.table)}\n" for s in sections(results)]
    (out / "table.md").write_text("\n".join(parts), encoding="utf-8")
    nearest = [f"nearest_training_{name}" for name in Match._fields]
    with (out / "results.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["protocol", "patient", "method", "frame", "gamma", *FRAME_COLUMNS, *nearest]
        )
        for name, method in record["methods"].items():
            for score in method["patients"]:
                for i, frame in enumerate(score["per_frame"]):
                    values = [frame.get(column) for column in ("gamma", *FRAME_COLUMNS)]
                    match = frame.get("likeness", {})
                    values += [match.get(column) for column in Match._fields]
                    writer.writerow([results.protocol, score["id"], name, i, *values])


def results_record(results: Comparison) -> dict[str, Any]:
    """All of results.json. Each frame strictly between ED and ES has its match as `likeness`."""
    record = vars(results) | {
        "methods": {name: _method(method) for name, method in results.methods.items()},
        "truth": {"likeness": asdict(results.truth)},
        "tests": [asdict(test) for test in results.tests],
    }
    if not results.data:
        del record["data"]
    return _strict(record)


def score_record(score: Score, matches: Sequence[Match] = ()) -> dict[str, Any]:
    """A patient's scores; `matches` are those of the frames strictly between ED and ES."""
    frames = [_frame(frame) for frame in score.per_frame]
    for frame, match in zip(frames[1:-1], matches, strict=False):
        frame["likeness"] = match._asdict()
    return _strict(dict.fromkeys(SCORE) | _present(score) | {"per_frame": frames})


def average_record(means: Average) -> dict[str, Any]:
    return _strict(dict.fromkeys(AVERAGE) | _present(means))


def _method(method: MethodResult) -> dict[str, Any]:
    return {
        "run": method.run,
        "step": method.step,
        "parameters": method.parameters,
        "summary": {metric.key: asdict(found) for metric, found in method.summary.items()},
        "over_gamma": [_bin(item) for item in method.over_gamma],
        "likeness": asdict(method.likeness),
        "patients": [score_record(s, method.matches.get(s.id, ())) for s in method.patients],
    }


def _bin(item: Bin) -> dict[str, Any]:
    found = {metric.key: asdict(interval) for metric, interval in item.intervals.items()}
    return {"gamma": item.gamma, **found}


def _frame(frame: Frame) -> dict[str, Any]:
    others = _present(frame)
    return {"gamma": others.pop("gamma"), **others.pop("quality"), **others}


def _present(item: Numbers | Frame) -> dict[str, Any]:
    return {name: value for name, value in asdict(item).items() if value is not None}


def _strict(value: Any) -> Any:
    """The same tree with None for nan, which JSON does not have, and with its own containers."""
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
