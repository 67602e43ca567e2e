"""Statistics over patients: means with bootstrap intervals, and paired tests between methods."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

LEVEL = 0.95
RESAMPLES = 9999


def interval(values: Sequence[float | None], seed: int = 0) -> dict[str, Any]:
    """Mean over patients and its 95 % bootstrap interval (percentile; Efron & Tibshirani 1993).

    None and nan are left out; `patients` counts the rest. `low` and `high` are None below two
    patients, `mean` too where nothing is left. The same seed gives the same numbers.
    """
    known = np.array([v for v in values if v is not None and np.isfinite(v)], np.float64)
    found: dict[str, Any] = {"mean": None, "low": None, "high": None, "patients": len(known)}
    if len(known):
        found["mean"] = float(known.mean())
    if len(known) > 1:
        low, high = stats.bootstrap(
            (known,),
            np.mean,
            n_resamples=RESAMPLES,
            confidence_level=LEVEL,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval
        found |= {"low": float(low), "high": float(high)}
    return found


def paired_tests(
    values: dict[str, dict[str, Sequence[float | None]]],
) -> list[dict[str, Any]]:
    """Wilcoxon signed-rank tests of the first method against each other one, on every metric.

    Holm's correction is over all of them. Tests of every two methods would be so many that ten
    patients could not reach 0.05.

    values: method -> metric -> one value for each patient, in the same order for all methods.
    Patients without a value in either method are left out of a test. Each row has the `metric`,
    `first`, `second`, the number of `patients`, the median `difference` (first - second), `p` (two-
    sided) and `p_holm`; both are None without patients. n patients cannot give p below 2 / 2^n.
    """
    rows: list[dict[str, Any]] = []
    first, *others = values
    for metric in values[first]:
        for second in others:
            pairs = zip(values[first][metric], values[second][metric], strict=True)
            known = [a - b for a, b in pairs if a is not None and b is not None]
            rows.append(
                {
                    "metric": metric,
                    "first": first,
                    "second": second,
                    "patients": len(known),
                    "difference": float(np.median(known)) if known else None,
                    "p": _signed_rank(known) if known else None,
                    "p_holm": None,
                }
            )
    tested = [row for row in rows if row["p"] is not None]
    for row, corrected in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p_holm"] = corrected
    return rows


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
