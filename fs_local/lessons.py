"""Lessons: named sets of examples that grow out of corrections, kept in the database, and fitted like files of examples."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from fs_local.database import Database
from fs_local.errors import DataError, NotThereError, TakenError
from fs_local.examples import Query, row_pair, row_query, rows_of
from fs_local.user_data import user_database

if TYPE_CHECKING:
    from fs_local.fitting import Examples

Kind = Literal["pair", "ir", "general"]
KINDS: tuple[Kind, ...] = ("pair", "ir", "general")
MAX_ROWS = 20_000
"""Of one lesson."""
ANSWER_WORDS = 40
_BEGINNING = re.compile(rf"\s*(?:\S+\s+){{0,{ANSWER_WORDS - 1}}}\S+")
_MIN, _BETTER = 8, 24
"""Pairs, or queries of a kind: what a fit refuses to begin without, and what one begins to trust."""


@dataclass(frozen=True)
class LessonRow:
    """One example.

    Attributes:
        kind: `pair`, a query with preferred and undesired answers; `ir`, a query that is to be steered; `general`, one that is not.
        id: its number in the database; None before it has one.
    """

    kind: Kind
    query: Query
    preferred: tuple[str, ...] = ()
    undesired: tuple[str, ...] = ()
    id: int | None = None

    @classmethod
    def of(cls, raw: dict[str, Any], where: str, kind: str | None = None) -> LessonRow:
        """A row `{kind, query | messages, preferred, undesired}`; without a kind, answers make it a pair.

        Raises:
            DataError: naming the field that is wrong.
        """
        kind = raw.get("kind", kind or ("pair" if "preferred" in raw or "mc2_targets" in raw else None))
        if kind == "pair":
            pair = row_pair(raw, where)
            return cls("pair", pair.query, pair.preferred, pair.undesired)
        if kind in ("ir", "general"):
            return cls(kind, row_query(raw, where))
        raise DataError(f"{where}: `kind` must be {', '.join(KINDS)}: whether the query is to be steered is not said")

    def as_dict(self) -> dict[str, Any]:
        """As it stands in a file."""
        messages = self.query.messages
        query = {"query": self.query.text} if len(messages) == 1 else {"messages": [dict(m) for m in messages]}
        answers = {"preferred": list(self.preferred), "undesired": list(self.undesired)} if self.kind == "pair" else {}
        return {"kind": self.kind, **query, **answers}


@dataclass(frozen=True)
class Summary:
    """A lesson's name, and its rows by kind."""

    name: str
    pair: int
    ir: int
    general: int


