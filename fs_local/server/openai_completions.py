"""`/v1/completions`: texts to go on from, without a chat template."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from fs_local.engine import Request
from fs_local.server.answers import Answer, pieces, unless_gone, whole
from fs_local.server.errors import ApiError, error_body
from fs_local.server.limits import MAX_CHOICES
from fs_local.server.openai_shapes import Call, completion_logprobs, fingerprint, finish_reason, new_id, now, usage
from fs_local.server.prompts import text_prompt
from fs_local.server.requests import StrictRoute, backend_of, watch_of
from fs_local.server.sampling import openai_sampling, stops
from fs_local.server.schemas_openai import CompletionRequest
from fs_local.server.shape import EngineLike, Piece, Stream
from fs_local.server.steering import Asked, asked_steering, shown_steering
from fs_local.server.streaming import DONE, EVENTS, LiveResponse, event

router = APIRouter(route_class=StrictRoute)
_DEFAULT_TOKENS = 16  # OpenAI's own for this route


@router.post("/v1/completions")
async def completions(body: CompletionRequest, http: HttpRequest) -> Response:
    """Goes on from one or several texts, whole or as server-sent events."""
    backend, watch = backend_of(http), watch_of(http)
    asked = asked_steering(backend, http, body.model, body.steering)
    prompts = _prompts(body)
    if len(prompts) * (body.n or 1) > MAX_CHOICES:
        raise ApiError(400, f"prompts times n are at most {MAX_CHOICES}", param="n", code="invalid_value")
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options goes with stream", param="stream_options", code="invalid_value")
    async with AsyncExitStack() as held:
        engine = await held.enter_async_context(backend.using())
        requests = await _requests(engine, body, prompts, asked)
        streams = await held.enter_async_context(backend.answering(engine, requests))
        head = {
            "id": new_id("cmpl"),
            "object": "text_completion",
            "created": now(),
            "model": asked.model,
            "system_fingerprint": fingerprint(backend, engine),
        }
        if body.stream:
            with_usage = bool(body.stream_options and body.stream_options.include_usage)
            call = Call(backend, watch, asked, head, body.logprobs, with_usage)
            chunks = _chunks(streams, call, len(prompts))
            return LiveResponse(chunks, EVENTS, held.pop_all())
        answers = await unless_gone(http, whole(streams))
    watch.answered([a.end for a in answers])
    return JSONResponse(
        {
            **head,
            "choices": [_choice(i, answer, body.logprobs) for i, answer in enumerate(answers)],
            "usage": usage([a.end for a in answers], len(prompts)),
            **shown_steering(backend, answers[0].end.decisions, asked.explain),
        }
    )


def _prompts(body: CompletionRequest) -> list[str | list[int]]:
    given = body.prompt
    if isinstance(given, str):
        return [given]
    if isinstance(given[0], int):
        return [[x for x in given if isinstance(x, int)]]
    return [x for x in given if not isinstance(x, int)]


async def _requests(
    engine: EngineLike, body: CompletionRequest, prompts: Sequence[str | list[int]], asked: Asked
) -> list[Request]:
    """What the engine is asked: the choices of the first prompt, then those of the next."""
    requests: list[Request] = []
    for given in prompts:
        prompt = await text_prompt(engine, given)
        for _ in range(body.n or 1):
            requests.append(
                Request(
                    prompt,
                    openai_sampling(engine, body, len(requests)),
                    body.max_tokens or _DEFAULT_TOKENS,
                    stops(body.stop),
                    asked.steer,
                    body.logprobs,
                )
            )
    return requests


def _choice(index: int, answer: Answer, top: int | None) -> dict[str, Any]:
    return {
        "index": index,
        "text": answer.text,
        "logprobs": None if top is None else completion_logprobs(answer.logprobs, top),
        "finish_reason": finish_reason(answer.end),
    }


async def _chunks(streams: Sequence[Stream], call: Call, prompts: int) -> AsyncGenerator[bytes, None]:
    """Server-sent events; the first has the steering, the last, where asked for, the usage."""
    last: dict[int, Piece] = {}
    sent = [0] * len(streams)
    try:
        async for index, piece in pieces(streams):
            shown = {} if last else shown_steering(call.backend, piece.decisions, call.asked.explain)
            call.watch.began()
            logprobs = completion_logprobs(piece.logprobs, call.top, sent[index]) if call.top is not None else None
            sent[index] += len(piece.text)
            choice = {
                "index": index,
                "text": piece.text,
                "logprobs": logprobs,
                "finish_reason": finish_reason(piece),
            }
            last[index] = piece
            yield event({**call.head, "choices": [choice], **call.unused, **shown})
        call.watch.answered(list(last.values()))
        if call.with_usage:
            ends = [last[i] for i in sorted(last)]
            yield event({**call.head, "choices": [], "usage": usage(ends, prompts)})
    except ApiError as error:
        call.watch.failed(error)
        yield event(error_body("/v1", error.status_code, error.message, error.param, error.code))
    yield DONE
