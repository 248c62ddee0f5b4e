"""A conversation of many turns, whose KV cache is kept: each turn evaluates its own tokens alone, and gets its own decision.

Earlier turns stay in the cache as they were evaluated, steered or not. Only where the cache can't be continued (the oldest turns
were dropped, or the template renders history differently) is the conversation evaluated again, under the turn's decision.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fs_local.errors import ContextFullError, FsLocalError
from fs_local.generation import GenerationOptions, Piece, stream_answer
from fs_local.method.readings import Span
from fs_local.runtime.template import Message
from fs_local.steering import Decision

if TYPE_CHECKING:
    from fs_local.steered_model import SteeredModel


@dataclass
class _Turn:
    """The last turn, as it stands in the cache: where its tokens start, and what they are."""

    start: int
    tokens: list[int]
    options: GenerationOptions


class Conversation:
    """Made by `SteeredModel.chat`.

    Attributes:
        messages: the conversation so far.
        decisions: of the last turn.
        steered: False to answer as the model is.
        dropped: turns that were dropped from the front because the context was full.
    """

    def __init__(self, steered_model: SteeredModel, system: str | None = None) -> None:
        self._on = steered_model
        self.steered = True
        self.system = system
        self.reset()

    def reset(self) -> None:
        """Forgets all turns; the system message stays."""
        from fs_local.steered_model import CONVERSATION

        self._seq = CONVERSATION
        self.messages: list[Message] = [] if self.system is None else [Message(role="system", content=self.system)]
        self.decisions: list[Decision] = []
        self.dropped = 0
        self._tokens: list[int] = []  # what the cache holds, if it is ours
        self._text = ""  # what those tokens say
        self._turn: _Turn | None = None

    def send(self, text: str, options: GenerationOptions | None = None) -> Iterator[Piece]:
        """Asks, and yields the answer. However the iteration ends, what was answered so far is kept.

        Raises:
            ContextFullError: this message alone is longer than the context.
        """
        options = options or GenerationOptions()
        with self._on.evaluating():
            rendered, tokens = self._make_room(Message(role="user", content=text), options)
            prompt = self._on.model.prompt(self.messages)
            behind = (
                len(prompt.tokens) - prompt.user.stop
            )  # the template's closing; what was said before keeps its tokens
            user = Span(max(0, len(tokens) - behind - (prompt.user.stop - prompt.user.start)), len(tokens) - behind)
            start = self._continue_from(tokens, user.start)
            self._turn = _Turn(start, tokens[start:], options)
            answer, spoken = "", []
            pieces = stream_answer(
                self._on.context,
                self._on.steering_or_none(self.steered),
                tokens[start:],
                user=Span(user.start - start, user.stop - start),
                start=start,
                seq=self._seq,
                options=options,
            )
            try:
                for piece in pieces:
                    answer += piece.text
                    spoken += [] if piece.token is None else [piece.token]
                    self.decisions = piece.decisions
                    yield piece
            finally:
                pieces.close()  # type: ignore[attr-defined]
                self.messages.append(Message(role="assistant", content=answer))
                self._tokens = (tokens + spoken)[: self._on.context.n_past(self._seq)]
                held = b"".join(self._on.model.piece(t) for t in self._tokens[len(tokens) :])
                # what stopped within the prompt is tokenized anew, and continued as far as the tokens agree
                self._text = rendered + held.decode("utf-8", "replace") if len(self._tokens) >= len(tokens) else ""

    def compare(self) -> Iterator[Piece]:
        """The last answer as the model would have given it unsteered, after the same history as it was; the conversation stays as it is.

        Raises:
            FsLocalError: nothing was asked yet.
        """
        from fs_local.steered_model import SCRATCH

        if self._turn is None or self._on.cache_owner is not self:
            raise FsLocalError("nothing was asked yet")
        context, turn = self._on.context, self._turn
        with self._on.evaluating():
            context.copy(self._seq, SCRATCH, turn.start)
            start, tokens = turn.start, turn.tokens
            if context.n_past(SCRATCH) != start:  # a recurrent state can't be copied in part
                context.remove(SCRATCH)
                start, tokens = 0, self._tokens[: turn.start] + turn.tokens
            try:
                yield from stream_answer(
                    context, self._on.steering_or_none(False), tokens, start=start, seq=SCRATCH, options=turn.options
                )
            finally:
                context.remove(SCRATCH)

    def _make_room(self, message: Message, options: GenerationOptions) -> tuple[str, list[int]]:
        """Adds a message and renders the conversation, without its oldest turns if it would not fit with an answer."""
        n_ctx = self._on.context.n_ctx
        room_for_answer = min(options.max_tokens, n_ctx // 4)
        messages, dropped = [*self.messages, message], 0
        while True:
            rendered = self._on.model.template.render(messages)
            tokens = self._tokenize(rendered)
            if len(tokens) + room_for_answer <= n_ctx:
                self.messages = messages
                self.dropped += dropped
                return rendered, tokens
            first = 1 if messages[0]["role"] == "system" else 0
            if len(messages) - first < 3:
                raise ContextFullError(
                    f"the message has {len(tokens)} tokens, too many for a context of {n_ctx}; shorten it or raise --ctx"
                )
            del messages[first : first + 2]
            dropped += 1

    def _tokenize(self, rendered: str) -> list[int]:
        if self._text and rendered.startswith(self._text):  # the new text alone, so that what was said keeps its tokens
            return self._tokens + self._on.model.tokenize(rendered[len(self._text) :])
        return self._on.model.tokenize_prompt(rendered)

    def _continue_from(self, tokens: list[int], most: int) -> int:
        """Cuts the cache to what it shares with these tokens, `most` at most; returns how many are kept."""
        context = self._on.context
        held = self._tokens if self._on.cache_owner is self else []
        self._on.cache_owner = self
        kept = next(
            (i for i, (a, b) in enumerate(zip(held, tokens, strict=False)) if a != b), min(len(held), len(tokens))
        )
        kept = min(kept, most, len(tokens) - 1)
        return kept if context.remove(self._seq, kept) else 0
