"""Captures that are killed, on disks that fill up, of files that change: what was captured is kept, and the end is the same."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import random
import sqlite3
import time
import warnings
from io import FileIO
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

from fs_local import capture as capture_module
from fs_local import resume
from fs_local.capture import Captured, Request, capture
from fs_local.errors import ResumeError, ResumeWarning
from fs_local.runtime.model import Model

LAYERS = (2, 5)


def some_requests(n: int = 12) -> list[Request]:
    """Prompts that share a beginning; every third has answers."""
    return [
        Request([1, 2, 3, 100 + i % 100, 7, 8 + i // 100], ([50 + i % 100, 51], [60, 61, 62]) if i % 3 == 0 else ())
        for i in range(n)
    ]


def everything(captured: Captured) -> bytes:
    return captured.queries.tobytes() + b"".join(a.tobytes() for a in captured.answers)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture_module, "MAX_SEQUENCES", 4)


@pytest.fixture
def undisturbed(tiny: Model, small_batches: None) -> Captured:
    return capture(tiny, some_requests(), LAYERS)


def stop_after(n: int) -> capture_module.Progress:
    """A progress callback that ends the capture once n requests are done."""

    def progress(done: int, _total: int) -> None:
        if done >= n:
            raise KeyboardInterrupt

    return progress


def test_disk_and_memory_hold_the_same(tiny: Model, undisturbed: Captured, tmp_path: Path) -> None:
    stored = capture(tiny, some_requests(), LAYERS, store=tmp_path / "deep" / "folder")
    assert everything(stored) == everything(undisturbed)
    assert [a.shape for a in stored.answers] == [a.shape for a in undisturbed.answers]
    assert not stored.queries.flags.writeable


def test_a_stopped_capture_goes_on(tiny: Model, undisturbed: Captured, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        capture(tiny, some_requests(), LAYERS, stop_after(6), tmp_path)
    reported: list[int] = []
    again = capture(tiny, some_requests(), LAYERS, lambda done, _total: reported.append(done), tmp_path)
    assert reported[0] >= 6
    assert everything(again) == everything(undisturbed)
    reported.clear()
    assert everything(
        capture(tiny, some_requests(), LAYERS, lambda done, _total: reported.append(done), tmp_path)
    ) == everything(undisturbed)
    assert reported == [12]  # all of it was there


def test_rows_that_were_not_noted_do_not_count(tiny: Model, undisturbed: Captured, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        capture(tiny, some_requests(), LAYERS, stop_after(6), tmp_path)
    with sqlite3.connect(tmp_path / "captures.sqlite3") as db:
        assert db.execute("delete from batch where number = (select max(number) from batch)").rowcount == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert everything(capture(tiny, some_requests(), LAYERS, store=tmp_path)) == everything(undisturbed)


def test_damaged_states_are_captured_again(tiny: Model, undisturbed: Captured, tmp_path: Path) -> None:
    capture(tiny, some_requests(), LAYERS, store=tmp_path)
    (states,) = tmp_path.glob("*.states")
    whole = states.read_bytes()
    states.write_bytes(whole[:4000] + bytes([whole[4000] ^ 1]) + whole[4001:])
    with pytest.warns(ResumeWarning, match=r"is damaged after \d of \d batches; what stands before is kept"):
        assert everything(capture(tiny, some_requests(), LAYERS, store=tmp_path)) == everything(undisturbed)
    assert states.read_bytes() == whole


def test_a_damaged_database_says_so_and_deletes_nothing(tiny: Model, tmp_path: Path) -> None:
    capture(tiny, some_requests(), LAYERS, store=tmp_path)
    database = tmp_path / "captures.sqlite3"
    damaged = b"x" + database.read_bytes()[1:]
    database.write_bytes(damaged)
    with pytest.raises(ResumeError, match=r"is damaged \(file is not a database\); move it away"):
        capture(tiny, some_requests(), LAYERS, store=tmp_path)
    assert database.read_bytes() == damaged


def test_two_at_once_capture_the_same(tiny: Model, undisturbed: Captured, tmp_path: Path) -> None:
    inner: list[Captured] = []

    def another(done: int, _total: int) -> None:
        if done >= 6 and not inner:
            inner.append(capture(tiny, some_requests(), LAYERS, store=tmp_path))

    outer = capture(tiny, some_requests(), LAYERS, another, tmp_path)
    assert everything(outer) == everything(inner[0]) == everything(undisturbed)


def test_what_nobody_used_is_forgotten(tiny: Model, small_batches: None, tmp_path: Path) -> None:
    for requests in (some_requests(), some_requests()[1:]):
        capture(tiny, requests, LAYERS, store=tmp_path)
    kept, old = sorted(tmp_path.glob("*.states"))
    os.utime(old, (0, 0))
    with sqlite3.connect(tmp_path / "captures.sqlite3") as db:
        db.execute("update capture set used = 0 where key = ?", (old.stem,))
    resume.forget_captures(tmp_path, time.time() - 60)
    assert list(tmp_path.glob("*.states")) == [kept]
    with sqlite3.connect(tmp_path / "captures.sqlite3") as db:
        assert db.execute("select distinct capture from batch").fetchall() == [(kept.stem,)]


def test_changed_examples_start_anew_and_say_so(tiny: Model, small_batches: None, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        capture(tiny, some_requests(), LAYERS, stop_after(6), tmp_path)
    (kept,) = tmp_path.glob("*.states")
    before = kept.read_bytes()
    with pytest.warns(ResumeWarning, match="examples changed since a capture was stopped"):
        changed = capture(tiny, some_requests()[1:], LAYERS, store=tmp_path)
    assert everything(changed) == everything(capture(tiny, some_requests()[1:], LAYERS))
    assert kept.read_bytes() == before


def test_a_full_disk_says_so_and_keeps_what_was_captured(
    tiny: Model, undisturbed: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, room = resume._write_all, 6_000

    def full(file: FileIO, data: bytes) -> None:
        nonlocal room
        room -= len(data)
        if room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, data)

    monkeypatch.setattr(resume, "_write_all", full)
    with pytest.raises(ResumeError, match=r"No space left on device\); what was captured is kept \([1-9] of"):
        capture(tiny, some_requests(), LAYERS, store=tmp_path)
    monkeypatch.setattr(resume, "_write_all", write)
    assert everything(capture(tiny, some_requests(), LAYERS, store=tmp_path)) == everything(undisturbed)


def test_a_folder_that_can_not_be_made_says_so(tiny: Model, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResumeError, match="can't be written"):
        capture(tiny, some_requests(), LAYERS, store=tmp_path / "file")


def n_noted(folder: Path) -> int:
    """Batches that a folder has."""
    with sqlite3.connect(folder / "captures.sqlite3") as db:
        return int(db.execute("select count(*) from batch").fetchone()[0])


def captured_by_a_child(model: Path, folder: Path, done: Connection) -> None:
    capture_module.MAX_SEQUENCES = 4
    with Model.load(model) as loaded:
        capture(loaded, some_requests(1200), LAYERS, lambda n, _total: done.send(n), folder)


def test_killed_ten_times_it_ends_with_the_same_bytes(tiny_path: Path, tmp_path: Path) -> None:
    """kill -9 in the middle of whatever it does. Children are forked from a process that has imported all, and run nothing yet."""
    random.seed(4)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__])

    def started(name: str) -> tuple[BaseProcess, Connection]:
        ours, theirs = processes.Pipe(duplex=False)
        child = processes.Process(target=captured_by_a_child, args=(tiny_path, tmp_path / name, theirs))
        child.start()
        theirs.close()
        return child, ours

    def finished(name: str) -> Path:
        child, done = started(name)
        with contextlib.suppress(EOFError):
            while True:
                done.recv()
        child.join()
        assert child.exitcode == 0
        (states,) = (tmp_path / name).glob("*.states")
        return states

    one = finished("undisturbed")
    reached = []
    for _ in range(10):
        child, done = started("killed")
        for _ in range(random.randint(1, 9)):
            done.recv()  # at first what was there already
        time.sleep(random.uniform(0, 0.003))
        child.kill()
        child.join()
        reached.append(n_noted(tmp_path / "killed"))
    whole = n_noted(tmp_path / "undisturbed")
    assert 0 < reached[0] < reached[-1] < whole, reached
    other = finished("killed")
    assert one.name == other.name
    assert one.read_bytes() == other.read_bytes()
    assert np.isfinite(np.fromfile(one, np.float32)).all()
