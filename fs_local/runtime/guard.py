"""Calls into llama.cpp that outlive a worker which is gone.

ggml's RPC backend ends the whole process (`abort`) when a worker goes away. It says so first, to a callback on the thread that
noticed. That thread is never let go again, so the process lives; and since the call that it was in never comes back either, such
calls are made on a thread of their own, and whoever made one gets an error. What belonged to that call (context, weights) is given up.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, TypeVar

from fs_local.errors import ModelError
from fs_local.runtime.library import function as ggml_function

T = TypeVar("T")
_OF_RPC = b"ggml-rpc"
"""Stands in what ggml says of an abort of the RPC backend: the name of its source."""


class WorkerLost(ModelError):
    """A worker went away. Nothing more can be done with any worker in this process."""


class _Job:
    """One call: what it gives, or what it raises."""

    def __init__(self, function: Callable[..., Any], arguments: Sequence[Any]) -> None:
        self.function, self.arguments = function, arguments
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = threading.Event()


_jobs: set[_Job] = set()
_lost: str | None = None


class Guard:
    """Makes calls that may abort. who: says which workers are gone, for the message."""

    def __init__(self, who: Callable[[], str]) -> None:
        _watch()
        self._who = who
        self._queue: SimpleQueue[_Job] = SimpleQueue()
        self._one_at_a_time = threading.RLock()
        self._thread = threading.Thread(target=_work, args=(self._queue,), name="fs-local workers", daemon=True)
        self._thread.start()

    def __call__(self, function: Callable[..., T], *arguments: Any) -> T:
        """What `function` gives.

        Raises:
            WorkerLost: a worker is gone, now or since before.
            Exception: what it raises.
        """
        if threading.current_thread() is self._thread:
            return function(*arguments)
        with self._one_at_a_time:
            if _lost is not None:
                raise WorkerLost(f"{self._who()}; start it again, and then this program")
            job = _Job(function, arguments)
            _jobs.add(job)
            self._queue.put(job)
            interrupted = not _wait(job)
            _jobs.discard(job)
        if isinstance(job.error, WorkerLost):
            raise WorkerLost(f"{self._who()}; start it again, and then this program") from None
        if job.error is not None:
            raise job.error
        if interrupted:
            raise KeyboardInterrupt
        return job.result  # type: ignore[no-any-return]


def _wait(job: _Job) -> bool:
    """Waits for a call, which can't be left alone; False if Ctrl-C came meanwhile."""
    interrupted = False
    while not job.done.is_set():
        try:
            job.done.wait()
        except KeyboardInterrupt:
            interrupted = True
    return not interrupted


def _work(queue: SimpleQueue[_Job]) -> None:
    while True:
        job = queue.get()
        try:
            job.result = job.function(*job.arguments)
        except BaseException as error:
            job.error = error
        job.done.set()
        del job


def _on_abort(message: bytes) -> None:
    global _lost
    if _OF_RPC not in message:
        print(
            message.decode("utf-8", "replace"), file=sys.stderr, flush=True
        )  # what ggml would have done; it aborts now
        return
    _lost = message.decode("utf-8", "replace")
    for job in list(_jobs):
        job.error = WorkerLost(_lost)
        job.done.set()
    threading.Event().wait()  # for ever: after this, ggml aborts


_OnAbort = ctypes.CFUNCTYPE(None, ctypes.c_char_p)
_callback = _OnAbort(_on_abort)  # ggml keeps only the pointer


def _watch() -> None:
    ggml_function("ggml_set_abort_callback", "ggml-base", ctypes.c_void_p, _OnAbort)(_callback)
