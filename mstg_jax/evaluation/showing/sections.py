"""The tables of a comparison."""

from collections.abc import Sequence
from typing import NamedTuple

from mstg_jax.evaluation.comparing.comparison import Comparison, MethodResult
from mstg_jax.evaluation.comparing.statistics import Interval, PairedTest
from mstg_jax.evaluation.scoring.measures import (
    MISSING,
    MOTION,
    QUALITY,
    SECONDS,
    TESTED,
    Metric,
    written,
)
from mstg_jax.evaluation.scoring.scores import known, none_between
from mstg_jax.evaluation.showing.tables import Table, caption


class Section(NamedTuple):
    title: str
    note: str
    table: Table


def sections(results: Comparison) -> list[Section]:
    """The tables, in the order in which they are shown."""
    methods = results.methods
    first = next(iter(methods.values())).patients
    count = f"{len(first)} held-out patients, {len(results.training)} training patients."
    means = "Means over patients with 95 % bootstrap intervals."
    return [
        Section(
            "Image quality",
            f"{caption([results.protocol], none_between(first))} {count} {means}",
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
            _tests(results.tests),
        ),
        Section(
            "Memorisation",
            "Each generated frame strictly between ED and ES against all training frames: "
            "correlation inside the field of view with the nearest one. The truth's own frames are "
            "the reference: far above them, a model repeats its training data.",
            _likeness(results),
        ),
    ]


def _intervals(methods: dict[str, MethodResult], metrics: Sequence[Metric]) -> Table:
    rows = [["Method", *(metric.header for metric in metrics)]]
    for name, method in methods.items():
        rows.append([name, *(_interval(m, method.summary[m]) for m in metrics)])
    return rows


def _interval(metric: Metric, found: Interval) -> str:
    """mean [low, high]"""
    mean, low, high = (metric.cell(value) for value in (found.mean, found.low, found.high))
    return f"{mean} [{low}, {high}]" if known(found.low) else mean


def _costs(methods: dict[str, MethodResult]) -> Table:
    rows = [["Method", "Run", "Step", "Parameters", SECONDS.header]]
    for name, method in methods.items():
        step = MISSING if method.step is None else f"{method.step:,}"
        seconds = _interval(SECONDS, method.summary[SECONDS])
        rows.append([name, method.run or MISSING, step, f"{method.parameters:,}", seconds])
    return rows


def _tests(tests: Sequence[PairedTest]) -> Table:
    metrics = {metric.key: metric for metric in TESTED}
    rows = [["Metric", "First", "Second", "Patients", "Difference", "p", "p (Holm)"]]
    for test in tests:
        metric = metrics[test.metric]
        p = [written(value, "{:.3g}") for value in (test.p, test.p_holm)]
        names = [metric.title, test.first, test.second, str(test.patients)]
        rows.append([*names, metric.cell(test.difference), *p])
    return rows


def _likeness(results: Comparison) -> Table:
    share = f"Share at or above {results.likeness_threshold:g}"
    rows = [["Frames of", "Mean", "Max", share, "Closest pair"]]
    every = {"truth": results.truth} | {n: method.likeness for n, method in results.methods.items()}
    for name, found in every.items():
        values = ((found.mean, "{:.3f}"), (found.max, "{:.3f}"), (found.share, "{:.1%}"))
        rows.append([name, *(written(*value) for value in values), found.closest or MISSING])
    return rows
