"""The listening socket: accepting, deadlines, the date, and stopping without cutting anybody short.

Not here: what happens on a connection (`connection.py`). The laws: the connection idle longest goes before a new one
is refused; running out of descriptors neither spins nor floods the log, which is why the accept loop is our own
(asyncio's logs and re-arms once per waiting connection); the clock of the Date field is handed in. It needs a
selector event loop, also on Windows: `asyncio.SelectorEventLoop`.

Next: `calls.py`, HTTP in the other direction.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from minibot.errors import SettingsFault
from minibot.web.connection import READY, STREAMING, Connection, Door
from minibot.web.routes import Routes
from minibot.web.limits import Limits

if TYPE_CHECKING:
    from ssl import SSLContext

ACCEPTED_AT_ONCE = 16  # then the connections already open have their turn; fewer than `most` ever is


class Server(Door):
    """`start` it, `stop` it, once. `clock` gives seconds since 1970; `trusted_proxy` is the one address whose
    X-Forwarded-For is believed, for the log alone."""

    def __init__(self, routes: Routes, *, clock: Callable[[], float], limits: Limits = Limits(),
                 trusted_proxy: str = "") -> None:
        super().__init__(routes, limits, trusted_proxy)
        self.clock = clock
        self.arriving: dict[asyncio.Task[object], None] = {}  # with TLS: in their handshake

    async def start(self, host: str, port: int, ssl: SSLContext | None = None) -> int:
        """Listen; gives the real port, which differs for port 0. Raises OSError."""
        self.loop, self.ssl = asyncio.get_running_loop(), ssl
        descriptors = raise_descriptor_limit(self.limits.connections + 1024)
        self.most = max(2 * ACCEPTED_AT_ONCE, min(self.limits.connections, descriptors - 128))
        self.listener = socket.create_server((host, port), backlog=1024,
                                             family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.listener.setblocking(False)
        self.tick()
        self.listen()
        return int(self.listener.getsockname()[1])

    async def stop(self, grace: float) -> None:
        """Accept no more, close what is idle, give what is in hand `grace` seconds to be answered."""
        self.draining = True
        self.loop.remove_reader(self.listener)
        self.listener.close()
        await asyncio.sleep(0)  # a task that never began could not close its socket
        for task in list(self.arriving):
            task.cancel()
        for one in list(self.connections):
            if one.standing() in (READY, STREAMING):
                one.ended = True
                one.linger()
        until = self.loop.time() + grace
        while (self.connections or self.arriving) and self.loop.time() < until:
            await asyncio.sleep(0.02)
        for one in list(self.connections):
            one.transport.abort()
        self.timer.cancel()
        await asyncio.sleep(0)  # the transports close their sockets

    def listen(self) -> None:
        """Accept from now on."""
        if not self.draining:
            self.loop.add_reader(self.listener, self.accept)

    def accept(self) -> None:
        """Take some of the connections that wait."""
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                arrived, _ = self.listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptor is left: free one, which takes a turn of the loop
                self.complain(f"cannot accept connections: {error.strerror}; raise the limit of open files")
                self.loop.remove_reader(self.listener)
                self.loop.call_later(0.0 if self.make_room() else 0.1, self.listen)
                return
            arrived.setblocking(False)
            if len(self.arriving) >= self.most:  # handshakes that do not come to an end; the oldest has begun
                next(iter(self.arriving)).cancel()
            task = self.loop.create_task(self.welcome(arrived))
            self.arriving[task] = None
            task.add_done_callback(self.arriving.pop)

    async def welcome(self, arrived: socket.socket) -> None:
        """Make an accepted socket a Connection, after the handshake if there is one."""
        seconds = self.limits.head_time if self.ssl else None
        with suppress(OSError, asyncio.CancelledError):  # the peer went away, or spoke no TLS: nothing to tell anybody
            await self.loop.connect_accepted_socket(partial(Connection, self), arrived, ssl=self.ssl,
                                                    ssl_handshake_timeout=seconds, ssl_shutdown_timeout=seconds)

    def tick(self) -> None:
        """Look at the clock and at every deadline."""
        self.date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(self.clock()))
        self.timer = self.loop.call_later(self.limits.tick, self.tick)
        now = self.loop.time()
        for one in list(self.connections):
            if one.deadline <= now:
                one.expire()


def tls(certificate: str, key: str) -> SSLContext:
    """What `start` needs for HTTPS, from two PEM files: certificate with chain, and key. Raises SettingsFault."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # TLS 1.2 or newer
    try:
        context.load_cert_chain(certificate, key)
    except OSError as fault:
        raise SettingsFault([f"TLS_CERT, TLS_KEY: {fault.strerror or fault}; both are readable PEM files that belong "
                             "together"]) from None
    return context


def raise_descriptor_limit(wanted: int) -> int:
    """Raise the limit of open files towards `wanted` where the system has one; gives what it then is."""
    try:
        import resource
    except ImportError:  # Windows: as many sockets as select() takes
        return 512
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = (limit % 2**64 for limit in limits)  # no limit is -1 on some systems
    if soft < min(wanted, hard):
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), limits[1]))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] % 2**64
