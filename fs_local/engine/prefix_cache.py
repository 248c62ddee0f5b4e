"""What finished requests leave in the cache for later ones: the unsteered beginnings of their sequences.

Unsteered cells serve every request; steered ones are cut off, and nobody else's. A request begins with the longest beginning that it
shares with what is there, of sequences at work too.

Which cells are taken is a question of bits. A prompt that nothing was generated in yet takes only cells, and only so many, that its
states get the bits of an evaluation from its beginning: so its decisions do not depend on what was asked before. A conversation goes on
behind the answers that it holds, which were evaluated a token at a time, some with others in one decode: there its states are the same
but for the last bits, those of the conversation as it ran. With `Steer.exact` such cells are left, and the answers evaluated anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from fs_local.engine.cells import SINGLE, Cells, kind_of, parts_of
from fs_local.engine.prefill import same_sums_from


class PrefixCache:
    """The idle sequences of an engine, the least recently used first.

    Args:
        free: called with each sequence that is no longer kept, and empty.
    """

    def __init__(self, cells: Cells, free: Callable[[int], None]) -> None:
        self._cells, self._free = cells, free
        self._idle: dict[int, list[int]] = {}

    def __len__(self) -> int:
        return len(self._idle)

    def keep(self, seq: int, tokens: Sequence[int]) -> None:
        """Takes over a sequence that holds these tokens, all of them unsteered; it is not empty."""
        for other, held in list(self._idle.items()):
            if list(tokens[: len(held)]) == held:
                self.drop(other)
        self._idle[seq] = list(tokens)

    def find(
        self,
        tokens: Sequence[int],
        most: int,
        at_work: Iterable[tuple[int, Sequence[int]]],
        *,
        exact: bool = False,
    ) -> tuple[int, int]:
        """The sequence to begin with, and how many of its cells to take; (-1, 0) for none.

        Args:
            most: tokens at most that may be taken.
            at_work: sequences that are not idle, with the tokens of their unsteered cells.
        """
        best = (-1, 0)
        for seq, held in [*self._idle.items(), *at_work]:
            shared = next(
                (i for i, (a, b) in enumerate(zip(held, tokens, strict=False)) if a != b), min(len(held), len(tokens))
            )
            n = self._usable(seq, tokens, min(shared, most, self._cells.length(seq)), exact)
            if n > best[1]:
                best = (seq, n)
        if best[0] in self._idle:
            self._idle[best[0]] = self._idle.pop(best[0])  # used just now
        return best

    def _usable(self, seq: int, tokens: Sequence[int], n: int, exact: bool) -> int:
        kinds, size = self._cells.kinds(seq), self._cells.part_size
        wanted = bytearray().join(
            bytes([kind_of(stop - first)]) * (stop - first) for first, stop in parts_of(len(tokens), size)
        )
        alike = next((i for i in range(n) if kinds[i] != wanted[i]), n)
        if not exact and SINGLE in kinds[alike:n]:  # a conversation goes on
            return n
        return min(alike, same_sums_from(alike, len(tokens), size)) if alike else 0

    def drop(self, seq: int) -> None:
        """Forgets one."""
        del self._idle[seq]
        self._cells.remove(seq)
        self._free(seq)

    def drop_oldest(self) -> bool:
        """Forgets the least recently used one; False if there is none."""
        seq = next(iter(self._idle), None)
        if seq is None:
            return False
        self.drop(seq)
        return True
