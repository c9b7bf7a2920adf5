"""A small HTTP server that misbehaves on purpose: real sockets, one thread per connection, no framework.

A test hands it a list of plans. Each request takes the next plan, and the last one serves for all that follow; a
plan is a function that gets the `Visit` and may answer, drip, reset, close or hang.
"""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Visit:
    """One request on one connection, and what a plan can do about it."""

    server: FaultServer
    sock: socket.socket
    connection: int
    method: str
    target: str
    fields: dict[str, str]
    body: bytes = b""
    over: bool = field(default=False, repr=False)  # no further request on this connection

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def send(self, content: bytes) -> None:
        self.sock.sendall(content)

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def close(self) -> None:
        self.over = True
        self.sock.close()

    def hang(self, seconds: float = 30.0) -> None:
        """Until the test ends, at most `seconds`."""
        self.server.stopping.wait(seconds)


Plan = Callable[[Visit], None]


def reply(status: int = 200, body: bytes | str | dict[str, Any] | list[Any] = b"", **fields: str) -> Plan:
    """A well-formed answer; a dict or list is sent as JSON. `content_type="text/html"` sets Content-Type."""
    raw = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
    named = {"content_type": "application/json"} | fields
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in named.items())
    return lambda visit: visit.send(f"HTTP/1.1 {status} Word\r\nContent-Length: {len(raw)}\r\n{head}\r\n"
                                    .encode() + raw)


def raw(content: bytes, then: str = "close") -> Plan:
    """Exactly these bytes, then "close", "reset", "hang" or "keep"."""
    def plan(visit: Visit) -> None:
        visit.send(content)
        if then != "keep":
            getattr(visit, then)()
    return plan


def drip(content: bytes, again: bytes = b"", pause: float = 0.05) -> Plan:
    """One byte at a time; then `again` for ever."""
    def plan(visit: Visit) -> None:
        for byte in content:
            visit.send(bytes([byte]))
            visit.server.stopping.wait(pause)
        while again and not visit.server.stopping.wait(pause):
            visit.send(again)
    return plan


class FaultServer:
    """Listens on a free port of 127.0.0.1 while the `with` lasts."""

    def __init__(self, *plans: Plan, tls: tuple[str, str] | None = None, on_head: Plan | None = None) -> None:
        self.plans = list(plans) or [reply()]
        self.on_head = on_head  # called as soon as the head is read, before the body
        self.visits: list[Visit] = []
        self.connections = 0
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._tls: ssl.SSLContext | None = None
        if tls:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(*tls)

    def __enter__(self) -> FaultServer:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        with suppress(OSError):  # wakes accept() on Linux; elsewhere closing does
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop_all()

    def drop_all(self) -> None:
        """Close every connection that is open now, politely."""
        with self._lock:
            for sock in self._open:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(sock, self.connections), daemon=True).start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        try:
            if self._tls:
                sock = self._tls.wrap_socket(sock, server_side=True)
            with self._lock:
                self._open.add(sock)
            stream = sock.makefile("rb")
            while (visit := self._read(sock, stream, number)) is not None:
                with self._lock:
                    plan = self.plans.pop(0) if len(self.plans) > 1 else self.plans[0]
                plan(visit)
                if visit.over:
                    return
        except (OSError, ValueError):
            pass  # the client went away, which is what many tests want
        finally:
            with self._lock:
                self._open.discard(sock)
            sock.close()

    def _read(self, sock: socket.socket, stream: Any, number: int) -> Visit | None:
        line = stream.readline().decode("latin-1").split()
        if len(line) < 3:
            return None
        fields: dict[str, str] = {}
        while name := stream.readline().decode("latin-1").rstrip("\r\n"):
            key, _, value = name.partition(":")
            fields[key.lower()] = value.strip()
        visit = Visit(self, sock, number, line[0], line[1], fields)
        if self.on_head:
            self.on_head(visit)
            if visit.over:
                return None
        visit.body = stream.read(int(fields.get("content-length", "0")))
        self.visits.append(visit)
        return visit


def pipe(visit: Visit) -> None:
    """A plan for CONNECT: be a proxy that joins both ends."""
    host, _, port = visit.target.rpartition(":")
    with socket.create_connection((host, int(port))) as far:
        visit.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        back = threading.Thread(target=_copy, args=(far, visit.sock), daemon=True)
        back.start()
        _copy(visit.sock, far)
        back.join(5)
    visit.close()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    try:
        while content := source.recv(65536):
            sink.sendall(content)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def certificate(folder: Path) -> tuple[str, str] | None:
    """A self-signed certificate for 127.0.0.1 and localhost: (certificate, key), None without the openssl command."""
    if not shutil.which("openssl"):
        return None
    cert, key = str(folder / "cert.pem"), str(folder / "key.pem")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=localhost",
                    "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"], check=True, capture_output=True)
    return cert, key
