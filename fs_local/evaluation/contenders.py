"""What is measured: packs, and the rival that needs none, a system prompt."""

from __future__ import annotations

from dataclasses import dataclass

from fs_local.errors import ModelError
from fs_local.examples import Query
from fs_local.pack.file import Pack
from fs_local.runtime.model import Model
from fs_local.runtime.template import Message


@dataclass(frozen=True)
class SystemPrompt:
    """Every query gets a system message of this text, and the model is left alone."""

    name: str
    text: str

    def around(self, query: Query, model: Model) -> Query:
        """The query as it is asked: the text before its own system message, or, where the model's chat template knows no system role,
        before the first user message."""
        first, *rest = query.messages
        if first["role"] == "system":
            return Query((self._before(first), *rest))
        asked = Query((Message(role="system", content=self.text), *query.messages))
        try:
            model.prompt(asked.messages)
        except ModelError:
            return Query((self._before(first), *rest))
        return asked

    def _before(self, message: Message) -> Message:
        return Message(role=message["role"], content=f"{self.text}\n\n{message['content']}")


Contender = Pack | SystemPrompt
UNSTEERED = "unsteered"
"""What tables call the model without a contender."""


def name_of(contender: Contender) -> str:
    return contender.name if isinstance(contender, SystemPrompt) else contender.manifest.name


def method_of(contender: Contender) -> str:
    return "system prompt" if isinstance(contender, SystemPrompt) else contender.manifest.method


def strength_of(contender: Contender) -> float | None:
    """λ; a system prompt has none."""
    return None if isinstance(contender, SystemPrompt) else contender.manifest.steer.strength
