"""One connection: what asyncio received goes into the parser, answers go out in order, and everything has a deadline.

Not here: the grammar (`wire.py`), listening and stopping (`server.py`). The laws: one request at a time; nothing is
parsed while an answer is owed or the peer does not read; after a last answer what comes is thrown away for a while,
for closing with input unread makes the kernel take the answer back. An endpoint runs on the loop, without a task.

Next: `server.py`, the door that all connections share.
"""

from __future__ import annotations

import asyncio
import logging
import math
import traceback
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress

from minibot.errors import MinibotError, Refused, StoreDown
from minibot.logs import Seldom
from minibot.model import Request, Response
from minibot.web.routes import Routes, Stream
from minibot.web.wire import CONTINUE, HEAD, Limits, Parser, render

log = logging.getLogger("minibot.web")
READY, BUSY, STREAMING, LINGERING = range(4)
PIPELINED = 16  # requests of one connection before others have their turn
LATER = (("Retry-After", "5"),)  # seconds


class Door:
    """What all connections share. `connections` is in order of last use, the longest unused first."""

    loop: asyncio.AbstractEventLoop

    def __init__(self, routes: Routes, limits: Limits, trusted_proxy: str) -> None:
        self.routes, self.limits, self.trusted_proxy = routes, limits, trusted_proxy
        self.most, self.held, self.date, self.draining, self.seldom = limits.connections, 0, "", False, Seldom()
        self.connections: OrderedDict[Connection, None] = OrderedDict()

    def make_room(self) -> bool:
        """Close the connection idle longest; if none is idle, the one that has been sending longest. Was there one?"""
        sending = (one for one in self.connections if one.state == READY)
        victim = next((one for one in self.connections if one.is_idle()), None) or next(sending, None)
        if victim:
            victim.end()
        return victim is not None

    def hold(self, connection: Connection, held: int) -> None:
        """Account for the octets a connection keeps in memory. Over the sum, the largest unfinished request goes."""
        self.held += held - connection.held
        connection.held = held
        if self.held > self.limits.bodies:
            largest = max(self.connections, key=lambda one: (one.state == READY) * one.held)
            if largest.state == READY:
                largest.give_up(503, LATER)


