"""The engine's turns on the thread that measures: what a token or a prompt costs, without waiting for another thread."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType

from fs_local.engine import Piece, Prompt, Request, Sampling, Steer
from fs_local.engine.cells import OWN_SEQUENCES
from fs_local.engine.packs import Packs
from fs_local.engine.sequences import Sequence as Work
from fs_local.engine.stream import Mailbox
from fs_local.engine.worker import Worker
from fs_local.pack.file import Pack
from fs_local.runtime.context import MICRO_BATCH, Context
from fs_local.runtime.model import Model
from fs_local.runtime.node_filter import PURE_PYTHON

_NEVER = float("-inf")


class EngineTurns:
    """An engine's worker with one pack or several, driven by hand.

    Args:
        pure_python: as where no C extension was built.
    """

    def __init__(
        self,
        model: Model,
        packs: Sequence[Pack],
        n_ctx: int,
        *,
        n_ubatch: int = MICRO_BATCH,
        n_seq: int = 1,
        pure_python: bool = False,
    ) -> None:
        with _filter(pure_python):
            context = Context(model, n_ctx=n_ctx, n_ubatch=n_ubatch, n_seq=2 * n_seq + OWN_SEQUENCES)
        loaded = Packs.load(model, packs)
        self._worker = Worker(context, n_seq, n_seq, lambda: loaded)
        self._never_ends = Sampling(
            temperature=0.0, repeat_penalty=1.0, logit_bias=dict.fromkeys(model.end_tokens, _NEVER)
        )
        self._order = 0

    def begin(self, tokens: Sequence[int], *, max_tokens: int | None = None, steer: Steer | None = None) -> Mailbox:
        """Takes a request whose greedy answer ends with `max_tokens` alone."""
        mailbox = Mailbox(self._worker.bell)
        request = Request(Prompt.plain(tokens), self._never_ends, max_tokens, steer=steer or Steer())
        self._order += 1
        self._worker.add(Work(request, mailbox, self._order))
        return mailbox

    def turn(self) -> None:
        """One part of a prompt, and one token of all others."""
        self._worker.turn()

    def prefill(self, tokens: Sequence[int]) -> None:
        """A prompt up to its first token, with nothing of it in the cache."""
        self._worker.forget()
        self.begin(tokens, max_tokens=1)
        while not self._worker.is_idle:
            self._worker.turn()

    def answers(self, prompts: Sequence[Sequence[int]], max_tokens: int, steer: Sequence[Steer]) -> int:
        """Answers to prompts side by side; how many tokens they have together."""
        self._worker.forget()
        boxes = [self.begin(p, max_tokens=max_tokens, steer=s) for p, s in zip(prompts, steer, strict=True)]
        while not self._worker.is_idle:
            self._worker.turn()
        return sum(_last(box).generated_tokens for box in boxes)

    def __enter__(self) -> EngineTurns:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._worker.close(RuntimeError("measured"))


@contextmanager
def _filter(pure_python: bool) -> Iterator[None]:
    """What the variable says while a context is made holds for it."""
    before = os.environ.get(PURE_PYTHON)
    if pure_python:
        os.environ[PURE_PYTHON] = "1"
    try:
        yield
    finally:
        if pure_python:
            del os.environ[PURE_PYTHON]
            os.environ.update({} if before is None else {PURE_PYTHON: before})


def _last(box: Mailbox) -> Piece:
    while True:
        item = box.wait()
        if isinstance(item, BaseException):
            raise item
        if item is not None and item.finish_reason is not None:
            return item
