"""An answer on its way from the engine's thread to whoever reads it: a thread, or an event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from queue import Empty, SimpleQueue

from fs_local.engine.decision import Decision
from fs_local.engine.requests import Piece
from fs_local.errors import EngineClosed

_Waiter = tuple[asyncio.AbstractEventLoop, "asyncio.Future[None]"]
_Item = Piece | BaseException | None
"""Some text, what went wrong, or None once the stream is closed."""


class Bell:
    """Wakes event loops that wait for pieces: each loop once for all its streams, since every call takes the interpreter from the engine.

    On the engine's thread alone.
    """

    def __init__(self) -> None:
        self._waiting: dict[asyncio.AbstractEventLoop, list[Mailbox]] = {}

    def add(self, loop: asyncio.AbstractEventLoop, mailbox: Mailbox) -> None:
        """Notes that a loop waits for what a mailbox has got."""
        self._waiting.setdefault(loop, []).append(mailbox)

    def ring(self) -> None:
        """Wakes all that were noted."""
        for loop, mailboxes in self._waiting.items():
            _wake(loop, mailboxes)
        self._waiting.clear()


class Mailbox:
    """What the engine holds of a stream. The engine puts pieces into it, and looks whether they are still wanted.

    Args:
        bell: that the engine rings once it has put what it had.

    Attributes:
        decisions: of the query, once they are known.
        cancelled: whether nobody wants more.
    """

    def __init__(self, bell: Bell) -> None:
        self._bell = bell
        self._queue: SimpleQueue[_Item] = SimpleQueue()
        self._waiter: _Waiter | None = None
        self.decisions: list[Decision] = []
        self.cancelled = False

    def close(self) -> None:
        """Called by the reader: nobody wants more. Whoever waits is woken."""
        self.cancelled = True
        self._queue.put(None)
        if (waiter := self._waiter) is not None:
            _wake(waiter[0], [self])

    def put(self, item: _Item) -> None:
        """Called by the engine: a piece, the last of which has a finish reason, or what went wrong."""
        self._queue.put(item)
        if (waiter := self._waiter) is not None:
            self._bell.add(waiter[0], self)

    def wake(self) -> None:
        """Lets the one who waits look again; on its loop's thread."""
        if (waiter := self._waiter) is not None and not waiter[1].done():
            waiter[1].set_result(None)

    @property
    def is_empty(self) -> bool:
        return self._queue.empty()

    def wait(self) -> _Item:
        return self._queue.get()

    async def wait_async(self) -> _Item:
        while True:
            try:
                return self._queue.get_nowait()
            except Empty:
                loop = asyncio.get_running_loop()
                future: asyncio.Future[None] = loop.create_future()
                self._waiter = (loop, future)
                try:
                    if self._queue.empty():  # else it was put in between
                        await future
                finally:
                    self._waiter = None


def _wake(loop: asyncio.AbstractEventLoop, mailboxes: Sequence[Mailbox]) -> None:
    try:
        loop.call_soon_threadsafe(_wake_all, mailboxes)
    except RuntimeError:  # the event loop was closed
        for mailbox in mailboxes:
            mailbox.cancelled = True


def _wake_all(mailboxes: Sequence[Mailbox]) -> None:
    for mailbox in mailboxes:
        mailbox.wake()


class Stream:
    """The pieces of one answer, in order; an iterator, also an asynchronous one. Made by `Engine.submit`.

    The last piece has a finish reason. What went wrong with this request is raised from the iteration. Whoever stops reading should
    `close` it, by itself or as a context manager; a stream that nobody holds any more is closed too. One that is held and not read is
    generated to its end.
    """

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._process = os.getpid()
        self._ended = False

    @property
    def decisions(self) -> list[Decision]:
        """Of the query, one a pack; empty until they are known. Each piece has them too."""
        return self._mailbox.decisions

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Piece:
        if self._ended:
            raise StopIteration
        self._check_process()
        item = self._mailbox.wait()
        if item is None:
            raise StopIteration
        return self._opened(item)

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Piece:
        if self._ended:
            raise StopAsyncIteration
        self._check_process()
        item = await self._mailbox.wait_async()
        if item is None:
            raise StopAsyncIteration
        return self._opened(item)

    def close(self) -> None:
        """Cancels what is not generated yet; takes effect within one part of a prompt, or one token. The iteration has ended then, for those too who wait
        for a piece, in another thread or task."""
        if not self._ended:
            self._ended = True
            self._mailbox.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def _opened(self, item: Piece | BaseException) -> Piece:
        if isinstance(item, BaseException):
            self._ended = True
            raise item
        if item.finish_reason is not None:
            self._ended = True
        return item

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise EngineClosed("this stream belongs to the process that this one was forked from; load the model here")
