"""MoSE: gradients, planted experts, folding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import approx_fprime

from fs_local.errors import FitError
from fs_local.method.experts import MixtureOfSteeringExperts, Objective, squared_error
from fs_local.method.folded import constant_experts
from fs_local.method.rows import Rows

WIDTH = 48


def planted(n: int = 160, k: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries of k kinds, whose differences depend on their kind."""
    world, rng = np.random.default_rng(99), np.random.default_rng(seed)
    centers, directions = 4 * world.standard_normal((k, WIDTH)), 6 * world.standard_normal((k, WIDTH))
    kinds = rng.integers(0, k, n)
    states = centers[kinds] + rng.standard_normal((n, WIDTH))
    differences = directions[kinds] + 0.5 * rng.standard_normal((n, WIDTH))
    return states.astype(np.float32), differences.astype(np.float32), kinds


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    m=st.integers(2, 12),
    p=st.integers(1, 6),
    k=st.integers(1, 4),
    u=st.integers(0, 3),
    penalty=st.sampled_from([0.0, 0.1]),
)
def test_gradient_agrees_with_finite_differences(seed: int, m: int, p: int, k: int, u: int, penalty: float) -> None:
    rng = np.random.default_rng(seed)
    objective = Objective(
        rng.standard_normal((m, p)),
        rng.standard_normal((m, 9)),
        rng.standard_normal((k, 9)),
        rng.standard_normal((k, k)),
        np.linalg.qr(rng.standard_normal((9, 3)))[0].T[:u],
        key_width=3,
        hidden_width=4 if u else 0,
        penalty=penalty,
        scale=2.0,
    )
    theta = rng.standard_normal(objective.layout.size)

    def value(at: np.ndarray) -> float:
        return objective(at)[0]

    numeric = approx_fprime(theta, value, 1e-7)
    np.testing.assert_allclose(objective(theta)[1], numeric, rtol=1e-4, atol=2e-5)


def test_error_is_the_mean_squared_distance_in_the_models_own_space() -> None:
    rng = np.random.default_rng(1)
    z, delta, c = rng.standard_normal((7, 3)), rng.standard_normal((7, 20)), rng.standard_normal((2, 20))
    u = np.linalg.qr(rng.standard_normal((20, 2)))[0].T
    objective = Objective(z, delta, c, rng.standard_normal((2, 2)), u, 3, 4, penalty=0.0, scale=1.0)
    theta = rng.standard_normal(objective.layout.size)
    alpha, hidden, _ = objective.predict(theta)
    _, _, _, w_2, b_2 = objective.layout.split(theta)
    v = alpha @ c + (hidden @ w_2.T + b_2) @ u
    assert objective.error(theta) == pytest.approx(np.square(v - delta).sum(axis=1).mean())


def test_planted_experts_are_found_and_routed_to() -> None:
    states, differences, kinds = planted()
    mose = MixtureOfSteeringExperts().fit(states, differences)
    assert mose.n_experts_ == 4
    for k in range(4):  # the clusters are the kinds, and their prototypes means of the members' differences
        members = mose.labels_ == k
        assert len(np.unique(kinds[mose.train_][members])) == 1
        np.testing.assert_allclose(
            mose.experts_.prototypes[k], differences[mose.train_][members].mean(axis=0), rtol=1e-4, atol=1e-4
        )
    fresh, wanted, _ = planted(40, seed=1)
    constant = constant_experts(differences[mose.train_].mean(axis=0), WIDTH)
    ours, theirs = (squared_error(e, Rows.of(fresh), Rows.of(wanted)) for e in (mose.experts_, constant))
    assert ours == pytest.approx(np.square(mose.vector(fresh) - wanted).sum(axis=1).mean(), rel=1e-5)
    assert ours < 0.1 * theirs


def test_the_error_that_stops_is_that_of_the_folded_experts() -> None:
    states, differences, _ = planted()
    mose = MixtureOfSteeringExperts(seed=2).fit(states, differences)
    off = mose.vector(states[mose.stopping_]) - differences[mose.stopping_]
    assert np.square(off).sum(axis=1).mean() == pytest.approx(mose.stopping_error_, rel=1e-3)
    weights = mose.experts_.weights(states)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)


def test_one_expert_without_residual_is_the_mean_difference() -> None:
    states, differences, _ = planted()
    mose = MixtureOfSteeringExperts(n_experts=(1, 1), residual_rank=0).fit(states, differences)
    mean = differences[mose.train_].mean(axis=0)
    np.testing.assert_allclose(mose.vector(states), np.broadcast_to(mean, states.shape), rtol=1e-4, atol=1e-4)


def test_the_error_that_chose_the_iterations_is_lower_than_that_of_other_pairs() -> None:
    """Of noise alone, where nothing can be learned: what a minimum over iterations flatters by."""
    gains = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        states, differences = (rng.standard_normal((60, WIDTH)).astype(np.float32) for _ in range(2))
        mose = MixtureOfSteeringExperts((3, 3), seed=seed).fit(states[:40], differences[:40])
        gains.append(
            squared_error(mose.experts_, Rows.of(states[40:]), Rows.of(differences[40:])) - mose.stopping_error_
        )
    assert np.mean(gains) > 0


def test_twins_are_trained_on_or_stop_the_training_and_never_both() -> None:
    states, differences, _ = planted(120)
    groups = np.repeat(np.arange(30), 4)
    mose = MixtureOfSteeringExperts().fit(states, differences, groups)
    assert not {*groups[mose.train_]} & {*groups[mose.stopping_]}
    assert sorted([*mose.train_, *mose.stopping_]) == list(range(120))


def test_same_seed_same_experts() -> None:
    states, differences, _ = planted()
    first, second = (MixtureOfSteeringExperts(seed=5).fit(states, differences).experts_ for _ in range(2))
    for name in ("prototypes", "routing", "routing_bias", "hidden", "hidden_bias", "output", "output_bias", "residual"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_identical_differences_give_one_expert() -> None:
    states, differences, _ = planted(40)
    mose = MixtureOfSteeringExperts().fit(states, np.broadcast_to(differences[0], differences.shape).copy())
    assert mose.n_experts_ == 1


@pytest.mark.parametrize(
    ("options", "change", "message"),
    [
        ({}, lambda s, d: (s[:3], d[:3]), "3 pairs are too few"),
        ({}, lambda s, d: (s, d * np.nan), "not finite"),
        ({}, lambda s, d: (s, d * 0), "must differ"),
        ({}, lambda s, d: (s, d[:-1]), "rows of the same pairs"),
        ({"n_experts": (0, 3)}, lambda s, d: (s, d), "at least 1"),
        ({"n_experts": (5, 3)}, lambda s, d: (s, d), "ascend"),
        ({"n_experts": (30, 30)}, lambda s, d: (s[:40], d[:40]), "at least 60 pairs"),
        ({"residual_rank": -1}, lambda s, d: (s, d), "residual_rank"),
    ],
)
def test_what_can_not_be_fitted_says_so(options: dict[str, Any], change: object, message: str) -> None:
    states, differences, _ = planted(60)
    with pytest.raises(FitError, match=message):
        MixtureOfSteeringExperts(**options).fit(*change(states, differences))  # type: ignore[operator]


def test_pairs_of_one_query_are_routed_alike() -> None:
    _, differences, _ = planted(60)
    one = np.ones((60, 12), dtype=np.float32)
    found = MixtureOfSteeringExperts(seed=0).fit(one, differences)
    vectors = found.vector(one[:2])
    assert np.isfinite(vectors).all()
    assert (vectors[0] == vectors[1]).all()
