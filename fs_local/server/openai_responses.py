"""`/v1/responses`, stateless: the conversation comes whole, and nothing of it is kept."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from fs_local.engine import Request, TokenMask
from fs_local.server.answers import Answer, pieces, unless_gone, whole
from fs_local.server.backend import Backend
from fs_local.server.constrain import ANY_OBJECT, mask_for
from fs_local.server.errors import ApiError, error_body
from fs_local.server.openai_shapes import chat_logprobs, new_id, now
from fs_local.server.operation import Watch
from fs_local.server.prompts import HasText, chat_prompt
from fs_local.server.requests import StrictRoute, backend_of, watch_of
from fs_local.server.sampling import openai_sampling
from fs_local.server.schemas_responses import InputMessage, ResponsesRequest
from fs_local.server.shape import EngineLike, Piece, Stream
from fs_local.server.steering import asked_steering, shown_steering
from fs_local.server.streaming import EVENTS, LiveResponse, event

router = APIRouter(route_class=StrictRoute)


@dataclass(frozen=True)
class _Shape:
    """What the response and all of its events are made of."""

    id: str
    message_id: str
    created: int
    model: str
    body: ResponsesRequest
    top: int | None

    def response(self, status: str, answer: Answer | None = None, **more: Any) -> dict[str, Any]:
        """The response object. OpenAI's fields, in so far as they mean something here."""
        body, end = self.body, None if answer is None else answer.last
        cut = end is not None and end.finish_reason in ("length", "context")
        done = status == "completed"
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "completed_at": now() if done else None,
            "background": False,
            "status": "incomplete" if done and cut else status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if done and cut else None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "model": self.model,
            "output": []
            if answer is None or not done
            else [self.message(answer, "incomplete" if cut else "completed")],
            "parallel_tool_calls": False,
            "max_tool_calls": None,
            "previous_response_id": None,
            "prompt_cache_key": body.prompt_cache_key,
            "reasoning": {"effort": None, "summary": None},
            "safety_identifier": body.safety_identifier,
            "service_tier": "default",
            "presence_penalty": body.presence_penalty or 0.0,
            "frequency_penalty": body.frequency_penalty or 0.0,
            "top_logprobs": self.top or 0,
            "store": False,
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "text": {"format": self._format()},
            "tool_choice": "none",
            "tools": [],
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "truncation": "disabled",
            "metadata": body.metadata or {},
            "usage": None if end is None or not done else _usage(end),
            **more,
        }

    def message(self, answer: Answer | None, status: str) -> dict[str, Any]:
        """The one output there is."""
        content = [] if answer is None else [self.part(answer)]
        return {"id": self.message_id, "type": "message", "role": "assistant", "status": status, "content": content}

    def part(self, answer: Answer) -> dict[str, Any]:
        """The text of the output."""
        logprobs = [] if self.top is None else chat_logprobs(answer.logprobs, self.top)["content"]
        return {"type": "output_text", "text": answer.text, "annotations": [], "logprobs": logprobs}

    def _format(self) -> dict[str, Any]:
        form = self.body.text.format if self.body.text else None
        if form is None:
            return {"type": "text"}
        return form.model_dump(by_alias=True, exclude_none=True)


@router.post("/v1/responses")
async def responses(body: ResponsesRequest, http: HttpRequest) -> Response:
    """Answers a conversation, whole or as OpenAI's typed events."""
    backend, watch = backend_of(http), watch_of(http)
    asked = asked_steering(backend, http, body.model, body.steering)
    wants_logprobs = bool(body.include or body.top_logprobs)
    shape = _Shape(
        new_id("resp"), new_id("msg"), now(), asked.model, body, (body.top_logprobs or 0) if wants_logprobs else None
    )
    said: Sequence[HasText] = (
        [InputMessage(role="user", content=body.input)] if isinstance(body.input, str) else body.input
    )
    async with AsyncExitStack() as held:
        engine = await held.enter_async_context(backend.using())
        request = Request(
            await chat_prompt(engine, said, body.instructions),
            openai_sampling(engine, body),
            body.max_output_tokens,
            (),
            asked.steer,
            shape.top,
            mask=await _mask(backend, engine, body),
        )
        streams = await held.enter_async_context(backend.answering(engine, [request]))
        if body.stream:
            return LiveResponse(_events(streams, shape, backend, watch, asked.explain), EVENTS, held.pop_all())
        answer = (await unless_gone(http, whole(streams)))[0]
    watch.answered([answer.end])
    steering = shown_steering(backend, answer.end.decisions, asked.explain)
    return JSONResponse(shape.response("completed", answer, **steering))


async def _mask(backend: Backend, engine: EngineLike, body: ResponsesRequest) -> TokenMask | None:
    form = body.text.format if body.text else None
    if form is None or form.type == "text":
        return None
    return await mask_for(backend, engine, ANY_OBJECT if form.schema_ is None else form.schema_, "text.format")


def _usage(end: Piece) -> dict[str, Any]:
    return {
        "input_tokens": end.prompt_tokens,
        "input_tokens_details": {"cached_tokens": end.cached_tokens},
        "output_tokens": end.generated_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": end.prompt_tokens + end.generated_tokens,
    }


async def _events(
    streams: Sequence[Stream], shape: _Shape, backend: Backend, watch: Watch, explain: Any
) -> AsyncGenerator[bytes, None]:
    """The events of one message with one text. The first, sent when the gates have decided, has the steering."""
    number = 0

    def say(kind: str, **more: Any) -> bytes:
        nonlocal number
        number += 1
        return event({"type": kind, "sequence_number": number - 1, **more}, kind)

    place = {"item_id": shape.message_id, "output_index": 0, "content_index": 0}
    answer, steering = Answer(), {}
    try:
        async for _, piece in pieces(streams):
            if answer.last is None:
                watch.began()
                steering = shown_steering(backend, piece.decisions, explain)
                yield say("response.created", response=shape.response("in_progress", **steering), **steering)
                yield say("response.in_progress", response=shape.response("in_progress", **steering))
                item = shape.message(None, "in_progress")
                yield say("response.output_item.added", output_index=0, item=item)
                yield say("response.content_part.added", **place, part=shape.part(Answer()))
            answer.add(piece)
            if piece.text:
                logprobs = [] if shape.top is None else chat_logprobs(piece.logprobs, shape.top)["content"]
                yield say("response.output_text.delta", **place, delta=piece.text, logprobs=logprobs)
        part = shape.part(answer)
        watch.answered([answer.end])
        yield say("response.output_text.done", **place, text=answer.text, logprobs=part["logprobs"])
        yield say("response.content_part.done", **place, part=part)
        whole_response = shape.response("completed", answer, **steering)
        yield say("response.output_item.done", output_index=0, item=whole_response["output"][0])
        yield say(f"response.{whole_response['status']}", response=whole_response)
    except ApiError as error:
        watch.failed(error)
        said = error_body("/v1", error.status_code, error.message)["error"]
        problem = {"code": "server_error", "message": said["message"]}
        yield say("response.failed", response={**shape.response("failed", **steering), "error": problem})
