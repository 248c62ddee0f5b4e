"""Runs take turns."""

from __future__ import annotations

from fs_local.benchmark.turns import Budget, alternate


def test_each_turn_begins_with_another_run() -> None:
    order: list[str] = []
    taken = alternate([lambda: order.append("a"), lambda: order.append("b")], Budget(60.0), most=2, warm_up=1)
    assert "".join(order) == "abbaab"
    assert [len(t) for t in taken] == [2, 2]


def test_without_time_there_are_still_enough_for_quartiles() -> None:
    assert [len(t) for t in alternate([lambda: None], Budget(0.0))] == [2]


def test_as_many_pairs_as_are_asked_for() -> None:
    assert [len(t) for t in alternate([lambda: None], Budget(0.0, 40))] == [40]
