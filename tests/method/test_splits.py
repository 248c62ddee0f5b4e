"""Splits that keep groups together."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fs_local.fitting.held_out import pair_parts
from fs_local.method.group_splits import alone, split

GROUPS = st.lists(st.integers(0, 30), min_size=2, max_size=120).map(lambda x: np.array(x, dtype=np.intp))


@given(GROUPS, st.integers(0, 1000), st.sampled_from([0.1, 0.2, 0.5]))
def test_each_row_is_on_one_side_and_twins_are_on_the_same(groups: np.ndarray, seed: int, share: float) -> None:
    kept, held_out = split(groups, seed, share)
    assert sorted([*kept, *held_out]) == list(range(len(groups)))
    assert 1 <= len(held_out) <= max(1, round(share * len(groups)))
    sizes = np.bincount(groups)
    if sizes[sizes > 0].min() <= max(1, round(share * len(groups))):
        assert not {*groups[kept]} & {*groups[held_out]}
    again = split(100 - groups, seed, share)  # by other numbers
    assert all(np.array_equal(a, b) for a, b in zip((kept, held_out), again, strict=True))


def test_rows_without_twins_are_held_out_to_the_row() -> None:
    kept, held_out = split(alone(50), 0, 0.2)
    assert (len(kept), len(held_out)) == (40, 10)
    assert not np.array_equal(held_out, split(alone(50), 1, 0.2)[1])


def test_where_all_are_twins_single_rows_go() -> None:
    kept, held_out = split(np.zeros(20, dtype=np.intp), 0, 0.2)
    assert (len(kept), len(held_out)) == (16, 4)


@given(GROUPS.filter(lambda g: len(g) >= 8), st.integers(0, 1000))
def test_every_pair_fits_chooses_or_reports(groups: np.ndarray, seed: int) -> None:
    parts = pair_parts(groups, seed)
    rows = [*parts.train, *parts.choose, *parts.report]
    assert sorted(rows) == list(range(len(groups)))
    assert min(len(parts.train), len(parts.choose), len(parts.report)) > 0
    assert len(parts.train) >= 0.6 * len(groups) - 1
    assert sorted(parts.fit) == sorted([*parts.train, *parts.choose])
