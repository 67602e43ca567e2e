"""What a report of a sweep leaves on disk: sweep.md, sweep.csv, sweep.json and sweep.png."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mstg_jax.evaluation.as_json import strict
from mstg_jax.evaluation.scoring.measures import DICE, PSNR
from mstg_jax.evaluation.scoring.scores import known, mean
from mstg_jax.evaluation.showing.tables import markdown
from mstg_jax.sweep.scores import METRICS
from mstg_jax.sweep.table import Row, differences, effects, shown, shown_effects

NOTE = (
    "Validation patients, frames strictly between ED and ES, inside the field of view; mean over "
    "patients, ± the deviation over seeds. p: Wilcoxon's signed-rank test of PSNR against the "
    "first row, over patients, uncorrected."
)
DPI, LONGEST = 150, 48


def text(table: Sequence[Row], failed: Mapping[str, str], missing: Sequence[str]) -> str:
    """All tables, in Markdown."""
    parts = [NOTE, markdown(shown(table))]
    if found := effects(table):
        parts += [
            "Main effects: mean over the cells that have a value, less the mean over all cells.",
            markdown(shown_effects(found)),
        ]
    parts += [f"Failed: {name}: {how}." for name, how in failed.items()]
    if missing:
        parts.append(f"Not finished, and left out: {', '.join(missing)}.")
    return "\n\n".join(parts) + "\n"


def write(out: Path, table: Sequence[Row], words: str) -> None:
    """Existing files are replaced."""
    (out / "sweep.md").write_text(words, encoding="utf-8")
    with (out / "sweep.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["cell", "seed", "patient", *(metric.key for metric in METRICS)])
        for row in table:
            for number, run in enumerate(row.runs):
                for patient, values in run.patients.items():
                    numbers = [values[metric.key] for metric in METRICS]
                    kept = [x if known(x) else None for x in numbers]
                    writer.writerow([row.name, number, patient, *kept])
    record = {
        "cells": [
            {
                "name": row.name,
                "settings": row.settings,
                "means": {m.key: row.of_seeds(m) for m in METRICS},
                "runs": [run._asdict() for run in row.runs],
            }
            for row in table
        ],
        "tests": [asdict(test) for test in differences(table)],
        "effects": [e._replace(metric=e.metric.key)._asdict() for e in effects(table)],  # pyright: ignore[reportArgumentType]
    }
    dumped = json.dumps(strict(record), indent=1, allow_nan=False) + "\n"
    (out / "sweep.json").write_text(dumped, encoding="utf-8")
    plot(out / "sweep.png", table)


def plot(path: Path, table: Sequence[Row]) -> None:
    """A line for each cell: its seeds as dots, their mean as a bar, and the first cell's mean."""
    figure = Figure(figsize=(9.0, 1.1 + 0.3 * len(table)), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    metrics = [m for m in (PSNR, DICE) if any(known(x) for row in table for x in row.of_seeds(m))]
    metrics = metrics or [PSNR]
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        for place, row in enumerate(table):
            values = [x for x in row.of_seeds(metric) if known(x)]
            axes.plot(values, [place] * len(values), "o", ms=4, color="tab:blue", alpha=0.6)
            if values:
                axes.plot([mean(values)] * 2, [place - 0.3, place + 0.3], lw=2, color="black")
        if known(first := mean(table[0].of_seeds(metric))):
            axes.axvline(first, ls="--", lw=1, color="grey")
        axes.set_title(metric.header, fontsize=9)
        axes.grid(axis="x", alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    names = [n if len(n) <= LONGEST else n[: LONGEST - 1] + "…" for n in (r.name for r in table)]
    panels[0].set_yticks(range(len(table)), names, fontsize=8, parse_math=False)
    panels[0].set_ylim(len(table) - 0.5, -0.5)
    figure.savefig(path, format="png", metadata={"Software": None})
