"""A real door for tests: `Server` in a thread with its own loop, and a client that speaks raw octets.

Not here: what is promised (`test_server.py`). The law: nothing here sleeps where it can wait for a condition, and a
door that a test opened is stopped, whatever the test did.

Next: `test_server.py`.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from ssl import SSLContext
from typing import NamedTuple, TypeVar

from minibot.model import Request, Response
from minibot.promise import Promise
from minibot.web.routes import Endpoint, Routes
from minibot.web.server import Server
from minibot.web.limits import Limits

T = TypeVar("T")
QUICK = Limits(head_time=0.3, body_time=0.3, body_most=1.0, answer_time=0.3, write_time=0.3, idle=0.3, linger=0.3,
               tick=0.02)
PATIENT = replace(QUICK, head_time=30.0, body_time=30.0, body_most=60.0, answer_time=30.0, write_time=30.0, idle=30.0)


class Answer(NamedTuple):
    """One answer as a client reads it; names lower-case."""

    status: int
    fields: dict[str, str]
    body: bytes


class Client:
    """A socket that sends octets and reads answers. Ten seconds without an octet fail the test."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.rest = b""

    def send(self, octets: bytes) -> Client:
        self.socket.sendall(octets)
        return self

    def no_more(self) -> Client:
        """Close the sending half."""
        self.socket.shutdown(socket.SHUT_WR)
        return self

    def read(self, *, bare: bool = False) -> Answer:
        """The next answer; `bare`: it has no body."""
        while b"\r\n\r\n" not in self.rest:
            octets = self.socket.recv(65536)
            assert octets, f"the connection ended within an answer: {self.rest!r}"
            self.rest += octets
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 "), f"no answer begins like this: {head!r}"
        first, *lines = head.decode("ascii").split("\r\n")
        fields = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        length = 0 if bare else int(fields.get("content-length", 0))
        while len(self.rest) < length:
            octets = self.socket.recv(65536)
            assert octets, "the connection ended within a body"
            self.rest += octets
        body, self.rest = self.rest[:length], self.rest[length:]
        return Answer(int(first.split(" ")[1]), fields, body)

    def read_to_end(self) -> bytes:
        """Everything until the other side closes, orderly or not."""
        try:
            while octets := self.socket.recv(65536):
                self.rest += octets
        except ConnectionResetError:
            pass
        return self.rest

    def is_open(self) -> bool:
        """Nothing has come and the other side has not closed."""
        self.socket.setblocking(False)
        try:
            self.socket.recv(1, socket.MSG_PEEK)
            return False
        except BlockingIOError:
            return True
        except ConnectionResetError:
            return False
        finally:
            self.socket.settimeout(10)

    def close(self) -> None:
        self.socket.close()

    def __del__(self) -> None:  # a test that fails half-way leaves no socket behind
        if hasattr(self, "socket"):
            self.socket.close()


class OpenDoor:
    """A running server. `/` echoes and `seen` lists its requests; `/later` answers when `promised` is kept."""

    def __init__(self, limits: Limits = PATIENT, table: Mapping[tuple[str, str], Endpoint] | None = None,
                 trusted_proxy: str = "", ssl: SSLContext | None = None) -> None:
        self.seen: list[Request] = []
        self.promised: list[Promise[Response]] = []
        self.clients: list[Client] = []
        self.loop = asyncio.new_event_loop()
        self.server = Server(Routes({**self.own_routes(), **(table or {})}), clock=lambda: 784111777.0, limits=limits,
                             trusted_proxy=trusted_proxy)
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.port = self.run(self.server.start("127.0.0.1", 0, ssl))

    def own_routes(self) -> dict[tuple[str, str], Endpoint]:
        def echo(request: Request) -> Response:
            self.seen.append(request)
            return Response(200, request.body)

        def later(request: Request) -> Promise[Response]:
            self.promised.append(Promise())
            return self.promised[-1]
        return {("GET", "/"): echo, ("POST", "/"): echo, ("POST", "/later"): later, ("GET", "/later"): later,
                ("GET", "/healthz"): lambda request: Response(200, b"well")}

    def run(self, work: Coroutine[object, object, T]) -> T:
        """Run a coroutine on the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(20)

    def client(self) -> Client:
        self.clients.append(Client(self.port))
        return self.clients[-1]

    def send(self, octets: bytes) -> Client:
        return self.client().send(octets)

    def on_loop(self, call: Callable[[], T]) -> T:
        """Call something on the server's loop and wait for what it gives."""

        async def there() -> T:
            return call()
        return self.run(there())

    def is_well(self) -> bool:
        """A good request is answered."""
        client = Client(self.port)
        try:
            return client.send(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").read().body == b"well"
        finally:
            client.close()

    def keep(self, number: int, outcome: Response | BaseException) -> None:
        """Complete promise `number`, once it was made."""
        wait_for(lambda: len(self.promised) > number)
        promise = self.promised[number]
        if isinstance(outcome, BaseException):
            self.loop.call_soon_threadsafe(promise.set_exception, outcome)
        else:
            self.loop.call_soon_threadsafe(promise.set_result, outcome)

    def close(self) -> None:
        for client in self.clients:
            client.close()
        if not self.server.draining:
            self.run(self.server.stop(1.0))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()


def wait_for(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Return as soon as the condition holds; fail when it never does."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.005)
