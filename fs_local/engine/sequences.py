"""One request at work: its tokens, its sampler, its text, and what goes to its stream."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING

import numpy as np

from fs_local.arrays import F32
from fs_local.engine.decision import Decision, added_by_layer, steered_from, steers_prompt_alone
from fs_local.engine.logits import alternatives, masked
from fs_local.engine.packs import Chosen
from fs_local.engine.prefill import Prefill
from fs_local.engine.requests import FinishReason, Piece, Request, TokenLogprob
from fs_local.engine.stop_strings import TextStream
from fs_local.engine.stream import Mailbox
from fs_local.errors import FitError, ModelError
from fs_local.runtime.context import Context
from fs_local.runtime.sampling import Sampler

if TYPE_CHECKING:
    from fs_local.engine.scoring import Scoring
    from fs_local.engine.vocabulary import Vocabulary


class Sequence:
    """A request from its submission to its last piece.

    Attributes:
        order: of submission.
        seq: its sequence in the cache; -1 while it waits.
        tokens: the prompt's and those drawn; all but the last of these are in the cache while it decodes.
        chosen: the packs that decide it, as they were when it was taken up.
        prefill, scoring: what is being done before tokens are drawn, or in place of it.
        additions: layer -> float32 (d,), what each row behind the prompt gets.
    """

    def __init__(self, request: Request, mailbox: Mailbox, order: int) -> None:
        self.request, self.mailbox, self.order = request, mailbox, order
        self.seq = -1
        self.tokens: list[int] = list(request.prompt.tokens)
        self.chosen: Chosen | None = None
        self.prefill: Prefill | None = None
        self.scoring: Scoring | None = None
        self.additions: dict[int, F32] = {}
        self.first_steered: int | None = None
        self.cached = 0
        given = request.sampling.seed
        self.seed = secrets.randbits(32) if given is None else given
        self._decisions: list[Decision] | None = None
        self._sampler: Sampler | None = None
        self._text = TextStream(request.stop)
        self._held: list[int] = []  # tokens whose text is not certain yet
        self._logprobs: list[TokenLogprob] = []
        self._began = self._prompted = time.perf_counter()

    @property
    def precedence(self) -> tuple[int, int]:
        """Who comes first: the smaller."""
        return -self.request.priority, self.order

    @property
    def n_drawn(self) -> int:
        return len(self.tokens) - len(self.request.prompt.tokens)

    @property
    def decisions(self) -> list[Decision] | None:
        """None until they are known."""
        return self._decisions

    def decided(self, decisions: list[Decision]) -> None:
        """Notes the decisions, and what follows from them.

        Raises:
            FitError: additions that are not finite.
        """
        self._decisions = self.mailbox.decisions = decisions
        self.additions = additions = added_by_layer(decisions)
        if not all(np.isfinite(v).all() for v in additions.values()):
            raise FitError(
                "what steers this query is not finite (NaN or infinite); use a smaller strength, or another pack"
            )
        self.first_steered = steered_from(decisions, self.request.prompt)
        if steers_prompt_alone(decisions):
            self.additions = {}

    def begin(self) -> None:
        """Called when it leaves the queue for the first time."""
        self._began = time.perf_counter()

    def prompted(self) -> None:
        """Called when the first logits are there."""
        if not self.n_drawn:
            self._prompted = time.perf_counter()

    def useful_cells(self, length: int) -> int:
        """How many of its `length` cells serve other requests: those that are evaluated through all blocks, and unsteered."""
        ends = (length, self.first_steered, self.prefill.whole_until if self.prefill else None)
        return min(n for n in ends if n is not None)

    def draw(self, context: Context, output: int, vocabulary: Vocabulary, limit: int) -> FinishReason | None:
        """Draws the next token from an output of the last decode and tells the stream; why it ends, if it does.

        Args:
            limit: tokens that the sequence may have at most.

        Raises:
            ModelError: logits that are not numbers.
            Exception: whatever the request's mask raises.
        """
        request, n_prompt = self.request, len(self.request.prompt.tokens)
        if self._sampler is None:
            self._sampler = Sampler(request.sampling, self.seed, context.model.n_vocab)
        found = None
        if request.logprobs is not None:
            found = context.logits(output)
        if request.mask is not None:
            masked(context.logits_in_place(output), request.mask(self.tokens[n_prompt:]))
        token = self._sampler.sample(context, output)
        if not context.has_finite_logit(token, output):
            raise NotFinite(
                "the model's answer is no longer made of numbers (NaN); the steering may be too strong, or the file damaged"
            )
        spoken = vocabulary.spoken(token)
        if spoken is None:
            self.finish("stop", self._text.flush())
            return "stop"
        self.tokens.append(token)
        self._held.append(token)
        if found is not None:
            self._logprobs.append(alternatives(found, token, request.logprobs or 0, vocabulary))
        text = self._text.feed(spoken)
        reason: FinishReason | None = None
        if self._text.stopped:
            reason = "stop_string"
        elif len(self.tokens) - n_prompt == request.max_tokens:
            reason, text = "length", text + self._text.flush()
        elif len(self.tokens) >= limit:
            reason, text = "context", text + self._text.flush()
        if reason is not None:
            self.finish(reason, text)
        elif text:
            self.mailbox.put(self._piece(text))
        return reason

    def finish(
        self,
        reason: FinishReason,
        text: str | None = None,
        scores: tuple[F32, ...] = (),
        logits: tuple[F32, ...] = (),
    ) -> None:
        """Tells the stream that this was the last."""
        text = self._text.flush() if text is None else text
        self.mailbox.put(self._piece(text, reason, scores, logits))

    def close(self) -> None:
        """Frees the sampler."""
        if self._sampler is not None:
            self._sampler.close()
            self._sampler = None

    def _piece(
        self, text: str, reason: FinishReason | None = None, scores: tuple[F32, ...] = (), logits: tuple[F32, ...] = ()
    ) -> Piece:
        piece = Piece(
            text,
            tuple(self._held),
            tuple(self._logprobs),
            self._decisions or [],
            len(self.request.prompt.tokens),
            self.cached,
            self._prompted - self._began,
            self.n_drawn,
            time.perf_counter() - self._prompted,
            self.seed,
            reason,
            scores,
            logits,
        )
        self._held.clear()
        self._logprobs.clear()
        return piece


class NotFinite(ModelError):
    """A sequence whose logits are no numbers: its cells may spoil others'."""
