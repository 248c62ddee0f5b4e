"""The cells of the KV cache: who holds which, and where llama.cpp puts the next ones.

All sequences share one pool of cells. llama.cpp's attention on CPUs takes them in tiles of 64, so the last bits of a prompt's states
depend on where in the pool its tokens stand: they are those of an empty pool if the tokens of each part lie side by side, begin at a
multiple of 64, and come after the cells of the parts before. A part that begins elsewhere, behind a beginning that was copied, must
stand directly behind it, and that at a multiple of 64. llama.cpp does not say where it puts a token, but its search for free
cells is simple; it is followed here step by step, and cells that would come in between are occupied while a part is evaluated.
Were the search another one, nothing but these bits would suffer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fs_local.errors import ContextFullError, ModelError
from fs_local.runtime.context import Context
from fs_local.runtime.sequence_state import SavedState, restore, saved

TILE = 64
"""Rows from which on llama.cpp's attention works in tiles, and cells in one of these. Below, it takes cells one after the other."""
ROWS = 4
"""Rows that matrix products take together: where a prompt is taken up in between, each must come in the same place among them."""
TILED, PLAIN, SINGLE, ANYWHERE = b"tp1a"  # small numbers, kept in a bytearray a sequence
"""How a cell was evaluated: in a part of 64 rows or more, or of fewer, with the bits of an empty pool; alone or in one decode with other
sequences; or in a part that stood where there was room, so that its last bits are its own."""


def cell_kind(n_rows: int) -> int:
    """How cells of a prompt's part are evaluated."""
    return TILED if n_rows >= TILE else PLAIN if n_rows > 1 else SINGLE


def prompt_parts(n_tokens: int, size: int) -> list[tuple[int, int]]:
    """The parts in which a prompt is evaluated: (first, stop) each, at multiples of `size`; a last token is never left alone, since a
    single row is summed in an order that depends on the cells of others."""
    edges = list(range(0, n_tokens, size))
    if len(edges) > 1 and n_tokens - edges[-1] == 1 and size >= 2 * TILE:
        edges[-1] -= TILE
    return list(zip(edges, [*edges[1:], n_tokens], strict=True))


