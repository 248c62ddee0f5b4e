"""What a curve has within a drift budget, on curves whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fs_local.evaluation.budgets import BUDGETS, Point, at_budget

NONE = [0.0] * 4


def point(strength: float, effect: float, drift: float) -> Point:
    return Point(strength, [effect] * 4, [drift] * 3)


def test_between_two_strengths_drift_grows_with_the_square() -> None:
    """Drift λ² and effect λ / 2, measured at 0, 0.2 and 1: a budget of b is met at √b."""
    line = [point(x, x / 2, x**2) for x in (1.0, 0.2)]
    for budget in (0.01, 0.04, 0.1, 0.5):
        found = at_budget(line, NONE, budget)
        assert found.strength == pytest.approx(np.sqrt(budget))
        assert found.effect == pytest.approx([np.sqrt(budget) / 2] * 4)
        assert found.drift == pytest.approx(budget)
    assert at_budget(line, NONE, 0.0).effect == NONE
    assert at_budget(line, NONE, 9.0).strength == 1  # the curve ends below it


def test_more_than_the_best_strength_is_not_taken() -> None:
    line = [point(1.0, 0.8, 0.001), point(2.0, 0.3, 0.004), point(4.0, 0.1, 0.5)]
    found = at_budget(line, NONE, 0.05)
    assert (found.strength, found.effect, found.drift) == (1.0, [0.8] * 4, 0.001)


def test_steering_that_harms_is_left_out() -> None:
    found = at_budget([point(1.0, -0.4, 0.0)], NONE, 0.05)
    assert (found.strength, found.effect, found.drift) == (0.0, NONE, 0.0)


def test_a_row_has_no_say_in_its_own_strength() -> None:
    """Every second row does best at one strength, the others at another: each is measured where the others do best."""
    line = [Point(1.0, [1.0, 0.0, 1.0, 0.0], [0.0]), Point(2.0, [0.0, 1.0, 0.0, 1.0], [0.0])]
    assert at_budget(line, NONE, 0.01).effect == [0.0] * 4
    alone = at_budget([Point(1.0, [1.0], [0.0])], [0.0], 0.01)
    assert alone.effect == [1.0]  # of one row there are no others


def test_all_other_rows_choose() -> None:
    """The rows of one half would choose the weaker strength for the other, which all rows together do not."""
    line = [Point(1.0, [0.9, 0.5, 0.9, 0.5, 0.9, 0.5], [0.0]), Point(2.0, [0.2, 0.55, 0.2, 0.55, 0.2, 0.55], [0.0])]
    assert at_budget(line, [0.0] * 6, 0.01).effect == line[0].effect


def test_luck_is_not_reported_as_effect() -> None:
    """Ten strengths that do nothing, with noisy rows: the best of them would look like a gain."""
    rng = np.random.default_rng(0)
    found, best = [], []
    for _ in range(200):
        line = [Point(float(i + 1), rng.standard_normal(20).tolist(), [0.0]) for i in range(10)]
        found.append(np.mean(at_budget(line, rng.standard_normal(20).tolist(), 0.01).effect))
        best.append(max(np.mean(p.effect) for p in line))
    assert np.mean(best) > 0.25
    assert abs(np.mean(found)) < 0.06


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.01, 10), st.floats(0, 1)), min_size=1, max_size=6, unique_by=lambda x: x[0]),
    st.sampled_from(BUDGETS),
    st.booleans(),
)
def test_budgets_are_kept(curve: list[tuple[float, float]], budget: float, negative: bool) -> None:
    sign = -1 if negative else 1
    line = [point(sign * strength, float(i), drift) for i, (strength, drift) in enumerate(curve)]
    found = at_budget(line, NONE, budget)
    assert found.drift <= budget
    assert 0 <= sign * found.strength <= max(strength for strength, _ in curve)
    assert len(found.effect) == 4