class Lessons:
    """The lessons in a database. Every method raises DataError where the file can't be used, and NotThereError where there is no such lesson."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[Summary]:
        """In the order of their names."""
        counted = ", ".join(f"coalesce(sum(kind = '{kind}'), 0) as {kind}" for kind in KINDS)
        with self._database.transaction() as db:
            rows = db.execute(
                f"select name, {counted} from lesson left join example on lesson = name group by name order by name"
            )
            return [Summary(**row) for row in map(dict, rows)]

    def create(self, name: str) -> None:
        """A new lesson without rows. Raises TakenError: the name is taken; DataError: it is none."""
        with self._database.transaction() as db:
            if db.execute("select 1 from lesson where name = ?", (checked_name(name),)).fetchone():
                raise TakenError(f"there is a lesson {name!r} already")
            db.execute("insert into lesson values (?, ?)", (name, time.time()))

    def rename(self, name: str, new: str) -> None:
        """Raises TakenError: the new name is taken; DataError: it is none."""
        with self._of(name) as db:
            if db.execute("select 1 from lesson where name = ?", (checked_name(new),)).fetchone():
                raise TakenError(f"there is a lesson {new!r} already")
            db.execute("update lesson set name = ? where name = ?", (new, name))

    def remove(self, name: str) -> None:
        """With all its rows."""
        with self._of(name) as db:
            db.execute("delete from lesson where name = ?", (name,))

    def rows(self, name: str) -> list[LessonRow]:
        """In the order in which they came."""
        with self._of(name) as db:
            return [_row(r) for r in db.execute("select * from example where lesson = ? order by id", (name,))]

    def add(self, name: str, rows: Sequence[LessonRow]) -> list[int]:
        """Adds rows, all or none, and returns their numbers. Raises DataError: the lesson would be too long."""
        with self._of(name) as db:
            [n] = db.execute("select count(*) from example where lesson = ?", (name,)).fetchone()
            if n + len(rows) > MAX_ROWS:
                raise DataError(f"a lesson has at most {MAX_ROWS} rows; this one would have {n + len(rows)}")
            sql = "insert into example (lesson, kind, messages, preferred, undesired) values (?, ?, ?, ?, ?)"
            return [int(db.execute(sql, (name, *_columns(row))).lastrowid or 0) for row in rows]

    def change(self, name: str, id: int, row: LessonRow) -> None:
        """Puts a row in another's place. Raises NotThereError: there is no such row."""
        with self._of(name) as db:
            sql = "update example set kind = ?, messages = ?, preferred = ?, undesired = ? where lesson = ? and id = ?"
            if db.execute(sql, (*_columns(row), name, id)).rowcount == 0:
                raise NotThereError(f"the lesson {name!r} has no row {id}")

    def remove_row(self, name: str, id: int) -> None:
        """Raises NotThereError: there is no such row."""
        with self._of(name) as db:
            if db.execute("delete from example where lesson = ? and id = ?", (name, id)).rowcount == 0:
                raise NotThereError(f"the lesson {name!r} has no row {id}")

    @contextmanager
    def _of(self, name: str) -> Iterator[sqlite3.Connection]:
        with self._database.transaction() as db:
            if db.execute("select 1 from lesson where name = ?", (name,)).fetchone() is None:
                raise NotThereError(f"there is no lesson {name!r:.80}")
            yield db


def checked_name(name: str) -> str:
    """A name that can be shown, be a pack's, and stand in an address. Raises DataError."""
    if not name.strip(" .") or len(name) > 200 or not name.isprintable() or "/" in name:
        raise DataError("a lesson's name must have 1 to 200 characters that can be shown, and no slash")
    return name


def read_lesson(path: Path, data: bytes, kind: str | None = None) -> list[LessonRow]:
    """The rows of a JSONL or CSV file.

    Args:
        kind: of rows that have none.

    Raises:
        DataError: a row that can't be used, named by its line, or no row.
    """
    rows = [LessonRow.of(raw, where, kind) for raw, where in rows_of(path, data)]
    if not rows:
        raise DataError(f"{path} has no rows; it needs one example a line")
    return rows


def lesson_text(rows: Sequence[LessonRow]) -> str:
    """Rows as JSONL, which `read_lesson` reads."""
    return "".join(json.dumps(row.as_dict(), ensure_ascii=False) + "\n" for row in rows)


def contradictions(rows: Sequence[LessonRow]) -> list[str]:
    """One sentence for each query that is to be steered and not to be steered, or whose answer is both preferred and undesired."""
    found = []
    general = {_key(r.query): r for r in rows if r.kind == "general"}
    told: set[str] = set()
    preferred: dict[str, set[str]] = {}
    undesired: dict[str, set[str]] = {}
    for row in rows:
        key = _key(row.query)
        if row.kind != "general" and key in general and key not in told:
            told.add(key)
            found.append(f"“{_shown(row.query.text)}” is to be steered and not to be steered; remove one of the rows")
        preferred.setdefault(key, set()).update(row.preferred)
        undesired.setdefault(key, set()).update(row.undesired)
    for row in rows:
        key = _key(row.query)
        both = preferred[key] & undesired[key]
        if both:
            undesired[key] = set()
            found.append(
                f"“{_shown(row.query.text)}” has an answer that is both preferred and undesired: “{_shown(min(both))}”"
            )
    return found


