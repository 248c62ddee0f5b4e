"""An engine's worker driven by hand, and llama.cpp alone beside it: logits, not only tokens."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np

from fs_local.engine import Piece, Prompt, Request, Sampling, Steer
from fs_local.engine.cells import OWN_SEQUENCES
from fs_local.engine.decision import Decision
from fs_local.engine.packs import Packs
from fs_local.engine.requests import FinishReason
from fs_local.engine.sequences import Sequence as Work
from fs_local.engine.stream import Bell, Mailbox
from fs_local.engine.vocabulary import Vocabulary
from fs_local.engine.worker import Worker
from fs_local.pack.file import Pack
from fs_local.runtime.context import Context
from fs_local.runtime.library import llama
from fs_local.runtime.model import Model
from fs_local.runtime.threads import default_threads

UBATCH = 64


class Driven:
    """A worker whose turns are taken here; `answer` waits for one request while all others go on."""

    def __init__(
        self, model: Model, packs: Sequence[Pack] = (), n_ctx: int = 2048, n_ubatch: int = UBATCH, n_seq: int = 8
    ) -> None:
        self.packs = Packs.load(model, packs)
        self.context = Context(model, n_ctx=n_ctx, n_ubatch=n_ubatch, n_seq=2 * n_seq + OWN_SEQUENCES)
        self.worker = Worker(self.context, n_seq, n_seq, lambda: self.packs)
        self._order = 0

    def begin(self, prompt: Prompt | Sequence[int], n: int | None = 4, **more: Any) -> Answer:
        self._order += 1
        asked = prompt if isinstance(prompt, Prompt) else Prompt.plain(prompt)
        more.setdefault("sampling", Sampling.greedy())
        answer = Answer(Request(asked, max_tokens=n, **more), self._order)
        self.worker.add(answer.work)
        return answer

    def answer(self, prompt: Prompt | Sequence[int], n: int | None = 4, **more: Any) -> Answer:
        answer = self.begin(prompt, n, **more)
        while not answer.is_done:
            self.worker.turn()
        return answer

    def logits(self, prompt: Prompt | Sequence[int], n: int = 4, **more: Any) -> np.ndarray:
        """That predict each token of the answer, (n, n_vocab); asked exactly where nothing else is said."""
        more.setdefault("steer", Steer(exact=True))
        return np.stack(self.answer(prompt, n, **more).logits)

    def decide(self, prompt: Prompt | Sequence[int], **more: Any) -> list[Decision]:
        return self.answer(prompt, 0, **more).pieces[-1].decisions

    def finish(self) -> None:
        """Takes turns until nothing is left to do."""
        while not self.worker.is_idle:
            self.worker.turn()

    def __enter__(self) -> Driven:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.worker.close(RuntimeError("the test is over"))


class Answer:
    """What one request has given so far. Raises what went wrong with it."""

    def __init__(self, request: Request, order: int) -> None:
        self.mailbox = Mailbox(Bell())
        self.work = Work(request, self.mailbox, order)
        self.logits: list[np.ndarray] = []
        self._pieces: list[Piece] = []
        draw = self.work.draw

        def noted(context: Context, output: int, vocabulary: Vocabulary, limit: int) -> FinishReason | None:
            self.logits.append(context.logits(output))
            return draw(context, output, vocabulary, limit)

        self.work.draw = noted  # type: ignore[method-assign]

    @property
    def pieces(self) -> list[Piece]:
        while not self.mailbox.is_empty:
            item = self.mailbox.wait()
            if isinstance(item, BaseException):
                raise item
            if item is not None:
                self._pieces.append(item)
        return self._pieces

    @property
    def is_done(self) -> bool:
        return any(p.finish_reason for p in self.pieces)

    @property
    def text(self) -> str:
        return "".join(p.text for p in self.pieces)


def stock_logits(
    model: Model, tokens: Sequence[int], n_answer: int, n_ubatch: int = UBATCH, control_vector: np.ndarray | None = None
) -> np.ndarray:
    """Logits of the last prompt token and of a greedy answer, by llama.cpp alone: no callback, its own splitting of batches.

    control_vector: float32, (blocks - 1, d), set natively for all blocks from 1 on."""
    api = llama()
    params = api.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = 2048, 2048, n_ubatch
    params.n_threads = params.n_threads_batch = default_threads()
    handle = api.llama_init_from_model(model.handle, params)
    if control_vector is not None:
        data = control_vector.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        assert api.llama_set_adapter_cvec(handle, data, control_vector.size, model.width, 1, model.n_layer) == 0
    rows, now = [], list(tokens)
    for _ in range(n_answer):
        array = (ctypes.c_int32 * len(now))(*now)
        assert api.llama_decode(handle, api.llama_batch_get_one(array, len(now))) == 0
        rows.append(np.ctypeslib.as_array(api.llama_get_logits_ith(handle, -1), shape=(model.n_vocab,)).copy())
        now = [int(rows[-1].argmax())]
    api.llama_free(handle)
    return np.stack(rows)
