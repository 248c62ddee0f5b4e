"""A prompt on its way into the cache: its parts, what is read and decided on the way, and what is added.

    H ← H + λ · g(h_q) · v(h_q)

One pass is enough where every decision is made no later than the first layer that it steers, and all positions that it steers are in
the part where it is made: the states are read on the way, the additions are made on the way. Else the first pass decides, ends at the
last layer that it needs if anything opened, and a second pass evaluates the steered positions again. Both give the same logits, bit
for bit. Of a prompt of several parts, those before the last are evaluated whole only if the gates look closed at the end of the first:
else a second pass is likely, and what is behind the decision would be evaluated for nothing. A wrong guess costs time alone.
Decisions are always of the unsteered model: no pack sees what another one added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fs_local.arrays import F32
from fs_local.engine.cells import Cells, prompt_parts
from fs_local.engine.decision import Decision, added_by_layer, first_steered, steered_from, steers_prompt_alone
from fs_local.engine.packs import Chosen
from fs_local.method.readings import QueryReader, part_of
from fs_local.runtime.context import Context
from fs_local.runtime.layer_states import LayerStates
from fs_local.runtime.node_filter import Additions
from fs_local.runtime.prompt import Prompt


class Prefill:
    """One prompt, evaluated a part at a time.

    Args:
        seq: its sequence, which holds its first `start` tokens, unsteered.
        tokens: the prompt's, and those generated already if the sequence had to make room in between.
        chosen: the packs that decide.
        known: decisions, where they are known; nothing is read then.
        only_decide: ends the graph where everything is decided.

    Attributes:
        decisions: once they are known.
        is_done: whether the logits of the last token are there (or the decisions, where only these are wanted).
        first_steered: the first position that is steered; None for none.
        evaluated: tokens of all passes.
        start: the first position that was evaluated, in any pass.
    """

    def __init__(
        self,
        context: Context,
        cells: Cells,
        seq: int,
        prompt: Prompt,
        tokens: Sequence[int],
        start: int,
        chosen: Chosen,
        known: Sequence[Decision] | None = None,
        only_decide: bool = False,
    ) -> None:
        self._context, self._cells, self._seq = context, cells, seq
        self._prompt, self._tokens, self._chosen = prompt, tokens, chosen
        self._only_decide = only_decide
        self._reads = bool(chosen.packs) and known is None
        self.decisions: list[Decision] = list(known or ())
        self.first_steered = steered_from(self.decisions, prompt)
        self._additions = added_by_layer(self.decisions)
        self.evaluated, self.start = 0, start
        self.is_done = False
        self._wants_second_pass = False
        self._is_decided = not self._reads
        self._ended_early_from: int | None = None  # what was evaluated in part
        self._parts = self._parts_from(start)
        self._first, self._stop = self._parts[0]
        if self._reads:
            n = len(prompt.tokens)
            self._reader = QueryReader(chosen.wanted, n, prompt.user)
            self._layers = sorted(chosen.wanted)
            may_guess = not self._is_in_place and context.model.can_roll_back and not only_decide
            self._looks_open: bool | None = None if may_guess and len(self._parts) > 1 else False  # None: not known yet

    @property
    def is_decided(self) -> bool:
        """Whether all there is to decide is decided."""
        return self._is_decided

    @property
    def whole_until(self) -> int:
        """Up to where the sequence's cells are evaluated through all blocks."""
        length = self._cells.length(self._seq)
        return length if self._ended_early_from is None else min(length, self._ended_early_from)

    @property
    def next_rows(self) -> int:
        """How many tokens the next part has."""
        first, stop = self._parts[0]
        return stop - first

    def step(self) -> None:
        """Evaluates the next part.

        Raises:
            FitError: a state that is not finite.
            ContextFullError: the cells are used up; everything is as before the step.
        """
        self._first, self._stop = self._parts[0]
        tokens, output = self._tokens[self._first : self._stop], self._in_last and not self._only_decide
        self._context.add_to_rows({} if self._reads else self._runs())
        if self._reads:
            with self._context.hooked(self._layers, self._read_and_add):
                self._evaluate(tokens, output or self._in_last)
        else:
            self._evaluate(tokens, output)
        del self._parts[0]
        if not self._parts:
            if self._wants_second_pass:
                self._begin_second_pass()
            else:
                self.is_done = True

    def _evaluate(self, tokens: Sequence[int], output: bool) -> None:
        try:
            self._cells.part(self._seq, tokens, self._first, output)
        finally:
            self._context.add_to_rows({})
        self.evaluated += len(tokens)

    @property
    def _in_last(self) -> bool:
        return self._stop == len(self._tokens)

    @property
    def _is_in_place(self) -> bool:
        """Whether all positions that an open gate would steer are in the last part."""
        return first_steered(self._chosen.scope, self._prompt) >= self._parts[-1][0]

    def _parts_from(self, start: int) -> list[tuple[int, int]]:
        parts = prompt_parts(len(self._tokens), self._context.n_ubatch)
        return [(max(first, start), stop) for first, stop in parts if stop > start]

    def _begin_second_pass(self) -> None:
        """Evaluates again what is steered, and what was evaluated only in part, with the additions that are known now."""
        self._wants_second_pass = self._reads = False
        again = [at for at in (self.first_steered, self._ended_early_from) if at is not None]
        start = self._cells.cut(self._seq, min(again), len(self._tokens))
        self.start = min(self.start, start)
        self._parts = self._parts_from(start)

    def _runs(self) -> Additions:
        """What the rows of this part get."""
        if self.first_steered is None or self.first_steered >= self._stop:
            return {}
        first = max(self.first_steered - self._first, 0)
        stop, in_last = self._stop, self._in_last
        if steers_prompt_alone(self.decisions) and stop > (n := len(self._prompt.tokens)):
            stop, in_last = n, False  # tokens that were generated before the sequence had to make room
        if stop <= self._first + first:
            return {}
        return rows_of(self._additions, first, stop - self._first - first, self._context.model.n_layer, in_last)

    # --- in the middle of a decode

    def _read_and_add(self, states: LayerStates) -> bool:
        self._read(states)
        at_end = states.layer == self._chosen.decides_at
        if not self._in_last:
            return self._guess(at_end)
        if not at_end:
            return True
        self.decisions, self._is_decided = self._chosen.decide(self._reader), True
        if self._only_decide:
            self._end_early()
            return False
        self._additions = added_by_layer(self.decisions)
        self.first_steered = steered_from(self.decisions, self._prompt)
        too_late = self.first_steered is not None and (
            self.first_steered < self._first or min(self._additions) < states.layer
        )
        if too_late or self._ended_early_from is not None:
            self._wants_second_pass = True
            self._end_early()
            return False
        if self.first_steered is not None:
            self._context.add_to_rows(self._runs())
        return True

    def _guess(self, at_end: bool) -> bool:
        """Whether to evaluate a part before the last beyond the last layer that decides: not if it would be steered, and the prompt would
        open a gate if it ended with the first part."""
        if not at_end:
            return True
        if self._only_decide:
            self._end_early()
            return False
        if self._looks_open is None:
            self._looks_open = any(d.is_open for d in self._chosen.decide(self._first_part))
        if not self._looks_open or self._stop <= first_steered(self._chosen.scope, self._prompt):
            return True
        self._end_early()
        return False

    def _end_early(self) -> None:
        if self._ended_early_from is None:
            self._ended_early_from = self._first

    def _read(self, states: LayerStates) -> None:
        self._take(self._reader, states)
        if self._looks_open is None and states.n_rows == 0:
            self._looks_open = False  # the last block, which has nothing of this part
        if self._looks_open is None:
            if states.layer == self._layers[0]:
                n = self._stop
                self._first_part = QueryReader(self._chosen.wanted, n, part_of(self._prompt.user, n))
            self._take(self._first_part, states)

    def _take(self, reader: QueryReader, states: LayerStates) -> None:
        count = self._stop - self._first
        rows = reader.rows(states.layer, self._first, count)
        if rows.start < rows.stop:
            # the last block has only the rows with outputs: the prompt's last token
            at = states.n_rows - 1 if states.n_rows < count else rows.start
            reader.take(states.layer, states.read(at, rows.stop - rows.start), self._first + rows.start)


def rows_of(
    additions: Mapping[int, F32], first: int, count: int, n_layer: int, output_of_last: bool
) -> dict[int, list[tuple[int, int, F32]]]:
    """Additions to the last `count` rows of a part, which begin at row `first`. The last block has only the row with an output."""
    runs = {layer: [(first, count, vector)] for layer, vector in additions.items() if layer != n_layer - 1}
    if n_layer - 1 in additions and output_of_last:
        runs[n_layer - 1] = [(0, 1, additions[n_layer - 1])]
    return runs
