"""A sqlite3 file that several processes may use at once, and that is whole whatever stops a program."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from fs_local.errors import DataError

_WAIT_SECONDS = 5.0


class Database:
    """The file, with a write-ahead log. It is made when it is first used.

    Args:
        path: its place.
        schema: statements that make what is not there yet.
        folder: what its folder is called in messages, which name no paths.
    """

    def __init__(self, path: Path, schema: str, folder: str) -> None:
        self.path = path
        self._schema, self._folder = schema, folder
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
            with closing(sqlite3.connect(self.path, timeout=_WAIT_SECONDS, isolation_level=None)) as connection:
                connection.row_factory = sqlite3.Row
                connection.execute("pragma foreign_keys = on")
                connection.execute("pragma synchronous = normal")
                if not self._made:
                    connection.execute("pragma journal_mode = wal")
                    connection.executescript(self._schema)
                    self.path.chmod(0o600)
                    self._made = True
                connection.execute("begin immediate")
                try:
                    yield connection
                except BaseException:
                    connection.execute("rollback")
                    raise
                connection.execute("commit")
        except (sqlite3.Error, OSError) as error:
            what = f"{self.path.name} in {self._folder}"
            if type(error) is sqlite3.DatabaseError:  # not one of its kinds: no database at all, or malformed
                raise DataError(f"{what} is damaged ({error}); move it away, and run again to begin anew") from error
            raise DataError(f"{what} can't be used: {error}; what was kept before stays") from error
