"""Tools: how the model at hand writes a call, how calls are found in what it says, and how it is held to make one."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from fs_local.engine import TokenMask
from fs_local.server.backend import Backend
from fs_local.server.constrain import mask_of_lark
from fs_local.server.errors import ApiError, unsupported
from fs_local.server.schema_trial import in_lark
from fs_local.server.schemas_openai import ChatRequest
from fs_local.server.schemas_tools import NamedTool
from fs_local.server.shape import EngineLike


@dataclass(frozen=True)
class CallFormat:
    """How a model writes a call: JSON between two marks.

    Attributes:
        arguments: the key of the arguments, beside `name`.
        space: between the marks and the JSON.
    """

    opening: str
    closing: str
    arguments: str
    space: str


HERMES = CallFormat("<tool_call>", "</tool_call>", "arguments", "\n")
LLAMA3 = CallFormat("", "", "parameters", "")
_WRITTEN = re.compile(r'"name\\?":[^{}]{0,60}"(arguments|parameters)\\?":')
"""What both formats' templates tell the model to write. Others have the same marks, and something else between them."""


def format_of(template: str) -> CallFormat | None:
    """The format that a template asks for; None for one that is not known here."""
    keys = set(_WRITTEN.findall(template))
    if HERMES.opening in template and HERMES.arguments in keys:
        return HERMES
    return LLAMA3 if LLAMA3.arguments in keys else None


@dataclass(frozen=True)
class Call:
    """A call that the model made; `arguments` is JSON."""

    name: str
    arguments: str
    id: str = field(default_factory=lambda: f"call_{uuid.uuid4().hex[:24]}")

    def shown(self) -> dict[str, Any]:
        """As OpenAI shows it."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(frozen=True)
class ToolUse:
    """The tools of one request.

    Attributes:
        told: what the template is told.
        names: that may be called, and must: of these, one must be.
        several: whether more than one call may be made.
    """

    format: CallFormat
    told: list[dict[str, Any]]
    names: tuple[str, ...]
    must: tuple[str, ...]
    several: bool

    @classmethod
    def of(cls, engine: EngineLike, body: ChatRequest) -> ToolUse | None:
        """None where no tools are given, or none may be called.

        Raises:
            ApiError: 400, a choice that fits no tool, or a model whose template has no tools, or writes calls in a way not known here.
        """
        choice = body.tool_choice or "auto"
        if not body.tools:
            if choice not in ("auto", "none"):
                raise ApiError(400, "tool_choice needs tools", param="tool_choice", code="invalid_value")
            return None
        if choice == "none":
            return None
        template = engine.model.template
        form = format_of(template.source or "")
        if form is None or not template.renders_tools:
            raise unsupported(
                "this model's chat template has no tools, or writes calls in a way that is not known here", "tools"
            )
        names = tuple(tool.function.name for tool in body.tools)
        must = names if choice == "required" else (choice.function.name,) if isinstance(choice, NamedTool) else ()
        if not set(must) <= set(names) or len(set(names)) < len(names):
            raise ApiError(
                400,
                "tool_choice names one of the tools, and each has a name of its own",
                param="tool_choice",
                code="invalid_value",
            )
        if body.response_format is not None and body.response_format.type != "text":
            raise ApiError(
                400,
                "an answer is either JSON or calls; give response_format or tools",
                param="response_format",
                code="invalid_value",
            )
        told = [tool.for_template() for tool in body.tools]
        return cls(form, told, names, must, body.parallel_tool_calls is not False)

    def stops(self) -> tuple[str, ...]:
        """What ends the answer, where one call is all there may be."""
        return () if self.several or not self.format.closing else (self.format.closing,)

    async def mask(self, backend: Backend, engine: EngineLike) -> TokenMask | None:
        """The masks of an answer that is one call; None where none must be made.

        Raises:
            ApiError: 400, parameters that can't be followed.
        """
        if not self.must:
            return None
        form, functions = self.format, [t["function"] for t in self.told if t["function"]["name"] in self.must]
        rules = []
        for i, function in enumerate(functions):
            before = f'{{"name": {json.dumps(function["name"])}, "{form.arguments}": '
            rules.append(f'call_{i}: {json.dumps(before)} arguments_{i} "}}"')
            rules.append(f"arguments_{i}: {in_lark(function['parameters'])}")
        calls = " | ".join(f"call_{i}" for i in range(len(functions)))
        opening = f"{json.dumps(form.opening + form.space)} " if form.opening else ""
        closing = f" {json.dumps(form.space + form.closing)}" if form.closing else ""
        lark = "\n".join([f"start: {opening}( {calls} ){closing}", *rules, ""])
        return await mask_of_lark(backend, engine, lark, [f["parameters"] for f in functions], "tools")


class CallReader:
    """Tells an answer's text from its calls, as it comes. What looks like a call and is none stays text."""

    def __init__(self, use: ToolUse) -> None:
        self._format, self._names = use.format, use.names
        self._held, self._inside, self._began = "", False, False
        self.calls: list[Call] = []

    def feed(self, text: str) -> tuple[str, list[Call]]:
        """The text and the calls that are certain now."""
        self._held += text
        if not self._format.opening:
            return self._whole_answer()
        said, before = "", len(self.calls)
        while True:
            mark = self._format.closing if self._inside else self._format.opening
            at = self._held.find(mark)
            if at < 0:
                break
            found, self._held = self._held[:at], self._held[at + len(mark) :]
            said += self._end(found, mark) if self._inside else self._outside(found)
            self._inside = not self._inside
        if not self._inside:
            certain = len(self._held) - _begun(self._held, self._format.opening)
            said += self._outside(self._held[:certain])
            self._held = self._held[certain:]
        return said, self.calls[before:]

    def flush(self) -> tuple[str, list[Call]]:
        """The rest, when nothing more comes: a call that lacks its end is one if its JSON is whole."""
        held, self._held, before = self._held, "", len(self.calls)
        if self._inside or (not self._format.opening and held.lstrip().startswith("{")):
            said = self._end(held, "")
        else:
            said = self._outside(held)
        return said, self.calls[before:]

    def _whole_answer(self) -> tuple[str, list[Call]]:
        """An answer that is nothing but a call begins as one."""
        if not self._began and self._held.lstrip()[:1] in ("", "{"):
            return "", []
        self._began = True
        said, self._held = self._held, ""
        return said, []

    def _outside(self, text: str) -> str:
        """Line breaks between calls are nobody's text."""
        return text.lstrip("\n") if self.calls else text

    def _end(self, text: str, mark: str) -> str:
        call = _parse(text, self._format, self._names)
        if call is None:
            return self._format.opening + text + mark
        self.calls.append(call)
        return ""


def _parse(text: str, form: CallFormat, names: Collection[str]) -> Call | None:
    try:
        found = json.loads(text)
        name, arguments = found["name"], found[form.arguments]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if name not in names or not isinstance(arguments, dict):
        return None
    return Call(name, json.dumps(arguments, ensure_ascii=False))


def _begun(text: str, mark: str) -> int:
    """Length of the longest end of a text that begins a mark."""
    return next((n for n in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:n])), 0)
