"""Given answers behind one prompt: the log-probability of each of their tokens, side by side in few decodes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fs_local.arrays import F32
from fs_local.engine.cells import Cells
from fs_local.engine.logits import log_probability
from fs_local.engine.prefill import rows_of
from fs_local.runtime.context import Context


class Scoring:
    """The answers to one request, each in a sequence of its own that begins with the prompt's cells; a decode at a time.

    Args:
        seq: the sequence that holds the prompt, whose last token was evaluated just now.
        sequences: lends up to so many sequences that are not in use, at least one.

    Attributes:
        scores, logits: as in `Piece`.
    """

    def __init__(
        self,
        context: Context,
        cells: Cells,
        seq: int,
        answers: tuple[tuple[int, ...], ...],
        additions: dict[int, F32],
        keep_logits: bool,
    ) -> None:
        self._context, self._cells, self._seq = context, cells, seq
        self._answers, self._additions = answers, additions
        n_vocab = context.model.n_vocab
        self.scores = tuple(np.empty(len(a), dtype=np.float32) for a in answers)
        self.logits = tuple(np.empty((len(a), n_vocab), dtype=np.float32) for a in answers) if keep_logits else ()
        self._left = [j for j, a in enumerate(answers) if len(a) > 1]
        first = context.logits()  # it predicts the first token of every answer
        for j, answer in enumerate(answers):
            if answer:
                self._note(j, 0, first)

    @property
    def is_done(self) -> bool:
        return not self._left

    def step(self, lend: Callable[[int], list[int]], give_back: Callable[[int], None]) -> None:
        """Evaluates as many answers as find room in one decode; a longer one by itself, in several.

        Args:
            lend: gives up to so many sequences, at least one; give_back takes them again, empty.
        """
        size, start = self._context.n_ubatch, self._cells.length(self._seq)
        group, rows = [self._left[0]], len(self._answers[self._left[0]]) - 1
        for j in self._left[1:]:
            more = len(self._answers[j]) - 1
            if rows + more > size:
                break
            group.append(j)
            rows += more
        own = lend(len(group))
        group = group[: len(own)]
        try:
            tokens: list[int] = []
            positions: list[int] = []
            sequences: list[int] = []
            predicted: list[tuple[int, int]] = []
            for j, seq in zip(group, own, strict=True):
                self._cells.share(self._seq, seq, start)
                n = len(self._answers[j]) - 1
                tokens += self._answers[j][:-1]
                positions += range(start, start + n)
                sequences += [seq] * n
                predicted += [(j, k + 1) for k in range(n)]
            for first in range(0, len(tokens), size):
                part = slice(first, first + size)
                count = len(tokens[part])
                runs = rows_of(self._additions, 0, count, self._context.model.n_layer, False)
                last = self._context.model.n_layer - 1
                if last in self._additions:  # all rows have outputs
                    runs[last] = [(0, count, self._additions[last])]
                self._context.add_to_rows(runs)
                self._cells.batch(tokens[part], positions[part], sequences[part], [True] * count)
                for i, (j, k) in enumerate(predicted[part]):
                    self._note(j, k, self._context.logits_in_place(i))
        finally:
            self._context.add_to_rows({})
            for seq in own:
                give_back(seq)
        self._left = [j for j in self._left if j not in group]

    def _note(self, j: int, k: int, logits: F32) -> None:
        self.scores[j][k] = log_probability(logits, self._answers[j][k])
        if self.logits:
            self.logits[j][k] = logits
