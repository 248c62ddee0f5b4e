"""A model with packs: the Python interface.

with SteeredModel.load("smollm2", packs=["refusal.fspack"]) as model:
    for piece in model.stream("How do I pick a lock?"):
        print(piece.text, end="")
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from fs_local.batch import MAX_SEQUENCES, Batch, check_lengths
from fs_local.capture import Request, shared_prefix
from fs_local.errors import FsLocalError, PackError
from fs_local.examples import Query
from fs_local.generation import DEFAULT_MAX_TOKENS, FinishReason, GenerationOptions, Piece, stream_answer
from fs_local.model_files import resolve_model
from fs_local.pack.engine import EngineName
from fs_local.pack.file import Pack
from fs_local.runtime.context import Context
from fs_local.runtime.model import Model, Progress
from fs_local.runtime.prompt import Prompt
from fs_local.steering import Decision, Steering, added_by_layer, check_model

if TYPE_CHECKING:
    from fs_local.conversation import Conversation

CONVERSATION, SCRATCH = 0, 1
"""The context's sequences: one for a conversation that is kept, one for everything that is asked in passing."""


@dataclasses.dataclass(frozen=True)
class Completion:
    """A whole answer; the fields are those of `Piece`."""

    text: str
    decisions: list[Decision]
    finish_reason: FinishReason
    prompt_tokens: int
    prompt_seconds: float
    generated_tokens: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class ManyCompletion:
    """One of many answers: its text, the decisions of its query, and the tokens that were generated."""

    text: str
    decisions: list[Decision]
    generated_tokens: int


