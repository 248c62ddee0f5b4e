"""What a person made and wants to keep: conversations and lessons, in one sqlite3 file in the user's data folder."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from fs_local.errors import DataError

_SCHEMA = """
create table if not exists conversation (
    id text primary key, title text not null, changed real not null, version integer not null, messages text not null);
create table if not exists lesson (name text primary key, created real not null);
create table if not exists example (
    id integer primary key, lesson text not null references lesson (name) on delete cascade on update cascade,
    kind text not null check (kind in ('pair', 'ir', 'general')),
    messages text not null, preferred text not null, undesired text not null);
create index if not exists example_of_lesson on example (lesson);
"""
_WAIT_SECONDS = 5.0


def data_folder() -> Path:
    """The user's data folder of this program."""
    return Path(platformdirs.user_data_dir("fs-local"))


class Database:
    """The file, which several processes may use at once (write-ahead log). It is made when it is first used.

    Args:
        path: its place; by default in the user's data folder.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = data_folder() / "fs-local.sqlite3" if path is None else path
        self._made = False

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A connection whose changes are all kept at the end of the `with`, or none of them.

        Raises:
            DataError: the file can't be read or written; what was in it stays.
        """
        try:
            if not self._made:
                self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            connection = sqlite3.connect(self.path, timeout=_WAIT_SECONDS, isolation_level=None)
            try:
                connection.row_factory = sqlite3.Row
                connection.execute("pragma foreign_keys = on")
                if not self._made:
                    connection.execute("pragma journal_mode = wal")
                    connection.executescript(_SCHEMA)
                    self.path.chmod(0o600)
                    self._made = True
                connection.execute("begin immediate")
                try:
                    yield connection
                except BaseException:
                    connection.execute("rollback")
                    raise
                connection.execute("commit")
            finally:
                connection.close()
        except (sqlite3.Error, OSError) as error:
            raise DataError(
                f"{self.path.name} in the data folder can't be used: {error}; what was kept before stays"
            ) from error
