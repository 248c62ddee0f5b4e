"""Intervals: known values, and how often they hold the truth on simulated rows."""

from __future__ import annotations

import subprocess
import sys
from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from fs_local.evaluation.intervals import auroc_interval, mean_interval, paired_shares, wilson


def test_wilson_at_the_ends() -> None:
    assert wilson(0, 50) == pytest.approx((0, 0.0713), abs=5e-5)
    assert wilson(50, 50) == pytest.approx((0.9287, 1), abs=5e-5)
    assert wilson(0, 1)[1] < 0.8


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 300), st.data())
def test_wilson_solves_its_score_equation(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    low, high = wilson(k, n)
    for end in (low, high):
        if 1e-9 < end < 1 - 1e-9:
            assert abs(end - k / n) == pytest.approx(norm.ppf(0.975) * sqrt(end * (1 - end) / n), rel=1e-6)
    assert 0 <= low <= k / n <= high <= 1


def test_paired_shares_are_newcombes() -> None:
    """An example of his on paired data: 36, 12, 2 and 0 rows give 0.0569 to 0.3404."""
    ours, theirs = [True] * 48 + [False] * 2, [True] * 36 + [False] * 12 + [True] * 2
    assert paired_shares(ours, theirs) == pytest.approx((0.0569, 0.3404), abs=5e-5)
    assert paired_shares(theirs, ours) == pytest.approx((-0.3404, -0.0569), abs=5e-5)


def test_where_no_pair_differs_the_difference_still_has_a_width() -> None:
    low, high = paired_shares([False] * 50, [False] * 50)
    assert (low, high) == pytest.approx((-0.0713, 0.0713), abs=5e-5)


def test_a_mean_of_equal_rows_has_no_interval() -> None:
    assert mean_interval([0.3] * 40) is None
    assert mean_interval([0.1 + 0.2, 0.3, 0.3]) is None
    assert mean_interval([2.0]) is None


@pytest.mark.parametrize("share", [0.01, 0.05, 0.5, 0.98])
def test_wilson_covers(share: float) -> None:
    """Over what can be drawn, exactly: near the nominal 95 %, where [mean, mean] would cover nothing."""
    n = 60
    chances = np.array([np.exp(_log_binomial(k, n, share)) for k in range(n + 1)])
    held = np.array([wilson(k, n)[0] <= share <= wilson(k, n)[1] for k in range(n + 1)])
    assert chances[held].sum() >= 0.87
    assert chances.sum() == pytest.approx(1)


def test_coverage_of_means_shares_and_areas_on_simulated_rows() -> None:
    rng = np.random.default_rng(0)
    times, held = 150, {"mean": 0, "difference": 0, "area": 0}
    area = norm.cdf(2 / sqrt(2))
    for _ in range(times):
        low, high = mean_interval(rng.exponential(size=60).tolist()) or (np.nan, np.nan)
        held["mean"] += low <= 1 <= high
        first = rng.random(60) < 0.9
        second = np.where(rng.random(60) < 0.8, first, rng.random(60) < 0.5)  # .82, and agrees with the first
        low, high = paired_shares(first.tolist(), second.tolist())
        held["difference"] += low <= 0.08 <= high
        x, y = rng.standard_normal(30) + 2, rng.standard_normal(40)
        low, high = auroc_interval(float((x[:, None] > y).mean()), 30, 40)
        held["area"] += low <= area <= high
    assert {name: n / times >= 0.9 for name, n in held.items()} == dict.fromkeys(held, True), held


def test_areas_at_the_ends() -> None:
    assert auroc_interval(1.0, 30, 30) == pytest.approx((0.933, 1), abs=1e-3)
    assert auroc_interval(0.0, 30, 30) == pytest.approx((0, 0.067), abs=1e-3)


def test_a_report_can_import_them_without_llama_cpp() -> None:
    code = "import sys, fs_local.evaluation.intervals; assert 'llama_cpp' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def _log_binomial(k: int, n: int, p: float) -> float:
    from math import lgamma, log

    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) + k * log(p) + (n - k) * log(1 - p)
