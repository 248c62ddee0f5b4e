"""What OpenAI's clients send. Every field is here: those that are obeyed, those that change nothing, and those that are refused by name.

Whatever is not here is an unknown field, and a 400: nothing is ignored in silence. `Harmless` has what may be given and changes no answer.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from fs_local.server.limits import (
    MAX_BIASES,
    MAX_CHOICES,
    MAX_MESSAGES,
    MAX_STOP_CHARACTERS,
    MAX_STOPS,
    MAX_TOOLS,
    MAX_TOP_LOGPROBS,
)
from fs_local.server.schemas_steering import Name, Steering, Strict
from fs_local.server.schemas_tools import Tool, ToolCall, ToolChoice

StopText = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]
Stops = StopText | Annotated[list[StopText], Field(max_length=MAX_STOPS)]
Tokens = Annotated[int, Field(ge=1, le=1 << 24)]
Bias = Annotated[float, Field(ge=-100, le=100)]
TokenNumber = Annotated[str, Field(pattern=r"^\d{1,9}$")]
Empty = Annotated[list[Any], Field(max_length=0)] | None
_KINDS = {
    "image_url": "images",
    "input_image": "images",
    "input_audio": "audio",
    "file": "files",
    "input_file": "files",
}


class TextPart(Strict):
    """A piece of a message's text."""

    type: Literal["text", "input_text", "output_text", "refusal"]
    text: str | None = None
    refusal: str | None = None
    annotations: Empty = None
    logprobs: Empty = None

    @model_validator(mode="before")
    @classmethod
    def _only_text(cls, value: Any) -> Any:
        kind = value.get("type") if isinstance(value, dict) else None
        if isinstance(kind, str) and kind in _KINDS:
            raise PydanticCustomError("unsupported", f"{_KINDS[kind]} are not supported: this model reads text alone")
        return value

    @model_validator(mode="after")
    def _has_text(self) -> TextPart:
        if self.text is None and self.refusal is None:
            raise PydanticCustomError("missing_text", "a text part needs its text")
        return self


class ChatMessage(Strict):
    """One message. An answer has its calls, and a tool's result the call's id; what else follows is what our own answers have, and clients
    send back: empty, or nothing."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPart], Field(min_length=1, max_length=MAX_MESSAGES)] | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_TOOLS)] | None = None
    tool_call_id: Annotated[str, Field(max_length=256)] | None = None
    name: Name | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: Empty = None
    reasoning_content: None = None

    @model_validator(mode="after")
    def _fits_its_role(self) -> ChatMessage:
        if self.tool_calls and self.role != "assistant":
            raise PydanticCustomError("tool_calls", "only the assistant calls tools")
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise PydanticCustomError("tool_call_id", "tool_call_id goes with the role tool, and with that alone")
        if self.name is not None and self.role != "tool":
            raise PydanticCustomError(
                "unsupported", "names of speakers are not supported: no template has a place for them"
            )
        if self.content is None and not self.tool_calls:
            raise PydanticCustomError("missing", "a message needs its content")
        return self

    @property
    def text(self) -> str:
        """The text of all parts."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text or part.refusal or "" for part in self.content or ())

    @property
    def calls(self) -> list[dict[str, Any]]:
        """The calls it made, as templates take them."""
        return [call.for_template() for call in self.tool_calls or ()]


class StreamOptions(Strict):
    """`include_usage` adds a last chunk with the usage. Obfuscation is padding against listeners, of which there are none here."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class JsonSchema(Strict):
    """A schema and its name. `strict: false` is obeyed strictly too."""

    name: Name
    schema_: Annotated[dict[str, Any] | bool, Field(alias="schema")]
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(Strict):
    """Text, any JSON object, or JSON by a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_schema(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise PydanticCustomError("schema", "json_schema goes with the type json_schema, and with that alone")
        return self


class Harmless(Strict):
    """What may be given and changes no answer: whom a request is for, where it is booked, what to keep of it (nothing is)."""

    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None


class Sampled(Harmless):
    """How tokens are drawn. Without them OpenAI's defaults: temperature 1, all tokens, a random seed.

    `top_k`, `min_p` and `repeat_penalty` are llama.cpp's, 0, 0 and 1 where absent.
    """

    model: Name | None = None
    """The one that is served, where it is left out."""
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=1 << 20)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repeat_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    steering: Steering | None = None


class Biased(Sampled):
    """What chat and plain completions share, and responses don't have."""

    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stop: Stops | None = None
    stream_options: StreamOptions | None = None
    logit_bias: Annotated[dict[TokenNumber, Bias], Field(max_length=MAX_BIASES)] | None = None


class ChatRequest(Biased):
    """`POST /v1/chat/completions`"""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    modalities: list[Literal["text"]] | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    functions: Empty = None
    function_call: Literal["none", "auto"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _no_functions(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("functions"):
            raise PydanticCustomError("unsupported", "functions are OpenAI's old name for tools; give tools")
        return value


class CompletionRequest(Biased):
    """`POST /v1/completions`: texts or tokens to go on from, without a chat template."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MAX_CHOICES)]
        | Annotated[list[int], Field(min_length=1)]
        | Annotated[list[Annotated[list[int], Field(min_length=1)]], Field(min_length=1, max_length=MAX_CHOICES)]
    )
    max_tokens: Tokens | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    echo: Literal[False] | None = None
    suffix: None = None
    best_of: Literal[1] | None = None
