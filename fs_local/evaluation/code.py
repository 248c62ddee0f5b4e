"""Which code computed a figure: a digest of all that figures depend on."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import fs_local

_PARTS = (
    "background",
    "capture.py",
    "engine",
    "evaluation",
    "examples.py",
    "fitting",
    "method",
    "pack",
    "refusals.py",
    "runtime",
    "store.py",
)
_ENDINGS = (".py", ".c", ".jsonl")


@cache
def code_digest() -> str:
    """Of the sources as they are installed; 12 hexadecimal digits."""
    root, found = Path(fs_local.__file__).parent, hashlib.sha256()
    for part in _PARTS:
        path = root / part
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.suffix in _ENDINGS:
                found.update(f"{file.relative_to(root)}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()[:12]
