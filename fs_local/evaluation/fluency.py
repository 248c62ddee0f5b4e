"""Fluency, but for what the unsteered model thinks of it (`Answer.log_probability`): how often words repeat."""

from __future__ import annotations


def repeated_share(text: str) -> float:
    """Share of words that stood in the text before; 1 for an empty text."""
    words = text.lower().split()
    return 1 - len(set(words)) / len(words) if words else 1.0
