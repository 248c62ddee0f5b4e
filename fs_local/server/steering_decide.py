"""`/v1/steering/decide`: what the gates make of queries, and no answers. A router for other programs."""

from __future__ import annotations

from anyio.to_thread import run_sync
from fastapi import APIRouter
from fastapi import Request as HttpRequest
from starlette.responses import JSONResponse

from fs_local.errors import FsLocalError
from fs_local.server.answers import unless_gone
from fs_local.server.backend import Backend
from fs_local.server.errors import ApiError, of_library
from fs_local.server.operation import Watch
from fs_local.server.prompts import chat_prompt
from fs_local.server.requests import StrictRoute, backend_of, watch_of
from fs_local.server.schemas_decide import DecideRequest, DecideResponse, DecisionsOfQuery
from fs_local.server.schemas_openai import ChatMessage
from fs_local.server.schemas_steering import DecisionShown
from fs_local.server.steering import Asked, asked_steering, shown_decisions

router = APIRouter(route_class=StrictRoute)


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
    found = []
    async with backend.using() as engine:
        for index, messages in enumerate(conversations):
            prompt = await chat_prompt(engine, messages)
            try:
                decisions = list(await run_sync(engine.decide, prompt, asked.steer))
            except FsLocalError as error:
                raise of_library(error) from error
            watch.decided(decisions)
            shown = [DecisionShown(**d) for d in shown_decisions(backend, decisions, asked.explain)]
            found.append(DecisionsOfQuery(index=index, applied=any(d.open for d in shown), decisions=shown))
    return found
