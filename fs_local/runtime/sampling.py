"""llama.cpp's own sampler chain."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any

from fs_local.runtime.context import Context
from fs_local.runtime.library import llama

_PENALTY_WINDOW = 64


@dataclass(frozen=True)
class SamplingOptions:
    """How the next token is drawn. Temperature 0 is greedy; the others then make no difference, but for the penalty.

    Attributes:
        temperature: 0 for greedy.
        top_k: 0 for all tokens.
        top_p: 1 for all.
        min_p: 0 for all.
        repeat_penalty: on the last 64 tokens; 1 for none.
        seed: of the random draw.
    """

    temperature: float = 0.0
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        from fs_local.errors import FsLocalError

        for ok, what in (
            (self.temperature >= 0, "temperature must be 0 or more"),
            (self.top_k >= 0, "top-k must be 0 or more"),
            (0 < self.top_p <= 1, "top-p must be above 0, and 1 at the most"),
            (0 <= self.min_p <= 1, "min-p must be from 0 to 1"),
            (self.repeat_penalty > 0, "the repetition penalty must be above 0"),
        ):
            if not ok:
                raise FsLocalError(what)


class Sampler:
    """A sampler chain, in llama.cpp's usual order: penalties, top-k, top-p, min-p, temperature, draw."""

    def __init__(self, options: SamplingOptions, n_vocab: int) -> None:
        api = llama()
        self._chain: Any = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
        links = []
        if options.repeat_penalty != 1.0:
            links.append(api.llama_sampler_init_penalties(n_vocab, _PENALTY_WINDOW, options.repeat_penalty, 0.0, 0.0))
        if options.temperature == 0:
            links.append(api.llama_sampler_init_greedy())
        else:
            links += [
                api.llama_sampler_init_top_k(options.top_k),
                api.llama_sampler_init_top_p(options.top_p, 1),
                api.llama_sampler_init_min_p(options.min_p, 1),
                api.llama_sampler_init_temp(options.temperature),
                api.llama_sampler_init_dist(options.seed & 0xFFFFFFFF),
            ]
        for link in links:
            api.llama_sampler_chain_add(self._chain, link)

    def sample(self, context: Context, output: int = -1) -> int:
        """Draws a token from the logits of one output of the last decode, and remembers it for the penalties."""
        return int(llama().llama_sampler_sample(self._chain, context.handle, output))

    def close(self) -> None:
        if self._chain:
            llama().llama_sampler_free(self._chain)
            self._chain = None

    def __enter__(self) -> Sampler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
