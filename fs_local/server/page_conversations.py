"""`/v1/page/conversations`: the page's conversations, kept on this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from pydantic import ConfigDict, Field
from starlette.responses import JSONResponse, Response

from fs_local.kept_conversations import Changed, KeptConversation, KeptConversations
from fs_local.server.errors import ApiError
from fs_local.server.limits import MAX_BODY_BYTES, MAX_MESSAGES
from fs_local.server.requests import StrictRoute
from fs_local.server.schemas_steering import Strict

router = APIRouter(route_class=StrictRoute)
Title = Annotated[str, Field(min_length=1, max_length=200)]


class KeptMessage(Strict):
    """A message, with what the page shows beside it."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)
    role: Annotated[str, Field(pattern="^(system|user|assistant)$")]
    content: Annotated[str, Field(max_length=MAX_BODY_BYTES)]


Messages = Annotated[list[KeptMessage], Field(max_length=MAX_MESSAGES)]


class Begun(Strict):
    """A new conversation."""

    title: Title
    messages: Messages = Field(default_factory=list)


class Change(Strict):
    """What is to be different in the version that the page knows."""

    version: int
    title: Title | None = None
    messages: Messages | None = None


def _kept(http: HttpRequest) -> KeptConversations:
    return KeptConversations(http.app.state.database)


def _missing(id: str) -> ApiError:
    return ApiError(404, f"there is no conversation {id!r:.40}; it was deleted, perhaps in another tab")


def _plain(messages: list[KeptMessage]) -> list[dict[str, Any]]:
    return [m.model_dump() for m in messages]


@router.get("/v1/page/conversations")
def conversations(http: HttpRequest) -> JSONResponse:
    """All, without their messages."""
    return JSONResponse({"data": [asdict(c) for c in _kept(http).all()]})


@router.post("/v1/page/conversations", status_code=201)
def begin(body: Begun, http: HttpRequest) -> JSONResponse:
    """A new one."""
    return JSONResponse(asdict(_kept(http).begin(body.title, _plain(body.messages))), 201)


@router.get("/v1/page/conversations/{id}")
def conversation(id: str, http: HttpRequest) -> JSONResponse:
    """With its messages."""
    return JSONResponse(asdict(_one(id, http)))


@router.patch("/v1/page/conversations/{id}")
def change(id: str, body: Change, http: HttpRequest) -> JSONResponse:
    """409 where it is another version by now."""
    try:
        messages = None if body.messages is None else _plain(body.messages)
        version = _kept(http).change(id, body.version, body.title, messages)
    except Changed as error:
        raise ApiError(409, str(error), code="changed") from error
    if version is None:
        raise _missing(id)
    return JSONResponse({"id": id, "version": version})


@router.delete("/v1/page/conversations/{id}")
def remove(id: str, http: HttpRequest) -> JSONResponse:
    """It is gone for good."""
    if not _kept(http).remove(id):
        raise _missing(id)
    return JSONResponse({"removed": id})


@router.get("/v1/page/conversations/{id}/export", responses={200: {"content": {"application/jsonl": {}}}})
def export(id: str, http: HttpRequest, form: Literal["json", "pairs"] = "json") -> Response:
    """The conversation as JSON, or (`form=pairs`) its corrected answers as JSONL of pairs."""
    kept = _one(id, http)
    if form == "json":
        return _download(json.dumps(asdict(kept), ensure_ascii=False, indent=1), "application/json", f"{id}.json")
    lines = [json.dumps(pair, ensure_ascii=False) + "\n" for pair in _pairs(kept)]
    return _download("".join(lines), "application/jsonl", f"{id}.jsonl")


def _one(id: str, http: HttpRequest) -> KeptConversation:
    kept = _kept(http).one(id)
    if kept is None:
        raise _missing(id)
    return kept


def _pairs(kept: KeptConversation) -> list[dict[str, Any]]:
    """Of each answer with a better one (`better`), a pair."""
    messages = kept.messages or []
    before = [[{"role": m["role"], "content": m["content"]} for m in messages[:i]] for i in range(len(messages))]
    return [
        {"messages": before[i], "preferred": [m["better"]], "undesired": [m["content"]]}
        for i, m in enumerate(messages)
        if m["role"] == "assistant" and isinstance(m.get("better"), str) and m["better"].strip() and before[i]
    ]


def _download(text: str, media_type: str, name: str) -> Response:
    return Response(text, media_type=media_type, headers={"Content-Disposition": f'attachment; filename="{name}"'})
