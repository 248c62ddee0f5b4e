"""Lessons without a browser: rows, files, contradictions, what is missing, and the command line."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import cli
from fs_local.errors import DataError
from fs_local.examples import Query, read_pairs, read_queries
from fs_local.lessons import (
    ANSWER_WORDS,
    LessonRow,
    Lessons,
    can_fit,
    contradictions,
    lesson_text,
    missing,
    read_lesson,
    read_lesson_examples,
    write_examples,
)
from fs_local.user_data import user_database


def pair(query: str, preferred: str = "yes", undesired: str = "no") -> LessonRow:
    return LessonRow("pair", Query.of(query), (preferred,), (undesired,))


def queries(kind: str, n: int) -> list[LessonRow]:
    return [LessonRow.of({"kind": kind, "query": f"{kind} {i}"}, "here") for i in range(n)]


texts = st.text(min_size=1).filter(lambda t: t.strip() != "" and t.isprintable())
rows = st.one_of(
    st.builds(
        lambda q, p, u: LessonRow("pair", Query.of(q), tuple(p), tuple(u)),
        texts,
        st.lists(texts, min_size=1),
        st.lists(texts, min_size=1),
    ),
    st.builds(lambda kind, q: LessonRow(kind, Query.of(q)), st.sampled_from(["ir", "general"]), texts),
)


@given(st.lists(rows, min_size=1, max_size=8))
def test_what_is_exported_is_imported_the_same(some: list[LessonRow]) -> None:
    assert read_lesson(Path("a.jsonl"), lesson_text(some).encode()) == some


def test_rows_are_kept_changed_and_removed(tmp_path: Path) -> None:
    lessons = Lessons(user_database(tmp_path / "kept.sqlite3"))
    lessons.create("tone")
    first, second = lessons.add("tone", [pair("a"), pair("b")])
    lessons.change("tone", first, pair("c"))
    lessons.remove_row("tone", second)
    [kept] = Lessons(user_database(tmp_path / "kept.sqlite3")).rows("tone")
    assert (kept.query.text, kept.id) == ("c", first)
    lessons.rename("tone", "manner")
    assert [s.name for s in lessons.all()] == ["manner"]
    assert lessons.rows("manner") == [kept]
    lessons.remove("manner")
    assert lessons.all() == []


def test_all_rows_are_added_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fs_local.lessons.MAX_ROWS", 3)
    lessons = Lessons(user_database(tmp_path / "kept.sqlite3"))
    lessons.create("a")
    lessons.add("a", [pair("1"), pair("2")])
    with pytest.raises(DataError, match="at most 3 rows"):
        lessons.add("a", [pair("3"), pair("4")])
    assert len(lessons.rows("a")) == 2


@pytest.mark.parametrize("name", ["", " ", "a\nb", "x" * 201, "a/b", ".."])
def test_names_that_are_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="1 to 200 characters"):
        Lessons(user_database(tmp_path / "kept.sqlite3")).create(name)


def test_contradictions_are_named() -> None:
    some = [
        pair("Tell  me"),
        LessonRow("general", Query.of("tell me")),
        pair("x", "one", "two"),
        pair("X", "two", "one"),
    ]
    said = contradictions(some)
    assert len(said) == 2
    assert "“Tell me” is to be steered and not to be steered" in said[0]
    assert "both preferred and undesired" in said[1]
    assert contradictions([pair("a"), LessonRow("general", Query.of("b"))]) == []


def test_what_is_missing_is_said() -> None:
    assert missing([pair("a")])[0].startswith("At least 7 more pairs")
    assert missing([pair("a")] * 9)[0].startswith("At least 7 of the pairs in another wording")
    ten = [pair(str(i)) for i in range(10)]
    assert can_fit(ten)
    assert missing(ten) == ["14 more pairs with other queries would make it more certain."]
    assert not can_fit([*ten, *queries("general", 3)])
    assert can_fit([*ten, *queries("general", 8)])
    assert missing(queries("ir", 9)) == [
        "Without pairs, these queries will be refused. Add pairs if something else is wanted."
    ]
    assert not can_fit([])


def test_files_of_a_lesson_are_what_a_fit_reads(tmp_path: Path) -> None:
    some = [*(pair(str(i)) for i in range(8)), *queries("ir", 2), *queries("general", 3)]
    files = write_examples(some, tmp_path)
    assert len(read_pairs(files["pairs"])[0]) == 8
    assert len(read_queries(files["ir"])[0]) == 10, "the pairs' queries are to be steered too"
    assert len(read_queries(files["general"])[0]) == 3


def test_a_fit_reads_how_answers_begin(tmp_path: Path) -> None:
    long = " ".join(f"word{i}" for i in range(100))
    files = write_examples([pair("a", "No.\n\nNever.", long), pair("b", long + " yes", long + " no")], tmp_path)
    short, alike = read_pairs(files["pairs"])[0]
    assert short.preferred == ("No.\n\nNever.",)
    assert short.undesired[0].split() == long.split()[:ANSWER_WORDS]
    assert (alike.preferred[0], alike.undesired[0]) == (long + " yes", long + " no"), "else both would be the same"


def test_a_lesson_becomes_examples(own_data: Path) -> None:
    lessons = Lessons(user_database())
    lessons.create("a")
    lessons.add("a", [pair(f"query {i}") for i in range(7)])
    with pytest.raises(DataError, match="At least 1 more"):
        read_lesson_examples("a")
    lessons.add("a", [pair("query 7")])
    assert len(read_lesson_examples("a").pairs) == 8


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "line 1 is not JSON"),
        ('{"query": "a"}', "`kind` must be"),
        ('{"kind": "other", "query": "a"}', "`kind` must be"),
        ('{"kind": "pair", "query": "a"}', "there is no `preferred`"),
        ('{"kind": ["pair"], "query": "a"}', "`kind` must be"),
        ('{"kind": "ir", "query": " "}', "the query is empty"),
        ("", "no rows"),
        ("\x89PNG\r\n", "line 1 is not JSON"),
        ('{"instruction": "a", "output": "b"}', "`kind` must be"),
    ],
)
def test_files_that_are_none(text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_lesson(Path("a.jsonl"), text.encode())


def test_a_file_that_is_no_database_is_named_and_left(tmp_path: Path) -> None:
    path = tmp_path / "kept.sqlite3"
    path.write_text("this is something else, and long enough to be read as a header " * 20)
    before = path.read_bytes()
    with pytest.raises(
        DataError, match=r"kept.sqlite3 in the data folder is damaged \(file is not a database\); move it away"
    ):
        Lessons(user_database(path)).all()
    assert path.read_bytes() == before


def test_a_full_disk_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "kept.sqlite3"
    Lessons(user_database(path)).create("a")
    Lessons(user_database(path)).add("a", [pair("kept")])
    script = """
