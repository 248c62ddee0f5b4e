"""Examples as people keep them: JSONL and CSV files of pairs, IR queries and general queries."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fs_local.errors import DataError
from fs_local.runtime.template import Message

_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Query:
    """What a model is asked: messages, the last one the user's."""

    messages: tuple[Message, ...]

    @classmethod
    def of(cls, text: str) -> Query:
        return cls((Message(role="user", content=text),))

    @property
    def text(self) -> str:
        """The last message, for showing."""
        return self.messages[-1]["content"]


@dataclass(frozen=True)
class Pair:
    """A query with answers that are wanted and answers that are not."""

    query: Query
    preferred: tuple[str, ...]
    undesired: tuple[str, ...]


@dataclass(frozen=True)
class FileDigest:
    """A file of examples as a pack's manifest tells of it: rows and SHA-256, no path."""

    rows: int
    sha256: str


def read_pairs(path: Path) -> tuple[list[Pair], FileDigest]:
    """Reads pairs `{query | messages, preferred, undesired}`; an answer may be a text or a list of texts.

    Rows in TruthfulQA's official task format are pairs too: true answers of `mc2_targets` are preferred, false ones undesired.

    Raises:
        DataError: no such file, or a row that can't be used, named by its line.
    """
    data = _read(path)
    pairs = [row_pair(row, where) for row, where in rows_of(path, data)]
    return pairs, _described(path, data, len(pairs))


def read_queries(path: Path) -> tuple[list[Query], FileDigest]:
    """Reads queries `{query | messages}`; other fields are ignored.

    Raises:
        DataError: no such file, or a row that can't be used, named by its line.
    """
    data = _read(path)
    queries = [row_query(row, where) for row, where in rows_of(path, data)]
    return queries, _described(path, data, len(queries))


def read_rows(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Yields each row of a file, and where it stands, for messages.

    Raises:
        DataError: no such file, or a row that is no object.
    """
    return rows_of(path, _read(path))


def multiple_choice(row: dict[str, Any], where: str) -> tuple[Query, dict[str, bool], dict[str, bool]]:
    """A row in TruthfulQA's official task format: the question, and its MC1 and MC2 answers with whether they are true.

    Raises:
        DataError: naming the field that is wrong.
    """
    question = row.get("question")
    if not isinstance(question, str) or not question.strip():
        raise DataError(f"{where}: no `question` (a text)")
    targets = []
    for name in ("mc1_targets", "mc2_targets"):
        found = row.get(name)
        if not isinstance(found, dict) or not all(k.strip() and v in (0, 1) for k, v in found.items()):
            raise DataError(f"{where}: `{name}` must map answers to 1 (true) or 0")
        if len(set(found.values())) < 2:
            raise DataError(f"{where}: `{name}` needs both true and false answers")
        targets.append({k: v == 1 for k, v in found.items()})
    return Query.of(question), targets[0], targets[1]


def row_pair(row: dict[str, Any], where: str) -> Pair:
    """The pair of a row `{query | messages, preferred, undesired}`, or of one in TruthfulQA's official task format.

    Raises:
        DataError: naming the field that is wrong.
    """
    if "mc2_targets" in row:
        query, _, answers = multiple_choice(row, where)
        return Pair(query, tuple(a for a, t in answers.items() if t), tuple(a for a, t in answers.items() if not t))
    return Pair(row_query(row, where), _answers(row, "preferred", where), _answers(row, "undesired", where))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}") from error


def _described(path: Path, data: bytes, rows: int) -> FileDigest:
    if rows == 0:
        raise DataError(f"{path} has no rows; it needs one example a line")
    return FileDigest(rows, hashlib.sha256(data).hexdigest())


def rows_of(path: Path, data: bytes) -> Iterator[tuple[dict[str, Any], str]]:
    """As `read_rows`, of a file's bytes; its name says whether it is CSV."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    if path.suffix.lower() == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""))
        try:
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                columns = len(reader.fieldnames or ())
                if more := row.pop(None, None):
                    raise DataError(
                        f"{where} has {columns + len(more)} fields, and the first line names {columns}; put quotes around texts with commas"
                    )
                if None in row.values():
                    given = sum(value is not None for value in row.values())
                    raise DataError(f"{where} has {given} of the {columns} fields that the first line names")
                yield row, where
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num} is not CSV: {error}") from error
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            begins = line.lstrip()[0]
            if begins == "[":
                hint = "; give one object a line, without the brackets of a list"
            elif begins != "{":
                hint = '; each line is an object like {"query": …}, or the file is CSV, named .csv, under a line of field names'
            else:
                hint = ""
            raise DataError(f"{where} is not JSON: {error}{hint}") from error
        if not isinstance(row, dict):
            raise DataError(f'{where} is not a JSON object like {{"query": …}}')
        yield row, where


def row_query(row: dict[str, Any], where: str) -> Query:
    """The query of a row `{query | messages}`."""
    if "messages" in row:
        messages = row["messages"]
        if not isinstance(messages, list) or not messages:
            raise DataError(f"{where}: `messages` must be a list of turns")
        for m in messages:
            if not isinstance(m, dict) or m.get("role") not in _ROLES or not isinstance(m.get("content"), str):
                raise DataError(
                    f"{where}: each of `messages` needs a `role` ({', '.join(_ROLES)}) and a text as `content`"
                )
        if messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
            raise DataError(f"{where}: the last of `messages` must be a user's, and not empty")
        return Query(tuple(Message(role=m["role"], content=m["content"]) for m in messages))
    text = row.get("query")
    if not isinstance(text, str):
        raise DataError(f"{where}: no `query` (a text) and no `messages`")
    if not text.strip():
        raise DataError(f"{where}: the query is empty")
    return Query.of(text)


def _answers(row: dict[str, Any], field: str, where: str) -> tuple[str, ...]:
    if field not in row:
        raise DataError(
            f"{where}: there is no `{field}` (a text or a list of texts) beside {', '.join(map(repr, row))[:200]}"
        )
    value = row[field]
    answers = value if isinstance(value, list) else [value]
    texts = tuple(a for a in answers if isinstance(a, str))
    if not answers or len(texts) < len(answers):
        raise DataError(f"{where}: `{field}` must be a text or a list of texts")
    if not all(t.strip() for t in texts):
        raise DataError(f"{where}: `{field}` has an empty answer")
    return texts
