"""Statistics over patients: means with bootstrap intervals, and paired tests between methods."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from mstg_jax.evaluation.scoring.scores import known

LEVEL = 0.95
RESAMPLES = 9999


@dataclass(frozen=True)
class Interval:
    """Mean over so many patients and its 95 % bootstrap interval.

    `low` and `high` are nan below two patients, `mean` too without any.
    """

    mean: float
    low: float
    high: float
    patients: int


@dataclass(frozen=True)
class PairedTest:
    """Wilcoxon signed-rank test of a metric, `first` against `second`, over so many patients.

    `difference` is the median of first - second, `p` two-sided, `p_holm` corrected; all three are
    nan without patients. n patients cannot give p below 2 / 2^n.
    """

    metric: str
    first: str
    second: str
    patients: int
    difference: float
    p: float
    p_holm: float


def interval(values: Sequence[float | None], seed: int = 0) -> Interval:
    """By the percentiles of resampled means (Efron & Tibshirani 1993).

    None and nan are left out. The same seed gives the same numbers.
    """
    array = np.array([v for v in values if known(v)], np.float64)
    mean = float(array.mean()) if len(array) else math.nan
    low = high = math.nan
    if len(array) > 1:
        low, high = stats.bootstrap(
            (array,),
            np.mean,
            n_resamples=RESAMPLES,
            confidence_level=LEVEL,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval
    return Interval(mean, float(low), float(high), len(array))


def paired_tests(values: Mapping[str, Mapping[str, Sequence[float | None]]]) -> list[PairedTest]:
    """Tests of the first method against each other one, on every metric.

    Holm's correction is over all of them. Tests of every two methods would be so many that ten
    patients could not reach 0.05.

    values: method -> metric -> one value for each patient, in the same order for all methods.
    Patients without a value in either method, None or nan, are left out of a test.
    """
    tests: list[PairedTest] = []
    first, *others = values
    for metric in values[first]:
        for second in others:
            pairs = zip(values[first][metric], values[second][metric], strict=True)
            found = [a - b for a, b in pairs if known(a) and known(b)]
            median, p = (float(np.median(found)), _signed_rank(found)) if found else (math.nan,) * 2
            tests.append(PairedTest(metric, first, second, len(found), median, p, math.nan))
    corrected = iter(holm([test.p for test in tests if test.patients]))
    return [replace(t, p_holm=next(corrected)) if t.patients else t for t in tests]


def holm(p: Sequence[float]) -> list[float]:
    """p values that keep the family-wise error (Holm 1979), in the given order."""
    corrected, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(np.argsort(p, kind="stable").tolist()):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        corrected[i] = largest
    return corrected


def _signed_rank(differences: Sequence[float]) -> float:
    """Two-sided p; differences of zero are left out (Wilcoxon 1945), 1 if there is no other."""
    moved = [d for d in differences if d != 0]
    return float(stats.wilcoxon(moved)[1]) if moved else 1.0  # pyright: ignore[reportArgumentType]
