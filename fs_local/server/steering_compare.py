"""`/v1/steering/compare`: the answer steered and unsteered, evaluated side by side with the same seed."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from fs_local.engine import Steer
from fs_local.server.answers import Answer, pieces, unless_gone, whole
from fs_local.server.backend import Backend
from fs_local.server.errors import ApiError, error_body
from fs_local.server.openai_chat import chat_requests
from fs_local.server.openai_shapes import finish_reason, new_id, now, usage
from fs_local.server.operation import Watch
from fs_local.server.requests import StrictRoute, backend_of, watch_of
from fs_local.server.schemas_openai import ChatRequest
from fs_local.server.shape import Piece, Stream
from fs_local.server.steering import Asked, asked_steering, shown_steering
from fs_local.server.streaming import DONE, EVENTS, LiveResponse, event

router = APIRouter(route_class=StrictRoute)
SIDES = ("steered", "unsteered")


@router.post("/v1/steering/compare")
async def compare(body: ChatRequest, http: HttpRequest) -> Response:
    """Takes what `/v1/chat/completions` takes, one choice, and gives both answers; streamed, each event says whose text it has."""
    backend, watch = backend_of(http), watch_of(http)
    if (body.n or 1) > 1 or body.logprobs:
        raise ApiError(400, "a comparison has one choice and no logprobs", param="n", code="invalid_value")
    asked = asked_steering(backend, http, body.model, body.steering)
    if body.seed is None:
        body = body.model_copy(update={"seed": secrets.randbits(32)})
    async with AsyncExitStack() as held:
        engine = await held.enter_async_context(backend.using())
        [steered] = await chat_requests(backend, engine, body, asked)
        [unsteered] = await chat_requests(backend, engine, body, replace(asked, steer=Steer(enabled=False)))
        streams = await held.enter_async_context(backend.answering(engine, [steered, unsteered]))
        head = {"id": new_id("cmp"), "object": "steering.comparison", "created": now(), "model": asked.model}
        if body.stream:
            return LiveResponse(_events(streams, backend, watch, asked, head), EVENTS, held.pop_all())
        answers = await unless_gone(http, whole(streams))
    watch.answered([a.end for a in answers])
    sides = {side: _side(answer) for side, answer in zip(SIDES, answers, strict=True)}
    return JSONResponse({**head, **sides, **shown_steering(backend, answers[0].end.decisions, asked.explain)})


def _side(answer: Answer) -> dict[str, Any]:
    return {
        "message": {"role": "assistant", "content": answer.text},
        "finish_reason": finish_reason(answer.end),
        "usage": usage([answer.end]),
    }


async def _events(
    streams: Sequence[Stream], backend: Backend, watch: Watch, asked: Asked, head: dict[str, Any]
) -> AsyncGenerator[bytes, None]:
    """`{side, delta, finish_reason}`; the first event of the steered side has the steering."""
    head = {**head, "object": "steering.comparison.chunk"}
    last: dict[int, Piece] = {}
    try:
        async for index, piece in pieces(streams):
            watch.began()
            first_steered = index == 0 and index not in last
            steering = shown_steering(backend, piece.decisions, asked.explain) if first_steered else {}
            last[index] = piece
            end = finish_reason(piece)
            more = {} if end is None else {"usage": usage([piece])}
            yield event({**head, "side": SIDES[index], "delta": piece.text, "finish_reason": end, **more, **steering})
        watch.answered(list(last.values()))
    except ApiError as error:
        watch.failed(error)
        yield event(error_body("/v1", error.status_code, error.message))
    yield DONE
