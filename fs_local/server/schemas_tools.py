"""Tools as OpenAI's clients describe them, the calls that a model made of them, and which ones it must make."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from fs_local.server.schemas_steering import Strict

ToolName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]


class Function(Strict):
    """A function that the model may call. `strict` is obeyed where `tool_choice` demands a call: its arguments then follow the parameters."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Strict):
    """A tool; there are no others than functions."""

    type: Literal["function"]
    function: Function

    def for_template(self) -> dict[str, Any]:
        """What the model's template is told."""
        told = {
            "name": self.function.name,
            "description": self.function.description or "",
            "parameters": self.function.parameters or {"type": "object", "properties": {}},
        }
        return {"type": "function", "function": told}


class CalledFunction(Strict):
    """A function that was called, with the JSON of its arguments."""

    name: ToolName
    arguments: str

    @field_validator("arguments")
    @classmethod
    def _is_object(cls, value: str) -> str:
        try:
            if isinstance(json.loads(value or "{}"), dict):
                return value or "{}"
        except (ValueError, RecursionError):
            pass
        raise PydanticCustomError("arguments", "the arguments of a call are a JSON object, as text")


class ToolCall(Strict):
    """A call of an earlier answer, as clients send it back."""

    id: Annotated[str, Field(max_length=256)]
    type: Literal["function"] = "function"
    function: CalledFunction

    def for_template(self) -> dict[str, Any]:
        """What the model's template is told."""
        called = {"name": self.function.name, "arguments": json.loads(self.function.arguments)}
        return {"id": self.id, "type": "function", "function": called}


class NamedFunction(Strict):
    """The name of a function."""

    name: ToolName


class NamedTool(Strict):
    """The one tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


ToolChoice = Literal["none", "auto", "required"] | NamedTool
