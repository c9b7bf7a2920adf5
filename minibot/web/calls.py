"""The door for outgoing HTTP: a `Call` goes to a thread and comes back as a `Reply`; the event loop never waits.

Not here: the connections (`opener.py`), downloads (`media.py`), what a reply means (the channels). The law: each
upstream has threads of its own, so that one that hangs starves nobody; every call ends in a Reply or in NoAnswer,
within its own time. The threads are daemons: a hanging call must not hold up the end of the process.

Next: `opener.py`.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

from minibot.errors import MinibotError, NoAnswer
from minibot.model import Call, Reply
from minibot.web import media

if TYPE_CHECKING:
    from minibot.web.opener import Exchange, Opener

MODEL_THREADS = 128  # an answer takes seconds, and so many conversations are worked at once


class _Pool:
    """The threads of one upstream, begun one by one as they are needed. Used from the event loop's thread only."""

    def __init__(self, limit: int) -> None:
        self.limit, self.threads, self.busy = limit, 0, 0
        self.jobs: SimpleQueue[tuple[asyncio.Future[Any], Callable[[], Any]] | None] = SimpleQueue()

    def submit(self, work: Callable[[], Any]) -> asyncio.Future[Any]:
        """`work` is called in a thread, as soon as one is free and unless the future was cancelled before."""
        future = asyncio.get_running_loop().create_future()
        self.jobs.put((future, work))
        self.busy += 1
        if self.threads < min(self.busy, self.limit):
            self.threads += 1
            Thread(target=self._work, daemon=True).start()
        return future

    def _work(self) -> None:
        while job := self.jobs.get():
            future, result = job[0], None
            try:
                result = None if future.cancelled() else job[1]()
            except MinibotError as error:
                result = error
            except Exception as error:  # a fault of ours must not leave a conversation waiting for ever
                result = NoAnswer(f"an outgoing call broke: {type(error).__name__}", unsure=True)
            with suppress(RuntimeError):  # the loop has ended
                future.get_loop().call_soon_threadsafe(self._finish, future, result)
            del job, future, result

    def _finish(self, future: asyncio.Future[Any], result: Any) -> None:
        self.busy -= 1
        if not future.cancelled():
            future.set_exception(result) if isinstance(result, MinibotError) else future.set_result(result)


class Caller:
    """Performs calls. `clock` counts seconds; `point` is told "call:<name>:before", ":written" and ":after"."""

    def __init__(self, *, clock: Callable[[], float], threads: int = 24,
                 point: Callable[[str], None] = lambda name: None) -> None:
        self._clock, self._point = clock, point
        self._pools: defaultdict[str, _Pool] = defaultdict(lambda: _Pool(threads), model=_Pool(MODEL_THREADS))

    @cached_property
    def _opener(self) -> Opener:
        from minibot.web.opener import Opener  # ssl and urllib.request: not before the server listens

        return Opener(self._clock, self._point)

    async def perform(self, call: Call, pool: str) -> Reply:
        """Carry out `call` in a thread of `pool`. Any status is a Reply. Raises NoAnswer."""
        begun: list[Exchange] = []
        try:
            reply: Reply = await self._pools[pool].submit(lambda: self._opener.perform(call, begun=begun.append))
            return reply
        except asyncio.CancelledError:
            for exchange in begun if call.cut else ():
                exchange.cut()
            raise

    async def download(self, call: Call, hosts: tuple[str, ...], origins: tuple[str, ...], limit: int,
                       resolve: media.Resolve = media.addresses) -> bytes:
        """The bytes behind `call`, at most `limit`, under the policy of `media.py`. Raises NoAnswer, SendFailed."""
        content: bytes = await self._pools["media"].submit(
            lambda: media.fetch(self._opener.perform, self._clock, call, hosts, origins, limit, resolve))
        return content

    def warm(self) -> None:
        """Build what the first call over TLS needs; takes some 50 ms, so call it in a thread."""
        self._opener.context

    def trust(self, certificate: str) -> None:
        """Take this certificate (a file) for good, beside those of the authorities. Raises OSError."""
        self._opener.context.load_verify_locations(certificate)

    def close(self) -> None:
        """End the threads and the idle connections; calls under way end by themselves."""
        for pool in self._pools.values():
            for _ in range(pool.threads):
                pool.jobs.put(None)
        if self._pools:
            self._opener.close()
