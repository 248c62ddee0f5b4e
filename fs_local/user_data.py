"""What a person made and wants to keep: conversations and lessons, in one database in the user's data folder."""

from __future__ import annotations

from pathlib import Path

import platformdirs

from fs_local.database import Database

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


def data_folder() -> Path:
    """The user's data folder of this program."""
    return Path(platformdirs.user_data_dir("fs-local"))


def user_database(path: Path | None = None) -> Database:
    """The database. path: by default in the user's data folder."""
    return Database(data_folder() / "fs-local.sqlite3" if path is None else path, _SCHEMA, "the data folder")
