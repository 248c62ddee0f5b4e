"""Examples for a fit, from the files that a user has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from fs_local.errors import DataError
from fs_local.examples import FileDigest, Pair, Query, read_pairs, read_queries
from fs_local.fitting.given import GivenStates, read_states
from fs_local.fitting.near_twins import twins_of
from fs_local.fitting.options import Examples
from fs_local.fitting.trials import effect_of
from fs_local.refusals import refusal_pairs

MAX_REFUSAL_PAIRS = 200
"""Pairs that are built from IR queries, at most: enough that a fifth of them tells settings apart."""
_Row = TypeVar("_Row", Pair, Query)
_KIND_CHARACTERS, _SHOWN_CHARACTERS, _NAMED = 100, 60, 5


def read_examples(
    pairs: Path | None,
    ir: Sequence[Path],
    general: Sequence[Path],
    openings: Path | None = None,
    seed: int = 0,
    most_ir: int | None = None,
) -> Examples:
    """Reads examples. Without pairs, the IR queries are what should be refused: pairs are built for some of them.

    Args:
        most_ir: IR queries to keep, at random; by default all.

    Raises:
        DataError: a file that can't be used, or neither pairs nor IR queries.
    """
    files: dict[str, FileDigest] = {}
    given: list[Pair] = []
    if pairs is not None:
        if openings is not None:
            raise DataError("--openings build pairs for IR queries; leave them out where there are --pairs")
        given, files["pairs"] = read_pairs(pairs)
    ir_rows = [q for rows in _read(ir, "IR queries", files).values() for q in rows]
    kinds = _read(general, "general queries", files)
    ir_rows = at_random(ir_rows, most_ir, seed)
    notes = _twins(ir_rows or [p.query for p in given], kinds)
    if given:
        return Examples(given, ir_rows, kinds, effect_of(given) == "refusal", files, notes)
    if not ir_rows:
        raise DataError("give --pairs, or --ir with queries that should be refused")
    built = refusal_pairs(at_random(ir_rows, MAX_REFUSAL_PAIRS, seed), openings)
    return Examples(built, ir_rows, kinds, True, files, notes)


def at_random(rows: Sequence[_Row], most: int | None, seed: int) -> list[_Row]:
    """At most so many rows, in their order; all where None."""
    return [rows[i] for i in np.sort(np.random.default_rng(seed).permutation(len(rows))[:most])]


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
    files: dict[str, FileDigest] = {}
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
    files: dict[str, FileDigest] = {}
    ir_rows = [q for rows in _read(ir, "IR queries", files).values() for q in rows]
    kinds = _read(general, "general queries", files)
    return Examples((), ir_rows, kinds, files=files, notes=_twins(ir_rows, kinds))


def _read(paths: Sequence[Path], what: str, files: dict[str, FileDigest]) -> dict[str, list[Query]]:
    """Queries by file; a file's name, without its folder and ending, is the name of a kind."""
    found: dict[str, list[Query]] = {}
    for path in paths:
        rows, described = read_queries(path)
        name = f"{what} ({path.name})" if len(paths) > 1 else what
        same = sum(known.startswith(name) for known in files)
        files[f"{name} {same + 1}" if same else name] = described
        stem = path.stem[:_KIND_CHARACTERS]
        found[stem if stem not in found else f"{stem} {len(found) + 1}"] = rows
    return found


def _twins(ir: Sequence[Query], kinds: Mapping[str, Sequence[Query]]) -> list[str]:
    """Notes on general queries that are near twins of IR queries: what both files want can't be learned."""
    notes = []
    texts = [q.text for q in ir]
    for name, queries in kinds.items():
        found = twins_of([q.text for q in queries], texts)
        if found:
            rows = ", ".join(f"{i + 1} ({_shown(queries[i])}, like IR row {j + 1})" for i, j in found[:_NAMED])
            more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
            notes.append(
                f"{name} has {len(found)} of {len(queries)} rows that are near twins of IR queries, so the gate is told both to open and "
                f"to stay closed for them: rows {rows}{more}; take them out of one of the files"
            )
    return notes


def _shown(query: Query) -> str:
    text = " ".join(query.text.split())
    return f"“{text[:_SHOWN_CHARACTERS]}{'…' if len(text) > _SHOWN_CHARACTERS else ''}”"
