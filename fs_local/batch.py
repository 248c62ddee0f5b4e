"""Many sequences in one llama.cpp batch, each steered by an addition of its own: answers, and scores of given answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np
from scipy.special import log_softmax

from fs_local.capture import Request
from fs_local.runtime.context import F32, Context, LayerStates
from fs_local.runtime.model import Model

MAX_SEQUENCES = 16


@dataclass
class _Rows:
    """Tokens to be evaluated: id, position, sequence, and whether logits are wanted."""

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    sequences: list[int] = field(default_factory=list)
    outputs: list[bool] = field(default_factory=list)

    def append(self, tokens: Sequence[int], start: int, seq: int, outputs_from: int) -> None:
        self.tokens += tokens
        self.positions += range(start, start + len(tokens))
        self.sequences += [seq] * len(tokens)
        self.outputs += [i >= outputs_from for i in range(len(tokens))]


class Batch:
    """A context for up to `MAX_SEQUENCES` sequences at once.

    Args:
        layer: the block after which each sequence's addition is added, to all its positions.
        cells: tokens of all sequences together.
    """

    def __init__(self, model: Model, layer: int, cells: int) -> None:
        self._layer = layer
        self._context = Context(model, n_ctx=cells, n_seq=MAX_SEQUENCES)

    def close(self) -> None:
        self._context.close()

    def __enter__(self) -> Batch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def generate(
        self, prompts: Sequence[list[int]], additions: Sequence[F32] | None, max_tokens: int
    ) -> list[list[int]]:
        """Greedy answers to at most `MAX_SEQUENCES` prompts. additions: float32 (d,) for each prompt; None for none."""
        context = self._context
        context.clear()
        rows = _Rows()
        for seq, prompt in enumerate(prompts):
            rows.append(prompt, 0, seq, outputs_from=len(prompt) - 1)
        answers: list[list[int]] = [[] for _ in prompts]
        running = list(range(len(prompts)))
        for _ in range(max_tokens):
            drawn = {rows.sequences[row]: int(np.argmax(logits)) for row, logits in self._evaluate(rows, additions)}
            rows = _Rows()
            running = [seq for seq in running if not context.model.ends_generation(drawn[seq])]
            for seq in running:
                answers[seq].append(drawn[seq])
                rows.append([drawn[seq]], len(prompts[seq]) + len(answers[seq]) - 1, seq, outputs_from=0)
            if not running:
                break
        return answers

    def score(self, requests: Sequence[Request], additions: Sequence[F32] | None) -> list[list[float]]:
        """Mean log-probability per token (nats) of each answer of each request, steered as its prompt is."""
        context = self._context
        flat = [(i, r.prompt, answer) for i, r in enumerate(requests) for answer in r.answers if answer]
        scores: list[list[float]] = [[] for _ in requests]
        for first in range(0, len(flat), MAX_SEQUENCES):
            group = flat[first : first + MAX_SEQUENCES]
            context.clear()
            rows = _Rows()
            for seq, (_, prompt, answer) in enumerate(group):
                # the token before each of the answer's predicts it; the answer's last predicts nothing that is asked
                rows.append(prompt + answer[:-1], 0, seq, outputs_from=len(prompt) - 1)
            found: list[list[float]] = [[] for _ in group]
            own = None if additions is None else [additions[i] for i, _, _ in group]
            for row, logits in self._evaluate(rows, own):
                seq = rows.sequences[row]
                found[seq].append(float(log_softmax(logits)[group[seq][2][len(found[seq])]]))
            for (i, _, _), values in zip(group, found, strict=True):
                scores[i].append(float(np.mean(values)))
        return scores

    def _evaluate(self, rows: _Rows, additions: Sequence[F32] | None) -> Iterator[tuple[int, F32]]:
        """Evaluates rows, and yields each that has an output with its logits."""
        size = self._context.n_ubatch
        for first in range(0, len(rows.tokens), size):
            part = slice(first, first + size)
            sequences = rows.sequences[part]
            with nullcontext() if additions is None else self._added(np.stack([additions[s] for s in sequences])):
                self._context.decode_batch(
                    rows.tokens[part], rows.positions[part], [(s,) for s in sequences], rows.outputs[part]
                )
            for i, output in enumerate(rows.outputs[part]):
                if output:
                    yield first + i, self._context.logits(i)

    @contextmanager
    def _added(self, additions: F32) -> Iterator[None]:
        def add(states: LayerStates) -> bool:
            states.add(additions)
            return True

        with self._context.hooked([self._layer], add):
            yield
