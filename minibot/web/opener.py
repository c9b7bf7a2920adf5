"""One urllib opener for the whole program: it keeps connections alive and ends every exchange in time.

Not here: threads and futures (`calls.py`), what a reply means (the channels). The law: a request is repeated only
where the first attempt surely had no effect; once it is written whole, its failure is *unsure*. Nothing that
leaves this file shows a URL or a field: they hold tokens, and http.client's own errors print them.

Imported by the first thread that needs it: ssl and urllib.request take 50 ms to load.
Next: `media.py`, downloads from other people's hosts.
"""

from __future__ import annotations

import http.client
import io
import math
import socket
import ssl
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from threading import Lock
from typing import Any

from minibot.errors import NoAnswer
from minibot.model import Call, Reply

Pin = Callable[[tuple[str, int]], tuple[str, int]]  # (host, port) -> the (address, port) to connect to

IDLE_SECONDS = 30.0  # nginx closes after 75 s, some balancers after 60: stay well below
CONNECT_SECONDS = 5.0  # for each address of a host, then for the TLS handshake: broken IPv6 leaves time for IPv4
CONNECTING, SENDING, WAITING, READING = "connecting", "sending", "waiting for the answer", "reading the answer"


class Exchange(urllib.request.Request):
    """One call on its way: its deadline, and how far it has come. `tunnel`: whom a proxy must connect us to."""

    tunnel, proxied, phase = "", False, CONNECTING

    def __init__(self, call: Call, clock: Callable[[], float], pin: Pin | None) -> None:
        super().__init__(call.url, method=call.method)
        if self.type not in ("http", "https"):
            raise ValueError
        self.call, self.pin, self._clock, self._deadline = call, pin, clock, clock() + call.timeout
        self.carrier: list[socket.socket] = []  # the connection in use; whoever takes it out may end it or keep it

    def set_proxy(self, host: str, type: str) -> None:
        """Called by urllib's ProxyHandler; `host` becomes the proxy."""
        self.tunnel, self.proxied = self.host if self.type == "https" else "", True
        super().set_proxy(host, type)

    def cut(self) -> None:
        """End it from another thread: nobody waits for the reply."""
        self._deadline = -math.inf
        with suppress(IndexError, OSError):
            socket.socket.shutdown(self.carrier.pop(), socket.SHUT_RDWR)  # below TLS: its state is the thread's

    def release(self) -> bool:
        """The reply is here; false: it was cut meanwhile."""
        try:
            return bool(self.carrier.pop())
        except IndexError:
            return False

    def left(self) -> float:
        """Seconds until the deadline. Raises TimeoutError after it."""
        if (left := self._deadline - self._clock()) <= 0:
            raise TimeoutError
        return left


class _Timed(io.RawIOBase):
    """A socket as http.client reads it. *subtle:* a socket's own timeout would start anew with every byte."""

    def __init__(self, sock: socket.socket, exchange: Exchange) -> None:
        self._sock, self._raw, self._exchange = sock, sock.makefile("rb", buffering=0), exchange

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._exchange.left())
        count = self._raw.readinto(buffer)
        if not count and self._exchange.phase != READING:  # http.client would take the end for the end of the head
            raise ConnectionResetError(0, "the connection was closed")
        return count

    def readall(self) -> bytes:
        raise http.client.IncompleteRead(b"")  # http.client would read without end after a chunk of size -1

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Plain(http.client.HTTPConnection):
    """A connection that carries one exchange after the other, each under its own deadline."""

    sock: socket.socket
    idle_since = 0.0

    def __init__(self, exchange: Exchange, **options: Any) -> None:
        super().__init__(exchange.host, timeout=min(CONNECT_SECONDS, exchange.left()), **options)
        self.response_class = lambda sock, **more: (  # type: ignore[assignment]
            http.client.HTTPResponse(_Timed(sock, self._exchange), **more))  # type: ignore[arg-type]
        if (pin := exchange.pin) and not exchange.proxied:
            self._create_connection = lambda address, *more: socket.create_connection(pin(address), *more)
        if exchange.tunnel:
            self.set_tunnel(exchange.tunnel, headers=exchange.headers)

    def write(self, exchange: Exchange) -> None:
        """Connect if need be, then write the whole request."""
        call, self._exchange, self._body, exchange.phase = exchange.call, exchange, b"", CONNECTING
        if not self.sock:
            self.connect()
        exchange.carrier = [self.sock]
        self._body, exchange.phase = call.body, SENDING
        fields = {"User-Agent": "minibot/1", **call.fields, **({} if exchange.tunnel else exchange.headers)}
        if call.body:
            fields["Content-Length"] = str(len(call.body))
        self.request(call.method, exchange.selector, headers=fields)
        exchange.phase = WAITING

    def send(self, data: Any) -> None:
        """http.client's one write: head and body leave together."""
        self.sock.settimeout(self._exchange.left())
        self.sock.sendall(data + self._body)

    def alive(self) -> bool:
        """Whether an idle connection is still silent: a byte or an end that nobody asked for means it is not."""
        try:
            self.sock.setblocking(False)
            socket.socket.recv(self.sock, 1, socket.MSG_PEEK)  # below TLS, whose recv() knows no flags
        except OSError as error:
            return isinstance(error, BlockingIOError)
        return False


