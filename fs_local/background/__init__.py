"""The background: general queries that come with the product, by kind, all written for this project. `KIND.jsonl` holds those of a kind."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

from fs_local.examples import Query, read_queries

FOLDER = Path(str(importlib.resources.files("fs_local"))) / "background"
WRAPS = "wraps"
KINDS = tuple(sorted(path.stem for path in FOLDER.glob("*.jsonl") if path.stem != WRAPS))


def background() -> dict[str, list[Query]]:
    """General queries by kind."""
    return {kind: read_queries(FOLDER / f"{kind}.jsonl")[0] for kind in KINDS}
