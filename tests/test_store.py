"""Results survive a stop at any byte."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fs_local.errors import DataError
from fs_local.store import SCHEMA, Store, digest


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 200))
def test_a_torn_line_is_computed_again_and_the_rest_is_kept(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("store") / "results.jsonl"
    store = Store(path)
    for i in range(5):
        store.put(f"key {i}", {"value": [i, "ü"]})
    whole = path.read_bytes()
    path.write_bytes(whole[: max(0, len(whole) - cut)])
    again = Store(path)
    complete = path.read_bytes().count(b"\n")
    assert [again.get(f"key {i}") is not None for i in range(5)][:complete] == [True] * complete
    for i in range(5):
        if again.get(f"key {i}") is None:
            again.put(f"key {i}", {"value": [i, "ü"]})
    last = Store(path)
    assert [last.get(f"key {i}") for i in range(5)] == [{"value": [i, "ü"]} for i in range(5)]


def test_without_a_path_it_is_in_memory() -> None:
    store = Store()
    store.put("key", [1])
    assert store.get("key") == [1]
    assert store.captures is None


def test_damage_in_the_middle_costs_one_result(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    store = Store(path)
    for i in range(3):
        store.put(str(i), i)
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], b"\xff\x00 not JSON", *lines[2:]]))
    found = Store(path)
    assert [found.get(str(i)) for i in range(3)] == [0, None, 2]


def test_what_can_not_be_written_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path / "results.jsonl")
    (tmp_path / "results.jsonl").mkdir()
    with pytest.raises(DataError, match="can't be written"):
        store.put("a", 1)


def test_digests_tell_inputs_apart() -> None:
    assert digest([1, 2], "a") == digest([1, 2], "a")
    assert digest([1, 2], "a") != digest([12], "a")


def test_another_schema_finds_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest([1, 2], "a")
    monkeypatch.setattr("fs_local.store.SCHEMA", SCHEMA + 1)
    assert digest([1, 2], "a") != before
    monkeypatch.setattr("fs_local.__version__", "99")
    monkeypatch.setattr("fs_local.store.SCHEMA", SCHEMA)
    assert digest([1, 2], "a") == before
