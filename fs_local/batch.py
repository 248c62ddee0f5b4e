"""Many sequences in one llama.cpp batch, each steered by additions of its own: answers, and scores of given answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np

from fs_local.capture import Request
from fs_local.errors import DataError
from fs_local.runtime.context import F32, MICRO_BATCH, Context, Hook, LayerStates
from fs_local.runtime.model import Model

Additions = Mapping[int, F32]
"""What a sequence is steered by: layer -> float32 (d,); empty for nothing."""
MAX_SEQUENCES = 16
_SCORED_SEQUENCES = 64


@dataclass
class _Rows:
    """Tokens to be evaluated: id, position, sequences, whether logits are wanted, and which request's additions they get (-1: none)."""

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    sequences: list[tuple[int, ...]] = field(default_factory=list)
    outputs: list[bool] = field(default_factory=list)
    steered_by: list[int] = field(default_factory=list)

    def append(
        self,
        tokens: Sequence[int],
        start: int,
        sequences: tuple[int, ...],
        outputs_from: int,
        request: int,
        steered_from: int = 0,
    ) -> None:
        self.tokens += tokens
        self.positions += range(start, start + len(tokens))
        self.sequences += [sequences] * len(tokens)
        self.outputs += [i >= outputs_from for i in range(len(tokens))]
        self.steered_by += [request if i >= steered_from else -1 for i in range(len(tokens))]


class Batch:
    """A context for many sequences at once.

    Args:
        cells: tokens of all sequences that are in it together.
        prompt_too: whether additions go to every position, or only from the last token of the prompt on.
    """

    def __init__(self, model: Model, cells: int, prompt_too: bool = True, n_threads: int | None = None) -> None:
        self._context = Context(model, n_ctx=max(cells, MICRO_BATCH), n_seq=_SCORED_SEQUENCES, n_threads=n_threads)
        self._prompt_too = prompt_too

    @classmethod
    def for_requests(
        cls,
        model: Model,
        requests: Sequence[Request],
        max_tokens: int = 0,
        prompt_too: bool = True,
        n_threads: int | None = None,
    ) -> Batch:
        """A batch that has room for `MAX_SEQUENCES` of these at once, with answers of up to `max_tokens`; `check_lengths` comes before."""
        sizes = sorted(max(min(len(r.prompt) + max_tokens, model.n_ctx_train), _cells(r)) for r in requests)
        return cls(model, sum(sizes[-MAX_SEQUENCES:]) + 1, prompt_too, n_threads)

    def close(self) -> None:
        self._context.close()

    def __enter__(self) -> Batch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def generate(
        self, prompts: Sequence[list[int]], additions: Sequence[Additions] | None, max_tokens: int, scored: bool = True
    ) -> list[tuple[list[int], list[float]]]:
        """Greedy answers to at most `MAX_SEQUENCES` prompts: their tokens, and the log-probability (nats) each was drawn with.

        An answer also ends where the model's context does.

        Args:
            additions: one for each prompt; None for none.
            scored: False to leave out the log-probabilities: they take a pass over the whole vocabulary a token.
        """
        context = self._context
        context.clear()
        rows = _Rows()
        for seq, prompt in enumerate(prompts):
            rows.append(prompt, 0, (seq,), len(prompt) - 1, seq, self._steered_from(prompt))
        answers: list[tuple[list[int], list[float]]] = [([], []) for _ in prompts]
        running = list(range(len(prompts)))
        for _ in range(max_tokens):
            drawn = {}
            for row, logits in self._evaluate(rows, additions):
                token = int(np.argmax(logits))
                drawn[rows.steered_by[row]] = token, log_probability(logits, token) if scored else 0.0
            rows = _Rows()
            running = [
                seq
                for seq in running
                if not context.model.ends_generation(drawn[seq][0])
                and len(prompts[seq]) + len(answers[seq][0]) < context.model.n_ctx_train
            ]
            for seq in running:
                (token, value), (tokens, values) = drawn[seq], answers[seq]
                tokens.append(token)
                values.append(value)
                rows.append([token], len(prompts[seq]) + len(tokens) - 1, (seq,), 0, seq)
            if not running:
                break
        return answers

    def score(self, requests: Sequence[Request], additions: Sequence[Additions] | None) -> list[list[F32]]:
        """Log-probability (nats) of each token of each answer of each request, steered as its prompt is."""
        scores = [[np.empty(len(a), dtype=np.float32) for a in r.answers] for r in requests]
        for i, j, at, logits in self.logits(requests, additions):
            scores[i][j][at] = log_probability(logits, requests[i].answers[j][at])
        return scores

    def logits(
        self, requests: Sequence[Request], additions: Sequence[Additions] | None
    ) -> Iterator[tuple[int, int, int, F32]]:
        """Yields (request, answer, position in the answer, the logits that predict its token there), float32 (n_vocab,).

        The answers of a request are sequences that share the cells of its prompt.
        """
        context = self._context
        for group in self._groups(requests):
            context.clear()
            rows, wanted = _Rows(), dict[int, list[tuple[int, int, int]]]()
            seq = 0
            for i in group:
                r = requests[i]
                own = tuple(range(seq, seq + len(r.answers)))
                seq += len(own)
                rows.append(r.prompt, 0, own, len(r.prompt) - 1, i, self._steered_from(r.prompt))
                # the token before each of the answer's predicts it: for the first that is the prompt's last, for all answers
                wanted[len(rows.tokens) - 1] = [(i, j, 0) for j, a in enumerate(r.answers) if a]
                for j, (s, answer) in enumerate(zip(own, r.answers, strict=True)):
                    first = len(rows.tokens)
                    rows.append(answer[:-1], len(r.prompt), (s,), 0, i)
                    wanted.update({first + k: [(i, j, k + 1)] for k in range(len(answer) - 1)})
            for row, logits in self._evaluate(rows, additions):
                for i, j, at in wanted[row]:
                    yield i, j, at, logits

    def _groups(self, requests: Sequence[Request]) -> Iterator[list[int]]:
        group: list[int] = []
        sequences = cells = 0
        for i, r in enumerate(requests):
            if not r.answers:
                continue
            if group and (sequences + len(r.answers) > _SCORED_SEQUENCES or cells + _cells(r) > self._context.n_ctx):
                yield group
                group, sequences, cells = [], 0, 0
            group.append(i)
            sequences, cells = sequences + len(r.answers), cells + _cells(r)
        if group:
            yield group

    def _steered_from(self, prompt: list[int]) -> int:
        return 0 if self._prompt_too else len(prompt) - 1

    def _evaluate(self, rows: _Rows, additions: Sequence[Additions] | None) -> Iterator[tuple[int, F32]]:
        """Evaluates rows, and yields each that has an output with its logits."""
        size = self._context.n_ubatch
        layers = sorted({layer for a in additions for layer in a}) if additions is not None else []
        for first in range(0, len(rows.tokens), size):
            part = slice(first, first + size)
            with self._context.hooked(layers, _adder(rows, part, additions or ())) if layers else nullcontext():
                self._context.decode_batch(
                    rows.tokens[part], rows.positions[part], rows.sequences[part], rows.outputs[part]
                )
            for i, output in enumerate(rows.outputs[part]):
                if output:
                    yield first + i, self._context.logits(i)


