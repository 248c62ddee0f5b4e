"""The engine: one context, one thread, many sequences, each steered by its own decision."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from fs_local.choices import EvaluatorName
from fs_local.engine.cells import OWN_SEQUENCES
from fs_local.engine.decision import Decision
from fs_local.engine.packs import LoadedPack, Packs
from fs_local.engine.requests import Request, Steer
from fs_local.engine.sequences import Sequence as Work
from fs_local.engine.stream import Mailbox, Stream
from fs_local.engine.worker import MOST_AT_ONCE, Worker
from fs_local.errors import EngineClosed, EngineFull, FsLocalError
from fs_local.pack.file import Pack
from fs_local.runtime.context import Context
from fs_local.runtime.model import Model
from fs_local.runtime.prompt import Prompt
from fs_local.runtime.template import Message, Tool

_SPARE = 8


@dataclass(frozen=True)
class Stats:
    """The engine at a moment.

    Attributes:
        waiting: requests in the queue. at_work: sequences that are prefilled or decode. kept: beginnings in the prefix cache.
        cells: of the context; cells_used: of these.
        prompt_tokens: evaluated so far, all passes; cached_tokens: not evaluated, because the prefix cache had them.
        generated_tokens: so far. evicted: how often a sequence had to make room.
    """

    waiting: int
    at_work: int
    kept: int
    cells: int
    cells_used: int
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    evicted: int


class Engine:
    """Answers requests with one model, several at once. Usable from any number of threads.

    What is promised, on CPUs: the decision of a prompt, and where no gate opens its logits, have the bits that they have when the query
    is asked alone, whatever else runs and whatever was asked before; only behind a conversation's own answers, which were evaluated a
    token at a time in company, the last bits are those of the conversation as it ran (`prefix_cache`). Tokens are those of decoding
    alone but for last bits: a matrix product of several rows differs there from that of one row, and the attention of a lone row from
    that in an empty cache where the cache is long. `Steer.exact` keeps these bits too.

    Args:
        model: stays open as long as the engine.
        packs: each decides every query with its own gate, unless the request says otherwise.
        n_ctx: tokens of all sequences together; 0 for 4096, or the model's own if shorter.
        n_seq: requests that are worked on at once, 63 at most; others wait.
        n_threads: of llama.cpp; None for the cores of this machine.
        max_waiting: requests that may wait.
        evaluator, providers: what evaluates decisions: numpy, or ONNX Runtime with execution providers.

    Raises:
        PackError: a pack for another model, packs of differing scope, or two of one name.
        ModelError: no memory for the context.
    """

    def __init__(
        self,
        model: Model,
        packs: Sequence[Pack] = (),
        *,
        n_ctx: int = 0,
        n_seq: int = 8,
        n_threads: int | None = None,
        max_waiting: int = 256,
        evaluator: EvaluatorName = "numpy",
        providers: list[str] | None = None,
    ) -> None:
        if not 1 <= n_seq <= MOST_AT_ONCE:
            raise FsLocalError(f"an engine works on 1 to {MOST_AT_ONCE} requests at once, not {n_seq}")
        self._model, self._evaluator, self._providers = model, evaluator, providers
        self._packs = Packs.load(model, packs, evaluator, providers)
        self._most = n_seq + max_waiting
        n_spare = max(n_seq, _SPARE)
        context = Context(model, n_ctx=n_ctx, n_seq=n_seq + n_spare + OWN_SEQUENCES, n_threads=n_threads)
        self._n_ctx, self._n_threads = context.n_ctx, context.n_threads
        self._state = _State(self._packs)
        self._worker = Worker(context, n_seq, n_spare, self._state.current_packs)
        self._process = os.getpid()
        thread = threading.Thread(target=_run, args=(self._worker, self._state), name="fs-local engine", daemon=True)
        self._close = weakref.finalize(self, _stop, self._state, thread)
        thread.start()

    @property
    def model(self) -> Model:
        return self._model

    @property
    def n_ctx(self) -> int:
        return self._n_ctx

    @property
    def longest(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        return min(self._n_ctx, self._model.n_ctx_train)

    @property
    def n_threads(self) -> int:
        return self._n_threads

    def prompt(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> Prompt:
        """A conversation as tokens, by the model's chat template.

        Args:
            tools: that the model may call.

        Raises:
            ModelError: the template refuses these messages, or has no tools.
        """
        return self._model.prompt(messages, tools)

    def submit(self, request: Request) -> Stream:
        """Takes a request; its answer comes in the stream, with all that goes wrong with it.

        Raises:
            EngineFull: too many requests wait.
            EngineClosed: the engine is closed, or belongs to the process that this one was forked from.
        """
        return self.submit_all([request])[0]

    def submit_all(self, requests: Sequence[Request]) -> list[Stream]:
        """Takes requests together, all or none: none begins before the last is there. Raises as `submit`."""
        if os.getpid() != self._process:
            raise EngineClosed("this engine belongs to the process that this one was forked from; load the model here")
        state, mailboxes = self._state, [Mailbox(self._worker.bell) for _ in requests]
        with state.changed:
            if state.closing:
                raise EngineClosed("the engine is closed; load the model again")
            if len(state.new) + self._worker.n_waiting + self._worker.n_at_work + len(requests) > self._most:
                raise EngineFull("too many requests are waiting; try again in a moment")
            for request, mailbox in zip(requests, mailboxes, strict=True):
                state.submitted += 1
                state.new.append(Work(request, mailbox, state.submitted))
            state.changed.notify()
        return [Stream(mailbox) for mailbox in mailboxes]

    def forget(self) -> None:
        """Empties the prefix cache once nothing is at work, before anything that is submitted later: what comes then does not depend on
        what was before, not even in the last bits of its tokens."""
        with self._state.changed:
            self._state.forgets = True
            self._state.changed.notify()

    def decide(self, prompt: Prompt, steer: Steer | None = None) -> list[Decision]:
        """The decisions alone, one a pack.

        Raises:
            ContextFullError: a prompt longer than the context.
            FitError: a state that is not finite.
            as `submit`.
        """
        with self.submit(Request(prompt, max_tokens=0, steer=steer or Steer())) as stream:
            return [piece.decisions for piece in stream][-1]

    # --- packs: what changes holds for requests that are taken up from now on

    @property
    def packs(self) -> list[Pack]:
        return [p.pack for p in self._state.packs.loaded]

    def is_enabled(self, name: str) -> bool:
        """Whether requests get a pack. Raises PackError where there is none of that name."""
        return self._state.packs.named(name).enabled

    def set_strength(self, name: str, strength: float) -> None:
        """Changes λ of a pack.

        Raises:
            PackError: no pack of that name, or a strength that is no number or beyond all reason.
        """
        with self._state.changed:
            self._state.packs = self._state.packs.changed(name, strength=strength)

    def enable(self, name: str, enabled: bool) -> None:
        """Gives requests a pack, or not. Raises PackError where there is none of that name."""
        with self._state.changed:
            self._state.packs = self._state.packs.changed(name, enabled=enabled)

    def replace_pack(self, pack: Pack) -> None:
        """Puts a pack in the place of the one that has its name; it stays enabled or not.

        Raises:
            PackError: a pack for another model, of another scope than the others, or no pack of that name.
        """
        with self._state.changed:
            now = self._state.packs
            now.named(pack.manifest.name)
            packs = [pack if p.name == pack.manifest.name else p.pack for p in now.loaded]
            fresh = Packs.load(self._model, packs, self._evaluator, self._providers)
            self._state.packs = Packs(
                tuple(
                    LoadedPack(p.pack, p.evaluate, old.enabled) for p, old in zip(fresh.loaded, now.loaded, strict=True)
                )
            )

    def set_packs(self, packs: Sequence[Pack]) -> None:
        """Puts other packs in the place of all. Raises as the engine's making."""
        loaded = Packs.load(self._model, packs, self._evaluator, self._providers)
        with self._state.changed:
            self._state.packs = loaded

    # --- the rest

    @property
    def stats(self) -> Stats:
        w = self._worker
        return Stats(
            len(self._state.new) + w.n_waiting,
            w.n_at_work,
            w.n_kept,
            self._n_ctx,
            w.cells_used,
            w.evaluated,
            w.reused,
            w.generated,
            w.evicted,
        )

    def close(self) -> None:
        """Ends all streams with an error and frees the context; within one part of a prompt, or one token."""
        self._close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _State:
    """What the threads that submit share with the engine's."""

    def __init__(self, packs: Packs) -> None:
        self.changed = threading.Condition()
        self.new: deque[Work] = deque()
        self.submitted = 0
        self.closing = self.forgets = False
        self.packs = packs

    def current_packs(self) -> Packs:
        return self.packs


def _run(worker: Worker, state: _State) -> None:
    """The engine's thread."""
    error: BaseException = EngineClosed("the engine was closed before the answer was there")
    try:
        while True:
            if state.new or state.closing or worker.is_idle:
                with state.changed:
                    while not state.new and not state.closing and worker.is_idle:
                        state.changed.wait()
                    if state.closing:
                        break
                    if state.forgets and worker.is_idle:
                        state.forgets = False
                        worker.forget()
                    while state.new and not state.forgets:
                        worker.add(state.new.popleft())
            worker.turn()
    except BaseException as raised:
        error = raised
    with state.changed:
        state.closing = True
        left = list(state.new)
        state.new.clear()
    for work in left:
        work.mailbox.put(error)
    worker.close(error)


def _stop(state: _State, thread: threading.Thread) -> None:
    with state.changed:
        state.closing = True
        state.changed.notify()
    if thread is not threading.current_thread() and thread.is_alive():
        thread.join()
