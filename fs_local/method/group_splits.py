"""Splits by groups: rows of one group, near twins for example, never stand on both sides."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.intp]


def split(groups: Numbers, seed: int, share: float) -> tuple[Numbers, Numbers]:
    """Row numbers of rows to keep, and of about a `share` of them to hold out, at least one; both ascend.

    Whole groups go, at random, as long as they fit; where not one does, because nearly all rows are of one group, single rows go.

    Args:
        groups: a group number for each row, (n,), n ≥ 2; which number a group has makes no difference.
    """
    rng = np.random.default_rng(seed)
    wanted = max(1, round(share * len(groups)))
    names, first, sizes = np.unique(groups, return_index=True, return_counts=True)
    by_first_row = np.argsort(first)
    names, sizes = names[by_first_row], sizes[by_first_row]
    gone: list[int] = []
    left = wanted
    for i in rng.permutation(len(names)):
        if sizes[i] <= left:
            gone.append(int(names[i]))
            left -= int(sizes[i])
    held_out = np.isin(groups, gone)
    if not gone:
        held_out[rng.permutation(len(groups))[:wanted]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def alone(n: int) -> Numbers:
    """Groups of n rows that have no twins."""
    return np.arange(n, dtype=np.intp)


def folds_of(groups: NDArray[np.intp], n_folds: int, seed: int) -> NDArray[np.intp]:
    """A fold for each row, (n,): rows of one group share theirs, and folds have about as many rows each."""
    if len(set(groups.tolist())) == 1:
        groups = np.arange(len(groups), dtype=np.intp)  # all are near twins: no fold can do without them
    names, sizes = np.unique(groups, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-sizes[order], kind="stable")]  # the large ones first, each where there is the most room
    filled = np.zeros(n_folds, dtype=np.intp)
    fold = np.empty(len(names), dtype=np.intp)
    for i in order:
        fold[i] = np.argmin(filled)
        filled[fold[i]] += sizes[i]
    return fold[np.searchsorted(names, groups)]
