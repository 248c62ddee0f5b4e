"""The model's own chat template, in jinja2's sandbox, with plain completion where the model has none."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NoReturn, TypedDict

from fs_local.errors import ModelError


class _Said(TypedDict):
    role: str
    content: str


class Message(_Said, total=False):
    """One turn: role `system`, `user` or `assistant`; with tools also `tool`, and the calls that an assistant made, as templates take them:
    `{"id", "type": "function", "function": {"name", "arguments": {…}}}`."""

    tool_calls: list[dict[str, Any]]
    tool_call_id: str


Tool = Mapping[str, Any]
"""What a model may call, as OpenAI describes it: `{"type": "function", "function": {"name", "description", "parameters": {…}}}`."""
_PROBE, _ANSWER = "zq_probe", "zq_answer"


class ChatTemplate:
    """Renders messages to the text of a prompt that ends where the answer begins."""

    def __init__(self, source: str | None, *, bos: str, eos: str) -> None:
        self.source, self.bos, self.eos = source, bos, eos
        self._compiled: Any = None

    @cached_property
    def renders_tools(self) -> bool:
        """Whether it tells the model of tools."""
        if self.source is None:
            return False
        try:
            function = {"name": _PROBE, "description": "", "parameters": {"type": "object", "properties": {}}}
            asked = [Message(role="user", content="x")]
            return _PROBE in self.render(asked, tools=[{"type": "function", "function": function}])
        except ModelError:
            return False

    @cached_property
    def user_header(self) -> str:
        """What stands before a user's text and is not the end of what comes before; empty where the template does not show it."""
        asked = [Message(role="user", content=_PROBE), Message(role="assistant", content=_ANSWER)]
        try:
            end = self.render(asked, answering=False).rpartition(_ANSWER)[2]
            between = self.render([*asked, asked[0]]).rpartition(_ANSWER)[2]
        except ModelError:
            return ""
        header, found, _ = between.partition(_PROBE)
        return header[len(end) :] if found and header.startswith(end) else ""

    def render(self, messages: Sequence[Message], *, answering: bool = True, tools: Sequence[Tool] = ()) -> str:
        """Text of the conversation, with the generation prompt if an answer is to follow.

        Without a template, the contents of the messages, a blank line between them: plain completion of a base model.

        Raises:
            ModelError: the template refuses these messages (some have no system role, or want turns to alternate).
        """
        if self.source is None:
            return "\n\n".join(m["content"] for m in messages)
        try:
            if self._compiled is None:
                self._compiled = _environment().from_string(self.source)
            text: str = self._compiled.render(
                messages=messages,
                add_generation_prompt=answering,
                bos_token=self.bos,
                eos_token=self.eos,
                tools=list(tools) or None,
                documents=None,
            )
        except Exception as error:  # a template is foreign code: it can fail in any way
            raise ModelError(f"the model's chat template refuses these messages: {error}") from error
        return text


def _to_json(value: Any, indent: int | None = None, **_more: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _environment() -> Any:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> NoReturn:
        import jinja2

        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json  # jinja's own is for web pages, and writes < as \\u003c
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda layout: datetime.datetime.now().strftime(layout)
    return environment
