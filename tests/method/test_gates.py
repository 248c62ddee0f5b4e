"""SCS: the energy ratio, the three gates, and what calibrates them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fs_local.errors import FitError
from fs_local.method.crossfit import Labelled
from fs_local.method.folded import CLOSED_BELOW, empirical_cdf, ramp
from fs_local.method.gates import QuantileGate, SoftGate
from fs_local.method.group_splits import folds_of
from fs_local.method.logistic import LogisticGate
from fs_local.method.margins import Moments, discriminant
from tests.packs import random_gate

WIDTH = 40


def planted(n: int, seed: int, shift: float = 0.0) -> np.ndarray:
    """States around a point, that vary mostly in four directions; `shift` moves them elsewhere."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(np.random.default_rng(99).standard_normal((WIDTH, 4)))[0]
    states: np.ndarray = 3 + rng.standard_normal((n, 4)) @ (5 * directions.T) + 0.3 * rng.standard_normal((n, WIDTH))
    states[:, -1] += shift
    return states.astype(np.float32)


def elsewhere(n: int, seed: int) -> np.ndarray:
    return (3 + 4 * np.random.default_rng(seed).standard_normal((n, WIDTH))).astype(np.float32)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1e-3, 1.0, 1e3]))
def test_energy_ratio_is_a_share_that_ignores_scale(seed: int, scale: float) -> None:
    gate = random_gate("soft", WIDTH, seed=seed)
    centred = np.random.default_rng(seed).standard_normal((5, WIDTH)).astype(np.float32)
    ratio = gate.energy_ratio(gate.mean + centred)
    assert (ratio >= 0).all()
    assert (ratio <= 1).all()
    np.testing.assert_allclose(gate.energy_ratio(gate.mean + np.float32(scale) * centred), ratio, rtol=2e-2, atol=1e-3)


def test_energy_ratio_at_its_ends() -> None:
    gate = random_gate("soft", WIDTH)
    inside, outside = gate.basis[0], np.linalg.svd(gate.basis)[2][-1]
    np.testing.assert_allclose(gate.energy_ratio(gate.mean + np.stack([inside, outside])), [1, 0], atol=1e-5)
    assert gate.energy_ratio(gate.mean[None])[0] == 0  # the mean itself: no energy at all


def test_quantile_gate_opens_for_its_own_and_not_for_others() -> None:
    gate = QuantileGate(rank=4).fit(planted(200, 0))
    assert (gate.opening(planted(200, 1)) == 1).mean() > 0.9
    assert (gate.opening(elsewhere(200, 2)) == 0).all()
    assert gate.ir_opening_.shape == (200,)
    assert gate.general_opening_.shape == (0,)


def test_quantile_gate_is_calibrated_on_held_out_queries() -> None:
    gate = QuantileGate(rank=20, tail=0.1).fit(planted(60, 0))
    in_sample = gate.energy_ratio(planted(60, 0))
    assert in_sample.mean() > gate.gate_.knots.mean()  # in-sample energy is too high: F must not come from it
    assert (gate.ir_opening_ == 1).mean() == pytest.approx(0.9, abs=0.03)


def test_no_query_is_scored_by_a_subspace_that_saw_its_twin() -> None:
    rng, once = np.random.default_rng(0), elsewhere(40, 0)
    twins = np.concatenate([once, once + np.float32(1e-3) * rng.standard_normal(once.shape).astype(np.float32)])
    groups = np.tile(np.arange(40), 2)
    apart = QuantileGate(rank=20).fit(twins, groups=groups)
    leaking = QuantileGate(rank=20).fit(twins)
    assert apart.ir_ratio_.mean() < leaking.ir_ratio_.mean() - 0.05
    np.testing.assert_allclose(apart.ir_ratio_[:40], apart.ir_ratio_[40:], atol=1e-3)  # twins share a fold


def test_opening_is_the_papers_formula() -> None:
    x = np.linspace(0, 1, 101, dtype=np.float32)
    expected = np.where(x >= 0.2, 1, (x / 0.2) ** 3)
    np.testing.assert_allclose(ramp(x, 0.2, 3), np.where(expected < CLOSED_BELOW, 0, expected), rtol=1e-5)


