"""Means and principal directions in chunks: those of numpy and scikit-learn on the whole matrix."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from fs_local.method import rows as rows_module
from fs_local.method import subspace
from fs_local.method.rows import Rows
from fs_local.method.subspace import deviation, group_means, mean, mean_square, principal, spread


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "_CHUNK_NUMBERS", 500)


def decaying(n: int, d: int, seed: int = 0, share: float = 0.85) -> np.ndarray:
    """Each direction varies `share` as much as the one before; far from the origin, as states are."""
    rng = np.random.default_rng(seed)
    turned = np.linalg.qr(rng.standard_normal((d, d)))[0]
    states: np.ndarray = 30 + rng.standard_normal((n, d)) * share ** np.arange(d) @ turned
    return states.astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 60), st.integers(1, 40), st.integers(0, 1000))
def test_figures_of_columns_are_numpys(n: int, d: int, seed: int) -> None:
    states = decaying(n, d, seed)
    rows, exact = Rows.of(states), states.astype(np.float64)
    np.testing.assert_allclose(mean(rows), exact.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(deviation(rows), exact.std(axis=0), rtol=1e-9)
    assert spread(rows) == pytest.approx(np.ptp(exact, axis=0).max())
    assert mean_square(rows, 1.0) == pytest.approx(np.square(exact - 1).sum(axis=1).mean())
    labels = (np.arange(n) % 2).astype(np.int32)
    np.testing.assert_allclose(group_means(rows, labels, 2), [exact[labels == k].mean(axis=0) for k in (0, 1)])


@pytest.mark.parametrize(("n", "d"), [(30, 80), (200, 40), (60, 60)])
@pytest.mark.parametrize("seed", [0, 1])
def test_small_matrices_have_the_directions_of_scikit_learn(n: int, d: int, seed: int) -> None:
    states = decaying(n, d, seed)
    found, exact = principal(Rows.of(states), 12, 0), PCA(12, svd_solver="full").fit(states.astype(np.float64))
    np.testing.assert_allclose(found.mean, exact.mean_, rtol=1e-9)
    np.testing.assert_allclose(found.variance, exact.explained_variance_, rtol=1e-7)
    signs = np.sign((found.axes * exact.components_).sum(axis=1))
    np.testing.assert_allclose(found.axes, signs[:, None] * exact.components_, atol=1e-5)
    np.testing.assert_allclose(found.axes @ found.axes.T, np.eye(12), atol=1e-9)
    np.testing.assert_allclose(
        found.coordinates(Rows.of(states)), signs * exact.transform(states.astype(np.float64)), atol=1e-3
    )
    assert (np.take_along_axis(found.axes, np.abs(found.axes).argmax(axis=1)[:, None], axis=1) > 0).all()


@pytest.mark.parametrize(("n", "d"), [(400, 150), (150, 400)])
def test_large_matrices_come_near_to_it(n: int, d: int, monkeypatch: pytest.MonkeyPatch) -> None:
    states = Rows.of(decaying(n, d))
    exact = principal(states, 10, 0)
    monkeypatch.setattr(subspace, "_EXACT", 50)
    found = principal(states, 10, 0)
    np.testing.assert_allclose(found.variance, exact.variance, rtol=1e-4)
    np.testing.assert_allclose(np.abs((found.axes * exact.axes).sum(axis=1)), 1, atol=1e-4)
    np.testing.assert_array_equal(found.axes, principal(states, 10, 0).axes)


def test_from_the_origin_the_mean_is_a_direction() -> None:
    states = decaying(50, 20)
    exact = np.linalg.svd(states.astype(np.float64), full_matrices=False)[2][0]
    found = principal(Rows.of(states), 1, 0, centred=False).axes[0]
    assert abs(found @ exact) == pytest.approx(1, abs=1e-9)


def test_directions_in_which_nothing_varies_are_left_out() -> None:
    rng = np.random.default_rng(0)
    flat = (rng.standard_normal((40, 3)) @ rng.standard_normal((3, 90))).astype(np.float32)
    assert len(principal(Rows.of(flat), 8, 0).axes) == 3
    assert principal(Rows.of(np.ones((40, 90), dtype=np.float32)), 8, 0).axes.shape == (0, 90)
    assert principal(Rows.of(flat), 0, 0).axes.shape == (0, 90)
