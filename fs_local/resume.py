"""What a capture keeps, so that a killed one goes on where it was: states stream to disk batch by batch.

In a folder, `{key}.states` is a capture's rows, float32 as in memory, and `captures.sqlite3` says of each capture what it is of, and of each
batch that is there the CRC-32 of its rows. A batch counts if it is noted, and its rows match.
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType

import numpy as np

from fs_local.arrays import F32
from fs_local.database import Database
from fs_local.errors import DataError, ResumeError, ResumeWarning

RowSpan = tuple[int, int]
"""Rows from, and up to."""

_FORMAT = 2
_TABLES = """
create table if not exists capture (
    key text primary key, model text not null, layers text not null, digest text not null, batches integer not null, used real not null);
create table if not exists batch (
    capture text not null references capture (key) on delete cascade, number integer not null, crc integer not null,
    primary key (capture, number)) without rowid;
"""


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
        """The captures' name in the database: 16 hex digits of the digest of all this."""
        return hashlib.sha256(json.dumps({"format": _FORMAT, **asdict(self)}, sort_keys=True).encode()).hexdigest()[:16]


class ResumeFile:
    """Rows on disk, written batch by batch.

    Args:
        folder: made if it is not there.
        what: is captured.
        spans: the rows of each batch.

    Attributes:
        done: batches that are already there, from the first on.

    Raises:
        ResumeError: the folder can't be written, or its database is damaged.
    """

    def __init__(self, folder: Path, what: Captures, spans: Sequence[Sequence[RowSpan]]) -> None:
        self.path = folder / f"{what.key}.states"
        self._what, self._spans = what, spans
        self._row_bytes = 4 * what.width
        self._database = _database(folder)
        self.done = 0
        try:
            noted = self._begin()
            self.path.touch()
            self._states = self.path.open("rb+", buffering=0)
            self._check(noted)
        except OSError as error:
            raise self._failed(error.strerror or str(error)) from error
        except DataError as error:
            raise self._failed(str(error)) from error

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
            with self._database.transaction() as db:  # of two processes at the same capture, both write the same
                db.execute("insert or replace into batch values (?, ?, ?)", (self._what.key, self.done, crc))
        except OSError as error:
            raise self._failed(error.strerror or str(error)) from error
        except DataError as error:
            raise self._failed(str(error)) from error
        self.done += 1

    def map(self) -> F32:
        """All rows, float32, (rows, width), mapped from disk and read-only. Only once every batch is there."""
        return np.asarray(np.memmap(self.path, np.float32, "r").reshape(-1, self._what.width))

    def close(self) -> None:
        self._states.close()

    def __enter__(self) -> ResumeFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _begin(self) -> list[int]:
        """Notes that the capture is used; the CRCs of its batches, from the first on."""
        what = self._what
        with self._database.transaction() as db:
            layers, now = json.dumps(what.layers), time.time()
            if db.execute("update capture set used = ? where key = ?", (now, what.key)).rowcount == 0:
                stopped = db.execute(
                    "select key, (select count(*) from batch where capture = key) as done, batches from capture "
                    "where model = ? and layers = ? and digest != ? and done < batches order by used desc",
                    (what.model, layers, what.digest),
                ).fetchone()
                if stopped is not None:
                    self._warn_of(**stopped)
                row = (what.key, what.model, layers, what.digest, what.batches, now)
                db.execute("insert into capture values (?, ?, ?, ?, ?, ?)", row)
            noted = db.execute("select number, crc from batch where capture = ? order by number", (what.key,))
            return [crc for i, (number, crc) in enumerate(noted) if number == i]

    def _warn_of(self, key: str, done: int, batches: int) -> None:
        """Says that a capture of other examples, with this model at these layers, was stopped."""
        warnings.warn(
            f"the examples changed since a capture was stopped ({done} of {batches} batches): this one starts from "
            f"the beginning, and what was captured of the former examples is kept in {self.path.with_name(key)}.states",
            ResumeWarning,
            stacklevel=6,
        )

    def _check(self, noted: Sequence[int]) -> None:
        """Counts the batches whose rows are as they were noted, up to the first that is not."""
        for crc in noted:
            if crc != self._crc(self.done):
                warnings.warn(
                    f"the resume file {self.path} is damaged after {self.done} of {len(self._spans)} batches; "
                    "what stands before is kept, and the capture goes on from there",
                    ResumeWarning,
                    stacklevel=5,
                )
                with self._database.transaction() as db:
                    db.execute("delete from batch where capture = ? and number >= ?", (self._what.key, self.done))
                return
            self.done += 1

    def _crc(self, batch: int) -> int:
        """CRC-32 of a batch's rows as they are on disk."""
        crc = 0
        for first, stop in self._spans[batch]:
            self._states.seek(first * self._row_bytes)
            crc = zlib.crc32(self._states.read((stop - first) * self._row_bytes), crc)
        return crc

    def _failed(self, reason: str) -> ResumeError:
        return ResumeError(
            f"{self.path} can't be written ({reason}); what was captured is kept ({self.done} of {len(self._spans)} "
            "batches): mend that, and run again to go on"
        )


def batches_done(folder: Path, what: Captures) -> int:
    """How many batches of a capture are noted."""
    database = _database(folder)
    if not database.path.exists():
        return 0
    try:
        with database.transaction() as db:
            (n,) = db.execute("select count(*) from batch where capture = ?", (what.key,)).fetchone()
            return int(n)
    except DataError:  # the capture itself will say so
        return 0


def forget_captures(folder: Path, since: float) -> None:
    """Removes the captures of a folder that were last used before `since` (seconds since 1970).

    Raises:
        DataError: its database can't be used.
    """
    database = _database(folder)
    if not database.path.exists():
        return
    with database.transaction() as db:
        db.execute("delete from capture where used < ?", (since,))
    for path in folder.glob("*.states"):
        if path.stat().st_mtime < since:
            path.unlink(missing_ok=True)


def _database(folder: Path) -> Database:
    return Database(folder / "captures.sqlite3", _TABLES, str(folder))


def _write_all(file: FileIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:  # an unbuffered write may be short: the next one then says why
        rest = rest[file.write(rest) :]
