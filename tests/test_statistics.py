"""Intervals and tests against numbers worked out by hand."""

import numpy as np
import pytest

from mstg_jax.evaluation.comparing.statistics import Interval, holm, interval, paired_tests


def test_interval_of_two_values_is_theirs():
    """Of two patients a resample has the mean 0, 1/2 or 1, each end with probability 1/4."""
    found = interval([0.0, 1.0, None, float("nan")])
    assert found == Interval(mean=0.5, low=0.0, high=1.0, patients=2)


def test_interval_agrees_with_the_normal_one_on_many_values():
    values = np.random.default_rng(0).normal(10, 2, 400)
    found = interval(values.tolist(), seed=1)
    error = 1.96 * values.std() / 20
    assert found.low == pytest.approx(values.mean() - error, abs=0.02)
    assert found.high == pytest.approx(values.mean() + error, abs=0.02)
    assert found == interval(values.tolist(), seed=1) != interval(values.tolist(), seed=2)


def test_interval_of_one_and_of_none():
    one, none = interval([3.0]), interval([None])
    assert (one.mean, one.patients, none.patients) == (3, 1, 0)
    assert np.isnan([one.low, one.high, none.mean, none.low, none.high]).all()
    assert interval([2.0] * 5).low == 2


def test_holm_by_hand():
    """Sorted 0.01, 0.02, 0.04 times 3, 2, 1 gives 0.03, 0.04, 0.04."""
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.03, 0.02]) == pytest.approx([0.04, 0.04])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


def test_paired_tests_by_hand():
    """Six patients, all better: both tails of the signed ranks have probability 2 / 2^6."""
    better = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    values = {
        "a": {"psnr": [10 + x for x in better]},
        "b": {"psnr": [10.0] * 6},
        "c": {"psnr": [10.0] * 5 + [None]},
    }
    first, second = paired_tests(values)
    assert (first.first, first.second, first.patients) == ("a", "b", 6)
    assert (first.difference, first.p) == (3.5, 2 / 64)
    assert first.p_holm == pytest.approx(2 * 2 / 64)
    assert (second.patients, second.p) == (5, 2 / 32)
    assert second.p_holm == pytest.approx(2 / 32)
    same = paired_tests({"b": values["b"], "c": values["c"]})[0]
    assert (same.difference, same.p, same.p_holm) == (0, 1, 1)


def test_all_metrics_are_corrected_together():
    """Six patients, all better in both metrics: two tests of 2 / 64."""
    own = {"psnr": [float(x) for x in range(1, 7)], "nmse": [float(x) for x in range(2, 8)]}
    zeros = {metric: [0.0] * 6 for metric in own}
    rows = paired_tests({"a": own, "b": zeros})
    assert [(row.metric, row.p_holm) for row in rows] == [("psnr", 4 / 64), ("nmse", 4 / 64)]


def test_a_signed_rank_by_hand():
    """Differences 3, 2, -1 leave rank sum 1 against: P(W <= 1) = 2 / 8, doubled."""
    assert paired_tests({"a": {"m": [3.0, 2.0, -1.0]}, "b": {"m": [0.0] * 3}})[0].p == 0.5


def test_tests_without_patients_have_no_p():
    (row,) = paired_tests({"a": {"m": [None, np.nan]}, "b": {"m": [1.0, 1.0]}})
    assert row.patients == 0
    assert np.isnan([row.difference, row.p, row.p_holm]).all()
