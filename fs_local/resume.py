"""The resume file of a capture: states stream to disk batch by batch, so that a killed capture goes on where it was.

Two files in a folder. `{digest}.states` is rows of float32 as in memory. `{digest}.journal` has a line of JSON that says what is
captured, then a line a batch: its number and the CRC-32 of its rows. A batch counts once its line is whole, and its rows match.
"""

from __future__ import annotations

import hashlib
import json
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType

import numpy as np

from fs_local.arrays import F32
from fs_local.errors import ResumeError, ResumeWarning

RowSpan = tuple[int, int]
"""Rows from, and up to."""

_FORMAT = 1


@dataclass(frozen=True)
class Captures:
    """What is captured. All of it must agree for a capture to go on.

    Attributes:
        model: fingerprint, quantization, and version of llama.cpp.
        layers: that are read.
        requests: how many, and digest: SHA-256 (hex) of their tokens.
        batches: how many.
        width: floats in a row.
    """

    model: str
    layers: tuple[int, ...]
    requests: int
    digest: str
    batches: int
    width: int

    @property
    def key(self) -> str:
        """16 hex digits that name the files."""
        return hashlib.sha256(self.line().encode()).hexdigest()[:16]

    def line(self) -> str:
        return json.dumps({"format": _FORMAT, **asdict(self)}, sort_keys=True)


class ResumeFile:
    """Rows on disk, written batch by batch.

    Args:
        folder: made if it is not there.
        what: is captured.
        spans: the rows of each batch.

    Attributes:
        done: batches that are already there, from the first on.

    Raises:
        ResumeError: the folder can't be written, or the journal is not one of this capture.
    """

    def __init__(self, folder: Path, what: Captures, spans: Sequence[Sequence[RowSpan]]) -> None:
        self.path = folder / f"{what.key}.states"
        self._journal_path = folder / f"{what.key}.journal"
        self._what, self._spans = what, spans
        self._row_bytes = 4 * what.width
        self.done = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not self._journal_path.exists():
                _warn_of_stopped(folder, what)
            self._journal = self._journal_path.open("ab+", buffering=0)
            self._journal_path.touch()  # what is used is kept
            self.path.touch()
            self._states = self.path.open("rb+", buffering=0)
            self._read_journal()
        except OSError as error:
            raise self._failed(error) from error

    def put(self, rows: Sequence[F32]) -> None:
        """Appends the next batch: the rows of each of its spans.

        Raises:
            ResumeError: the disk is full, or can't be written; what was captured before is kept.
        """
        crc = 0
        try:
            for (first, _), part in zip(self._spans[self.done], rows, strict=True):
                data = np.ascontiguousarray(part, dtype=np.float32).tobytes()
                self._states.seek(first * self._row_bytes)
                _write_all(self._states, data)
                crc = zlib.crc32(data, crc)
            _write_all(self._journal, f"{self.done} {crc:08x}\n".encode())
        except OSError as error:
            raise self._failed(error) from error
        self.done += 1

    def map(self) -> F32:
        """All rows, float32, (rows, width), mapped from disk and read-only. Only once every batch is there."""
        return np.asarray(np.memmap(self.path, np.float32, "r").reshape(-1, self._what.width))

    def close(self) -> None:
        self._states.close()
        self._journal.close()

    def __enter__(self) -> ResumeFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read_journal(self) -> None:
        """Counts the batches that are there, and cuts off what is behind them."""
        self._journal.seek(0)
        lines = self._journal.read().split(b"\n")[:-1]  # a line without its end was being written when the process died
        head = f"{self._what.line()}\n".encode()
        if not lines:
            self._journal.truncate(0)
            _write_all(self._journal, head)
            return
        if lines[0] + b"\n" != head:
            raise ResumeError(
                f"the resume file {self._journal_path} is damaged; delete it, and run again to capture from the start"
            )
        for line in lines[1:]:
            if self.done == len(self._spans) or line != f"{self.done} {self._crc(self.done):08x}".encode():
                warnings.warn(
                    f"the resume file {self.path} is damaged after {self.done} of {len(self._spans)} batches; "
                    "what stands before is kept, and the capture goes on from there",
                    ResumeWarning,
                    stacklevel=4,
                )
                break
            self.done += 1
        self._journal.truncate(sum(len(line) + 1 for line in lines[: self.done + 1]))

    def _crc(self, batch: int) -> int:
        """CRC-32 of a batch's rows as they are on disk."""
        crc = 0
        for first, stop in self._spans[batch]:
            self._states.seek(first * self._row_bytes)
            crc = zlib.crc32(self._states.read((stop - first) * self._row_bytes), crc)
        return crc

    def _failed(self, error: OSError) -> ResumeError:
        return ResumeError(
            f"{self.path} can't be written ({error.strerror}); what was captured is kept ({self.done} of {len(self._spans)} "
            "batches): mend that, and run again to go on"
        )


def batches_done(folder: Path, what: Captures) -> int:
    """How many batches of a capture are on disk, going by its journal."""
    try:
        return max(0, (folder / f"{what.key}.journal").read_bytes().count(b"\n") - 1)
    except OSError:
        return 0


def _write_all(file: FileIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:  # an unbuffered write may be short: the next one then says why
        rest = rest[file.write(rest) :]


def _warn_of_stopped(folder: Path, what: Captures) -> None:
    """Says so if a capture of other examples, with this model at these layers, was stopped."""
    for path in sorted(folder.glob("*.journal")):
        lines = path.read_bytes().split(b"\n")[:-1]
        try:
            head = json.loads(lines[0])
            same = (head["model"], tuple(head["layers"])) == (what.model, what.layers)
            batches = int(head["batches"])
        except (LookupError, ValueError, TypeError):
            continue
        if same and head["digest"] != what.digest and len(lines) - 1 < batches:
            warnings.warn(
                f"the examples changed since a capture was stopped ({len(lines) - 1} of {batches} batches): this one starts from "
                f"the beginning, and what was captured of the former examples is kept in {path.with_suffix('.states')}",
                ResumeWarning,
                stacklevel=5,
            )
