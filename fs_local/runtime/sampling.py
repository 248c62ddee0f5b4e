"""How the next token is drawn: what may be asked for, and llama.cpp's own sampler chain that does it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

from fs_local.errors import FsLocalError
from fs_local.runtime.library import llama

if TYPE_CHECKING:
    from fs_local.runtime.context import Context
    from fs_local.runtime.model import Model

_PENALTY_WINDOW = 64
_IN_FILE = {
    "temperature": "temp",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repeat_penalty": "penalty_repeat",
}
"""Field -> its name in a GGUF file, behind `general.sampling.`."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn, with the defaults that people know.

    Attributes:
        temperature: 0 for greedy; top-k, top-p and min-p then make no difference.
        top_k: 0 for all tokens.
        top_p: 1 for all.
        min_p: 0 for all.
        repeat_penalty: divides the logits of the answer's last 64 tokens; 1 for none.
        presence_penalty, frequency_penalty: taken from these logits, once or for each time; 0 for none.
        seed: of the draw; None for a random one, which the answer's pieces tell.
        logit_bias: token -> what is added to its logit; -inf bans it.

    Raises:
        FsLocalError: a number out of its range.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for ok, what in (
            (0 <= self.temperature < math.inf, "the temperature must be 0 or more"),
            (0 <= self.top_k < 1 << 31, "top-k must be 0 or more"),
            (0 < self.top_p <= 1, "top-p must be above 0, and 1 at the most"),
            (0 <= self.min_p <= 1, "min-p must be from 0 to 1"),
            (0 < self.repeat_penalty < math.inf, "the repetition penalty must be above 0"),
            (abs(self.presence_penalty) < math.inf, "the presence penalty must be a number"),
            (abs(self.frequency_penalty) < math.inf, "the frequency penalty must be a number"),
            (all(b < math.inf for b in self.logit_bias.values()), "a logit bias must be a number, or -inf"),
            (all(0 <= t < 1 << 31 for t in self.logit_bias), "a logit bias must name a token of the model"),
        ):
            if not ok:
                raise FsLocalError(what)

    @classmethod
    def greedy(cls) -> Sampling:
        """Always the likeliest token."""
        return cls(temperature=0.0, repeat_penalty=1.0, seed=0)

    @classmethod
    def for_model(cls, model: Model) -> Sampling:
        """The defaults, with what the model's file recommends (`general.sampling.*`) in their place."""
        found: dict[str, Any] = {}
        for name, in_file in _IN_FILE.items():
            text = model.metadata(f"general.sampling.{in_file}")
            if text is not None:
                try:
                    found[name] = int(text) if name == "top_k" else float(text)
                except ValueError:  # a file may say anything
                    continue
        try:
            return cls(**found)
        except FsLocalError:
            return cls()


class Sampler:
    """A sampler chain in llama.cpp's usual order: bias, penalties, top-k, top-p, min-p, temperature, draw.

    Args:
        seed: in place of None in `sampling`.
    """

    def __init__(self, sampling: Sampling, seed: int, n_vocab: int) -> None:
        api = llama()
        self._sample = api.llama_sampler_sample
        self._chain: Any = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
        links = []
        bias = [(t, b) for t, b in sampling.logit_bias.items() if t < n_vocab]
        if bias:
            entries = (api.llama_logit_bias * len(bias))()
            for entry, (token, value) in zip(entries, bias, strict=True):
                entry.token, entry.bias = token, value
            links.append(api.llama_sampler_init_logit_bias(n_vocab, len(bias), entries))
        penalties = (sampling.repeat_penalty, sampling.frequency_penalty, sampling.presence_penalty)
        if penalties != (1.0, 0.0, 0.0):
            links.append(api.llama_sampler_init_penalties(n_vocab, _PENALTY_WINDOW, *penalties))
        if sampling.temperature == 0:
            links.append(api.llama_sampler_init_greedy())
        else:
            links += [
                api.llama_sampler_init_top_k(sampling.top_k),
                api.llama_sampler_init_top_p(sampling.top_p, 1),
                api.llama_sampler_init_min_p(sampling.min_p, 1),
                api.llama_sampler_init_temp(sampling.temperature),
                api.llama_sampler_init_dist(seed & 0xFFFFFFFF),
            ]
        for link in links:
            api.llama_sampler_chain_add(self._chain, link)

    def sample(self, context: Context, output: int = -1) -> int:
        """Draws a token from the logits of one output of the last decode, and remembers it for the penalties."""
        return int(self._sample(self._chain, context.handle, output))

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
