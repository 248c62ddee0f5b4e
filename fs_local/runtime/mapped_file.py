"""What becomes of a model whose file is cut short while it is mapped: an error, instead of the process's end.

Works on Linux, where mapped_file.c was built; elsewhere such a file ends the process, as it does any program that maps one.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

_MAPS = Path("/proc/self/maps")


class MappedFile:
    """A file that llama.cpp has mapped, watched from now on."""

    def __init__(self, path: Path) -> None:
        self._native: Any = _native()
        self._numbers = [] if self._native is None else [self._native.watch(*range_) for range_ in _ranges(path)]

    @property
    def is_lost(self) -> bool:
        """Whether something was read that the file no longer has."""
        return any(self._native.is_lost(n) for n in self._numbers)

    def close(self) -> None:
        """To be called before it is unmapped."""
        for number in self._numbers:
            self._native.forget(number)
        self._numbers = []


def _native() -> Any:
    try:
        return importlib.import_module("fs_local.runtime._mapped_file")
    except ImportError:
        return None


def _ranges(path: Path) -> list[tuple[int, int]]:
    """Where a file is mapped: addresses, from and to."""
    if not _MAPS.exists():
        return []
    name, found = str(path.resolve()), []
    for line in _MAPS.read_text(errors="surrogateescape").splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5] == name:
            start, end = fields[0].split("-")
            found.append((int(start, 16), int(end, 16)))
    return found
