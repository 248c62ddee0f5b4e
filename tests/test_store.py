"""Results survive a stop at any byte."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fs_local.errors import DataError
from fs_local.store import SCHEMA, Store, digest


def test_what_was_put_is_found_by_the_next(tmp_path: Path) -> None:
    results = {f"key {i}": {"value": [i, "ü", None]} for i in range(5)}
    Store(tmp_path / "results.sqlite3").put(results)
    again = Store(tmp_path / "results.sqlite3")
    assert again.find([*results, "no such key"]) == results
    assert again.find([]) == {}


def test_killed_at_any_time_it_has_whole_results(tmp_path: Path) -> None:
    """kill -9 while one result after the other is put, in pairs that belong together."""
    path = tmp_path / "results.sqlite3"
    script = """
import sys
from pathlib import Path
from fs_local.store import Store
store = Store(Path(sys.argv[1]))
for i in range(100_000):
    store.put({f"{i} a": ["x" * 2000], f"{i} b": ["y" * 2000]})
    print(i, flush=True)
"""
    reached = 0
    for wait in (1, 7, 30):
        child = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        for _ in range(wait):
            reached = max(reached, int(child.stdout.readline()))
        child.kill()
        child.wait()
        child.stdout.close()
        found = Store(path).find([f"{i} {x}" for i in range(200) for x in "ab"])
        assert len(found) % 2 == 0
        assert len(found) >= 2 * reached
        assert all(len(value[0]) == 2000 for value in found.values())


def test_two_processes_put_at_once(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite3"
    script = "import sys; from pathlib import Path; from fs_local.store import Store\n"
    script += "for i in range(50): Store(Path(sys.argv[1])).put({f'{sys.argv[2]} {i}': i})"
    children = [subprocess.Popen([sys.executable, "-c", script, str(path), name]) for name in "ab"]
    assert [child.wait() for child in children] == [0, 0]
    assert len(Store(path).find([f"{name} {i}" for name in "ab" for i in range(50)])) == 100


def test_without_a_path_it_is_in_memory() -> None:
    store = Store()
    store.put({"key": [1]})
    assert store.find(["key", "other"]) == {"key": [1]}
    assert store.captures is None


def test_what_nobody_used_for_a_week_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda _name: str(tmp_path))
    Store.for_model("one").put({"old": 1, "used": 2})
    path, week_ago = tmp_path / "results" / "one.sqlite3", time.time() - 8 * 24 * 3600
    with sqlite3.connect(path) as db:
        db.execute("update result set used = ?", (week_ago,))
    assert Store(path).find(["used"]) == {"used": 2}
    leftover = tmp_path / "results" / "another.sqlite3"
    leftover.touch()
    os.utime(leftover, (week_ago, week_ago))
    assert Store.for_model("one").find(["old", "used"]) == {"used": 2}
    assert not leftover.exists()


def test_a_file_that_is_no_database_says_so_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite3"
    path.write_text("something else " * 100)
    with pytest.raises(
        DataError, match=r"results.sqlite3 in the cache folder is damaged \(file is not a database\); move it away"
    ):
        Store(path).find(["key"])
    assert path.read_text() == "something else " * 100


def test_what_can_not_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "results.sqlite3").mkdir()
    with pytest.raises(DataError, match="can't be used"):
        Store(tmp_path / "results.sqlite3").put({"a": 1})


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
