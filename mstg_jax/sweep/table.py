"""What the runs of a sweep teach: cells over their seeds, differences from the first, effects."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mstg_jax.evaluation.comparing.statistics import PairedTest, paired_tests
from mstg_jax.evaluation.scoring.measures import PSNR, Metric, written
from mstg_jax.evaluation.scoring.scores import mean
from mstg_jax.evaluation.showing.tables import Table
from mstg_jax.sweep.cells import APART, BASE, SEED
from mstg_jax.sweep.scores import METRICS, RunScores


class Row(NamedTuple):
    """A cell, with a run for each seed. settings: without the seed; empty of a run of no sweep."""

    name: str
    settings: dict[str, str]
    runs: list[RunScores]

    def of_seeds(self, metric: Metric) -> list[float]:
        """Mean over patients, for each seed."""
        return [mean([p[metric.key] for p in run.patients.values()]) for run in self.runs]

    def of_patients(self, metric: Metric, patients: Sequence[str]) -> list[float]:
        """Mean over seeds, for each patient."""
        missing = {metric.key: math.nan}
        return [
            mean([run.patients.get(p, missing)[metric.key] for run in self.runs]) for p in patients
        ]


class Effect(NamedTuple):
    """Of a setting's value: mean over the cells that have it, less the mean over all cells."""

    setting: str
    value: str
    metric: Metric
    difference: float


def rows(found: Mapping[str, tuple[dict[str, str], RunScores]]) -> list[Row]:
    """name of a run -> settings of its cell and scores; in their order, seeds together."""
    made: dict[str, Row] = {}
    for name, (settings, scores) in found.items():
        own = {setting: value for setting, value in settings.items() if setting != SEED}
        shown = APART.join(x for x in name.split(APART) if not (settings and x.startswith("seed=")))
        made.setdefault(shown or BASE, Row(shown or BASE, own, [])).runs.append(scores)
    return list(made.values())


def differences(table: Sequence[Row]) -> list[PairedTest]:
    """Of each row, less the first, over patients."""
    patients = list(dict.fromkeys(p for row in table for r in row.runs for p in r.patients))
    values = {row.name: {m.key: row.of_patients(m, patients) for m in METRICS} for row in table}
    return paired_tests(values) if len(table) > 1 else []


def effects(table: Sequence[Row]) -> list[Effect]:
    """Where the rows are a whole grid of two settings or more; else the table itself says it."""
    settings = [row.settings for row in table]
    names = list(dict.fromkeys(name for own in settings for name in own))
    values = {n: list(dict.fromkeys(own.get(n, "") for own in settings)) for n in names}
    several = {name: found for name, found in values.items() if len(found) > 1}
    whole = {tuple(combined) for combined in itertools.product(*several.values())}
    here = {tuple(own.get(name, "") for name in several) for own in settings}
    if len(several) < 2 or here != whole:
        return []
    made = []
    for metric in METRICS:
        means = [mean(row.of_seeds(metric)) for row in table]
        for name, found in several.items():
            for value in found:
                own = [x for x, s in zip(means, settings, strict=True) if s.get(name) == value]
                made.append(Effect(name, value, metric, mean(own) - mean(means)))
    return made


def shown(table: Sequence[Row]) -> Table:
    """With the mean and deviation over seeds, and in PSNR the difference from the first row."""
    tests = {t.second: t for t in differences(table) if t.metric == PSNR.key}
    several = any(len(row.runs) > 1 for row in table)
    head = ["Cell", "Seeds", *(m.header for m in METRICS), "PSNR less the first", "p"]
    cells = [[*head, "Parameters", "Seconds per step", "Memory (GB)"]]
    for row in table:
        line = [row.name, str(len(row.runs))]
        for metric in METRICS:
            values = row.of_seeds(metric)
            text = metric.cell(mean(values))
            if several and len(values) > 1:
                text += f" ± {metric.cell(float(np.std(values, ddof=1)))}"
            line.append(text)
        test = tests.get(row.name)
        less = mean(row.of_seeds(PSNR)) - mean(table[0].of_seeds(PSNR))
        line += ["", ""] if test is None else [written(less, "{:+.2f}"), written(test.p, "{:.3f}")]
        seconds, memory = mean([r.seconds for r in row.runs]), max(r.memory for r in row.runs)
        line += [
            f"{row.runs[0].parameters:,}",
            written(seconds, "{:.2f}"),
            written(memory, "{:.1f}"),
        ]
        cells.append(line)
    return cells


def shown_effects(found: Sequence[Effect]) -> Table:
    """A row for each value of each setting."""
    metrics = list(dict.fromkeys(effect.metric for effect in found))
    cells = [["Setting", *(metric.header for metric in metrics)]]
    for setting, value in dict.fromkeys((e.setting, e.value) for e in found):
        own = {e.metric: e.difference for e in found if (e.setting, e.value) == (setting, value)}
        cells.append(
            [f"{setting}={value}", *(written(own[m], m.form.replace(":", ":+")) for m in metrics)]
        )
    return cells
