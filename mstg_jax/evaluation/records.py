"""What a comparison leaves on disk besides its report: results.csv, results.json and table.md."""

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mstg_jax.evaluation.as_json import score_record, strict
from mstg_jax.evaluation.comparing.comparison import Bin, Comparison, MethodResult
from mstg_jax.evaluation.comparing.likeness import Match
from mstg_jax.evaluation.scoring.scores import Score
from mstg_jax.evaluation.showing.sections import sections
from mstg_jax.evaluation.showing.tables import markdown

QUALITY_COLUMNS = ("psnr_fov", "ssim_fov", "nmse_fov", "psnr", "ssim", "nmse")
FRAME_COLUMNS = (*QUALITY_COLUMNS, "folding", "lv_volume", "lv_volume_truth")


def write(out: Path, results: Comparison) -> None:
    """Existing files are replaced."""
    record = results_record(results)
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    (out / "results.json").write_text(text, encoding="utf-8")
    (out / "table.md").write_text(tables(results), encoding="utf-8")
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


def tables(results: Comparison) -> str:
    """All sections, in Markdown."""
    parts = [f"## {s.title}\n\n{s.note}\n\n{markdown(s.table)}\n" for s in sections(results)]
    return "\n".join(parts)


def results_record(results: Comparison) -> dict[str, Any]:
    """All of results.json: the fields of a Comparison with metrics by their keys, scores as as_json
    has them, and the matches at their frames."""
    return strict(
        vars(results)
        | {
            "methods": {name: _method(method) for name, method in results.methods.items()},
            "truth": {"likeness": asdict(results.truth)},
            "tests": [asdict(test) for test in results.tests],
        }
    )


def _method(method: MethodResult) -> dict[str, Any]:
    return {
        "run": method.run,
        "step": method.step,
        "parameters": method.parameters,
        "summary": {metric.key: asdict(found) for metric, found in method.summary.items()},
        "over_gamma": [_bin(item) for item in method.over_gamma],
        "likeness": asdict(method.likeness),
        "patients": [_patient(s, method.matches[s.id]) for s in method.patients],
    }


def _bin(item: Bin) -> dict[str, Any]:
    found = {metric.key: asdict(interval) for metric, interval in item.intervals.items()}
    return {"gamma": item.gamma, **found}


def _patient(score: Score, matches: Sequence[Match]) -> dict[str, Any]:
    """Each frame strictly between ED and ES has its match as `likeness`."""
    record = score_record(score)
    for frame, match in zip(record["per_frame"][1:-1], matches, strict=True):
        frame["likeness"] = match._asdict()
    return record
