"""The shipped examples about refusing, as a lesson."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

from fs_local.lessons import LessonRow, read_lesson

_DATA = Path(str(importlib.resources.files("fs_local"))) / "demo_data"


def demo_rows() -> list[LessonRow]:
    """Pairs, and queries that are not to be steered."""
    return [
        row
        for name, kind in (("refusal_pairs", "pair"), ("general", "general"))
        for row in read_lesson(_DATA / f"{name}.jsonl", (_DATA / f"{name}.jsonl").read_bytes(), kind)
    ]