def test_empirical_cdf_is_that_of_its_knots() -> None:
    sample = np.sort(np.random.default_rng(0).uniform(size=50)).astype(np.float32)
    np.testing.assert_allclose(empirical_cdf(sample, sample), np.linspace(0, 1, 50), atol=1e-5)
    np.testing.assert_array_equal(empirical_cdf(np.array([-1, 2], dtype=np.float32), sample), [0, 1])
    np.testing.assert_array_equal(
        empirical_cdf(np.array([0.4], dtype=np.float32), np.full(5, 0.5, dtype=np.float32)), [0]
    )


def test_logistic_gate_separates_and_keeps_its_budget() -> None:
    ir, general = planted(150, 0, shift=2.0), planted(300, 1)
    gate = LogisticGate(budget=0.02).fit(ir, general)
    assert (gate.general_opening_ > 0).mean() <= 0.025
    assert (gate.opening(planted(300, 3)) > 0).mean() <= 0.06
    assert (gate.opening(planted(300, 4, shift=2.0)) == 1).mean() > 0.8


def test_soft_gate_is_the_energy_ratio() -> None:
    gate = SoftGate(rank=4).fit(planted(50, 0))
    states = planted(20, 1)
    np.testing.assert_array_equal(gate.opening(states), gate.energy_ratio(states))


def test_same_seed_same_gate() -> None:
    first, second = (LogisticGate(seed=3).fit(planted(60, 0), elsewhere(60, 1)).gate_ for _ in range(2))
    np.testing.assert_array_equal(first.coef, second.coef)
    np.testing.assert_array_equal(first.basis, second.basis)
    assert first.intercept == second.intercept


@pytest.mark.parametrize(
    ("gate", "ir", "general", "message"),
    [
        (QuantileGate(), np.zeros((1, WIDTH), np.float32), None, "too few"),
        (QuantileGate(), np.full((20, WIDTH), np.nan, np.float32), None, "not finite"),
        (QuantileGate(rank=0), planted(20, 0), None, "rank"),
        (QuantileGate(tail=0.0), planted(20, 0), None, "tail"),
        (LogisticGate(), planted(20, 0), None, "general queries"),
        (LogisticGate(), planted(20, 0), planted(2, 0), "2 general queries are too few"),
        (LogisticGate(budget=0.001), planted(20, 0), planted(40, 0), "at least 100"),
        (LogisticGate(budget=0.0), planted(20, 0), planted(40, 0), "above 0 and below 1"),
    ],
)
def test_what_can_not_be_fitted_says_so(gate: object, ir: np.ndarray, general: np.ndarray | None, message: str) -> None:
    with pytest.raises(FitError, match=message):
        gate.fit(ir, general)  # type: ignore[attr-defined]


def kinds_of(*kinds: np.ndarray) -> Labelled:
    """General queries of several kinds, at one place."""
    parts = np.repeat(np.arange(len(kinds)), [len(k) for k in kinds])
    return Labelled.of(np.concatenate(kinds), parts=parts)


def test_the_worst_kind_sets_the_threshold() -> None:
    ir, easy, hard = planted(200, 0, shift=3.0), planted(300, 1), planted(100, 2, shift=1.2)
    alone, both = LogisticGate().fit(ir, Labelled.of(easy)), LogisticGate().fit(Labelled.of(ir), kinds_of(easy, hard))
    unseen = planted(300, 5, shift=1.2)
    assert (both.opening(unseen) > 0).mean() < (alone.opening(unseen) > 0).mean()
    assert all(k.held and k.seen <= 0.02 for k in both.kinds_)
    assert [k.n for k in both.kinds_] == [300, 100]


def test_a_kind_that_was_left_out_is_reported_as_it_fares_without() -> None:
    ir, easy, hard = planted(200, 0, shift=3.0), planted(300, 1), planted(100, 2, shift=1.5)
    gate = LogisticGate().fit(Labelled.of(ir), kinds_of(easy, hard))
    without = LogisticGate().fit(ir, Labelled.of(easy))
    # the gate for which the kind was left out shares its axes and shrinkage with the others
    assert gate.kinds_[1].unseen == pytest.approx((without.opening(hard) > 0).mean(), abs=0.05)
    assert gate.kinds_[1].unseen > gate.kinds_[1].seen
    # those that open are named by their rows among all general queries
    scores = without.gate_.score(hard)
    assert set(gate.kinds_[1].openers) <= {300 + int(i) for i in np.argsort(-scores)[:10]}