def missing(rows: Sequence[LessonRow]) -> list[str]:
    """What a good fit still wants, one sentence each; those that begin with "At least" keep a fit from beginning."""
    pairs = [r for r in rows if r.kind == "pair"]
    ir, general = (sum(r.kind == kind for r in rows) for kind in ("ir", "general"))
    wordings = len({_key(r.query) for r in pairs})
    said = []
    if pairs or not ir:
        if len(pairs) < _MIN:
            said.append(
                f"At least {_MIN - len(pairs)} more pairs: a fit begins with {_MIN}, and {_BETTER} or more do well."
            )
        elif wordings < _MIN:
            said.append(
                f"At least {_MIN - wordings} of the pairs in another wording: the same query again teaches nothing."
            )
        elif wordings < _BETTER:
            said.append(f"{_BETTER - wordings} more pairs with other queries would make it more certain.")
    if not pairs and 0 < ir < _MIN:
        said.append(f"At least {_MIN - ir} more queries to steer, or pairs.")
    elif not pairs and ir:
        said.append("Without pairs, these queries will be refused. Add pairs if something else is wanted.")
    if 0 < general < _MIN:
        said.append(
            f"At least {_MIN - general} more queries that are not to be steered, or none: a few are too few to count."
        )
    return said


def can_fit(rows: Sequence[LessonRow]) -> bool:
    """Whether a fit would begin."""
    return bool(rows) and not any(sentence.startswith("At least") for sentence in missing(rows))


def write_examples(rows: Sequence[LessonRow], folder: Path) -> dict[str, Path]:
    """Writes rows as the files that a fit takes; returns them by the option that takes them: `pairs`, `ir`, `general`.

    Of answers, the first `ANSWER_WORDS` words: what makes one better begins there, and reading whole ones takes most of a fit's time.
    """
    pairs = [_begun(r) for r in rows if r.kind == "pair"]

    ir = [r for r in rows if r.kind == "ir"]
    general = [r for r in rows if r.kind == "general"]
    files: dict[str, Path] = {}
    # IR queries that are given stand in the place of the pairs' own, so those are written too
    for option, some in (("pairs", pairs), ("ir", [*pairs, *ir] if ir else []), ("general", general)):
        if some:
            files[option] = folder / f"{option}.jsonl"
            files[option].write_text(lesson_text(some), encoding="utf-8")
    return files


def read_lesson_examples(name: str, seed: int = 0) -> Examples:
    """A kept lesson as examples for a fit.

    Raises:
        DataError: there is no such lesson, or it has too little to fit on.
    """
    from fs_local.fitting.files import read_examples

    rows = Lessons(user_database()).rows(name)
    if not can_fit(rows):
        raise DataError(" ".join(missing(rows)))
    with TemporaryDirectory() as folder:
        files = write_examples(rows, Path(folder))
        ir, general = ([files[option]] if option in files else [] for option in ("ir", "general"))
        return read_examples(files.get("pairs"), ir, general, None, seed)


def _begun(pair: LessonRow) -> LessonRow:
    """A pair with the beginnings of its answers; whole where they begin alike."""
    preferred, undesired = (tuple(_BEGINNING.match(a)[0] for a in side) for side in (pair.preferred, pair.undesired))  # type: ignore[index]
    return pair if set(preferred) & set(undesired) else replace(pair, preferred=preferred, undesired=undesired)


def _row(raw: sqlite3.Row) -> LessonRow:
    query = row_query({"messages": json.loads(raw["messages"])}, f"row {raw['id']}")
    return LessonRow(
        raw["kind"], query, tuple(json.loads(raw["preferred"])), tuple(json.loads(raw["undesired"])), raw["id"]
    )


def _columns(row: LessonRow) -> tuple[str, str, str, str]:
    messages, preferred, undesired = (json.dumps(x) for x in (row.query.messages, row.preferred, row.undesired))
    return row.kind, messages, preferred, undesired


def _key(query: Query) -> str:
    return "\n".join(" ".join(m["content"].casefold().split()) for m in query.messages)


def _shown(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:59] + "…"
