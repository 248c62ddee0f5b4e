"""Captures by several processes: the same bytes, whoever is killed, and a sentence for what does not fit."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest

from fs_local.capture import Captured, Request, capture, query_request
from fs_local.errors import FsLocalError, ModelError
from fs_local.examples import Query
from fs_local.method.readings import Reading
from fs_local.runtime.model import Model
from fs_local.runtime.placement import Placement
from fs_local.shards import in_order, jobs

LAYERS = [2, 4]
READINGS: tuple[Reading, ...] = ("last", "user_mean")


@pytest.fixture(scope="module")
def requests(tiny: Model) -> list[Request]:
    queries = [
        query_request(tiny, Query.of(f"Tell me about the number {i}, and why it is {'so ' * (i % 7)}odd."))
        for i in range(150)
    ]
    pairs = [
        query_request(tiny, Query.of(f"What is {i} and {i}?"), ("I don't know.", f"It is {2 * i}.")) for i in range(60)
    ]
    return queries + pairs


@pytest.fixture(scope="module")
def alone(tiny: Model, requests: list[Request]) -> Captured:
    return capture(tiny, requests, LAYERS, readings=READINGS)


def same(a: Captured, b: Captured) -> bool:
    answers = all(np.array_equal(x, y) for x, y in zip(a.answers, b.answers, strict=True))
    return np.array_equal(a.queries, b.queries) and answers


def test_two_processes_read_the_same_bytes(
    tiny: Model, requests: list[Request], alone: Captured, tmp_path: Path
) -> None:
    reported: list[tuple[int, int]] = []
    with jobs(2):
        found = capture(tiny, requests, LAYERS, lambda *n: reported.append(n), readings=READINGS)
        kept = capture(tiny, requests, LAYERS, store=tmp_path, readings=READINGS)
    assert same(found, alone)
    assert same(kept, alone)
    assert reported == sorted(reported)
    assert reported[-1] == (len(requests), len(requests))


def test_a_stopped_capture_goes_on_with_others(
    tiny: Model, requests: list[Request], alone: Captured, tmp_path: Path
) -> None:
    def stop(done: int, _total: int) -> None:
        if done > 60:
            raise KeyboardInterrupt

    with jobs(2), pytest.raises(KeyboardInterrupt):
        capture(tiny, requests, LAYERS, stop, tmp_path, READINGS)
    assert same(capture(tiny, requests, LAYERS, store=tmp_path, readings=READINGS), alone)


def kill_once(shard: tuple[int, str]) -> int:
    """A shard that kills its process the first time that it is done."""
    number, folder = shard
    mark = Path(folder) / str(number)
    if number in (3, 7) and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def kill_always(_shard: int) -> int:
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def test_a_killed_process_loses_its_shard_alone(tmp_path: Path) -> None:
    with jobs(2):
        assert list(in_order(kill_once, [(i, str(tmp_path)) for i in range(10)])) == [i * i for i in range(10)]
        with pytest.raises(FsLocalError, match="killed 3 times over"):
            list(in_order(kill_always, [1, 2]))


def test_any_backend_of_joblib_will_do(tiny: Model, requests: list[Request], alone: Captured) -> None:
    with joblib.parallel_config("threading", n_jobs=2):
        assert same(capture(tiny, requests, LAYERS, readings=READINGS), alone)


def test_another_file_at_the_path_is_refused(tiny_path: Path, requests: list[Request], tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    shutil.copy(tiny_path, path)
    with Model.load(path) as model, jobs(2):
        data = bytearray(path.read_bytes())
        data[-100:] = bytes(100)
        path.unlink()
        path.write_bytes(data)
        with pytest.raises(ModelError, match=r"on .*model\.gguf is another file"):
            capture(model, requests, LAYERS)
        path.unlink()
        with pytest.raises(ModelError, match=r"on .*no model file at"):
            capture(model, requests, LAYERS)


def test_an_open_model_is_not_sent(tiny: Model) -> None:
    with pytest.raises(ModelError, match="can't be sent to another process"):
        pickle.dumps(tiny)


def test_nobody_at_an_address_is_a_sentence() -> None:
    with (
        pytest.raises(FsLocalError, match=r"--cluster needs Dask|no Dask scheduler at"),
        jobs(cluster="tcp://127.0.0.1:1"),
    ):
        pass


def test_workers_and_jobs_do_not_go_together() -> None:
    from types import SimpleNamespace

    from fs_local.commands.sharing import Sharing

    remote: Any = SimpleNamespace(is_remote=True, placement=Placement(workers=("a:1",)))
    here: Any = SimpleNamespace(is_remote=False)
    for sharing in (Sharing(jobs=2), Sharing(cluster="tcp://a:1")):
        with pytest.raises(FsLocalError, match="serves one client"):
            sharing.between(remote)
    with pytest.raises(FsLocalError, match="leave one of them out"):
        Sharing(2, "tcp://a:1").between(here)
