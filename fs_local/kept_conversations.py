"""Conversations that are kept on this machine: each a title and its messages, with the number of its version."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass
from typing import Any

from fs_local.database import Database
from fs_local.errors import FsLocalError


class Changed(FsLocalError):
    """Somebody else changed it in the meantime."""


@dataclass(frozen=True)
class KeptConversation:
    """A conversation as it stands.

    Attributes:
        changed: seconds since 1970. version: 1 at first, one more with every change.
        messages: objects with `role` and `content`, and whatever the page keeps beside them; None in a list of conversations.
    """

    id: str
    title: str
    changed: float
    version: int
    messages: list[dict[str, Any]] | None = None


class KeptConversations:
    """The conversations in a database. Every method raises DataError where the file can't be used."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[KeptConversation]:
        """Without their messages, the last changed first."""
        with self._database.transaction() as db:
            rows = db.execute("select id, title, changed, version from conversation order by changed desc, rowid desc")
            return [KeptConversation(**row) for row in map(dict, rows)]

    def one(self, id: str) -> KeptConversation | None:
        """A conversation with its messages; None if there is none."""
        with self._database.transaction() as db:
            row = db.execute("select * from conversation where id = ?", (id,)).fetchone()
        return None if row is None else KeptConversation(**{**dict(row), "messages": json.loads(row["messages"])})

    def begin(self, title: str, messages: list[dict[str, Any]]) -> KeptConversation:
        """A new one."""
        kept = KeptConversation(secrets.token_hex(8), title, time.time(), 1, messages)
        with self._database.transaction() as db:
            db.execute(
                "insert into conversation (id, title, changed, version, messages) values (?, ?, ?, 1, ?)",
                (kept.id, title, kept.changed, json.dumps(messages)),
            )
        return kept

    def change(
        self, id: str, version: int, title: str | None = None, messages: list[dict[str, Any]] | None = None
    ) -> int | None:
        """Changes the version that the caller knows; returns the new version's number, None if there is no such conversation.

        Raises:
            Changed: it has another version by now.
        """
        with self._database.transaction() as db:
            row = db.execute("select version from conversation where id = ?", (id,)).fetchone()
            if row is None:
                return None
            if row["version"] != version:
                raise Changed("this conversation was changed elsewhere in the meantime, in another tab perhaps")
            db.execute(
                "update conversation set title = coalesce(?, title), messages = coalesce(?, messages), changed = ?, "
                "version = version + 1 where id = ?",
                (title, None if messages is None else json.dumps(messages), time.time(), id),
            )
        return version + 1

    def remove(self, id: str) -> bool:
        """Whether there was one."""
        with self._database.transaction() as db:
            return db.execute("delete from conversation where id = ?", (id,)).rowcount > 0
