"""Examples for a fit, from the files that a user has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fs_local.errors import DataError
from fs_local.examples import DataFile, Pair, Query, read_pairs, read_queries
from fs_local.fitting.given import GivenStates, read_states
from fs_local.fitting.options import Examples
from fs_local.refusals import contrast_queries, refusal_pairs

MAX_REFUSAL_PAIRS = 240
"""Pairs that are built from IR queries, at most: more would teach nothing new, as their answers are alike."""


def read_examples(
    pairs: Path | None, ir: Sequence[Path], general: Sequence[Path], openings: Path | None = None, seed: int = 0
) -> Examples:
    """Reads examples. Without pairs, the IR queries are what should be refused: pairs are built for some of them, and contrast queries
    that ship with the project join the general ones.

    Raises:
        DataError: a file that can't be used, or neither pairs nor IR queries.
    """
    files: dict[str, DataFile] = {}
    given: list[Pair] = []
    if pairs is not None:
        if openings is not None:
            raise DataError("--openings build pairs for IR queries; leave them out where there are --pairs")
        given, files["pairs"] = read_pairs(pairs)
    ir_rows, general_rows = _read(ir, "IR queries", files), _read(general, "general queries", files)
    if given:
        return Examples(given, ir_rows, general_rows, files=files)
    if not ir_rows:
        raise DataError("give --pairs, or --ir with queries that should be refused")
    some = np.sort(np.random.default_rng(seed).permutation(len(ir_rows))[:MAX_REFUSAL_PAIRS])
    built = refusal_pairs([ir_rows[i] for i in some], openings)
    return Examples(built, ir_rows, general_rows, contrast_queries(), files)


def read_given(states: Path, pairs: Path | None, others: Sequence[Path]) -> tuple[GivenStates, Examples]:
    """Reads a states file, and the texts of its pairs where they are to be tried on the model.

    Args:
        others: further files of texts, which states leave nothing to do for.

    Raises:
        DataError: a file that can't be used, or any of the others.
    """
    if others:
        raise DataError(
            f"the states of --states are instead of texts; leave out {others[0].name}, or leave out --states"
        )
    files: dict[str, DataFile] = {}
    texts: list[Pair] = []
    if pairs is not None:
        texts, files["pairs"] = read_pairs(pairs)
    return read_states(states), Examples(texts, files=files)


def read_gate_examples(ir: Sequence[Path], general: Sequence[Path]) -> Examples:
    """Reads examples for a gate alone.

    Raises:
        DataError: a file that can't be used, or no IR queries.
    """
    if not ir:
        raise DataError("give --ir with queries that should be steered")
    files: dict[str, DataFile] = {}
    return Examples((), _read(ir, "IR queries", files), _read(general, "general queries", files), files=files)


def _read(paths: Sequence[Path], what: str, files: dict[str, DataFile]) -> list[Query]:
    rows: list[Query] = []
    for path in paths:
        found, described = read_queries(path)
        name = f"{what} ({path.name})" if len(paths) > 1 else what
        same = sum(known.startswith(name) for known in files)
        files[f"{name} {same + 1}" if same else name] = described
        rows += found
    return rows
