"""A way to a bot under a public https name, without any name service: a proxy that plays the internet.

`https://bot.example.org` reaches whatever `Gate.port` says, over real TLS with a certificate made for that name. A
test points HTTPS_PROXY here and SSL_CERT_FILE at the certificate; nothing of minibot is changed for it.
"""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for `name` (and for this machine), and its key; skips without openssl."""
    if not shutil.which("openssl"):
        pytest.skip("the openssl command is not installed")
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-keyout", key, "-out", cert, "-days", "2", "-subj", f"/CN={name}",
                    "-addext", f"subjectAltName=DNS:{name},DNS:localhost,IP:127.0.0.1"], check=True,
                   capture_output=True)
    return cert, key


class Gate:
    """Takes CONNECT, speaks TLS as the public server would, and hands what is inside to 127.0.0.1:`port`."""

    def __init__(self, folder: Path, name: str = "bot.example.org") -> None:
        self.cert, key = certificate(folder, name)
        self.port = 0  # where the bot listens; 0: nobody there, 502
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.cert, key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def environment(self) -> dict[str, str]:
        """What a program needs to come this way."""
        return {"HTTPS_PROXY": self.url, "NO_PROXY": "127.0.0.1,localhost", "SSL_CERT_FILE": str(self.cert)}

    def close(self) -> None:
        """Take nobody any more."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                arrived, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(arrived,), daemon=True).start()

    def _serve(self, arrived: socket.socket) -> None:
        try:
            head = b""
            while b"\r\n\r\n" not in head:
                head += arrived.recv(4096)
            arrived.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            with self._context.wrap_socket(arrived, server_side=True) as secure:
                if not self.port:
                    secure.recv(65536)
                    secure.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno\n")
                    return
                with socket.create_connection(("127.0.0.1", self.port)) as inner:
                    back = threading.Thread(target=_copy, args=(inner, secure), daemon=True)
                    back.start()
                    _copy(secure, inner)
        except OSError:
            arrived.close()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    try:
        while content := source.recv(65536):
            sink.sendall(content)
    except OSError:
        pass
    finally:
        try:
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass
