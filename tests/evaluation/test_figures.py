"""Figures: the mean with an interval that holds it, and differences row by row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fs_local.evaluation.figures import auroc, figure, gain


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(-(10**4), 10**4).map(lambda x: x / 1000), min_size=1, max_size=40))
def test_the_interval_holds_the_mean(values: list[float]) -> None:
    found = figure(values)
    if found.low is None or found.high is None:
        assert np.ptp(values) < 1e-10
    else:
        assert found.low - 1e-9 <= found.mean <= found.high + 1e-9
    assert figure(values) == found


def test_the_interval_is_about_two_standard_errors_wide() -> None:
    values = np.random.default_rng(0).standard_normal(400).tolist()
    found = figure(values)
    assert found.low is not None
    assert found.high is not None
    assert (found.high - found.low) / 2 == pytest.approx(1.96 / 20, rel=0.15)


def test_a_share_never_has_the_interval_of_its_mean() -> None:
    for value in (0.0, 1.0):
        found = figure([value] * 50, "share")
        assert (found.low, found.high) == pytest.approx((0, 0.0713) if value == 0 else (0.9287, 1), abs=5e-5)


def test_equal_values_say_what_is_known() -> None:
    assert figure([0.0] * 50).as_dict() == {"mean": 0.0, "low": None, "high": None, "rows": 50}
    bounded = figure([0.4] * 50, "bounded")  # at most 7.13 % of rows differ, down to 0 or up to 1
    assert (bounded.low, bounded.high) == pytest.approx((0.4 - 0.0713 * 0.4, 0.4 + 0.0713 * 0.6), abs=5e-5)


def test_an_interval_can_reach_further_and_never_less_far() -> None:
    found = figure([0.0, 1.0, 1.0, 1.0], "share")
    assert (found.low, found.high) != (None, None)
    assert found.reaching(0.7, 0.71) == found
    assert found.reaching(0.0, 0.71).low == 0.0
    unknown = figure([0.3] * 5)
    assert unknown.reaching(0.3, 0.3) == unknown
    assert (unknown.reaching(0.2, 0.4).low, unknown.reaching(0.2, 0.4).high) == (0.2, 0.4)


def test_gains_are_paired() -> None:
    found = gain([1.5, 2.5, 9.5], [1.0, 2.0, 9.0])
    assert (found.mean, found.low, found.high) == (0.5, None, None)
    rng = np.random.default_rng(0)
    base = 10 * rng.standard_normal(100)
    close = gain((base + 0.1 * rng.standard_normal(100) + 1).tolist(), base.tolist())
    assert close.low is not None
    assert close.low > 0.95  # the rows' own spread has gone
    alike = gain([0.0] * 50, [0.0] * 50, "share")
    assert (alike.low, alike.high) == pytest.approx((-0.0713, 0.0713), abs=5e-5)
    between = gain([0.5] * 50, [0.5] * 50, "share")  # interpolated along a curve: no yes and no any more
    assert (between.low, between.high) == pytest.approx((-0.0713, 0.0713), abs=5e-5)


def test_the_auroc_of_two_normal_distributions_is_known() -> None:
    rng = np.random.default_rng(0)
    found = auroc((rng.standard_normal(4000) + 2).tolist(), rng.standard_normal(3000).tolist())
    assert found.mean == pytest.approx(0.9214, abs=0.01)  # Φ(2/√2)
    assert found.low is not None
    assert found.high is not None
    assert 0 < found.mean - found.low < 0.02
    assert 0 < found.high - found.mean < 0.02
    apart = auroc([2.0, 3.0], [0.0, 1.0])
    assert apart.mean == apart.high == 1
    assert apart.low is not None
    assert apart.low < 0.5
    assert auroc([0.0, 1.0], [0.0, 1.0]).mean == 0.5
