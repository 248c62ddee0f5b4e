"""How long work says how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many steps of it are done, and of how many: ("capture pairs", 32, 96)."""


def untold(_what: str, _done: int, _total: int) -> None:
    """Progress that nobody asked for."""