def check_lengths(model: Model, requests: Sequence[Request]) -> None:
    """Refuses what can't be evaluated, before anything long begins.

    Raises:
        DataError: a request that is longer than the model's context, or has too many answers; by its row, from 1.
    """
    for row, r in enumerate(requests, start=1):
        longest = len(r.prompt) + max((len(a) for a in r.answers), default=0)
        if longest > model.n_ctx_train:
            raise DataError(
                f"row {row} has {longest} tokens, more than the model's context of {model.n_ctx_train}; shorten it"
            )
        if len(r.answers) > _SCORED_SEQUENCES:
            raise DataError(
                f"row {row} has {len(r.answers)} answers; at most {_SCORED_SEQUENCES} can be scored together"
            )


def log_probability(logits: F32, token: int) -> float:
    """Log-probability of a token, nats. logits: float32, (n_vocab,)."""
    top = logits.max()
    return float(logits[token] - top - np.log(np.exp(logits - top).sum()))


def _adder(rows: _Rows, part: slice, additions: Sequence[Additions]) -> Hook:
    """A hook that adds to each row what its request is steered by."""
    steered_by, outputs = rows.steered_by[part], rows.outputs[part]

    def add(states: LayerStates) -> bool:
        of = steered_by
        if states.n_rows < len(steered_by):  # the last block has only the rows with outputs
            of = [i for i, output in zip(steered_by, outputs, strict=True) if output]
        own = [(row, additions[i][states.layer]) for row, i in enumerate(of) if i >= 0 and states.layer in additions[i]]
        if own:
            states_then = states.read()
            states_then[[row for row, _ in own]] += np.stack([vector for _, vector in own])
            states.write(states_then)
        return True

    return add


def _cells(r: Request) -> int:
    return len(r.prompt) + sum(len(a) for a in r.answers)
