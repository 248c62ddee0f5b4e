"""`/v1/page/markdown`: an answer's Markdown as HTML. Answers are hostile text: HTML in them stays text, and nothing is loaded."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from markdown_it import MarkdownIt
from pydantic import Field
from starlette.responses import JSONResponse

from fs_local.server.requests import StrictRoute
from fs_local.server.schemas_steering import Strict

router = APIRouter(route_class=StrictRoute)
_MARKDOWN = (
    MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"]).disable("image")
)
MAX_TEXTS, MAX_CHARACTERS = 500, 200_000


class Texts(Strict):
    """Answers."""

    texts: Annotated[list[Annotated[str, Field(max_length=MAX_CHARACTERS)]], Field(max_length=MAX_TEXTS)]


@router.post("/v1/page/markdown")
def markdown(body: Texts) -> JSONResponse:
    """Each text as HTML."""
    return JSONResponse({"html": [_MARKDOWN.render(text) for text in body.texts]})