import resource, signal, sys
from pathlib import Path
from fs_local.user_data import user_database
from fs_local.errors import DataError
from fs_local.examples import Query
from fs_local.lessons import LessonRow, Lessons
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
try:
    Lessons(user_database(Path(sys.argv[1]))).add("a", [LessonRow("pair", Query.of("x" * 1000), ("y" * 1000,), ("z",))] * 500)
except DataError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert "what was kept before stays" in said.stdout, said.stderr
    assert [row.query.text for row in Lessons(user_database(path)).rows("a")] == ["kept"]


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "kept.sqlite3"
    Lessons(user_database(path)).create("a")
    with sqlite3.connect(path) as other:
        assert other.execute("pragma journal_mode").fetchone() == ("wal",)
        other.execute("select * from lesson").fetchall()
        Lessons(user_database(path)).add("a", [pair("b")])
    assert len(Lessons(user_database(path)).rows("a")) == 1


def test_the_command_line(own_data: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    file = tmp_path / "pairs.jsonl"
    file.write_text(lesson_text([pair("[red]a[/]"), pair("b")]))
    assert run(cli.app, ["lesson", "import", "tone", str(file)]).exit_code == 0
    assert json.loads(run(cli.app, ["lesson", "list", "--json"]).output) == {
        "lessons": [{"name": "tone", "pair": 2, "ir": 0, "general": 0}]
    }
    shown = run(cli.app, ["lesson", "show", "tone"]).output
    assert "[red]a[/]" in shown
    assert "At least 6 more pairs" in shown
    assert run(cli.app, ["lesson", "export", "tone"]).output == file.read_text()
    assert isinstance(run(cli.app, ["lesson", "show", "none"]).exception, DataError)
