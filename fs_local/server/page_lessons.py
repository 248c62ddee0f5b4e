"""`/v1/page/lessons`: lessons as tables, and in and out as files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from pydantic import Field
from starlette.responses import JSONResponse, Response

from fs_local.lessons import LessonRow, Lessons, can_fit, contradictions, lesson_text, missing, read_lesson
from fs_local.server.limits import MAX_BODY_BYTES, MAX_MESSAGES
from fs_local.server.requests import StrictRoute
from fs_local.server.schemas_steering import Name, Strict

router = APIRouter(route_class=StrictRoute)
Text = Annotated[str, Field(max_length=MAX_BODY_BYTES)]


class NewLesson(Strict):
    """A lesson's name; or, for one that is there, its new name."""

    name: Name


class QueryMessage(Strict):
    """One message of the conversation that a query is."""

    role: Literal["system", "user", "assistant"]
    content: Text


class NewRow(Strict):
    """A row; `messages` end with the user's."""

    kind: Literal["pair", "ir", "general"]
    messages: Annotated[list[QueryMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    preferred: Annotated[list[Text], Field(max_length=100)] = Field(default_factory=list)
    undesired: Annotated[list[Text], Field(max_length=100)] = Field(default_factory=list)

    def row(self) -> LessonRow:
        """Raises DataError: an empty query or answer."""
        raw: dict[str, Any] = {"kind": self.kind, "messages": [m.model_dump() for m in self.messages]}
        if self.kind == "pair":
            raw |= {"preferred": list(self.preferred), "undesired": list(self.undesired)}
        return LessonRow.of(raw, "this row")


class Import(Strict):
    """The text of a JSONL or CSV file. `kind`: of rows that have none."""

    text: Annotated[str, Field(max_length=MAX_BODY_BYTES)]
    csv: bool = False
    kind: Literal["pair", "ir", "general"] | None = None


def _lessons(http: HttpRequest) -> Lessons:
    return Lessons(http.app.state.database)


@router.get("/v1/page/lessons")
def lessons(http: HttpRequest) -> JSONResponse:
    """All, with how many rows they have."""
    return JSONResponse({"data": [asdict(s) for s in _lessons(http).all()]})


@router.post("/v1/page/lessons", status_code=201)
def create(body: NewLesson, http: HttpRequest) -> JSONResponse:
    """A new one."""
    _lessons(http).create(body.name)
    return JSONResponse({"name": body.name}, 201)


@router.patch("/v1/page/lessons/{name}")
def rename(name: str, body: NewLesson, http: HttpRequest) -> JSONResponse:
    """Gives it another name."""
    _lessons(http).rename(name, body.name)
    return JSONResponse({"name": body.name})


@router.delete("/v1/page/lessons/{name}")
def remove(name: str, http: HttpRequest) -> JSONResponse:
    """With all its rows."""
    _lessons(http).remove(name)
    return JSONResponse({"removed": name})


@router.get("/v1/page/lessons/{name}/rows")
def rows(name: str, http: HttpRequest) -> JSONResponse:
    """Its rows, what contradicts itself in them, and what is missing."""
    return JSONResponse(_shown(name, _lessons(http).rows(name)))


@router.post("/v1/page/lessons/{name}/rows", status_code=201)
def add(name: str, body: NewRow, http: HttpRequest) -> JSONResponse:
    """One more row."""
    kept = _lessons(http)
    kept.add(name, [body.row()])
    return JSONResponse(_shown(name, kept.rows(name)), 201)


@router.patch("/v1/page/lessons/{name}/rows/{id}")
def change(name: str, id: int, body: NewRow, http: HttpRequest) -> JSONResponse:
    """Another row in its place."""
    kept = _lessons(http)
    kept.change(name, id, body.row())
    return JSONResponse(_shown(name, kept.rows(name)))


@router.delete("/v1/page/lessons/{name}/rows/{id}")
def remove_row(name: str, id: int, http: HttpRequest) -> JSONResponse:
    """Takes a row out."""
    kept = _lessons(http)
    kept.remove_row(name, id)
    return JSONResponse(_shown(name, kept.rows(name)))


@router.post("/v1/page/lessons/{name}/import", status_code=201)
def take_in(name: str, body: Import, http: HttpRequest) -> JSONResponse:
    """The rows of a file join those that are there; where one can't be used, none of them."""
    kept = _lessons(http)
    found = read_lesson(Path("the file.csv" if body.csv else "the file"), body.text.encode(), body.kind)
    kept.add(name, found)
    return JSONResponse(_shown(name, kept.rows(name)), 201)


@router.get("/v1/page/lessons/{name}/export", responses={200: {"content": {"application/jsonl": {}}}})
def export(name: str, http: HttpRequest) -> Response:
    """All rows as JSONL."""
    text = lesson_text(_lessons(http).rows(name))
    headers = {"Content-Disposition": 'attachment; filename="lesson.jsonl"'}
    return Response(text, media_type="application/jsonl", headers=headers)


def _shown(name: str, rows: Sequence[LessonRow]) -> dict[str, Any]:
    return {
        "name": name,
        "rows": [
            {
                "id": r.id,
                "kind": r.kind,
                "messages": r.query.messages,
                "preferred": r.preferred,
                "undesired": r.undesired,
            }
            for r in rows
        ],
        "contradictions": contradictions(rows),
        "missing": missing(rows),
        "can_fit": can_fit(rows),
    }
