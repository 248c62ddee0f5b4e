"""`/v1/chat/completions` and `/v1/models`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from fs_local.engine import Request, TokenMask
from fs_local.server.answers import Answer, pieces, unless_gone, whole
from fs_local.server.backend import Backend
from fs_local.server.constrain import ANY_OBJECT, mask_for
from fs_local.server.errors import ApiError, error_body
from fs_local.server.openai_shapes import Call, chat_logprobs, fingerprint, finish_reason, new_id, now, usage
from fs_local.server.prompts import chat_prompt
from fs_local.server.requests import StrictRoute, backend_of, watch_of
from fs_local.server.sampling import openai_sampling, stops
from fs_local.server.schemas_openai import ChatRequest, ResponseFormat
from fs_local.server.shape import EngineLike, Piece, Stream
from fs_local.server.steering import Asked, asked_steering, shown_steering
from fs_local.server.streaming import DONE, EVENTS, LiveResponse, event
from fs_local.server.tools import CallReader, ToolUse

router = APIRouter(route_class=StrictRoute)


@router.post("/v1/chat/completions")
async def chat_completions(body: ChatRequest, http: HttpRequest) -> Response:
    """Answers a conversation, whole or as server-sent events."""
    backend, watch = backend_of(http), watch_of(http)
    asked = asked_steering(backend, http, body.model, body.steering)
    top = _top_logprobs(body)
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options goes with stream", param="stream_options", code="invalid_value")
    async with AsyncExitStack() as held:
        engine = await held.enter_async_context(backend.using())
        requests, use = await chat_requests(backend, engine, body, asked), ToolUse.of(engine, body)
        streams = await held.enter_async_context(backend.answering(engine, requests))
        head = {
            "id": new_id("chatcmpl"),
            "created": now(),
            "model": asked.model,
            "system_fingerprint": fingerprint(backend, engine),
        }
        if body.stream:
            with_usage = bool(body.stream_options and body.stream_options.include_usage)
            call = Call(backend, watch, asked, head, top, with_usage)
            chunks = _chunks(streams, call, use)
            return LiveResponse(chunks, EVENTS, held.pop_all())
        answers = await unless_gone(http, whole(streams))
    watch.answered([a.end for a in answers])
    return JSONResponse(
        {
            **head,
            "object": "chat.completion",
            "choices": [_choice(i, answer, top, use) for i, answer in enumerate(answers)],
            "usage": usage([a.end for a in answers]),
            **shown_steering(backend, answers[0].end.decisions, asked.explain),
        }
    )


async def chat_requests(backend: Backend, engine: EngineLike, body: ChatRequest, asked: Asked) -> list[Request]:
    """What the engine is asked: a request a choice.

    Raises:
        ApiError: 400, a prompt, a schema or numbers that can't be used.
    """
    use = ToolUse.of(engine, body)
    prompt = await chat_prompt(engine, body.messages, tools=use.told if use else ())
    top = _top_logprobs(body)
    requests = []
    for index in range(body.n or 1):
        mask = await (use.mask(backend, engine) if use else _mask(backend, engine, body.response_format))
        requests.append(
            Request(
                prompt,
                openai_sampling(engine, body, index),
                _max_tokens(body),
                (*stops(body.stop), *(use.stops() if use else ())),
                asked.steer,
                top,
                mask=mask,
            )
        )
    return requests


async def _mask(backend: Backend, engine: EngineLike, form: ResponseFormat | None) -> TokenMask | None:
    if form is None or form.type == "text":
        return None
    schema = ANY_OBJECT if form.json_schema is None else form.json_schema.schema_
    return await mask_for(backend, engine, schema, "response_format")


def _top_logprobs(body: ChatRequest) -> int | None:
    if body.top_logprobs and not body.logprobs:
        raise ApiError(400, "top_logprobs goes with logprobs: true", param="top_logprobs", code="invalid_value")
    return (body.top_logprobs or 0) if body.logprobs else None


def _max_tokens(body: ChatRequest) -> int | None:
    both = {body.max_tokens, body.max_completion_tokens} - {None}
    if len(both) > 1:
        raise ApiError(
            400, "max_tokens and max_completion_tokens differ; give one", param="max_tokens", code="invalid_value"
        )
    return both.pop() if both else None


def _choice(index: int, answer: Answer, top: int | None, use: ToolUse | None) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None, "annotations": []}
    reason = finish_reason(answer.end)
    if use is not None:
        reader = CallReader(use)
        text = reader.feed(answer.text)[0] + reader.flush()[0]
        message["content"] = text or None
        if reader.calls:
            message["tool_calls"] = [call.shown() for call in reader.calls]
            reason = _with_calls(reason)
    return {
        "index": index,
        "message": message,
        "logprobs": None if top is None else chat_logprobs(answer.logprobs, top),
        "finish_reason": reason,
    }


def _with_calls(reason: str | None) -> str | None:
    return "tool_calls" if reason == "stop" else reason


async def _chunks(streams: Sequence[Stream], call: Call, use: ToolUse | None) -> AsyncGenerator[bytes, None]:
    """Server-sent events. The first has the steering, as soon as it is decided; the last, where asked for, the usage. A call comes whole."""
    head = {**call.head, "object": "chat.completion.chunk"}
    last: dict[int, Piece] = {}
    readers = [CallReader(use) for _ in streams] if use else []

    def chunk(index: int, delta: dict[str, Any], piece: Piece, **more: Any) -> bytes:
        logprobs = chat_logprobs(piece.logprobs, call.top) if call.top is not None and piece.logprobs else None
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}
        return event({**head, "choices": [choice], **call.unused, **more})

    def end(index: int, piece: Piece) -> bytes:
        reason = finish_reason(piece)
        if readers and readers[index].calls:
            reason = _with_calls(reason)
        choice = {"index": index, "delta": {}, "logprobs": None, "finish_reason": reason}
        return event({**head, "choices": [choice], **call.unused})

    def delta(index: int, piece: Piece) -> dict[str, Any]:
        """What is new of an answer."""
        if not readers:
            return {"content": piece.text} if piece.text else {}
        reader = readers[index]
        text, calls = reader.feed(piece.text)
        if piece.finish_reason is not None:
            rest, more = reader.flush()
            text, calls = text + rest, calls + more
        first = len(reader.calls) - len(calls)
        shown = [{"index": first + i, **call.shown()} for i, call in enumerate(calls)]
        return {**({"content": text} if text else {}), **({"tool_calls": shown} if shown else {})}

    try:
        async for index, piece in pieces(streams):
            if index not in last:
                call.watch.began()
                role = {"role": "assistant", "content": None if readers else "", "refusal": None}
                shown = {} if last else shown_steering(call.backend, piece.decisions, call.asked.explain)
                yield chunk(index, {**role, **delta(index, piece)}, piece, **shown)
            elif (new := delta(index, piece)) or piece.logprobs:
                yield chunk(index, new or {"content": ""}, piece)
            last[index] = piece
            if piece.finish_reason is not None:
                yield end(index, piece)
        call.watch.answered(list(last.values()))
        if call.with_usage:
            yield event({**head, "choices": [], "usage": usage(last.values())})
    except ApiError as error:
        call.watch.failed(error)
        yield event(error_body("/v1", error.status_code, error.message, error.param, error.code))
    yield DONE


@router.get("/v1/models")
async def models(http: HttpRequest) -> JSONResponse:
    """The model, by each of its names."""
    backend = backend_of(http)
    return JSONResponse({"object": "list", "data": [_model(backend, name) for name in backend.names()]})


@router.get("/v1/models/{model:path}")
async def model(model: str, http: HttpRequest) -> JSONResponse:
    """The model by one of its names."""
    backend = backend_of(http)
    backend.asked_for(model)
    return JSONResponse(_model(backend, model))


def _model(backend: Backend, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": backend.created, "owned_by": "fs-local"}
