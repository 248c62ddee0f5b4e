"""The other methods, against their papers' equations on data whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fs_local.errors import FitError
from fs_local.method.folded import cosine_to_condition, linear_experts
from fs_local.method.rivals import (
    AdaptiveSteering,
    CosineCondition,
    LogisticStrength,
    MeanDifference,
    NullSpaceMap,
    NullSpaceMaps,
    PrincipalDirection,
    RandomDirection,
    RidgeMap,
)

WIDTH = 24


def unit(seed: int) -> np.ndarray:
    v = np.random.default_rng(seed).standard_normal(WIDTH)
    return v / np.linalg.norm(v)


def around(direction: np.ndarray, n: int, seed: int, noise: float = 0.1) -> np.ndarray:
    return (direction + noise * np.random.default_rng(seed).standard_normal((n, WIDTH))).astype(np.float32)


def test_caa_is_the_mean_difference_for_every_query() -> None:
    delta = around(unit(0), 30, 1)
    fitted = MeanDifference().fit(delta)
    states = around(unit(2), 5, 3)
    np.testing.assert_allclose(fitted.experts_.vector(states), np.tile(delta.mean(axis=0), (5, 1)), rtol=1e-6)
    np.testing.assert_array_equal(fitted.gate_.opening(states), np.ones(5))


def test_repe_finds_the_direction_and_its_sign() -> None:
    direction = unit(0)
    lengths = np.linspace(1, 3, 40)[:, None]
    for sign in (1, -1):
        delta = (sign * lengths * direction + around(0 * direction, 40, 1, 0.05)).astype(np.float32)
        fitted = PrincipalDirection().fit(delta)
        assert fitted.direction_ @ (sign * direction) > 0.99
        vector = fitted.experts_.vector(delta[:1])[0]
        assert np.linalg.norm(vector) == pytest.approx(2, rel=0.02)  # as long as the differences are, in the mean
        assert vector @ (sign * direction) > 0


def test_repe_is_not_centred() -> None:
    """All differences alike: centred, nothing would be left of them."""
    delta = np.tile(2 * unit(0), (10, 1)).astype(np.float32)
    assert PrincipalDirection().fit(delta).direction_ @ unit(0) == pytest.approx(1, abs=1e-6)


def test_cast_similarity_is_the_papers_formula() -> None:
    rng = np.random.default_rng(0)
    c, states = rng.standard_normal(WIDTH), rng.standard_normal((7, WIDTH))
    projected = np.tanh(states @ (np.outer(c, c) / (c @ c)).T)
    expected = (states * projected).sum(axis=1) / np.linalg.norm(states, axis=1) / np.linalg.norm(projected, axis=1)
    found = cosine_to_condition(states.astype(np.float32), c.astype(np.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("swapped", [False, True])
def test_cast_tells_two_kinds_apart(swapped: bool) -> None:
    ir, general = around(3 * unit(0) + 2 * unit(1), 60, 1), around(0.1 * unit(0) + 2 * unit(1), 80, 2)
    ir, general = (general, ir) if swapped else (ir, general)
    fitted = CosineCondition().fit(ir, general)
    assert fitted.f1_ > 0.95
    assert fitted.gate_.opening(ir).mean() > 0.95
    assert fitted.gate_.opening(general).mean() < 0.1
    assert set(np.unique(fitted.gate_.opening(np.concatenate([ir, general])))) <= {0.0, 1.0}


def test_cast_is_not_lost_where_prompts_differ_most_in_something_else() -> None:
    """States of both kinds lie far along a line that says nothing (as the lengths of prompts do), and no less near to it."""
    rng = np.random.default_rng(0)
    along = [np.outer(20 * rng.standard_normal(n), unit(3)) for n in (60, 80)]
    ir, general = around(9 * unit(0), 60, 1) + along[0], around(0 * unit(0), 80, 2) + along[1]
    assert CosineCondition().fit(ir.astype(np.float32), general.astype(np.float32)).f1_ > 0.9


def test_alphasteer_leaves_the_null_space_and_maps_ir_queries_to_the_direction() -> None:
    """General states span 8 dimensions; IR states have one more of their own. Then Δ is known: 0 there, r here."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0]
    general = (rng.standard_normal((200, 8)) @ basis[:, :8].T).astype(np.float32)
    ir = (rng.standard_normal((50, 8)) @ basis[:, :8].T + 20 * basis[:, 8]).astype(np.float32)
    direction = (3 * unit(5)).astype(np.float32)
    fitted = NullSpaceMap(null_share=(WIDTH - 8) / WIDTH, ridge=1e-3).fit(ir, general, direction)
    np.testing.assert_allclose(fitted.experts_.vector(general), 0, atol=1e-3)
    np.testing.assert_allclose(fitted.experts_.vector(ir), np.tile(direction, (50, 1)), rtol=1e-3, atol=1e-3)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.floats(0.2, 1.0), st.floats(0.1, 100))