def test_a_kind_that_is_no_other_than_the_ir_queries_is_let_go() -> None:
    ir, easy, same = planted(200, 0, shift=3.0), planted(300, 1), planted(100, 2, shift=3.0)
    gate = LogisticGate().fit(Labelled.of(ir), kinds_of(easy, same))
    assert [k.held for k in gate.kinds_] == [True, False]
    assert (gate.ir_opening_ > 0).mean() >= 0.8


def test_margins_stay_readable_where_nothing_can_be_told_apart() -> None:
    """Few IR queries, no other than the general ones: the ramp is as steep as the general queries' own deviation allows."""
    rng = np.random.default_rng(3)
    general = rng.standard_normal((400, 200)).astype(np.float32)
    gate = LogisticGate(rank=2).fit(rng.standard_normal((12, 200)).astype(np.float32), general).gate_
    assert max(abs(gate.margin(row)) for row in general) < 1000


def test_several_places_are_one_linear_map() -> None:
    places = [np.random.default_rng(i).standard_normal((160, WIDTH)).astype(np.float32) for i in range(3)]
    for place in places:
        place[:60, 0] += 2
    gate = LogisticGate().fit(Labelled.of(*(p[:60] for p in places)), Labelled.of(*(p[60:] for p in places)))
    side_by_side = np.concatenate(places, axis=1)
    assert gate.gate_.coef.shape == (3 * WIDTH,)
    one = LogisticGate().fit(places[0][:60], places[0][60:])
    assert (gate.ir_opening_ > 0).mean() > (one.ir_opening_ > 0).mean()
    assert (gate.gate_.opening(side_by_side[60:]) > 0).mean() <= 0.03


def test_near_twins_are_never_apart() -> None:
    groups = np.random.default_rng(0).integers(0, 12, size=200)
    folds = folds_of(groups, 5, 0)
    assert all(len(set(folds[groups == g])) == 1 for g in set(groups))
    assert np.bincount(folds).min() > 20


@given(st.integers(0, 5), st.floats(0.01, 1))
def test_moments_say_all_that_a_discriminant_needs(seed: int, shrinkage: float) -> None:
    """Moments that are added and subtracted give the discriminant of the rows themselves."""
    ir, general, more = planted(40, seed), planted(50, seed + 1), planted(30, seed + 2)
    whole = Moments.of(np.concatenate([general, more]))
    found = discriminant(Moments.of(ir), whole - Moments.of(more), shrinkage)
    covariance = (np.cov(ir.T, bias=True) + np.cov(general.T, bias=True)) / 2
    scale = np.sqrt(np.diag(covariance))
    shrunk = (1 - shrinkage) * covariance + shrinkage * np.diag(scale**2)
    expected = np.linalg.solve(shrunk, ir.mean(0, dtype=float) - general.mean(0, dtype=float))
    margins = found.of(general)
    assert abs(margins.mean()) < 1e-3
    assert margins.std() == pytest.approx(1, abs=1e-3)
    cosine = found.direction @ expected / np.linalg.norm(found.direction) / np.linalg.norm(expected)
    assert cosine == pytest.approx(1, abs=1e-3)


def test_queries_that_are_all_near_twins_still_have_folds() -> None:
    assert set(folds_of(np.zeros(20, dtype=np.intp), 5, 0).tolist()) == {0, 1, 2, 3, 4}


def test_correlations_count_unless_rows_are_few() -> None:
    def apart(n: int) -> float:
        """How far a gate's direction is from that of a gate which takes no account of correlations: 1 - cosine."""
        ir, general = planted(n, 0, shift=2.0), planted(n, 1)
        ir[:, 0] += 2 * ir[:, 1]
        usual, without = (gate.fit(ir, general).gate_.coef for gate in (LogisticGate(), LogisticGate(shrinkage=1.0)))
        return 1 - float(usual @ without / np.linalg.norm(usual) / np.linalg.norm(without))

    assert apart(400) > 1e-2
    assert apart(WIDTH // 2) < 1e-3  # 39 directions of 40 rows: nearly all is shrunk
