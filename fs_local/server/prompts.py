"""From what clients send to what the engine evaluates. Text of a user stays text: no special token comes out of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol

from anyio.to_thread import run_sync

from fs_local.engine import Prompt
from fs_local.errors import FsLocalError
from fs_local.server.errors import ApiError, of_library
from fs_local.server.limits import MAX_CHARACTERS_A_TOKEN
from fs_local.server.schemas_openai import ChatMessage
from fs_local.server.shape import EngineLike


class HasText(Protocol):
    """A message of any of the APIs."""

    @property
    def role(self) -> str: ...
    @property
    def text(self) -> str: ...


async def chat_prompt(
    engine: EngineLike, messages: Sequence[HasText], system: str | None = None, tools: Sequence[dict[str, Any]] = ()
) -> Prompt:
    """The prompt of a conversation, by the model's template.

    Args:
        tools: that the model may call, as templates take them.

    Raises:
        ApiError: 400, messages that are too long, or that the template refuses.
    """
    said: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
    said += [_said(m) for m in messages]
    told = [json.dumps(x) for x in (*tools, *(m.get("tool_calls", ()) for m in said))]
    check_size(engine, [*(m["content"] for m in said), *told], "messages")
    try:
        prompt = await run_sync(engine.prompt, said, tools)
    except FsLocalError as error:
        raise of_library(error) from error
    check_room(engine, prompt, "messages")
    return prompt


def _said(message: HasText) -> dict[str, Any]:
    said: dict[str, Any] = {"role": "system" if message.role == "developer" else message.role, "content": message.text}
    if isinstance(message, ChatMessage):
        said |= {"tool_calls": message.calls} if message.calls else {}
        said |= {} if message.tool_call_id is None else {"tool_call_id": message.tool_call_id}
    return said


async def text_prompt(engine: EngineLike, text: str | Sequence[int], param: str = "prompt") -> Prompt:
    """The prompt of a plain text, or of tokens, to go on from.

    Raises:
        ApiError: 400, a text that is too long or empty, or tokens that the model doesn't have.
    """
    if isinstance(text, str):
        check_size(engine, [text], param)
        tokens = await run_sync(_plain_tokens, engine, text)
    else:
        tokens = list(text)
        if not all(0 <= t < engine.model.n_vocab for t in tokens):
            raise ApiError(400, f"tokens are from 0 to {engine.model.n_vocab - 1}", param=param, code="invalid_value")
    if not tokens:
        raise ApiError(400, "an empty text has nothing to go on from", param=param, code="invalid_value")
    prompt = Prompt.plain(tokens, engine.model.bos)
    check_room(engine, prompt, param)
    return prompt


def _plain_tokens(engine: EngineLike, text: str) -> list[int]:
    return list(engine.model.tokenize(text, special=False, add_bos=True))


def check_size(engine: EngineLike, texts: Sequence[str], param: str) -> None:
    """Refuses what the context has no room for before it is tokenized."""
    n, most = sum(map(len, texts)), MAX_CHARACTERS_A_TOKEN * _room(engine)
    if n > most:
        text = f"{n:,} characters are too many for a context of {_room(engine):,} tokens; shorten them"
        raise ApiError(400, text, param=param, code="context_length_exceeded")


def check_room(engine: EngineLike, prompt: Prompt, param: str) -> None:
    """Refuses a prompt that leaves no room for an answer."""
    n, room = len(prompt.tokens), _room(engine)
    if n >= room:
        text = f"the prompt has {n:,} tokens, and the context has {room:,}; shorten it"
        raise ApiError(400, text, param=param, code="context_length_exceeded")


def _room(engine: EngineLike) -> int:
    return min(engine.n_ctx, int(engine.model.n_ctx_train))