class Connection(asyncio.Protocol):
    """The protocol of one accepted socket."""

    transport: asyncio.Transport

    def __init__(self, door: Door) -> None:
        self.door, self.limits, self.loop, self.state = door, door.limits, door.loop, READY
        self.parser = Parser(door.limits, door.routes.find)
        self.since = self.loop.time()
        self.deadline = self.since + self.limits.head_time
        self.in_body: bool | None = False  # None between requests; the first head is due from the start
        self.served = self.held = self.discarded = 0
        self.clogged = self.paused = self.ended = False  # peer does not read, we do not, peer sends no more
        self.owed: asyncio.Future[Response] | None = None
        self.on_end: Callable[[], None] | None = None  # of a stream

    def is_idle(self) -> bool:
        """Between requests."""
        return self.state == READY and not self.parser.begun

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.peer = self.parser.peer = (transport.get_extra_info("peername") or "?")[0]
        if len(self.door.connections) >= self.door.most:
            self.door.make_room()
        self.door.connections[self] = None

    def data_received(self, data: bytes) -> None:
        if self.state < LINGERING:
            self.parser.feed(data)
            return self.advance()
        self.discarded += len(data)
        if self.discarded > self.limits.discarded:
            self.end()

    def eof_received(self) -> bool:
        self.ended = True
        self.advance()
        return self.state < LINGERING and self.transport.can_write_eof()  # true: our half stays open (TLS cannot)

    def pause_writing(self) -> None:
        self.clogged, self.deadline = True, self.loop.time() + self.limits.write_time

    def resume_writing(self) -> None:
        self.clogged, seconds = False, {READY: self.limits.idle, LINGERING: self.limits.linger}
        self.deadline = self.loop.time() + seconds.get(self.state, math.inf)
        self.advance()

    def connection_lost(self, error: Exception | None) -> None:
        self.state, self.owed = LINGERING, None
        self.door.connections.pop(self, None)
        self.door.hold(self, 0)
        if self.on_end:
            self.on_end()

    def advance(self) -> None:
        """Answer what is complete, in order, until an answer is owed, the peer does not read, or others want a turn."""
        while self.state == READY and not self.clogged:
            try:
                request = self.parser.next()
            except Refused as refused:
                log.debug("refused: %s", refused.reason)
                self.answer(Response(refused.status, fields=refused.fields))
                continue
            if request is None:
                self.await_input()
                break
            self.serve(request)
        self.settle()

    def settle(self) -> None:
        """Account for the memory; read no more while input piles up that nobody may parse yet."""
        held = self.parser.held
        if held != self.held:
            self.door.hold(self, held)
        crowded = held > self.limits.unparsed and (self.clogged or self.state in (BUSY, STREAMING))
        if crowded != self.paused:
            self.paused = crowded
            (self.transport.pause_reading if crowded else self.transport.resume_reading)()

    def await_input(self) -> None:
        """More must come, and by when: a total from the first octet, which a trickle does not push back."""
        parser, limits = self.parser, self.limits
        if parser.expecting:
            parser.expecting = False
            self.write(CONTINUE)
        if self.ended or (self.door.draining and not parser.begun):
            return self.give_up(400) if parser.begun else self.linger()
        if parser.begun:
            if self.in_body is not (parser.stage != HEAD):
                self.in_body, self.since = parser.stage != HEAD, self.loop.time()
            body_time = min(limits.body_most, limits.body_time + parser.held / limits.body_rate)
            self.deadline = self.since + (body_time if self.in_body else limits.head_time)

    def expire(self) -> None:
        """The deadline has passed."""
        if self.state == BUSY:
            self.owed, self.parser.persist = None, False
            self.answer(self.failure(StoreDown(f"no answer in {self.limits.answer_time:g} s")))
        elif self.state == READY and self.parser.begun and not self.clogged:
            self.give_up(408)
        else:
            self.end()

    def give_up(self, status: int, fields: tuple[tuple[str, str], ...] = ()) -> None:
        """Answer a request that did not come to its end."""
        self.parser.persist = False
        self.answer(Response(status, fields=fields))

    def serve(self, request: Request) -> None:
        """Call the endpoint."""
        if request.peer == self.door.trusted_proxy:
            hops = b",".join(request.all(b"x-forwarded-for")).rsplit(b",", 1)
            request = request._replace(peer=hops[-1].decode("latin-1").strip())
        self.peer = request.peer
        try:
            outcome = self.door.routes.find(request.method, request.path)(request)
        except Exception as error:  # whatever an endpoint raises, its peer gets an answer and the others go on
            outcome = self.failure(error)
        if isinstance(outcome, Response):
            self.answer(outcome)
        elif isinstance(outcome, Stream):
            self.open_stream(outcome)
        else:
            self.state, self.owed, self.deadline = BUSY, outcome, self.loop.time() + self.limits.answer_time
            outcome.add_done_callback(self.answered)

    def answered(self, future: asyncio.Future[Response]) -> None:
        """The future of `serve` is done, perhaps too late."""
        error = asyncio.CancelledError() if future.cancelled() else future.exception()
        if future is self.owed:
            self.owed = None
            self.answer(self.failure(error) if error else future.result())
            self.advance()

    def failure(self, error: BaseException) -> Response:
        """What an endpoint's error means to the peer. Only errors of our own may show their text in the log."""
        if isinstance(error, Refused):
            return Response(error.status, fields=error.fields)
        where = "".join(f" in {frame.name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[-1:])
        text = type(error).__name__ + where + (f": {error}" if isinstance(error, MinibotError) else "")
        self.door.seldom.warning(log, self.parser.path, f"{self.parser.path}: {text}")  # one line a minute and path
        return Response(503, fields=LATER) if isinstance(error, StoreDown) else Response(500)

    def answer(self, response: Response) -> None:
        """Send an answer; then the next request may come, or that was the last."""
        parser, door = self.parser, self.door
        self.served += 1
        persist = parser.persist and self.served < self.limits.requests and not door.draining
        log.debug("%s %s %.200s %d", self.peer, parser.method, parser.path, response.status)
        self.state, self.in_body, self.deadline = READY, None, self.loop.time() + self.limits.idle
        connection = "close" if not persist else "keep-alive" if parser.old else ""
        self.write(render(response, door.date, connection, bare=parser.method == "HEAD"))
        if not persist:
            return self.linger()
        door.connections.move_to_end(self)
        if self.served % PIPELINED == 0:
            self.state = BUSY
            self.loop.call_soon(self.take_turn)

    def take_turn(self) -> None:
        """Go on after the others had theirs."""
        if self.state == BUSY:
            self.state = READY
            self.advance()

    def write(self, octets: bytes) -> None:
        """subtle: asyncio logs a warning for each write to a connection that is lost already, a flood."""
        if not self.transport.is_closing():
            self.transport.write(octets)

    def linger(self) -> None:
        """That was the last answer: close our half, and wait for the peer to close its own."""
        self.state, self.parser = LINGERING, Parser(self.limits, self.door.routes.find)
        unsent = self.transport.get_write_buffer_size()
        self.deadline = self.loop.time() + (self.limits.write_time if unsent else self.limits.linger)
        if self.ended and not self.transport.is_closing():
            self.transport.close()
        elif self.transport.can_write_eof() and not self.transport.is_closing():
            with suppress(OSError):  # the peer has reset the connection already
                self.transport.write_eof()
        self.settle()

    def end(self) -> None:
        """Close at once; what is unsent or unread is lost."""
        self.state = LINGERING
        self.transport.abort()

    def open_stream(self, stream: Stream) -> None:
        """The head of an answer that goes on. Nothing can follow it on this connection."""
        self.parser.persist = False
        if self.parser.method == "HEAD":
            return self.answer(stream.response)
        self.write(render(stream.response, self.door.date, "close", open=True))
        self.state, self.deadline = STREAMING, math.inf
        self.on_end = stream.begin(self.push)

    def push(self, octets: bytes) -> bool:
        """`Stream`'s write: nothing while the peer does not read, so that nothing piles up."""
        if self.state != STREAMING or self.clogged:
            return False
        self.write(octets) if octets else self.linger()
        return True
