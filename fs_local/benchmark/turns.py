"""Both sides of a comparison in turns, so that what else the machine does meets both."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Run = Callable[[], object]
MOST = 15
"""Turns, where seconds allow them."""


@dataclass(frozen=True)
class Budget:
    """For each comparison: it ends once these seconds are over and there are so many pairs at least, or at its most pairs before."""

    seconds: float = 5.0
    pairs: int = 2


def alternate(runs: Sequence[Run], budget: Budget, most: int = MOST, warm_up: int = 0) -> list[list[float]]:
    """Seconds that each of some runs took, in turns that each begin with another one; the first turns don't count."""
    taken: list[list[float]] = [[] for _ in runs]
    ends = time.perf_counter() + budget.seconds
    for turn in range(warm_up + max(most, budget.pairs)):
        if turn >= warm_up + budget.pairs and time.perf_counter() > ends:
            break
        for first in range(len(runs)):
            i = (first + turn) % len(runs)
            began = time.perf_counter()
            runs[i]()
            if turn >= warm_up:
                taken[i].append(time.perf_counter() - began)
    return taken
