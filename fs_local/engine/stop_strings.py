"""The text that tokens make, up to a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """Turns the bytes of tokens into text: never half a character, and nothing of a stop string.

    Attributes:
        stopped: whether a stop string has come.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = tuple(stop)
        self._held = ""
        self.stopped = False

    def feed(self, data: bytes) -> str:
        """Text that is certain after these bytes; what may begin a stop string is held back."""
        self._held += self._decoder.decode(data)
        found = [at for s in self._stop if (at := self._held.find(s)) >= 0]
        if found:
            self.stopped = True
            return self._take(min(found), drop_rest=True)
        return self._take(len(self._held) - self._possible_stop())

    def flush(self) -> str:
        """What was held back, when nothing more comes."""
        self._held += self._decoder.decode(b"", final=True)
        return self._take(len(self._held))

    def _possible_stop(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        return max((n for s in self._stop for n in range(1, len(s)) if self._held.endswith(s[:n])), default=0)

    def _take(self, n: int, drop_rest: bool = False) -> str:
        text, self._held = self._held[:n], "" if drop_rest else self._held[n:]
        return text
