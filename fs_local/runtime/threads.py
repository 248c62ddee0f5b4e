"""How many threads llama.cpp computes with."""

from __future__ import annotations

import os


def default_threads() -> int:
    """The cores this process may use; half of them past four, where they are mostly hyperthreads."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores if cores <= 4 else cores // 2
