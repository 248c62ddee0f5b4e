"""Shards of one task, done by several processes through joblib: on this machine, or on a cluster.

What is in force decides how: `jobs` here, or any backend of joblib that was chosen with `joblib.parallel_config` (Ray's too). Results come
in the order of the shards, so whoever takes them can't tell how many made them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from fs_local.errors import FsLocalError

S = TypeVar("S")
R = TypeVar("R")
_MOST_LOSSES = 3


@contextmanager
def jobs(n: int = 1, cluster: str | None = None) -> Iterator[None]:
    """Inside the `with`, shards are done by `n` processes of this machine, or by a Dask cluster at an address.

    Raises:
        FsLocalError: Dask is not installed, or nobody answers at the address.
    """
    import joblib

    if cluster is not None:
        try:
            from distributed import Client
        except ImportError:
            raise FsLocalError("--cluster needs Dask; install it with: pip install 'fs-local[cluster]'") from None
        try:
            client = Client(cluster, timeout=10, set_as_default=True)
        except (OSError, ValueError, TypeError) as error:
            why = str(error).split("\n")[0]
            raise FsLocalError(f"no Dask scheduler at {cluster}: {why}; start one with: dask scheduler") from error
        with client, joblib.parallel_config("dask"):
            if not client.nthreads():
                raise FsLocalError(
                    f"the Dask scheduler at {cluster} has no workers; start some with: dask worker {cluster}"
                )
            yield
    elif n > 1:
        with joblib.parallel_config("loky", n_jobs=n):
            yield
    else:
        yield


def n_jobs() -> int:
    """How many shards are done at once."""
    import joblib

    return int(joblib.effective_n_jobs(None))


def is_local() -> bool:
    """Whether they are done on this machine, as far as joblib tells."""
    from joblib.parallel import get_active_backend

    return type(get_active_backend()[0]).__name__ in ("LokyBackend", "MultiprocessingBackend", "SequentialBackend")


def in_order(do: Callable[[S], R], shards: Sequence[S]) -> Iterator[R]:
    """What `do` gives for each shard. What a killed process had not given is done again.

    Args:
        do: a function of a module, as it is found by name in the other processes.

    Raises:
        FsLocalError: processes were killed again and again.
        Exception: what `do` raises.
    """
    import joblib

    done = losses = 0
    while done < len(shards):
        results = joblib.Parallel(return_as="generator", pre_dispatch="2*n_jobs", batch_size=1)(
            joblib.delayed(do)(shard) for shard in shards[done:]
        )
        try:
            for result in results:
                yield result
                done, losses = done + 1, 0
        except BrokenProcessPool as error:
            losses += 1
            if losses == _MOST_LOSSES:
                raise FsLocalError(
                    f"processes of --jobs were killed {losses} times over; there may be too little memory for so many: use fewer"
                ) from error
