"""What Ollama's clients send. Options that are fixed when the server starts may be given, and change nothing; they are listed here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from fs_local.server.limits import MAX_MESSAGES
from fs_local.server.schemas_openai import Empty, Stops
from fs_local.server.schemas_steering import Name, Steering, Strict


class Options(Strict):
    """How tokens are drawn, llama.cpp's usual where absent; and, from `num_ctx` on, what is fixed when the server starts."""

    temperature: Annotated[float, Field(ge=0, le=10)] | None = None
    top_k: Annotated[int, Field(ge=0, le=1 << 20)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repeat_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None
    num_predict: Annotated[int, Field(ge=-2, le=1 << 24)] | None = None
    stop: Stops | None = None
    num_ctx: int | None = None
    num_batch: int | None = None
    num_gpu: int | None = None
    main_gpu: int | None = None
    num_thread: int | None = None
    num_keep: int | None = None
    use_mmap: bool | None = None
    use_mlock: bool | None = None
    numa: bool | None = None
    low_vram: bool | None = None
    f16_kv: bool | None = None


class OllamaMessage(Strict):
    """One message."""

    role: Literal["system", "user", "assistant"]
    content: str = ""
    thinking: str | None = None
    images: Empty = None
    tool_calls: Empty = None

    @model_validator(mode="before")
    @classmethod
    def _only_text(cls, value: Any) -> Any:
        if isinstance(value, dict):
            if value.get("images"):
                raise PydanticCustomError("unsupported", "images are not supported: this model reads text alone")
            if value.get("role") == "tool" or value.get("tool_calls"):
                raise PydanticCustomError("unsupported", "tools are not supported by this server")
        return value

    @property
    def text(self) -> str:
        """The text."""
        return self.content


class _Ollama(Strict):
    model: Name
    stream: bool | None = None
    options: Options | None = None
    format: Literal["", "json"] | dict[str, Any] | None = None
    keep_alive: str | float | None = None
    think: Literal[False] | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: Literal[0] | None = None
    steering: Steering | None = None


class OllamaChatRequest(_Ollama):
    """`POST /api/chat`. Without messages, the model is loaded and nothing is answered."""

    messages: Annotated[list[OllamaMessage], Field(max_length=MAX_MESSAGES, default_factory=list)]
    tools: Empty = None

    @model_validator(mode="before")
    @classmethod
    def _no_tools(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("tools"):
            raise PydanticCustomError("unsupported", "tools are not supported by this server; leave out tools")
        return value


class OllamaGenerateRequest(_Ollama):
    """`POST /api/generate`. `raw` goes on from the prompt without the chat template."""

    prompt: str | None = None
    system: str | None = None
    raw: bool | None = None
    suffix: Literal[""] | None = None
    template: Literal[""] | None = None
    images: Empty = None
    context: Empty = None

    @model_validator(mode="before")
    @classmethod
    def _refused(cls, value: Any) -> Any:
        if isinstance(value, dict):
            for field, why in (
                ("images", "images are not supported: this model reads text alone"),
                ("suffix", "filling in before a suffix is not supported; leave out suffix"),
                ("template", "templates are the model's own; leave out template, or set raw"),
                ("context", "contexts of tokens are not supported; use /api/chat"),
            ):
                if value.get(field):
                    raise PydanticCustomError("unsupported", why)
        return value


class ShowRequest(Strict):
    """`POST /api/show`; `name` is its older word for `model`."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": ["model"]}, {"required": ["name"]}]})

    model: Name | None = None
    name: Name | None = None
    verbose: bool | None = None
    system: Literal[""] | None = None
    template: Literal[""] | None = None
    options: dict[str, Any] | None = None