class SteeredModel:
    """A model, its context, and packs that steer it. Made by `load`; not for several threads at once.

    Attributes:
        notes: what a person should know, for example that a pack was fitted with another quantization.
    """

    def __init__(self, model: Model, context: Context, steering: Steering) -> None:
        self._model, self._context, self._steering = model, context, steering
        self._open_stream = False
        self.cache_owner: Conversation | None = None  # whose tokens the conversation's sequence holds
        self.notes = [note for p in steering.packs if (note := check_model(p, model))]

    @classmethod
    def load(
        cls,
        model: str | Path,
        packs: Sequence[str | Path | Pack] = (),
        *,
        n_ctx: int = 0,
        gpu_layers: int = 0,
        n_threads: int | None = None,
        engine: EngineName = "numpy",
        providers: list[str] | None = None,
        progress: Progress | None = None,
    ) -> SteeredModel:
        """Loads a model and its packs.

        Args:
            model: path of a GGUF file, or an alias.
            packs: paths of packs, or packs; each decides with its own gate.
            n_ctx: tokens of context; 0 for 4096, or the model's own if shorter.
            gpu_layers: blocks to offload; -1 for all.
            engine, providers: what evaluates decisions: numpy, or ONNX Runtime with execution providers.
            progress: called with the share of the model that is loaded, 0 to 1.

        Raises:
            ModelError, PackError: a file that can't be used, or packs that do not fit the model.
        """
        loaded = [p if isinstance(p, Pack) else Pack.load(Path(p)) for p in packs]
        opened = Model.load(resolve_model(model), gpu_layers=gpu_layers, progress=progress)
        try:
            steering = Steering(opened, loaded, engine=engine, providers=providers)
            context = Context(opened, n_ctx=n_ctx, n_seq=2, n_threads=n_threads)
        except BaseException:
            opened.close()
            raise
        return cls(opened, context, steering)

    def generate(self, query: str | Query, options: GenerationOptions | None = None) -> Completion:
        """The whole answer to one query. Raises as `stream`."""
        pieces = list(self.stream(query, options))
        last = pieces[-1]
        assert last.finish_reason is not None
        return Completion(
            "".join(p.text for p in pieces),
            last.decisions,
            last.finish_reason,
            last.prompt_tokens,
            last.prompt_seconds,
            last.generated_tokens,
            last.seconds,
        )

    def stream(
        self, query: str | Query, options: GenerationOptions | None = None, *, steered: bool = True
    ) -> Iterator[Piece]:
        """The answer to one query, piece by piece, with no memory of what was asked before.

        Args:
            query: a text, or messages.
            steered: False for the model as it is.

        Raises:
            ContextFullError: a query longer than the context.
            FsLocalError: another stream of this model is still open.
        """
        prompt = self.prompt(query)
        with self.evaluating():
            try:
                yield from stream_answer(
                    self._context,
                    self.steering_or_none(steered),
                    prompt.tokens,
                    user=prompt.user,
                    start=0,
                    seq=SCRATCH,
                    options=options or GenerationOptions(),
                )
            finally:
                self._context.remove(SCRATCH)

    def generate_many(
        self, queries: Sequence[str | Query], max_tokens: int = DEFAULT_MAX_TOKENS
    ) -> list[ManyCompletion]:
        """Greedy answers to many queries, several at once in one llama.cpp batch; those that find no room wait for their turn.

        Each query gets the decisions that it would get alone, bit for bit.

        Raises:
            DataError: a query that is longer than the model's own context.
            ContextFullError: one that is longer than this context (`n_ctx`), where its decisions are made.
            FsLocalError: `max_tokens` below 1.
        """
        GenerationOptions(max_tokens)
        if not queries:
            return []
        prompted = [self.prompt(q) for q in queries]
        requests = [Request(list(p.tokens), user=p.user) for p in prompted]
        check_lengths(self._model, requests)
        prompts = [r.prompt for r in requests]
        with self.evaluating():
            decided = self._steering.decide_many(self._context, requests, shared=shared_prefix(prompts), seq=SCRATCH)
        additions = [added_by_layer(d) for d in decided]
        order = sorted(
            range(len(requests)), key=lambda i: len(requests[i].prompt)
        )  # alike in length: little to wait for
        done: dict[int, ManyCompletion] = {}
        for first in range(0, len(order), MAX_SEQUENCES):
            rows = order[first : first + MAX_SEQUENCES]
            with Batch.for_requests(
                self._model, [requests[i] for i in rows], max_tokens, self._steering.prompt_too, self._context.n_threads
            ) as batch:
                answers = batch.generate(
                    [requests[i].prompt for i in rows], [additions[i] for i in rows], max_tokens, scored=False
                )
            for i, (tokens, _) in zip(rows, answers, strict=True):
                done[i] = ManyCompletion(self._model.text(tokens), decided[i], len(tokens))
        return [done[i] for i in range(len(requests))]

    def decide(self, query: str | Query) -> list[Decision]:
        """The decisions that a query gets, one a pack, without an answer."""
        prompt = self.prompt(query)
        with self.evaluating():
            return self._steering.decide(self._context, prompt.tokens, user=prompt.user, seq=SCRATCH)

    def chat(self, system: str | None = None) -> Conversation:
        """A conversation that keeps the KV cache over its turns, and decides anew at each. One at a time."""
        from fs_local.conversation import Conversation

        return Conversation(self, system)

    def prompt(self, query: str | Query) -> Prompt:
        """A query's prompt, by the model's chat template."""
        return self._model.prompt((Query.of(query) if isinstance(query, str) else query).messages)

    def set_strength(self, strength: float, pack: str | None = None) -> None:
        """Changes λ of one pack by its name, or of all.

        Raises:
            PackError: no pack of that name.
        """
        names = [p.manifest.name for p in self._steering.packs]
        if pack is not None and pack not in names:
            raise PackError(f"no pack {pack!r}; there is {', '.join(names) or 'none'}")
        self._steering.packs = [
            p.with_strength(strength) if pack in (None, p.manifest.name) else p for p in self._steering.packs
        ]

    @property
    def model(self) -> Model:
        return self._model

    @property
    def context(self) -> Context:
        return self._context

    @property
    def packs(self) -> list[Pack]:
        return list(self._steering.packs)

    def steering_or_none(self, steered: bool) -> Steering:
        """This model's steering, or one without packs."""
        return self._steering if steered else Steering(self._model)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Guards the context: one stream at a time, so that none is left half-steered by another."""
        if self._open_stream:
            raise FsLocalError("another answer of this model is still being streamed; read it to its end, or close it")
        self._open_stream = True
        try:
            yield
        finally:
            self._open_stream = False

    def close(self) -> None:
        """Frees context and weights."""
        self._context.close()
        self._model.close()

    def __enter__(self) -> SteeredModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
