"""fs-local lesson: the examples that grow out of corrections in the page and in chat."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional

import typer

from fs_local.commands.options import AsJson, LessonName
from fs_local.commands.output import print_json

if TYPE_CHECKING:
    from rich.table import Table

    from fs_local.lessons import LessonRow, Summary

app = typer.Typer(
    help="Lessons: named sets of examples that grow out of corrections in the page and in chat.", no_args_is_help=True
)


@app.command("list")
def lesson_list(as_json: AsJson = False) -> None:
    """List the lessons that are kept on this machine."""
    from dataclasses import asdict

    from fs_local.lessons import Lessons
    from fs_local.terminal import out
    from fs_local.user_data import user_database

    found = Lessons(user_database()).all()
    if as_json:
        print_json({"lessons": [asdict(summary) for summary in found]})
    else:
        out.print(_lessons_table(found))


@app.command("show")
def lesson_show(name: LessonName, as_json: AsJson = False) -> None:
    """Show a lesson's rows, what contradicts itself in them, and what is missing for a good fit."""
    from fs_local.lessons import Lessons, contradictions, missing
    from fs_local.terminal import err, out
    from fs_local.user_data import user_database

    rows = Lessons(user_database()).rows(name)
    said = [*contradictions(rows), *missing(rows)]
    if as_json:
        print_json({"name": name, "rows": [row.as_dict() for row in rows], "notes": said})
        return
    out.print(_lesson_table(rows))
    for sentence in said:
        err.print(f"note: {sentence}", style="yellow", markup=False)


@app.command("import")
def lesson_import(
    name: LessonName,
    file: Annotated[Path, typer.Argument(help="JSONL or CSV, of pairs for example.")],
    kind: Annotated[
        Optional[Literal["pair", "ir", "general"]],
        typer.Option(help="pair, ir or general: what rows are that don't say it themselves."),
    ] = None,
) -> None:
    """Add a file's rows to a lesson, which is made if it is not there.

    Example: fs-local lesson import tone pairs.jsonl
    """
    from fs_local.errors import DataError
    from fs_local.lessons import Lessons, read_lesson
    from fs_local.terminal import out
    from fs_local.user_data import user_database

    try:
        rows = read_lesson(file, file.read_bytes(), kind)
    except OSError as error:
        raise DataError(f"{file} can't be read: {error.strerror}") from error
    lessons = Lessons(user_database())
    if name not in [summary.name for summary in lessons.all()]:
        lessons.create(name)
    lessons.add(name, rows)
    out.print(f"{name}: {len(rows)} rows more", markup=False, highlight=False)


@app.command("export")
def lesson_export(name: LessonName) -> None:
    """Print a lesson as JSONL, for files of examples or for lesson import elsewhere."""
    from fs_local.lessons import Lessons, lesson_text
    from fs_local.user_data import user_database

    print(lesson_text(Lessons(user_database()).rows(name)), end="")


def _lessons_table(lessons: Sequence[Summary]) -> Table:
    """Lessons, with how many rows of each kind they have."""
    from rich.markup import escape
    from rich.table import Table

    table = Table("lesson", "pairs", "IR queries", "general queries")
    for lesson in lessons:
        table.add_row(escape(lesson.name), str(lesson.pair), str(lesson.ir), str(lesson.general))
    return table


def _lesson_table(rows: Sequence[LessonRow]) -> Table:
    """A lesson's rows."""
    from rich.markup import escape
    from rich.table import Table

    from fs_local.printable import printable

    table = Table("row", "kind", "query", "preferred", "undesired")
    for row in rows:
        texts = (row.query.text, " / ".join(row.preferred), " / ".join(row.undesired))
        table.add_row(str(row.id), row.kind, *(escape(printable(text, 200)) for text in texts))
    return table
