"""A result that comes later, told at once: what the door waits with instead of an `asyncio.Future`.

Not here: cancelling, several listeners, threads. The law: it is made, kept and heard on the event loop's thread; the
one listener is called inside `set_result`, without another turn of the loop (a Future's way costs four times as
much, twice for each webhook). The names are those of `asyncio.Future`.

Next: `web/routes.py`, whose endpoints may return one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator, Sequence
from typing import Any, Generic, TypeVar

log = logging.getLogger("minibot.store")
T = TypeVar("T")


class Promise(Generic[T]):
    """Kept once with `set_result` or `set_exception`; may be awaited."""

    __slots__ = ("_done", "_result", "_error", "_listener")

    def __init__(self) -> None:
        self._done = False
        self._result: T
        self._error: BaseException | None = None
        self._listener: Callable[[Promise[T]], None] | None = None

    def done(self) -> bool:
        """Has it been kept?"""
        return self._done

    def result(self) -> T:
        """The result, or raises what `set_exception` was given."""
        if self._error is not None:
            raise self._error
        return self._result

    def exception(self) -> BaseException | None:
        """What went wrong, or None."""
        return self._error

    def set_result(self, result: T) -> None:
        """Keep it, and tell the listener."""
        self._result = result
        self._tell()

    def set_exception(self, error: BaseException) -> None:
        """Keep it with a fault, and tell the listener."""
        self._error = error
        self._tell()

    def add_done_callback(self, listener: Callable[[Promise[T]], None]) -> None:
        """Call `listener` with this promise as soon as it is kept: now, if it is."""
        self._listener = listener
        if self._done:
            listener(self)

    def _tell(self) -> None:
        self._done = True
        if self._listener is not None:
            self._listener(self)

    def __await__(self) -> Generator[Any, None, T]:
        if not self._done:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.add_done_callback(lambda _: None if future.done() else future.set_result(None))
            yield from future
        return self.result()


def keep(pairs: Sequence[tuple[Promise[Any], Any]]) -> None:
    """Keep each with its result, or with its fault."""
    for promise, result in pairs:
        try:
            promise.set_exception(result) if isinstance(result, Exception) else promise.set_result(result)
        except Exception:  # a listener's fault must not silence those who wait beside it
            log.exception("a listener of the store failed")
