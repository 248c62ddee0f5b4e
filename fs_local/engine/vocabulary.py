"""What tokens say, looked up once."""

from __future__ import annotations

from fs_local.runtime.model import Model


class Vocabulary:
    """Bytes of tokens, and which of them end an answer."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._bytes: dict[int, bytes | None] = {}

    def spoken(self, token: int) -> bytes | None:
        """The UTF-8 bytes of a token, possibly a part of a character; None for one that ends the answer."""
        try:
            return self._bytes[token]
        except KeyError:
            model = self._model
            found = self._bytes[token] = None if model.ends_generation(token) else model.piece(token)
            return found

    def bytes_of(self, token: int) -> bytes:
        """The same, with what the token is written as where it ends the answer."""
        spoken = self.spoken(token)
        return self._model.piece(token, special=True) if spoken is None else spoken
