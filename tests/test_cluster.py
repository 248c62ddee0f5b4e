"""Captures on a Dask cluster of two processes. Needs the extra `cluster`."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from fs_local.capture import capture, query_request
from fs_local.examples import Query
from fs_local.runtime.model import Model
from fs_local.shards import jobs

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster() -> Iterator[Any]:
    try:
        from distributed import LocalCluster
    except ImportError as error:
        pytest.fail(f"this test needs the extra cluster ({error}): pip install -e '.[test,cluster]'")
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        yield cluster


@pytest.mark.parametrize("killed", [False, True])
def test_a_cluster_reads_the_same_bytes_though_one_of_it_is_killed(tiny: Model, cluster: Any, killed: bool) -> None:
    requests = [query_request(tiny, Query.of(f"Tell me about the number {i}, and about {i + 1}.")) for i in range(600)]
    alone = capture(tiny, requests, [2, 4])
    seen: list[int] = []

    def kill(done: int, _total: int) -> None:
        seen.append(done)
        if killed and len(seen) == 3:
            worker = next(iter(cluster.workers.values()))
            threading.Thread(target=os.kill, args=(worker.pid, signal.SIGKILL)).start()
            time.sleep(0.5)

    with jobs(cluster=cluster.scheduler_address):
        found = capture(tiny, requests, [2, 4], kill)
    assert np.array_equal(found.queries, alone.queries)
    assert len(seen) > 3
