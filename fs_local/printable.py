"""Texts that come from files: what a terminal would obey is left out."""

from __future__ import annotations


def printable(text: str, most: int | None = None) -> str:
    """The characters that can be seen, the first `most` of them."""
    return "".join(c for c in text if c.isprintable())[:most]