def test_alphasteer_solves_the_papers_ridge_problem(seed: int, share: float, ridge: float) -> None:
    """`(XᵀX + ρ PᵀP) D = XᵀR` and `Δ = P D`, solved with d×d matrices."""
    rng = np.random.default_rng(seed)
    general, ir = (
        rng.standard_normal((40, WIDTH)).astype(np.float32),
        rng.standard_normal((30, WIDTH)).astype(np.float32),
    )
    direction = rng.standard_normal(WIDTH).astype(np.float32)
    _, vectors = np.linalg.eigh(general.astype(float).T @ general.astype(float))
    u = vectors[:, : max(1, round(share * WIDTH))]
    p = u @ u.T
    x = ir @ p
    delta = p @ np.linalg.pinv(x.T @ x + ridge * p.T @ p, rcond=1e-9) @ x.T @ np.tile(direction, (30, 1))
    fitted = NullSpaceMap(share, ridge).fit(ir, general, direction)
    np.testing.assert_allclose(fitted.experts_.vector(ir), ir @ delta, rtol=1e-2, atol=1e-3)


def test_a_linear_map_as_experts_is_exact_enough() -> None:
    rng = np.random.default_rng(0)
    inner, outer, states = (rng.standard_normal(s).astype(np.float32) for s in ((3, WIDTH), (3, 2 * WIDTH), (9, WIDTH)))
    np.testing.assert_allclose(
        linear_experts(inner, outer).vector(states), states @ inner.T @ outer, rtol=1e-4, atol=1e-4
    )


def test_alphasteer_has_a_map_of_its_own_for_each_block() -> None:
    rng = np.random.default_rng(0)
    ir, general = ({block: around(unit(block + at), 30, block) for block in (9, 4)} for at in (0, 50))
    directions = {block: rng.standard_normal(WIDTH).astype(np.float32) for block in (4, 9)}
    fitted = NullSpaceMaps({4: 0.5, 9: 0.25}, ridge=2.0).fit(ir, general, directions)
    assert list(fitted.maps_) == [4, 9]
    found = fitted.vectors(ir)
    for block, share in ((4, 0.5), (9, 0.25)):
        alone = NullSpaceMap(share, 2.0).fit(ir[block], general[block], directions[block])
        np.testing.assert_array_equal(found[block], alone.experts_.vector(ir[block]))
    together = fitted.experts_.vector(np.concatenate([ir[4], ir[9]], axis=1))
    np.testing.assert_allclose(together, np.concatenate([found[4], found[9]], axis=1), rtol=1e-4, atol=1e-5)


def test_a_random_direction_is_as_long_as_the_mean_difference() -> None:
    delta = around(3 * unit(0), 40, 1)
    first, again, other = (RandomDirection(seed).fit(delta).experts_.prototypes[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.linalg.norm(first) == pytest.approx(np.linalg.norm(delta.mean(axis=0)), rel=1e-6)
    assert abs(first @ other) < 0.9 * np.linalg.norm(first) ** 2
    drawn = np.stack([RandomDirection(seed).fit(delta).experts_.prototypes[0] for seed in range(100)])
    assert np.linalg.norm(drawn.mean(axis=0)) < 0.3 * np.linalg.norm(first)  # of no side


def test_a_ridge_map_finds_a_linear_law() -> None:
    """δ = m + (h − c) B with B of rank 2: found again, at queries it has not seen."""
    rng = np.random.default_rng(0)
    inner, outer = rng.standard_normal((WIDTH, 2)), rng.standard_normal((2, 2 * WIDTH))
    middle, states = rng.standard_normal(2 * WIDTH), rng.standard_normal((200, WIDTH)) + 3
    delta = middle + (states - 3) @ inner @ outer
    noisy = delta + 0.1 * rng.standard_normal(delta.shape)
    fitted = RidgeMap(rank=4).fit(states[:150].astype(np.float32), noisy[:150].astype(np.float32))
    off = fitted.experts_.vector(states[150:].astype(np.float32)) - delta[150:]
    assert np.square(off).mean() < 0.005 * np.square(delta[150:] - delta.mean(axis=0)).mean()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 100))
def test_a_ridge_map_of_full_rank_is_the_ridge_solution(seed: int, penalty: float) -> None:
    rng = np.random.default_rng(seed)
    states, delta = (rng.standard_normal((30, w)).astype(np.float32) for w in (WIDTH, WIDTH + 6))
    x, y = (z - z.mean(axis=0, dtype=np.float64) for z in (states, delta))
    b = np.linalg.solve(x.T @ x + penalty * np.eye(WIDTH), x.T @ y)
    fitted = RidgeMap(rank=WIDTH, penalty=penalty).fit(states, delta)
    np.testing.assert_allclose(fitted.experts_.vector(states), x @ b + delta.mean(axis=0), rtol=1e-3, atol=1e-4)


