"""What stands behind an option, read."""

from __future__ import annotations

from typing import Any

import typer


def number_or_auto(option: str, text: str, kind: type[int] | type[float]) -> Any:
    if text == "auto":
        return None
    try:
        return kind(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither a number nor auto", param_hint=option) from None


def numbers_or_auto(option: str, text: str) -> tuple[int, ...] | None:
    return None if text == "auto" else tuple(number_or_auto(option, part, int) for part in text.split(","))
