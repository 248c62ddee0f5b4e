"""Refusals: how one is told from an answer, and pairs for queries that should be refused."""

from __future__ import annotations

import importlib.resources
import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from fs_local.errors import DataError
from fs_local.examples import Pair, Query

MAX_OPENINGS = 16
"""On a side: all of a pair's answers are sequences of one batch."""
_DATA = Path(str(importlib.resources.files("fs_local"))) / "refusal_data"


def is_refusal(answer: str) -> bool:
    """Whether an answer has one of the phrases of AdvBench's keyword test (`refusal_data/keywords.txt`): whole words, in any case."""
    return _keywords().search(answer.replace("’", "'")) is not None


@cache
def _keywords() -> re.Pattern[str]:
    phrases = (re.escape(line) for line in (_DATA / "keywords.txt").read_text().splitlines() if line)
    # \b takes _ and letters of any script for a part of the word
    return re.compile(rf"(?<![a-z0-9])({'|'.join(phrases)})(?![a-z0-9])", re.IGNORECASE)


def refusal_pairs(queries: Sequence[Query], openings: Path | None = None) -> list[Pair]:
    """Pairs for queries that should be refused: each with all openings of refusals as preferred answers, and of compliance as undesired ones.

    A pair's difference is that of the means, so that it tells queries apart and not the wording of openings.

    Args:
        openings: JSON `{"preferred": [texts], "undesired": [texts]}`; by default those that ship with the project, few and alike.

    Raises:
        DataError: no such file, or not of that form, or with more than `MAX_OPENINGS` on a side.
    """
    path = openings or _DATA / "openings.json"
    try:
        found = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    preferred, undesired = (_texts(found, name, path) for name in ("preferred", "undesired"))
    return [Pair(q, preferred, undesired) for q in queries]


def _texts(found: Any, name: str, path: Path) -> tuple[str, ...]:
    side = found.get(name) if isinstance(found, dict) else None
    if not isinstance(side, list) or not side or not all(isinstance(t, str) and t.strip() for t in side):
        raise DataError(f"{path}: `{name}` must be a list of one text or more")
    if len(side) > MAX_OPENINGS:
        raise DataError(
            f"{path}: `{name}` has {len(side)} texts, and every pair gets them all; give at most {MAX_OPENINGS}"
        )
    return tuple(side)
