"""`/v1/steering/decide`: what the gates make of queries, and no answers. A router for other programs."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from starlette.responses import JSONResponse

from fs_local.engine import Request
from fs_local.server.answers import unless_gone, whole
from fs_local.server.backend import Backend
from fs_local.server.errors import ApiError
from fs_local.server.operation import Watch
from fs_local.server.prompts import chat_prompt
from fs_local.server.requests import StrictRoute, backend_of, watch_of
from fs_local.server.schemas_decide import DecideRequest, DecideResponse, DecisionsOfQuery
from fs_local.server.schemas_openai import ChatMessage
from fs_local.server.schemas_steering import DecisionShown
from fs_local.server.steering import Asked, asked_steering, shown_decisions

router = APIRouter(route_class=StrictRoute)
_AT_ONCE = 8  # of the engine's queue; others want to be answered too


@router.post("/v1/steering/decide", response_model=DecideResponse)
async def decide(body: DecideRequest, http: HttpRequest) -> JSONResponse:
    """Decides each query of `input`, or the conversation in `messages`."""
    backend, watch = backend_of(http), watch_of(http)
    asked = asked_steering(backend, http, body.model, body.steering)
    if (body.input is None) == (body.messages is None):
        raise ApiError(400, "give either input or messages", param="input", code="invalid_value")
    if body.messages is not None:
        conversations = [body.messages]
    else:
        given = [body.input] if isinstance(body.input, str) else body.input or []
        conversations = [[ChatMessage(role="user", content=text)] for text in given]
    found = await unless_gone(http, _decide(backend, watch, asked, conversations))
    return JSONResponse(DecideResponse(model=asked.model, data=found).model_dump(exclude_none=True))


async def _decide(
    backend: Backend, watch: Watch, asked: Asked, conversations: list[list[ChatMessage]]
) -> list[DecisionsOfQuery]:
    found: list[DecisionsOfQuery] = []
    async with backend.using() as engine:
        requests = [
            Request(await chat_prompt(engine, messages), max_tokens=0, steer=asked.steer) for messages in conversations
        ]
        for first in range(0, len(requests), _AT_ONCE):
            async with backend.answering(engine, requests[first : first + _AT_ONCE]) as streams:
                answers = await whole(streams)
            for answer in answers:
                watch.decided(answer.end.decisions)
                shown = [DecisionShown(**d) for d in shown_decisions(backend, answer.end.decisions, asked.explain)]
                found.append(DecisionsOfQuery(index=len(found), applied=any(d.open for d in shown), decisions=shown))
    return found
