"""What a curve has within a drift budget, on curves whose answer is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fs_local.evaluation.budgets import BUDGETS, Draws, Point, at_budget, redrawn
from fs_local.evaluation.figures import gain
from fs_local.evaluation.intervals import middle

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


def test_a_system_prompt_has_nothing_to_choose() -> None:
    """It counts where its drift is within the budget, whatever it does; else the model is unsteered."""
    line = [Point(1.0, [-0.2, 0.1, -0.2, 0.1], [0.04], is_step=True)]
    assert at_budget(line, NONE, 0.05).effect == line[0].effect
    assert at_budget(line, NONE, 0.01).effect == NONE


def test_babble_is_not_an_effect() -> None:
    line = [point(1.0, 0.4, 0.001), Point(2.0, [1.0] * 4, [0.002] * 3, is_fluent=False)]
    for budget in BUDGETS:
        found = at_budget(line, NONE, budget)
        assert (found.strength, found.effect) == (1.0, [0.4] * 4)
    assert at_budget(line[1:], NONE, 0.05).effect == NONE


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


def test_every_row_drawn_once_is_the_figure_itself() -> None:
    rng = np.random.default_rng(0)
    line = [Point(x, rng.random(9).tolist(), (x**2 * rng.random(5)).tolist()) for x in (0.1, 0.2, 0.4, 0.8)]
    once = Draws(np.ones((3, 9)), np.ones((3, 5)))
    for budget in BUDGETS:
        expected = np.mean(at_budget(line, [0.0] * 9, budget).effect)
        assert redrawn(line, [0.0] * 9, budget, once) == pytest.approx([expected] * 3)


def test_copies_of_a_row_have_no_say_in_its_strength() -> None:
    """Row 0 alone likes strength 2; drawn three times, it would outvote the others for its own copies."""
    line = [Point(1.0, [0.5, 0.6, 0.6], [0.0]), Point(2.0, [1.0, 0.0, 0.0], [0.0])]
    drawn = Draws(np.array([[3.0, 1.0, 1.0]]), np.ones((1, 1)))
    # at its own strength 1 by the others' choice; these are measured at 2, which its copies chose
    assert redrawn(line, [0.0] * 3, 0.01, drawn) == pytest.approx([3 * 0.5 / 5])


def chosen_of_five(rng: np.random.Generator) -> tuple[list[Point], list[Point], list[float]]:
    """One strength against five, all equally good."""
    base = rng.beta(0.8, 0.9, 48)

    def one(strength: float) -> Point:
        return Point(strength, np.clip(base + rng.normal(0, 0.25, 48), 0, 1).tolist(), [0.001 * strength] * 24)

    return [one(1.0)], [one(float(i)) for i in range(1, 6)], [0.0] * 48


def drift_of_few_rows(rng: np.random.Generator) -> tuple[list[Point], list[Point], list[float]]:
    """A gate that opens for 15 % of general queries against none, both of them as good at the budget of 0.05."""
    base, slope, drift = rng.random(48), rng.normal(0.05, 0.15, 48), rng.exponential(1, 60) * (rng.random(60) < 0.15)
    theirs, all_drift = slope + rng.normal(0, 0.08, 48), rng.uniform(0.8, 1.2, 60)
    strengths = (0.5, 1.0, 1.5, 3.0)
    return (
        [Point(x, (base + slope * x).tolist(), (0.05 * x**2 * drift / 0.15).tolist()) for x in strengths],
        [Point(x, (base + theirs * x).tolist(), (0.05 * x**2 * all_drift).tolist()) for x in strengths],
        base.tolist(),
    )


@pytest.mark.parametrize("case", [chosen_of_five, drift_of_few_rows])
def test_intervals_of_leads_hold_what_is_true(
    case: Callable[[np.random.Generator], tuple[list[Point], list[Point], list[float]]],
) -> None:
    """No method is ahead. Intervals over rows alone leave out the choice of strengths and the error of the drift, and miss that too often."""
    rng = np.random.default_rng(0)
    alone: list[bool] = []
    whole: list[bool] = []
    for _ in range(200):
        ours, theirs, none = case(rng)
        draws = Draws.of(len(none), len(ours[0].drift))
        draws = Draws(draws.rows[:400], draws.general[:400])
        found = gain(at_budget(ours, none, 0.05).effect, at_budget(theirs, none, 0.05).effect)
        again = found.reaching(*middle(redrawn(ours, none, 0.05, draws) - redrawn(theirs, none, 0.05, draws)))
        for intervals, x in ((alone, found), (whole, again)):
            assert x.low is not None
            assert x.high is not None
            intervals.append(x.low <= 0 <= x.high)
    assert np.mean(alone) < 0.88
    assert np.mean(whole) >= 0.92
