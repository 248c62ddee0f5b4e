"""A conversation as tokens, and where in them the user's own text stands.

What is the user's text comes from the chat template itself: the conversation is rendered once with the last user message, and once
with a character in its place that nothing else has. What both renderings begin and end with is the template's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Protocol

from fs_local.errors import ModelError
from fs_local.method.readings import Span
from fs_local.runtime.template import ChatTemplate, Message, Tool

_PRIVATE_USE = range(0xE000, 0xF900)
_Render = Callable[..., str]


class HasVocabulary(Protocol):
    """What of a `runtime.model.Model` a prompt is made with."""

    bos: int
    template: ChatTemplate

    def tokenize(self, text: str, *, special: bool = True, add_bos: bool = False) -> list[int]: ...
    def piece(self, token: int, *, special: bool = False) -> bytes: ...


@dataclass(frozen=True)
class Prompt:
    """Tokens of a conversation, ready for an answer.

    Attributes:
        tokens: all of them.
        user: those of the last user message's own text; the whole prompt (but BOS) where there is no template, or no such text.
        turn_start: where the current turn begins: the last user message, its header included.
    """

    tokens: tuple[int, ...]
    user: Span
    turn_start: int

    @classmethod
    def plain(cls, tokens: Sequence[int], bos: int | None = None) -> Prompt:
        """A prompt that no template made: all of it is the user's, but for a leading BOS."""
        return cls(tuple(tokens), _whole(tokens, bos), 0)


def build_prompt(model: HasVocabulary, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> Prompt:
    """Renders a conversation by the model's chat template. The text of control tokens (`<|im_end|>`) inside a message stays text.

    Args:
        tools: that the model may call.

    Raises:
        ModelError: the template refuses these messages, leaves out the last user message, or has no tools; or a tool or a call has the
            text of a control token in it.
    """
    messages = list(messages)
    _check_tools(model, messages, tools)
    render = partial(model.template.render, tools=tools)
    if model.template.source is None:
        text = render(messages)
        return Prompt.plain(model.tokenize(text, special=False, add_bos=True), model.bos)
    last = next((i for i in reversed(range(len(messages))) if messages[i]["role"] == "user"), None)
    rendered = render(messages)
    tokens = _tokens(model, render, messages, rendered)
    if last is None or not messages[last]["content"].strip():
        return Prompt(tuple(tokens), _whole(tokens, model.bos), 0)
    mark = _unused(messages)
    without = render(_with_content(messages, last, mark))
    start = _common(rendered, without)
    end = len(rendered) - min(_common(rendered[::-1], without[::-1]), len(rendered) - start)
    if mark not in without or start == end:
        raise ModelError(
            "the model's chat template leaves out the user's message; a gate can't read it, so use another template or model"
        )
    turn = _turn_start(model, render, messages[:last], rendered, start)
    offsets = _offsets(model, tokens, rendered)
    return Prompt(
        tuple(tokens),
        _tokens_between(offsets, *(len(rendered[:at].encode()) for at in (start, end))),
        min(
            _tokens_between(offsets, len(rendered[: min(turn, start)].encode()), len(rendered.encode())).start,
            len(tokens) - 1,
        ),
    )


def _check_tools(model: HasVocabulary, messages: Sequence[Message], tools: Sequence[Tool]) -> None:
    """What tools bring is JSON inside the template's own text, whose control tokens are told apart from nothing."""
    told = [*tools, *(call for m in messages for call in m.get("tool_calls", ()))]
    if (told or any(m["role"] == "tool" for m in messages)) and not model.template.renders_tools:
        raise ModelError(
            "the model's chat template has no tools; leave them out, or use a model that was trained with them"
        )
    if told and not _is_plain(model, json.dumps(told, ensure_ascii=False)):
        raise ModelError("a tool or a call spells a control token of this model; write it in another way")


def _tokens(model: HasVocabulary, render: _Render, messages: Sequence[Message], rendered: str) -> list[int]:
    """Tokens of the rendered conversation; with BOS in front, where the template has none."""
    bos = model.template.bos
    add_bos = not (bos and rendered.startswith(bos))
    if all(_is_plain(model, m["content"]) for m in messages):
        return model.tokenize(rendered, add_bos=add_bos)
    return _in_pieces(model, render, messages, add_bos)


def _is_plain(model: HasVocabulary, text: str) -> bool:
    return model.tokenize(text) == model.tokenize(text, special=False)


def _in_pieces(model: HasVocabulary, render: _Render, messages: Sequence[Message], add_bos: bool) -> list[int]:
    """The template's own text with control tokens, and messages that spell such tokens as the text that they are."""
    marks: dict[str, str] = {}
    marked = list(messages)
    for i, m in enumerate(messages):
        if not _is_plain(model, m["content"]):
            mark = _unused([*messages, *(Message(role="user", content=x) for x in marks)])
            marks[mark] = m["content"]
            marked = _with_content(marked, i, mark)
    tokens: list[int] = []
    rest = render(marked)
    while rest:
        at, mark = min(((rest.find(m), m) for m in marks if m in rest), default=(len(rest), ""))
        tokens += model.tokenize(rest[:at], add_bos=add_bos and not tokens) if at else []
        tokens += model.tokenize(marks[mark], special=False) if mark else []
        rest = rest[at + len(mark) :]
    return tokens


def _offsets(model: HasVocabulary, tokens: Sequence[int], rendered: str) -> list[int]:
    """Where each token's text begins in the rendered conversation, in bytes, and where the last one ends; BOS before it, if it is not in it."""
    offsets = list(accumulate((len(model.piece(t, special=True)) for t in tokens), initial=0))
    lead = offsets[-1] - len(rendered.encode())
    return [at - lead for at in offsets]


def _tokens_between(offsets: Sequence[int], start: int, end: int) -> Span:
    """The tokens with a byte between two places."""
    n = len(offsets) - 1
    first = next((i for i in range(n) if offsets[i + 1] > start), n - 1)
    stop = next((i for i in range(first, n) if offsets[i] >= end), n)
    return Span(first, max(stop, first + 1))


def _turn_start(model: HasVocabulary, render: _Render, history: list[Message], rendered: str, user: int) -> int:
    """Where the current turn begins, whose user's text begins at `user`: behind its history, or behind what the template puts before a
    first turn by itself (a system prompt of its own); at the text itself where the template refuses to say its history alone."""
    if not history:
        header = model.template.user_header
        return user - len(header) if header and rendered[:user].endswith(header) else 0
    try:
        return _common(rendered, render(history, answering=False))
    except ModelError:
        return user


def _common(a: str, b: str) -> int:
    """How many characters both begin with."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _with_content(messages: Sequence[Message], at: int, content: str) -> list[Message]:
    return [Message(**{**m, "content": content}) if i == at else m for i, m in enumerate(messages)]


def _unused(messages: Sequence[Message]) -> str:
    """A character that no message has. Raises ModelError: there is none."""
    used = set().union(*(m["content"] for m in messages))
    free = next((c for c in map(chr, _PRIVATE_USE) if c not in used), None)
    if free is None:
        raise ModelError("the messages use all characters that mean nothing (U+E000 to U+F8FF); leave some out")
    return free


def _whole(tokens: Sequence[int], bos: int | None) -> Span:
    """All tokens but a leading BOS, whose state says nothing of the text."""
    return Span(int(len(tokens) > 1 and tokens[0] == bos), max(len(tokens), 1))
