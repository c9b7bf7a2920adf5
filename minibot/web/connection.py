"""One connection: what asyncio received goes into the parser, answers go out in order, and everything has a deadline.

Not here: the grammar (`wire.py`), listening and stopping (`server.py`). The laws: one request at a time; nothing is
parsed while an answer is owed or the peer does not read; after a last answer input is thrown away for a while, for
closing with input unread makes the kernel take the answer back.

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
from itertools import islice

from minibot.errors import MinibotError, Refused, StoreDown
from minibot.model import Request, Response
from minibot.promise import Promise
from minibot.web.limits import Limits
from minibot.web.routes import Routes, Stream
from minibot.web.wire import CONTINUE, HEAD, Heads, Parser, render

log = logging.getLogger("minibot.web")
LINGERING, READY, SENDING, BUSY, STREAMING = range(5)  # SENDING is what `standing` says of some that are READY


class Door:
    """What all connections share. `connections` is in order of last use, the longest unused first."""

    def __init__(self, routes: Routes, limits: Limits, trusted_proxy: str) -> None:
        self.loop: asyncio.AbstractEventLoop  # from `Server.start` on
        self.routes, self.limits, self.trusted_proxy = routes, limits, trusted_proxy
        self.heads: Heads = {}
        self.most, self.held, self.date, self.draining, self.quiet_until = limits.connections, 0, "", False, 0.0
        self.connections: OrderedDict[Connection, None] = OrderedDict()

    def complain(self, text: str) -> None:
        """A line of log, at most one a second: whoever makes us fail does not fill the disk."""
        if self.loop.time() >= self.quiet_until:
            self.quiet_until = self.loop.time() + 1.0
            log.warning(text)

    def make_room(self) -> bool:
        """Of those longest unused close one that has its last answer, else an idle one, else one still sending."""
        victim = min(islice(self.connections, 64), key=Connection.standing, default=None)
        if victim is None or victim.standing() > SENDING:
            return False
        del self.connections[victim]
        victim.transport.abort()
        return True

    def hold(self, connection: Connection, held: int) -> None:
        """Account for the octets a connection keeps in memory. Over the sum, the largest unfinished request goes."""
        self.held += held - connection.held
        connection.held = held
        if self.held > self.limits.bodies:
            largest = max(self.connections, key=lambda one: (one.state == READY) * one.held)
            if largest.state == READY:
                largest.give_up(StoreDown("too much in memory"))


class Connection(asyncio.Protocol):
    """The protocol of one accepted socket."""

    def __init__(self, door: Door) -> None:
        self.transport: asyncio.Transport  # from `connection_made` on
        self.door, self.limits, self.loop, self.state = door, door.limits, door.loop, READY
        self.parser = Parser(door.limits, door.routes.find, door.heads)
        self.in_body: bool | None = False  # None between requests; the first head is due from the start
        self.since, self.deadline = self.loop.time(), self.loop.time() + self.limits.head_time
        self.served = self.held = self.discarded = 0
        self.clogged = self.paused = self.ended = False  # peer does not read, we do not, peer sends no more
        self.owed: Promise[Response] | None = None
        self.on_end: Callable[[], None] = lambda: None  # of a stream

    def standing(self) -> int:
        """The state, where READY means between requests. Who is lower goes first when it gets crowded."""
        return SENDING if self.state == READY and self.parser.begun else self.state

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self.peer = self.parser.peer = (transport.get_extra_info("peername") or "?")[0]
        if len(self.door.connections) >= self.door.most:
            self.door.make_room()
        self.door.connections[self] = None

    def data_received(self, data: bytes) -> None:
        if self.state != LINGERING:
            self.parser.feed(data)
            return self.advance()
        self.discarded += len(data)
        if self.discarded > self.limits.discarded:
            self.transport.abort()

    def eof_received(self) -> bool:
        self.ended = True
        self.advance()
        return self.state != LINGERING and self.transport.can_write_eof()  # true: our half stays open (TLS cannot)

    def pause_writing(self) -> None:
        self.clogged, self.deadline = True, self.loop.time() + self.limits.write_time

    def resume_writing(self) -> None:
        seconds = {LINGERING: self.limits.linger, READY: self.limits.idle, BUSY: self.limits.answer_time}
        self.clogged, self.deadline = False, self.loop.time() + seconds.get(self.state, math.inf)
        self.advance()

    def connection_lost(self, error: Exception | None) -> None:
        self.state, self.owed = LINGERING, None
        self.parser.clear()
        self.door.connections.pop(self, None)
        self.door.hold(self, 0)
        self.on_end()

    def advance(self) -> None:
        """Answer what is complete, in order, until an answer is owed, the peer does not read, or others want a turn."""
        while self.state == READY and not self.clogged:
            try:
                request = self.parser.next()
                if request is None:
                    self.await_input()
                    break
                self.serve(request)
            except Refused as refused:
                self.answer(self.failure(refused))
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
            return self.give_up(Refused(400, "cut short")) if parser.begun else self.linger()
        if parser.begun:
            if self.in_body is not (parser.stage != HEAD):
                self.in_body, self.since = parser.stage != HEAD, self.loop.time()
            body_time = min(limits.body_most, limits.body_time + parser.held / limits.body_rate)
            self.deadline = self.since + (body_time if self.in_body else limits.head_time)

    def expire(self) -> None:
        """The deadline has passed."""
        if self.state == BUSY:
            self.give_up(StoreDown(f"no answer in {self.limits.answer_time:g} s"))
        elif self.standing() == SENDING and not self.clogged:
            self.give_up(Refused(408, "too slow"))
        else:
            self.transport.abort()

    def give_up(self, error: MinibotError) -> None:
        """Answer a request that will not come to its end."""
        self.parser.persist = False
        self.answer(self.failure(error))

    def serve(self, request: Request) -> None:
        """Call the endpoint."""
        if request.peer == self.door.trusted_proxy:
            last_hop = b",".join(request.all(b"x-forwarded-for")).rpartition(b",")[2].decode("latin-1").strip()
            request = request._replace(peer=last_hop or request.peer)
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

    def answered(self, promise: Promise[Response]) -> None:
        """The promise of `serve` is kept or broken, perhaps too late."""
        if promise is self.owed:
            self.answer(self.failure(error) if (error := promise.exception()) else promise.result())
            self.advance()

    def failure(self, error: BaseException) -> Response:
        """What an error means to the peer. Only errors of our own may show their text in the log."""
        if isinstance(error, Refused):
            log.debug("refused: %s", error.reason)
            return Response(error.status, fields=error.fields)
        where = "".join(f" in {frame.name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[-1:])
        text = f": {error}" if isinstance(error, MinibotError) else ""
        self.door.complain(f"{self.parser.path}: {type(error).__name__}{where}{text}")
        return Response(503, fields=(("Retry-After", "5"),)) if isinstance(error, StoreDown) else Response(500)

    def answer(self, response: Response) -> None:
        """Send an answer; then the next request may come, or that was the last."""
        parser, door = self.parser, self.door
        self.served += 1
        persist = parser.persist and self.served < self.limits.requests and not door.draining
        log.debug("%s %s %.200s %d", self.peer, parser.method, parser.path, response.status)
        self.state, self.owed, self.in_body, self.deadline = READY, None, None, self.loop.time() + self.limits.idle
        connection = "close" if not persist else "keep-alive" if parser.old else ""
        self.write(render(response, door.date, connection, bare=parser.method == "HEAD"))
        if not persist:
            return self.linger()
        door.connections.move_to_end(self)
        if self.served % self.limits.pipelined == 0 and not self.clogged:  # now the others: as if the peer did not read
            self.clogged = True
            self.loop.call_soon(self.resume_writing)

    def write(self, octets: bytes) -> None:
        """subtle: asyncio logs a warning for each write to a connection that is lost already, a flood."""
        if not self.transport.is_closing():
            self.transport.write(octets)

    def linger(self) -> None:
        """That was the last answer: close our half, and wait for the peer to close its own."""
        self.parser.clear()
        wait = self.limits.write_time if self.transport.get_write_buffer_size() else self.limits.linger
        self.state, self.deadline = LINGERING, self.loop.time() + wait
        if not self.transport.is_closing():
            with suppress(OSError, NotImplementedError):  # the peer has reset the connection; TLS knows no half
                (self.transport.close if self.ended else self.transport.write_eof)()
        self.settle()

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
