"""Readings: the same bits however a prompt is split, and what capture reads in a batch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fs_local.errors import FitError
from fs_local.method.readings import QueryReader, Reading, Span, mean_of, part_of

READINGS: tuple[Reading, ...] = ("last", "user_last", "user_mean", "mean")


@given(st.data())
def test_the_same_bits_however_a_prompt_is_split(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 40))
    start = data.draw(st.integers(0, n - 1))
    user = Span(start, data.draw(st.integers(start + 1, n)))
    rows = np.random.default_rng(data.draw(st.integers(0, 9))).standard_normal((n, 5)).astype(np.float32)
    cuts = sorted(data.draw(st.sets(st.integers(1, n - 1)))) if n > 1 else []
    reader = QueryReader({3: READINGS}, n, user)
    for first, stop in zip([0, *cuts], [*cuts, n], strict=True):
        wanted = reader.rows(3, first, stop - first)
        reader.take(3, rows[first + wanted.start : first + wanted.stop], first + wanted.start)
        assert reader.is_complete(3) == (stop == n)
    expected = [rows[-1], rows[user.stop - 1], mean_of(rows[user.start : user.stop]), mean_of(rows)]
    np.testing.assert_array_equal(reader.gate_state([3], READINGS), np.concatenate(expected))


def test_only_the_rows_that_are_wanted_are_asked_for() -> None:
    reader = QueryReader({1: ["user_mean"], 2: ["last"]}, 100, Span(40, 60))
    assert reader.rows(1, 0, 32) == (0, 0)
    assert reader.rows(1, 32, 32) == (8, 28)
    assert reader.rows(2, 64, 36) == (35, 36)
    assert reader.rows(5, 0, 100) == (0, 0)


def test_what_a_first_part_holds_of_the_users_text() -> None:
    assert part_of(Span(10, 90), 64) == (10, 64)
    assert part_of(Span(80, 90), 64) == (0, 64)


def test_states_that_are_not_finite_are_refused() -> None:
    reader = QueryReader({1: ["mean"]}, 2, Span(0, 2))
    with pytest.raises(FitError, match="after block 1 is not finite"):
        reader.take(1, np.array([[1, np.nan], [0, 0]], dtype=np.float32), 0)


def test_an_empty_text_of_the_user_is_refused() -> None:
    with pytest.raises(ValueError, match="can't be tokens 2 to 2 of 3"):
        QueryReader({}, 3, Span(2, 2))
