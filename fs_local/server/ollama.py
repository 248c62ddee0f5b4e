"""Ollama's API: `/api/chat` and `/api/generate` as a JSON text a line, and what its clients ask about models."""

from __future__ import annotations

import datetime
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from fs_local.engine import Prompt, Request
from fs_local.server.answers import pieces, unless_gone, whole
from fs_local.server.backend import Backend
from fs_local.server.constrain import ANY_OBJECT, mask_for
from fs_local.server.errors import ApiError
from fs_local.server.operation import Watch
from fs_local.server.prompts import chat_prompt, text_prompt
from fs_local.server.requests import StrictRoute, backend_of, watch_of
from fs_local.server.sampling import ollama_sampling, stops
from fs_local.server.schemas_ollama import OllamaChatRequest, OllamaGenerateRequest, OllamaMessage, Options
from fs_local.server.shape import EngineLike, Piece
from fs_local.server.steering import Asked, asked_steering, shown_steering
from fs_local.server.streaming import LINES, LiveResponse, line

router = APIRouter(route_class=StrictRoute)
Said = Callable[[str], dict[str, Any]]


@router.post("/api/chat")
async def chat(body: OllamaChatRequest, http: HttpRequest) -> Response:
    """Answers a conversation; in lines unless `stream` is false."""

    async def prompt(engine: EngineLike) -> Prompt | None:
        return await chat_prompt(engine, body.messages) if body.messages else None

    return await _answer(body, http, prompt, lambda text: {"message": {"role": "assistant", "content": text}})


@router.post("/api/generate")
async def generate(body: OllamaGenerateRequest, http: HttpRequest) -> Response:
    """Answers one query, or goes on from a text where `raw` is set."""

    async def prompt(engine: EngineLike) -> Prompt | None:
        if not body.prompt:
            return None
        if body.raw:
            if body.system:
                raise ApiError(400, "raw takes no system message; put it into the prompt", param="system")
            return await text_prompt(engine, body.prompt)
        return await chat_prompt(engine, [OllamaMessage(role="user", content=body.prompt)], body.system or None)

    return await _answer(body, http, prompt, lambda text: {"response": text})


async def _answer(
    body: OllamaChatRequest | OllamaGenerateRequest, http: HttpRequest, prompt: Any, said: Said
) -> Response:
    backend, watch = backend_of(http), watch_of(http)
    asked = asked_steering(backend, http, body.model, body.steering)
    options = body.options or Options()
    async with AsyncExitStack() as held:
        engine = await held.enter_async_context(backend.using())
        found = await prompt(engine)
        if found is None:  # a client that only wants the model to be loaded
            return JSONResponse(
                {"model": asked.model, "created_at": _now(), **said(""), "done": True, "done_reason": "load"}
            )
        schema = ANY_OBJECT if body.format == "json" else body.format
        request = Request(
            found,
            ollama_sampling(engine, options),
            options.num_predict if options.num_predict is not None and options.num_predict > 0 else None,
            stops(options.stop),
            asked.steer,
            mask=await mask_for(backend, engine, schema, "format") if schema else None,
        )
        streams = await held.enter_async_context(backend.answering(engine, [request]))
        if body.stream is not False:
            return LiveResponse(_lines(streams, backend, watch, asked, said), LINES, held.pop_all())
        answer = (await unless_gone(http, whole(streams)))[0]
    watch.answered([answer.end])
    steering = shown_steering(backend, answer.end.decisions, asked.explain)
    return JSONResponse({**_head(asked), **said(answer.text), **_end(answer.end, watch), **steering})


async def _lines(streams: Any, backend: Backend, watch: Watch, asked: Asked, said: Said) -> AsyncGenerator[bytes, None]:
    last: Piece | None = None
    try:
        async for _, piece in pieces(streams):
            steering = {} if last else shown_steering(backend, piece.decisions, asked.explain)
            watch.began()
            last = piece
            if piece.text or steering:
                yield line({**_head(asked), **said(piece.text), "done": False, **steering})
            if piece.finish_reason is not None:
                watch.answered([piece])
                yield line({**_head(asked), **said(""), **_end(piece, watch)})
    except ApiError as error:
        watch.failed(error)
        yield line({"error": error.message})


def _head(asked: Asked) -> dict[str, Any]:
    return {"model": asked.model, "created_at": _now()}


def _end(piece: Piece, watch: Watch) -> dict[str, Any]:
    """The last line's figures; times in nanoseconds."""
    total, prompt = int(1e9 * watch.seconds), int(1e9 * piece.prompt_seconds)
    return {
        "done": True,
        "done_reason": "length" if piece.finish_reason in ("length", "context") else "stop",
        "total_duration": total,
        "load_duration": 0,
        "prompt_eval_count": piece.prompt_tokens,
        "prompt_eval_duration": prompt,
        "eval_count": piece.generated_tokens,
        "eval_duration": max(1, int(1e9 * piece.seconds)),
    }


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z")
