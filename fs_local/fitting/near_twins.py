"""Near twins among texts: rows that a split must keep together, and rows of two sets that are nearly the same.

Texts are compared by the cosine of their character 4-grams, weighted by rarity. Rows that begin with the same words (the template of a
jailbreak) belong together too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from sklearn.feature_extraction.text import TfidfVectorizer

ALIKE = 0.6
"""Cosine from which on two texts are near twins."""
_OPENING_WORDS = 8
_ROWS_AT_ONCE = 1024
_FEATURES = 1 << 18


def groups_of(texts: Sequence[str]) -> NDArray[np.intp]:
    """A group number for each text, (n,): near twins, and texts with one opening, share theirs."""
    if not texts:
        return np.empty(0, dtype=np.intp)
    first: dict[tuple[str, ...], int] = {}
    pairs = [
        (i, first.setdefault(opening, i))
        for i, text in enumerate(texts)
        if len(opening := _opening(text)) == _OPENING_WORDS
    ]
    grams = _vectorizer().fit_transform([_normal(t) for t in texts])
    pairs += [(i, j) for i, j, _ in _alike(grams, grams)]
    at = np.array(pairs, dtype=np.intp).reshape(-1, 2)
    graph = coo_matrix((np.ones(len(at)), (at[:, 0], at[:, 1])), shape=(len(texts), len(texts)))
    return connected_components(graph, directed=False)[1].astype(np.intp)


def twins_of(texts: Sequence[str], others: Sequence[str]) -> list[tuple[int, int]]:
    """Rows of `texts` that are near twins of a row of `others`, each with the nearest one."""
    if not texts or not others:
        return []
    vectorizer = _vectorizer().fit([_normal(t) for t in [*texts, *others]])
    one, other = (vectorizer.transform([_normal(t) for t in x]) for x in (texts, others))
    nearest: dict[int, tuple[float, int]] = {}
    for i, j, cosine in _alike(one, other):
        nearest[i] = max(nearest.get(i, (0.0, j)), (cosine, j))
    return [(i, j) for i, (_, j) in sorted(nearest.items())]


def _vectorizer() -> Any:
    return TfidfVectorizer(
        analyzer="char_wb", ngram_range=(4, 4), sublinear_tf=True, max_features=_FEATURES, dtype=np.float32
    )


def _normal(text: str) -> str:
    return f" {' '.join(text.lower().split())} "


def _opening(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", text.lower())[:_OPENING_WORDS])


def _alike(one: Any, other: Any) -> Iterator[tuple[int, int, float]]:
    """Pairs of rows whose cosine is `ALIKE` or more."""
    for start in range(0, one.shape[0], _ROWS_AT_ONCE):
        cosine = (one[start : start + _ROWS_AT_ONCE] @ other.T).tocoo()
        near = cosine.data >= ALIKE
        for i, j, value in zip(cosine.row[near], cosine.col[near], cosine.data[near], strict=True):
            yield int(start + i), int(j), float(value)
