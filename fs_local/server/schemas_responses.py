"""What clients of OpenAI's responses send. Stateless: the whole conversation comes in `input`, and nothing of it is kept."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from fs_local.server.limits import MAX_MESSAGES, MAX_TOP_LOGPROBS
from fs_local.server.schemas_openai import Empty, Sampled, StreamOptions, TextPart, Tokens
from fs_local.server.schemas_steering import Name, Strict


class InputMessage(Strict):
    """One message. An output of ours may be given back as it came, with its id and status."""

    type: Literal["message"] | None = None
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1, max_length=MAX_MESSAGES)]
    id: str | None = None
    status: Literal["completed", "incomplete", "in_progress"] | None = None
    phase: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _only_messages(cls, value: Any) -> Any:
        kind = value.get("type", "message") if isinstance(value, dict) else "message"
        if isinstance(kind, str) and kind != "message":
            raise PydanticCustomError("unsupported", f"items of type {kind[:40]} are not supported: messages are")
        return value

    @property
    def text(self) -> str:
        """The text of all parts."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text or part.refusal or "" for part in self.content)


class TextFormat(Strict):
    """Text, any JSON object, or JSON by a schema."""

    type: Literal["text", "json_object", "json_schema"]
    name: Name | None = None
    schema_: Annotated[dict[str, Any] | bool | None, Field(alias="schema")] = None
    description: str | None = None
    strict: bool | None = None

    @model_validator(mode="after")
    def _has_schema(self) -> TextFormat:
        if (self.type == "json_schema") != (self.schema_ is not None):
            raise PydanticCustomError("schema", "schema goes with the type json_schema, and with that alone")
        return self


class TextSettings(Strict):
    """The form of the answer's text."""

    format: TextFormat | None = None
    verbosity: Literal["medium"] | None = None


class ResponsesRequest(Sampled):
    """`POST /v1/responses`. `store` is not kept to: nothing is stored, whatever it says, and the response says so."""

    input: str | Annotated[list[InputMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    instructions: str | None = None
    max_output_tokens: Tokens | None = None
    text: TextSettings | None = None
    stream_options: StreamOptions | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    include: list[Literal["message.output_text.logprobs"]] | None = None
    truncation: Literal["disabled"] | None = None
    background: Literal[False] | None = None
    previous_response_id: None = None
    conversation: None = None
    tools: Empty = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _refused(cls, value: Any) -> Any:
        if isinstance(value, dict):
            if value.get("tools"):
                raise PydanticCustomError("unsupported", "tools are not supported by this server; leave out tools")
            if value.get("previous_response_id") or value.get("conversation"):
                raise PydanticCustomError(
                    "unsupported", "this server keeps no conversations; send the whole of it in input"
                )
        return value
