"""JSON from strangers: nothing that two readers could read differently, nothing deeper or larger than a request is."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from fs_local.server.errors import ApiError

MAX_DEPTH = 64
MAX_VALUES = 200_000


def parse(data: bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ApiError: 400 for no JSON, no UTF-8, duplicate keys, NaN or infinity, numbers that no float holds, lone surrogates, and more
            than MAX_DEPTH levels or MAX_VALUES values.
    """
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant, parse_float=_float
        )
    except UnicodeDecodeError as error:
        raise ApiError(400, f"the body is not UTF-8 at byte {error.start}", code="invalid_json") from error
    except RecursionError as error:
        raise _too_deep() from error
    except json.JSONDecodeError as error:
        raise ApiError(
            400, f"the body is not JSON at character {error.pos}: {error.msg}", code="invalid_json"
        ) from error
    except ValueError as error:  # an integer of thousands of digits
        raise ApiError(400, "the body has a number that is too long", code="invalid_json") from error
    _check(value)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ApiError(400, f"the body has the key {twice!r:.60} twice in one object", code="invalid_json")
    return found


def _constant(name: str) -> NoReturn:
    raise ApiError(400, f"the body has {name}, which is not JSON", code="invalid_json")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ApiError(400, "the body has a number that is too large", code="invalid_json")
    return value


def _check(value: Any) -> None:
    """Level by level, so that no nesting is too deep for this check itself."""
    level, seen = [value], 0
    for _ in range(MAX_DEPTH + 1):
        seen += len(level)
        if seen > MAX_VALUES:
            raise ApiError(400, f"the body has more than {MAX_VALUES:,} values", code="invalid_json")
        deeper: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                deeper.extend(item)
                deeper.extend(item.values())
            elif isinstance(item, list):
                deeper.extend(item)
            elif isinstance(item, str) and not _is_unicode(item):
                raise ApiError(400, "the body has a lone surrogate (half of a character)", code="invalid_json")
        if not deeper:
            return
        level = deeper
    raise _too_deep()


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _too_deep() -> ApiError:
    return ApiError(400, f"the body is nested more than {MAX_DEPTH} levels deep", code="invalid_json")