class _Secure(_Plain, http.client.HTTPSConnection):
    """The same over TLS."""


class Opener(urllib.request.BaseHandler):
    """Performs calls, keeping idle connections per (scheme, host, tunnel). Safe in many threads at once."""

    # Verifies certificates and names; building it takes 20 ms.
    context = cached_property(lambda self: ssl.create_default_context())

    def __init__(self, clock: Callable[[], float], point: Callable[[str], None]) -> None:
        self._clock, self._point, self._lock = clock, point, Lock()
        self._kept: dict[tuple[str, str, str], list[_Plain]] = {}
        self._director = urllib.request.OpenerDirector()
        self._director.add_handler(urllib.request.ProxyHandler())  # HTTP_PROXY, HTTPS_PROXY, NO_PROXY
        self._director.add_handler(self)

    def perform(self, call: Call, pin: Pin | None = None, begun: Callable[[Exchange], None] = lambda exchange: None
                ) -> Reply:
        """Carry out `call`; every status is a Reply, redirects too. `pin` chooses the address of its host.

        `begun` is told the exchange, which may be cut. Raises NoAnswer, whose text names the call and the phase.
        """
        self._point(f"call:{call.name}:before")
        exchange = None
        try:
            exchange = Exchange(call, self._clock, pin)
            begun(exchange)
            reply: Reply = self._director.open(exchange)
            self._point(f"call:{call.name}:after")
            return reply
        except (OSError, http.client.HTTPException, ValueError) as error:
            words = getattr(error, "strerror", None) or type(error).__name__
        # Raised out here, so that no traceback leads back to an error that shows the URL.
        phase = exchange.phase if exchange else CONNECTING
        raise NoAnswer(f"{call.name}: {words} while {phase}", unsure=phase in (WAITING, READING))

    def http_open(self, exchange: Exchange) -> Reply:
        """Called by the director: over a kept connection if there is one, else, or if that broke, over a new one."""
        key = (exchange.type, exchange.host, exchange.tunnel)
        kept = [] if exchange.pin else self._kept.setdefault(key, [])
        if connection := self._idle(kept):
            try:
                return self._converse(connection, exchange, kept)
            except (OSError, http.client.HTTPException):
                if exchange.phase != SENDING and (exchange.phase != WAITING or exchange.call.method != "GET"):
                    raise
        secure = exchange.type == "https"
        connection = _Secure(exchange, context=self.context) if secure else _Plain(exchange)
        return self._converse(connection, exchange, kept)

    https_open = http_open

    def close(self) -> None:
        """Close the idle connections."""
        for kept in self._kept.values():
            while kept:
                kept.pop().close()

    def _idle(self, kept: list[_Plain]) -> _Plain | None:
        while True:
            with self._lock:
                connection = kept.pop() if kept else None
            if not connection or (self._clock() - connection.idle_since < IDLE_SECONDS and connection.alive()):
                return connection
            connection.close()

    def _converse(self, connection: _Plain, exchange: Exchange, kept: list[_Plain]) -> Reply:
        call, keep = exchange.call, False
        try:
            connection.write(exchange)
            self._point(f"call:{call.name}:written")
            response = connection.getresponse()
            exchange.phase = READING
            body = response.read(call.max_bytes + 1)
            if len(body) > call.max_bytes:
                raise OSError(0, "the answer was too long")
            if response.length:
                raise http.client.IncompleteRead(b"")
            keep = not (response.will_close or response.status < 200 or exchange.pin)
            return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, body)
        finally:
            connection.idle_since = self._clock()
            keep = keep and exchange.release()
            kept.append(connection) if keep else connection.close()