def test_a_ridge_map_of_noise_is_the_mean_difference() -> None:
    rng = np.random.default_rng(0)
    states, delta = (rng.standard_normal((300, WIDTH)).astype(np.float32) for _ in range(2))
    fitted = RidgeMap().fit(states, delta + 1)
    spread = fitted.experts_.vector(states) - (delta + 1).mean(axis=0)
    assert np.square(spread).mean() < 0.02


def test_dsas_is_a_logistic_strength_before_the_vector() -> None:
    ir, general = around(2 * unit(0), 60, 1), around(-2 * unit(0), 200, 2)
    direction = np.concatenate([unit(3), 2 * unit(4)]).astype(np.float32)  # of two blocks
    fitted = LogisticStrength().fit(ir, general, direction)
    assert fitted.accuracy_ == 1
    states = np.concatenate([ir, general, around(0 * unit(0), 5, 3)])
    logits = (states - fitted.experts_.center) @ fitted.weights_ + fitted.intercept_
    expected = (1 / (1 + np.exp(-logits)))[:, None] * direction
    np.testing.assert_allclose(fitted.experts_.vector(states), expected, rtol=1e-4, atol=1e-5)
    strengths = fitted.experts_.weights(states)[:, 0]
    assert strengths[:60].min() > 0.9
    assert strengths[60:260].max() < 0.1
    # it is blind to what is not among the first principal components, and even-handed whatever the sizes of the sets
    np.testing.assert_allclose(strengths[260:], 0.5, atol=0.3)


def test_dsas_takes_as_many_components_as_tell_the_queries_apart() -> None:
    """General queries of many kinds fill the first components with what tells the kinds apart."""
    rng = np.random.default_rng(0)
    kinds = np.concatenate([around(9 * unit(i), 40, i) for i in range(1, 8)])
    ir = np.concatenate([around(9 * unit(i) + 3 * unit(0), 10, 10 + i) for i in range(1, 8)])
    vector = unit(3).astype(np.float32)
    five, chosen = LogisticStrength((5,)).fit(ir, kinds, vector), LogisticStrength().fit(ir, kinds, vector)
    assert five.accuracy_ < 0.75
    assert not five.experts_.vector(ir).any()
    assert chosen.components_ > 5
    assert chosen.accuracy_ > 0.9
    assert np.median(chosen.experts_.weights(ir)[:, 0]) > 0.9
    # twins in one fold: what was learned of one is no help with the other
    noise = rng.standard_normal((60, ir.shape[1])).astype(np.float32)
    twins = np.repeat(np.arange(6), 10)
    copies = noise[:6][twins] + 0.01 * noise
    apart, together = (
        LogisticStrength((20,)).fit(copies, noise[6:], vector, *groups) for groups in ((), (twins, None))
    )
    assert together.accuracy_ < apart.accuracy_ - 0.2


def test_dsas_leaves_a_block_alone_that_can_not_tell() -> None:
    alike, other = around(unit(0), 60, 1), around(unit(0), 80, 2)
    fitted = LogisticStrength().fit(alike, other, unit(3).astype(np.float32))
    assert fitted.accuracy_ < 0.75
    assert not fitted.experts_.vector(alike).any()


def clamped(x: np.ndarray, low: float, high: float) -> np.ndarray:
    inside: np.ndarray = np.minimum(np.maximum(x, low), high)
    return inside


