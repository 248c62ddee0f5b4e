"""The model's own chat template, in jinja2's sandbox, with plain completion where the model has none."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any, NoReturn, TypedDict

from fs_local.errors import ModelError


class Message(TypedDict):
    """One turn: role `system`, `user` or `assistant`."""

    role: str
    content: str


class ChatTemplate:
    """Renders messages to the text of a prompt that ends where the answer begins."""

    def __init__(self, source: str | None, *, bos: str, eos: str) -> None:
        self.source, self.bos, self.eos = source, bos, eos
        self._compiled: Any = None

    def render(self, messages: Sequence[Message], *, answering: bool = True) -> str:
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
                tools=None,
                documents=None,
            )
        except Exception as error:  # a template is foreign code: it can fail in any way
            raise ModelError(f"the model's chat template refuses these messages: {error}") from error
        return text


def _environment() -> Any:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> NoReturn:
        import jinja2

        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda layout: datetime.datetime.now().strftime(layout)
    return environment
