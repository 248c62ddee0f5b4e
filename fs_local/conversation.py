"""A conversation of many turns, each with its own decision.

History is what the unsteered model makes of it: a turn's steering ends with the turn, and what was steered is evaluated again by the
next. Cells of earlier turns that were not steered are still there, if nothing else needed the room.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate

from fs_local.engine import Decision, Engine, Piece, Prompt, Sampling, Span, Steer, Stream
from fs_local.errors import ContextFullError, FsLocalError
from fs_local.generation import GenerationOptions, submit
from fs_local.runtime.template import Message


class Conversation:
    """Made by `SteeredModel.chat`.

    Attributes:
        messages: the conversation so far.
        decisions: of the last turn.
        steered: as in `SteeredModel`: False to answer as the model is.
        dropped: turns that were dropped from the front because the context was full.
    """

    def __init__(self, engine: Engine, system: str | None = None) -> None:
        self._engine = engine
        self._stream: Stream | None = None
        self.steered: bool | Steer = True
        self.system = system
        self.reset()

    def reset(self) -> None:
        """Forgets all turns, and ends an answer that is still being streamed; the system message stays."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        self.messages: list[Message] = [] if self.system is None else [Message(role="system", content=self.system)]
        self.decisions: list[Decision] = []
        self.dropped = 0
        self._said: list[int] = []  # the tokens of all this, as they were evaluated or drawn
        self._last: tuple[Prompt, GenerationOptions] | None = None

    def send(self, text: str, options: GenerationOptions | None = None) -> Iterator[Piece]:
        """Asks, and yields the answer. However the iteration ends, what was answered so far is kept; if nothing was, nothing is.

        Raises:
            ContextFullError: this message alone is longer than the context.
            FsLocalError: the last answer is still being streamed.
        """
        if self._stream is not None:
            raise FsLocalError("the last answer is still being streamed; read it to its end, or close it")
        options = options or GenerationOptions()
        messages, prompt, dropped = self._make_room(Message(role="user", content=text), options)
        answer, spoken = "", list(prompt.tokens)
        stream = self._stream = self._submit(prompt, options, self.steered)
        try:
            for piece in stream:
                answer += piece.text
                spoken += piece.tokens
                self.decisions = piece.decisions
                yield piece
        finally:
            stream.close()
            if self._stream is stream:  # else it was reset
                self._stream = None
                if len(spoken) > len(prompt.tokens):
                    self.messages = [*messages, Message(role="assistant", content=answer)]
                    self.dropped += dropped
                    self._said, self._last = spoken, (prompt, options)

    def compare(self) -> Iterator[Piece]:
        """The last answer as the model would have given it unsteered, after the same history; the conversation stays as it is.

        Raises:
            FsLocalError: nothing was asked yet.
        """
        if self._last is None:
            raise FsLocalError("nothing was asked yet")
        with self._submit(*self._last, False) as stream:
            yield from stream

    def _submit(self, prompt: Prompt, options: GenerationOptions, steered: bool | Steer) -> Stream:
        return submit(self._engine, prompt, options, steered, Sampling.for_model(self._engine.model))

    def _make_room(self, message: Message, options: GenerationOptions) -> tuple[list[Message], Prompt, int]:
        """The conversation with one more message, its prompt, and how many of its oldest turns it had to lose to fit with an answer."""
        longest = self._engine.longest
        room_for_answer = min(options.max_tokens, longest // 4)
        messages, dropped = [*self.messages, message], 0
        while True:
            prompt = self._as_said(self._engine.prompt(messages))
            if len(prompt.tokens) + room_for_answer <= longest:
                return messages, prompt, dropped
            first = 1 if messages[0]["role"] == "system" else 0
            if len(messages) - first < 3:
                raise ContextFullError(
                    f"the message has {len(prompt.tokens)} tokens, too many for a context of {longest}; shorten it or raise --ctx"
                )
            del messages[first : first + 2]
            dropped += 1

    def _as_said(self, prompt: Prompt) -> Prompt:
        """The prompt with the tokens that were drawn, where they say the same as those that the text would be cut into."""
        said, written = self._bytes(self._said), self._bytes(prompt.tokens)
        n_bytes = sum(map(len, said))
        ends = list(accumulate(map(len, written), initial=0))
        if not said or n_bytes not in ends or b"".join(said) != b"".join(written)[:n_bytes]:
            return prompt
        same = ends.index(n_bytes)
        if same > prompt.turn_start:  # the template puts something else where the answer stood
            return prompt
        longer = len(said) - same
        return replace(
            prompt,
            tokens=(*self._said, *prompt.tokens[same:]),
            user=Span(*(at + longer for at in prompt.user)),
            turn_start=prompt.turn_start + longer,
        )

    def _bytes(self, tokens: Sequence[int]) -> list[bytes]:
        return [self._engine.model.piece(t, special=True) for t in tokens]