def test_adasteer_has_a_clamped_line_for_each_direction() -> None:
    """Strengths that are lines of the positions are found again; beyond what was fitted, they stay at their bounds."""
    refused, complied, general = around(2 * unit(0), 40, 1), around(2 * unit(1), 50, 2), around(2 * unit(2), 60, 3)
    r = refused.mean(axis=0, dtype=float) - complied.mean(axis=0, dtype=float)
    c = complied.mean(axis=0, dtype=float) - general.mean(axis=0, dtype=float)

    def p_r(states: np.ndarray) -> np.ndarray:
        positions: np.ndarray = (states - complied.mean(axis=0, dtype=float)) @ r / (r @ r)
        return positions

    def p_c(states: np.ndarray) -> np.ndarray:
        positions: np.ndarray = (states - general.mean(axis=0, dtype=float)) @ c / (c @ c)
        return positions

    wanted_r = (0.8 - 0.5 * p_r(refused), 0.8 - 0.5 * p_r(complied))
    wanted_c = (-0.6 + 0.4 * p_c(complied), -0.6 + 0.4 * p_c(general))
    fitted = AdaptiveSteering().fit(refused, complied, general, rejection_wanted=wanted_r, harmfulness_wanted=wanted_c)
    states = (3 * np.random.default_rng(0).standard_normal((200, WIDTH))).astype(np.float32)
    bounds_r, bounds_c = ((np.concatenate(w).min(), np.concatenate(w).max()) for w in (wanted_r, wanted_c))
    strength_r = clamped(0.8 - 0.5 * p_r(states), *bounds_r)
    strength_c = clamped(-0.6 + 0.4 * p_c(states), *bounds_c)
    assert ((strength_r == bounds_r[0]).any(), (strength_r == bounds_r[1]).any()) == (True, True)
    np.testing.assert_allclose(fitted.rejection_.strength(states), strength_r, rtol=1e-6)
    np.testing.assert_allclose(fitted.harmfulness_.strength(states), strength_c, rtol=1e-6)
    towards = (c @ r) / (r @ r) * r
    expected = strength_r[:, None] * r + strength_c[:, None] * towards
    np.testing.assert_allclose(fitted.experts_.vector(states), expected, rtol=1e-3, atol=1e-4)


def test_adasteer_steers_answered_ir_queries_to_where_refused_ones_are() -> None:
    fitted = AdaptiveSteering().fit(around(unit(0), 40, 1), around(unit(1), 50, 2), around(unit(2), 60, 3))
    means = np.stack([unit(0), unit(1), unit(2)]).astype(np.float32)
    assert fitted.rejection_.strength(means)[:2] == pytest.approx([0, 1], abs=0.1)
    assert fitted.harmfulness_.strength(means)[1:] == pytest.approx([0, -1], abs=0.1)
    bounds = fitted.rejection_.strength((100 * np.stack([unit(0), -unit(0)])).astype(np.float32))
    assert sorted(bounds) == [0, 1]


@pytest.mark.parametrize("reading", ["last", "mean"])
def test_cast_takes_the_reading_that_it_was_fitted_on(reading: str) -> None:
    """Prompts whose positions carry the topic, and whose last one carries it too: a condition on means is fitted on means."""
    rng = np.random.default_rng(0)

    def prompts(direction: np.ndarray, n: int) -> np.ndarray:
        return direction + rng.standard_normal((n, 9, WIDTH))

    def read(x: np.ndarray) -> np.ndarray:
        return (x[:, -1] if reading == "last" else x.mean(axis=1)).astype(np.float32)

    topic, template = 3 * unit(0) + 2 * unit(1), 0.1 * unit(0) + 2 * unit(1)
    fitted = CosineCondition().fit(read(prompts(topic, 80)), read(prompts(template, 80)))
    unseen_ir, unseen_general = read(prompts(topic, 80)), read(prompts(template, 80))
    right = (fitted.gate_.opening(unseen_ir).mean() + 1 - fitted.gate_.opening(unseen_general).mean()) / 2
    assert right > (0.98 if reading == "mean" else 0.8)


@pytest.mark.parametrize("bad", [np.empty((0, WIDTH), np.float32), np.full((3, WIDTH), np.inf, np.float32)])
def test_what_can_not_be_fitted_says_so(bad: np.ndarray) -> None:
    good = around(unit(0), 5, 0)
    for attempt in (
        lambda: MeanDifference().fit(bad),
        lambda: PrincipalDirection().fit(bad),
        lambda: CosineCondition().fit(good, bad),
        lambda: NullSpaceMap().fit(bad, good, unit(0)),
        lambda: NullSpaceMap(null_share=0.0).fit(good, good, unit(0)),
        lambda: NullSpaceMaps().fit({3: good}, {4: good}, {3: unit(0)}),
        lambda: NullSpaceMaps({4: 0.5}).fit({3: good}, {3: good}, {3: unit(0)}),
        lambda: RandomDirection().fit(bad),
        lambda: RidgeMap().fit(bad, bad),
        lambda: RidgeMap().fit(good, good[1:]),
        lambda: RidgeMap(rank=0).fit(good, good),
        lambda: RidgeMap(penalty=0.0).fit(good, good),
        lambda: LogisticStrength().fit(good, bad, unit(0)),
        lambda: LogisticStrength().fit(good[1:], good, unit(0)),
        lambda: LogisticStrength(components=(0,)).fit(good, good, unit(0)),
        lambda: AdaptiveSteering().fit(good, bad, good),
        lambda: AdaptiveSteering().fit(good, good, good),
        lambda: AdaptiveSteering().fit(good, good + 1, good - 1, rejection_wanted=(np.zeros(5), np.ones(4))),
    ):
        with pytest.raises(FitError):
            attempt()
