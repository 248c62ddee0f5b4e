"""The files of an evaluation, and the suite that measures each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fs_local.errors import DataError
from fs_local.evaluation.suites import SUITES, SuiteRow, read_suite

LABELS = ("ir", "general")


@dataclass(frozen=True)
class File:
    """Rows to measure on, and the suite that does. label: `ir` or `general`, where the user said what its queries are."""

    suite: str
    path: Path
    name: str
    rows: list[SuiteRow]
    label: str = ""


def read_files(suite: str, data: Sequence[Path], limit: int | None = None) -> list[File]:
    """The files of an evaluation: any number; each as SUITE=FILE for `compare`, and as `ir=FILE` or `general=FILE` for `opening` where
    it is to be known how well the gate tells these apart.

    Raises:
        DataError: naming the file, its line and field, or what is missing.
    """
    given: list[tuple[str, Path, str]] = []
    for path in data:
        name, is_pair, rest = str(path).partition("=")
        if suite == "compare":
            if not is_pair or name not in SUITES:
                raise DataError(
                    f"{path}: for compare, give each file as SUITE=FILE, with a suite of {', '.join(SUITES)}"
                )
            given.append((name, Path(rest), ""))
        elif suite == "opening" and is_pair and name in LABELS:
            given.append((suite, Path(rest), name))
        else:
            given.append((suite, path, ""))
    names = [(of, path.name) for of, path, _ in given]
    return [
        File(
            of, path, path.name if names.count((of, path.name)) == 1 else str(path), read_suite(of, path, limit), label
        )
        for of, path, label in given
    ]
