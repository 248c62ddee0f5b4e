"""What finished requests leave for later ones: the unsteered beginnings of their sequences.

Unsteered cells serve every request; steered ones are cut off, and nobody else's. A request begins with the longest beginning that it
shares with what is there, of sequences at work too.

Which cells are taken is a question of bits. A prompt that nothing was generated in yet takes only cells, and only so many, that its
states get the bits of an evaluation from its beginning: so its decisions do not depend on what was asked before. A conversation goes on
behind the answers that it holds, which were evaluated a token at a time, some with others in one decode: there its states are the same
but for the last bits, those of the conversation as it ran. `Steer.exact` takes nothing.

A beginning is shared up to a multiple of 64 tokens. A short one, such as a template's own system prompt, is copied instead where that
gives more: the tokens behind it then stand directly behind it, as in an empty pool, and it may end at any multiple of four.

Attention looks at idle cells too, and every token pays for them: so but for a few, what no request is at work with is put away in
ordinary memory when another one begins, and put back, bit for bit, for the request that goes on with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from fs_local.engine.cells import ROWS, SINGLE, TILE, Cells, PutAway, cell_kind, prompt_parts, same_sums_from

LEAST_SAVED = 64
"""Tokens that putting a long sequence back must save, since all of it is copied. A sequence of fewer is not worth being put away."""
LEAST_COPIED = 8
"""Tokens more than can be shared that a short copy must give."""
MOST_COPIED = 256
"""Tokens of a short copy. Longer beginnings are shared where they stand: copies take cells."""
MOST_IDLE = 64
"""Cells that may stand idle while a request is at work."""


class PrefixCache:
    """The idle sequences of an engine, the least recently used first, and those that were put away.

    Args:
        free: called with each sequence that is no longer in the cells, and empty.
        most_away: tokens of all that is put away; beyond, the oldest are forgotten.
    """

    def __init__(self, cells: Cells, free: Callable[[int], None], most_away: int) -> None:
        self._cells, self._free, self._most_away = cells, free, most_away
        self._idle: dict[int, list[int]] = {}
        self._away: list[tuple[list[int], PutAway]] = []

    def __len__(self) -> int:
        return len(self._idle) + len(self._away)

    def keep(self, seq: int, tokens: Sequence[int]) -> None:
        """Takes over a sequence that holds these tokens, all of them unsteered; it is not empty."""
        for other, held in list(self._idle.items()):
            if list(tokens[: len(held)]) == held:
                self._drop(other)
        self._away = [(held, away) for held, away in self._away if list(tokens[: len(held)]) != held]
        self._idle[seq] = list(tokens)

    def begin(self, seq: int, tokens: Sequence[int], most: int, at_work: Sequence[tuple[int, Sequence[int]]]) -> int:
        """Lets an empty sequence begin with what it shares with others; how many tokens that is. Puts idle sequences away.

        Args:
            most: tokens at most that may be taken.
            at_work: sequences that are not idle, with the tokens of their unsteered cells.
        """
        source, n = self._longest(tokens, most, at_work)
        taken, longer = self._to_put_back(tokens, most, at_work, n)
        if taken is None and n:
            self._cells.share(source, seq, n)
        busy = [seq, *(s for s, _ in at_work)]
        while self._cells.used - self._cells.held_by(busy) > MOST_IDLE and self.put_oldest_away():
            pass
        if taken is None:
            return n
        if self._put_back(seq, tokens, longer, taken):
            return longer
        source, n = self._longest(tokens, most, at_work)  # some may have been put away
        if n:
            self._cells.share(source, seq, n)
        return n

    def put_oldest_away(self) -> bool:
        """Makes room in the cells: puts the least recently used sequence away; False if there is none."""
        seq = next(iter(self._idle), None)
        if seq is None:
            return False
        if self._cells.length(seq) >= LEAST_SAVED:
            away = self._cells.put_away(seq)
            self._away.append((self._idle[seq][: len(away.kinds)], away))
            while sum(len(held) for held, _ in self._away) > self._most_away:
                del self._away[0]
        self._drop(seq)
        return True

    def forget(self) -> None:
        """Forgets all."""
        for seq in list(self._idle):
            self._drop(seq)
        self._away.clear()

    def _to_put_back(
        self, tokens: Sequence[int], most: int, at_work: Iterable[tuple[int, Sequence[int]]], n: int
    ) -> tuple[PutAway | None, int]:
        """What to put back because it gives enough more than the `n` tokens that can be shared, and how many: of what was put away, else a
        copy of a short beginning."""
        away = [self._usable(a.kinds, tokens, min(_shared(held, tokens), most), ROWS) for held, a in self._away]
        source, longer = self._longest(tokens, min(most, MOST_COPIED), at_work, ROWS)
        best = max(range(len(away)), key=lambda i: (away[i], -len(self._away[i][0])), default=-1)
        if best >= 0:
            held, found = self._away[best]
            least = LEAST_COPIED if len(held) <= MOST_COPIED else LEAST_SAVED
            if away[best] >= max(n, longer) + least:
                return found, away[best]
        if longer >= n + LEAST_COPIED:
            return self._cells.copy_of(source, longer), longer
        return None, 0

    def _behind(self, tokens: Sequence[int], n: int) -> int:
        """How many tokens are evaluated in one part behind the first `n`."""
        return next(stop for _, stop in prompt_parts(len(tokens), self._cells.part_size) if stop > n) - n

    def _longest(
        self, tokens: Sequence[int], most: int, at_work: Iterable[tuple[int, Sequence[int]]], step: int = TILE
    ) -> tuple[int, int]:
        """The sequence in the cells to begin with, and how many of its cells to take; (-1, 0) for none. step: as in `same_sums_from`."""
        best = (-1, 0)
        for seq, held in [*self._idle.items(), *at_work]:
            n = self._usable(
                self._cells.kinds(seq), tokens, min(_shared(held, tokens), most, self._cells.length(seq)), step
            )
            if n > best[1]:
                best = (seq, n)
        if best[0] in self._idle:
            self._idle[best[0]] = self._idle.pop(best[0])  # used just now
        return best

    def _put_back(self, seq: int, tokens: Sequence[int], n: int, away: PutAway) -> bool:
        """Its first `n` tokens, with room for what comes behind them."""
        length = len(away.kinds)
        behind = max(0, n + self._behind(tokens, n) - length)
        while self._cells.free < length + behind and self.put_oldest_away():
            pass
        if not self._cells.put_back(seq, away, behind):
            return False
        self._cells.remove(seq, n)
        return True

    def _usable(self, kinds: Sequence[int], tokens: Sequence[int], n: int, step: int = TILE) -> int:
        size = self._cells.part_size
        wanted = bytearray().join(
            bytes([cell_kind(stop - first)]) * (stop - first) for first, stop in prompt_parts(len(tokens), size)
        )
        alike = next((i for i in range(n) if kinds[i] != wanted[i]), n)
        if SINGLE in kinds[alike:n]:  # a conversation goes on
            return n
        return min(alike, same_sums_from(alike, len(tokens), size, step)) if alike else 0

    def _drop(self, seq: int) -> None:
        del self._idle[seq]
        self._cells.remove(seq)
        self._free(seq)


def _shared(held: Sequence[int], tokens: Sequence[int]) -> int:
    """How many tokens two sequences begin with alike."""
    return next((i for i, (a, b) in enumerate(zip(held, tokens, strict=False)) if a != b), min(len(held), len(tokens)))
