"""llama.cpp alone: its own API through llama-cpp-python, in a context without our callback, with the settings of ours."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from types import TracebackType

import numpy as np

from fs_local.engine.logits import log_probability
from fs_local.errors import ModelError
from fs_local.runtime.context import MICRO_BATCH
from fs_local.runtime.library import llama
from fs_local.runtime.model import Model
from fs_local.runtime.threads import default_threads

_Token = tuple[int, int, int, bool]
"""Id, position, sequence, and whether its logits are wanted."""


class Stock:
    """A context made as llama.cpp's documentation says."""

    def __init__(self, model: Model, n_ctx: int, n_ubatch: int = MICRO_BATCH, n_seq: int = 1) -> None:
        api = llama()
        self._model = model
        params = api.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = n_ctx, n_ctx, n_ubatch, n_seq
        params.kv_unified = True
        params.n_threads = params.n_threads_batch = default_threads()
        self._handle = api.llama_init_from_model(model.handle, params)
        if not self._handle:
            raise ModelError(f"no context of {n_ctx} tokens for {model.path.name}: not enough memory?")
        self._batch = api.llama_batch_init(n_ctx, 0, 1)
        self._greedy = api.llama_sampler_init_greedy()

    def decode(self, tokens: Sequence[int]) -> None:
        """Evaluates tokens behind those that are there, with logits for the last."""
        array = (ctypes.c_int32 * len(tokens))(*tokens)
        if llama().llama_decode(self._handle, llama().llama_batch_get_one(array, len(tokens))) != 0:
            raise ModelError("llama.cpp failed to decode")

    def prefill(self, tokens: Sequence[int]) -> None:
        self.clear()
        self.decode(tokens)

    def sample(self, output: int = -1) -> int:
        """The likeliest token after one of the last decode's."""
        return int(llama().llama_sampler_sample(self._greedy, self._handle, output))

    def generate(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> int:
        """Greedy answers to prompts, side by side in one batch; returns how many tokens they have together."""
        self.clear()
        tokens: list[_Token] = []
        for seq, prompt in enumerate(prompts):
            tokens += [(t, i, seq, i == len(prompt) - 1) for i, t in enumerate(prompt)]
        n = 0
        for _ in range(max_tokens):
            self._decode(tokens)
            drawn = [(self.sample(i), at + 1, seq) for i, (_, at, seq, output) in enumerate(tokens) if output]
            tokens = [(t, at, seq, True) for t, at, seq in drawn if not self._model.ends_generation(t)]
            n += len(tokens)
            if not tokens:
                break
        return n

    def score(self, prompt: Sequence[int], answer: Sequence[int]) -> float:
        """Log-probability (nats) of an answer after a prompt, evaluated anew."""
        self.clear()
        first, tokens = len(prompt) - 1, [*prompt, *answer[:-1]]
        self._decode((t, i, 0, i >= first) for i, t in enumerate(tokens))
        return sum(log_probability(self._logits(first + i), t) for i, t in enumerate(answer))

    def clear(self) -> None:
        llama().llama_memory_clear(llama().llama_get_memory(self._handle), False)

    def close(self) -> None:
        llama().llama_sampler_free(self._greedy)
        llama().llama_batch_free(self._batch)
        llama().llama_free(self._handle)

    def __enter__(self) -> Stock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _decode(self, tokens: Iterable[_Token]) -> None:
        batch, n = self._batch, 0
        for n, (token, position, seq, output) in enumerate(tokens, start=1):
            i = n - 1
            batch.token[i], batch.pos[i], batch.logits[i] = token, position, output
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, seq
        batch.n_tokens = n
        if llama().llama_decode(self._handle, batch) != 0:
            raise ModelError("llama.cpp failed to decode")

    def _logits(self, output: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        pointer = llama().llama_get_logits_ith(self._handle, output)
        return np.ctypeslib.as_array(pointer, shape=(self._model.n_vocab,))