def same_sums_from(start: int, n_tokens: int, size: int, step: int = TILE) -> int:
    """The last place up to `start` from where a prompt can be evaluated with the bits that it has from its beginning: the rest of a
    part that is evaluated in tiles must fill one too, and begin at a multiple of `step`; of one that is not, it must have two rows.

    Args:
        step: `TILE`, or `ROWS` where the tokens before stand directly before it, in cells of its own.
    """
    first, stop = next((f, s) for f, s in prompt_parts(n_tokens, size) if start < s)
    if stop - first < TILE:
        return max(first, min(start, stop - 2))
    return max(first, min(start, stop - TILE) // step * step)


OWN_SEQUENCES = 2
"""That cells need besides those of requests."""


@dataclass(frozen=True)
class PutAway:
    """A sequence that stands in no cells for now: its states, and how each of its cells was evaluated."""

    states: list[SavedState]
    kinds: bytes


class Cells:
    """The cells of one context, and all that changes them.

    Args:
        context: nobody else's; its last two sequences are for these cells' own use.

    Attributes:
        used: how many are held.
    """

    def __init__(self, context: Context) -> None:
        self._context, self._filler, self._spare = context, context.n_seq - OWN_SEQUENCES, context.n_seq - 1
        self._holders: NDArray[np.int32] = np.zeros(context.n_ctx, dtype=np.int32)
        self._head = 0
        self.used = 0
        self._of: dict[int, list[int]] = {}
        self._kinds: dict[int, bytearray] = {}

    @property
    def part_size(self) -> int:
        """Most tokens in one part of a prompt."""
        return self._context.n_ubatch

    @property
    def free(self) -> int:
        return len(self._holders) - self.used

    def kinds(self, seq: int) -> bytearray:
        """How each cell of a sequence was evaluated, in the order of positions."""
        return self._kinds.setdefault(seq, bytearray())

    def length(self, seq: int) -> int:
        return len(self._of.get(seq, ()))

    def begins_at(self, seq: int) -> int:
        """The first cell of a sequence; 0 where it has none."""
        return min(self._of.get(seq, ()), default=0)

    # --- evaluate

    def part(self, seq: int, tokens: Sequence[int], start: int, output: bool) -> None:
        """Evaluates a part of a prompt. Raises as `Context.decode`; the cells are then as before."""
        cells = self._find(len(tokens))
        kind = cell_kind(len(tokens)) if self._is_aligned(cells, seq) else ANYWHERE
        self._place([seq] * len(cells), cells, kind)
        try:
            self._context.decode(tokens, start=start, seq=seq, output=output)
        except BaseException:
            self._forget(seq, start)
            raise

    def step(self, tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[int]) -> None:
        """Evaluates the next token of each of some sequences. Raises as `Context.decode_each`; the cells are then as before.

        A lone sequence's token comes behind its others, if there is room: so it is summed as in an empty pool.
        """
        if len(tokens) == 1:
            self._place_one(sequences[0])
        else:
            self._place(sequences, self._find(len(tokens)), SINGLE)
        try:
            self._context.decode_each(tokens, positions, sequences)
        except BaseException:
            for seq, position in zip(sequences, positions, strict=True):
                self._forget(seq, position)
            raise

    def batch(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        sequences: Sequence[int],
        outputs: Sequence[bool],
    ) -> None:
        """Evaluates any tokens, each in its sequence. Raises as `Context.decode_batch`; the cells are then as before."""
        cells = self._find(len(tokens))
        self._place(sequences, cells, SINGLE)
        try:
            self._context.decode_batch(tokens, positions, [(s,) for s in sequences], outputs)
        except BaseException:
            for seq in set(sequences):
                self._forget(seq, min(p for p, s in zip(positions, sequences, strict=True) if s == seq))
            raise

    # --- change

    def remove(self, seq: int, start: int = 0) -> bool:
        """Cuts a sequence; False where this model's memory can't be cut there, and the whole sequence was removed."""
        cut = self._context.remove(seq, start)
        self._forget(seq, start if cut else 0)
        return cut

    def cut(self, seq: int, at: int, n_tokens: int) -> int:
        """Cuts a sequence at `at`, or as little before as keeps the bits of its prompt, of `n_tokens`; where that is."""
        cells = self._of[seq]
        is_own = cells[0] % TILE == 0 and self._is_side_by_side(seq) and bool((self._holders[cells] == 1).all())
        start = same_sums_from(at, n_tokens, self.part_size, ROWS if is_own else TILE)
        return start if self.remove(seq, start) else 0  # a recurrent state can't be rolled back

    def share(self, source: int, target: int, n: int) -> None:
        """Lets an empty sequence begin with the first `n` cells of another."""
        self._context.copy(source, target, n)
        cells = self._of[target] = self._of[source][:n]
        self._kinds[target] = self._kinds[source][:n]
        self._holders[cells] += 1

    def copy_of(self, seq: int, n: int) -> PutAway | None:
        """The first `n` tokens of a sequence, to be put back for another one; None if they don't stand in the order of their positions."""
        cells = self._of[seq][:n]
        if cells != sorted(cells):  # bytes are saved in the order of cells
            return None
        return PutAway(saved(self._context, seq, n, self._spare), bytes(self._kinds[seq][:n]))

    def put_away(self, seq: int) -> PutAway:
        """Takes a sequence out of the cells; of one that does not stand in the order of its positions, what does."""
        cells = self._of[seq]
        self.remove(seq, next((i for i in range(1, len(cells)) if cells[i] < cells[i - 1]), len(cells)))
        found = self.copy_of(seq, self.length(seq))
        assert found is not None
        self.remove(seq)
        return found

    def put_back(self, seq: int, away: PutAway, behind: int = 0) -> bool:
        """Gives an empty sequence what was put away, side by side from a tile's beginning, with `behind` free cells behind it; False where
        there is no such room."""
        n = len(away.kinds)
        if n + behind > self.free:
            return False
        for saved_state in away.states:
            count = saved_state.stop - saved_state.start
            if not self.aligned(seq, count, n - saved_state.stop + behind):
                self.remove(seq)
                return False
            cells = self._find(count)
            try:
                restore(self._context, seq, saved_state, self._spare)
            except ModelError:
                self.settle()
                self.remove(seq)
                return False
            self._place([seq] * count, cells, SINGLE)
        self._kinds[seq] = bytearray(away.kinds)
        self.settle()
        return True

    def held_by(self, sequences: Iterable[int]) -> int:
        """How many cells some sequences hold together."""
        return len(set().union(*(self._of.get(seq, ()) for seq in sequences)))

    def clear(self, zero: bool = False) -> None:
        """Empties everything. zero: the numbers in the cells too."""
        self._context.clear(zero)
        self._holders[:] = 0
        self._head = self.used = 0
        self._of, self._kinds = {}, {}

    # --- where tokens go

    def aligned(self, seq: int, n_rows: int, behind: int = 0) -> bool:
        """Makes the next part of a prompt stand where it gets the bits that it would get in an empty pool.

        False where there is no such room. `settle` ends it.

        Args:
            behind: free cells that must come behind it; the part then stands at a tile's beginning, however short it is.
        """
        target = self._target(n_rows, seq, behind)
        if target is None:
            return False
        while not self._is_aligned(self._search(n_rows), seq, behind):
            found = self._fill_up_to(target, n_rows)
            if not found:
                self.settle()
                return False
        return True

    def _after(self, seq: int) -> int:
        """The cell behind all of a sequence."""
        return max(self._of.get(seq, ()), default=-1) + 1

    def _place_one(self, seq: int) -> None:
        """The next token of a lone sequence, without numpy's price where all is as usual."""
        head, own = self._head, self._of[seq]
        if own[-1] < head < len(self._holders) and head <= self.used + 2 and not self._holders[head]:
            self._holders[head] = 1
            self.used += 1
            self._head = head + 1
            own.append(head)
            self._kinds[seq].append(SINGLE)
            return
        self._go_behind(seq)
        self._place([seq], self._find(1), SINGLE)

    def _go_behind(self, seq: int) -> None:
        after = self._of[seq][-1] + 1
        while (cells := self._search(1)) is not None and cells[0] < after < len(self._holders):
            if not self._fill_up_to(after, 1):
                return

    def settle(self) -> None:
        """Frees the cells that were occupied to put others where they should be."""
        if self.length(self._filler):
            self.remove(self._filler)

    def _is_aligned(self, cells: NDArray[np.intp] | None, seq: int, behind: int = 0) -> bool:
        after = self._after(seq)
        if cells is None or cells[0] < after:
            return False
        if len(cells) < TILE and not behind:
            return bool((np.diff(cells) > 0).all())
        if cells[-1] - cells[0] != len(cells) - 1:
            return False
        if behind and self._free_in(int(cells[-1]) + 1, int(cells[-1]) + 1 + behind) < behind:
            return False
        if begun := self.length(seq) % TILE:
            return bool(cells[0] == after and after % TILE == begun and self._is_side_by_side(seq))
        return bool(cells[0] % TILE == 0)

    def _is_side_by_side(self, seq: int) -> bool:
        cells = self._of[seq]
        return cells[-1] - cells[0] == len(cells) - 1 and cells == sorted(cells)

    def _target(self, n_rows: int, seq: int, behind: int) -> int | None:
        """Where a part can stand: the first place from the head on, or the first of all; behind a tile that was begun, directly."""
        after, n = self._after(seq), n_rows + behind
        is_begun = n >= TILE and self.length(seq) % TILE
        first, stop = -(-after // TILE) * TILE, len(self._holders) - n + 1
        begins = np.arange(after, min(after + 1, stop)) if is_begun else np.arange(first, stop, TILE)
        taken = np.concatenate([[0], np.cumsum(self._holders > 0)])
        begins = begins[taken[begins + n] == taken[begins]]
        if not len(begins):
            return None
        ahead = begins[begins >= self._start(n_rows)]
        return int(ahead[0] if len(ahead) else begins[0])

    def _fill_up_to(self, target: int, n_rows: int) -> bool:
        """Occupies cells that llama.cpp would take before `target`; False if there are none that can be."""
        start, size = self._start(n_rows), len(self._holders)
        between = (
            self._free_in(start, target) if start <= target else self._free_in(start, size) + self._free_in(0, target)
        )
        n = min(between, self._context.n_ubatch)
        while n:
            cells = self._find(n)
            if not ((cells >= target) & (cells < target + n_rows)).any():
                self._place([self._filler] * n, cells, SINGLE)
                self._context.occupy(n, start=self.length(self._filler) - n, seq=self._filler)
                return True
            n //= 2  # a shorter search begins elsewhere
        return False

    def _free_in(self, start: int, stop: int) -> int:
        return int(np.count_nonzero(self._holders[start:stop] == 0))

    def _start(self, n_rows: int) -> int:
        """Where llama.cpp begins its search: at its head, or anew if enough seems to be free before it."""
        return 0 if self._head > self.used + 2 * n_rows or self._head >= len(self._holders) else self._head

    def _search(self, n_rows: int) -> NDArray[np.intp] | None:
        """The cells that llama.cpp would take: the free ones from there on, and then those before; None where there are too few."""
        start = self._start(n_rows)
        near = self._holders[start : start + n_rows]
        if len(near) == n_rows and not near.any():
            return np.arange(start, start + n_rows)
        cells = np.flatnonzero(self._holders[start:] == 0)[:n_rows] + start
        if len(cells) < n_rows:
            cells = np.concatenate([cells, np.flatnonzero(self._holders[:start] == 0)[: n_rows - len(cells)]])
        return cells if len(cells) == n_rows else None

    def _find(self, n_rows: int) -> NDArray[np.intp]:
        cells = self._search(n_rows)
        if cells is None:
            raise ContextFullError(
                f"the context of {self._context.n_ctx} tokens is full; shorten the text or raise --ctx"
            )
        return cells

    def _place(self, sequences: Sequence[int], cells: NDArray[np.intp], kind: int) -> None:
        self._holders[cells] = 1  # they were free
        self.used += len(cells)
        self._head = int(cells[-1]) + 1
        for seq, cell in zip(sequences, cells.tolist(), strict=True):
            self._of.setdefault(seq, []).append(cell)
            self.kinds(seq).append(kind)

    def _forget(self, seq: int, start: int) -> None:
        cells = self._of.get(seq, [])[start:]
        if cells:
            self._holders[cells] -= 1
            freed = [c for c in cells if self._holders[c] == 0]
            self.used -= len(freed)
            self._head = min([self._head, *freed])
            del self._of[seq][start:], self._kinds[seq][start:]
