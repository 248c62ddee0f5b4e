"""Ctrl-C while llama.cpp runs.

Python delivers a signal at the next bytecode, which may be the first of a callback, outside its `try`: ctypes prints such an
exception and drops it. So while native code may call back, Ctrl-C only sets a flag, and is raised once that code has returned.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupt:
    """Whether Ctrl-C came."""

    def __init__(self) -> None:
        self.came = False

    def note(self, _signal: int, _frame: FrameType | None) -> None:
        self.came = True


@contextmanager
def deferred_interrupt() -> Iterator[Interrupt]:
    """Holds Ctrl-C back inside the `with`, and raises KeyboardInterrupt at its end if it came."""
    interrupt = Interrupt()
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield interrupt  # signals reach the main thread alone, or somebody else handles them
        return
    signal.signal(signal.SIGINT, interrupt.note)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if interrupt.came:
        raise KeyboardInterrupt
