"""Answers as they come from the engine: read to their end, or several side by side; cancelled when nobody listens any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.requests import Request as HttpRequest

from fs_local.errors import ContextFullError, EngineClosed, FsLocalError
from fs_local.server.errors import ApiError, of_library
from fs_local.server.hang_up import hung_up
from fs_local.server.shape import Piece, Stream

T = TypeVar("T")


@dataclass
class Answer:
    """An answer so far.

    Attributes:
        last: the last piece, with the counts and times of all.
    """

    parts: list[str] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    last: Piece | None = None

    def add(self, piece: Piece) -> None:
        self.parts.append(piece.text)
        self.logprobs += piece.logprobs or ()
        self.last = piece

    @property
    def text(self) -> str:
        return "".join(self.parts)

    @property
    def end(self) -> Piece:
        """The last piece."""
        assert self.last is not None
        return self.last


async def whole(streams: Sequence[Stream]) -> list[Answer]:
    """All answers, to their ends, which are evaluated side by side.

    Raises:
        ApiError: 503, the server is stopping; 400, the context is too small; 500, the engine failed.
    """
    answers = [Answer() for _ in streams]
    for answer, stream in zip(answers, streams, strict=True):
        async for piece in _one(stream):
            answer.add(piece)
    return answers


async def pieces(streams: Sequence[Stream]) -> AsyncIterator[tuple[int, Piece]]:
    """Pieces of all answers, each with its answer's index, in the order in which they come.

    Raises:
        ApiError: as `whole`.
    """
    if len(streams) == 1:
        async for piece in _one(streams[0]):
            yield 0, piece
        return
    queue: asyncio.Queue[tuple[int, Piece | ApiError | None]] = asyncio.Queue()

    async def read(index: int) -> None:
        try:
            async for piece in _one(streams[index]):
                queue.put_nowait((index, piece))
            queue.put_nowait((index, None))
        except ApiError as error:
            queue.put_nowait((index, error))

    readers = [asyncio.create_task(read(i)) for i in range(len(streams))]
    try:
        left = len(readers)
        while left:
            index, found = await queue.get()
            if found is None:
                left -= 1
            elif isinstance(found, ApiError):
                raise found
            else:
                yield index, found
    finally:
        for reader in readers:
            reader.cancel()


async def _one(stream: Stream) -> AsyncIterator[Piece]:
    try:
        async for piece in stream:
            yield piece
    except EngineClosed as error:
        raise ApiError(503, "the server is shutting down, and ended this answer", code="cancelled") from error
    except ContextFullError as error:
        raise of_library(error) from error
    except FsLocalError as error:
        raise ApiError(500, str(error), code="answer_failed") from error


async def unless_gone(http: HttpRequest, work: Coroutine[Any, Any, T]) -> T:
    """Does the work, and gives it up when the client hangs up.

    Raises:
        ApiError: 499, which nobody reads.
    """
    working, listening = asyncio.ensure_future(work), asyncio.ensure_future(hung_up(http.receive))
    try:
        await asyncio.wait({working, listening}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ApiError(499, "the client is gone")
        return working.result()
    finally:
        working.cancel()
        listening.cancel()
        await asyncio.gather(working, listening, return_exceptions=True)
