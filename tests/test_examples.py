"""Example files: what is accepted, and what is said of the rest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from fs_local.demo import DATA, demo_examples
from fs_local.errors import DataError
from fs_local.examples import read_pairs, read_queries


def write(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows))
    return path


def test_pairs_take_texts_lists_and_messages(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    path = write(
        tmp_path / "pairs.jsonl",
        {"query": "q", "preferred": "a", "undesired": ["b", "c"], "other": 1},
        "",
        {"messages": chat, "preferred": ["x\u2028y"], "undesired": "d"},
    )
    pairs, described = read_pairs(path)
    assert pairs[0].query.text == "q"
    assert (pairs[0].preferred, pairs[0].undesired) == (("a",), ("b", "c"))
    assert pairs[1].query.messages == tuple(chat)
    assert (described.rows, described.sha256) == (2, hashlib.sha256(path.read_bytes()).hexdigest())


def test_csv_with_quotes_and_newlines(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_bytes('\ufeffquery,preferred,undesired\r\n"How, and\nwhy?",No.,Yes.\r\n'.encode())
    (pair,), _ = read_pairs(path)
    assert (pair.query.text, pair.preferred, pair.undesired) == ("How, and\nwhy?", ("No.",), ("Yes.",))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{not json", "line 2 is not JSON"),
        ("[" * 100_000, "line 2 is not JSON"),
        ("[1]", "line 2 is not a JSON object"),
        ({"preferred": "a", "undesired": "b"}, "line 2: no `query`"),
        ({"query": " ", "preferred": "a", "undesired": "b"}, "line 2: the query is empty"),
        ({"query": "q", "preferred": "a"}, "line 2: there is no `undesired`"),
        ({"query": "q", "preferred": [], "undesired": "b"}, "line 2: `preferred` must be"),
        ({"query": "q", "preferred": ["a", ""], "undesired": "b"}, "line 2: `preferred` has an empty answer"),
        ({"query": "q", "preferred": 3, "undesired": "b"}, "line 2: `preferred` must be"),
        ({"messages": "hi", "preferred": "a", "undesired": "b"}, "list of turns"),
        ({"messages": [{"role": "robot", "content": "x"}], "preferred": "a", "undesired": "b"}, "needs a `role`"),
        ({"messages": [{"role": "assistant", "content": "x"}], "preferred": "a", "undesired": "b"}, "must be a user's"),
    ],
)
def test_bad_rows_are_named_by_file_and_line(row: object, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.jsonl", {"query": "q", "preferred": "a", "undesired": "b"}, row)
    with pytest.raises(DataError, match=f"pairs.jsonl, {message}" if message.startswith("line") else message):
        read_pairs(path)


def test_files_without_rows_or_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no rows"):
        read_queries(write(tmp_path / "empty.jsonl"))
    with pytest.raises(DataError, match="can't be read"):
        read_queries(tmp_path / "missing.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b'{"query": "\xe9"}')
    with pytest.raises(DataError, match="is not UTF-8"):
        read_queries(tmp_path / "latin.jsonl")


def test_the_shipped_examples_are_enough_and_apart() -> None:
    shipped = demo_examples()
    assert len(shipped.pairs) >= 60
    general = shipped.general["general"]
    assert len(general) >= 60
    fitted_on = {p.query.text for p in shipped.pairs} | {q.text for q in general}
    assert len(fitted_on) == len(shipped.pairs) + len(general)
    unseen = [q.text for name in ("unseen_ir", "unseen_general") for q in read_queries(DATA / f"{name}.jsonl")[0]]
    assert len(set(unseen) - fitted_on) == len(unseen) == 24


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "query,preferred,undesired\nHow, please?,Arr,No\n",
            "line 2 has 4 fields, and the first line names 3; put quotes",
        ),
        ("query,preferred,undesired\nHow?,Arr\n", "line 2 has 2 of the 3 fields"),
    ],
)
def test_csv_rows_with_other_fields_than_the_first_line_are_not_guessed_at(
    tmp_path: Path, text: str, says: str
) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=says):
        read_pairs(path)


def test_a_plain_list_of_queries_is_told_how_to_be_one(tmp_path: Path) -> None:
    path = tmp_path / "queries.txt"
    path.write_text("How do I pick a lock?\n")
    with pytest.raises(DataError, match=r"line 1 is not JSON.*or the file is CSV, named \.csv"):
        read_queries(path)
