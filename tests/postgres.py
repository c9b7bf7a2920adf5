"""A real PostgreSQL in a folder of its own: found on this machine, made, started, restarted, ended.

Not here: minibot's store. The law: fsync stays on; the server listens on this machine only, on a port that was free;
it never runs as root, so as root another user's rights are taken first; where there is none, the test is skipped and
says what to install.

Next: `test_postgres.py`.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

USER, PASSWORD = "minibot", "canary-pass/word"


class Absent(Exception):
    """This machine has no PostgreSQL, or no driver; the argument says what to install."""


def programs() -> Path:
    """The folder of initdb and postgres."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"),
                   key=lambda path: int(re.sub(r"\D", "", path.parts[-3]) or 0))
    place = shutil.which("initdb")
    if not found and not place:
        raise Absent("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    return found[-1].parent if found else Path(str(place)).resolve().parent


class PostgresServer:
    """One server with the user `minibot`, who owns it; `url()` names a database of it."""

    def __init__(self, **settings: str) -> None:
        self.programs, self.settings = programs(), settings
        self._as = self._somebody()
        self.folder = Path(tempfile.mkdtemp(prefix="minibot-postgres-"))
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        password = self.folder / "password"
        password.write_text(PASSWORD)
        if self._as:
            for path in (self.folder, password):
                shutil.chown(path, self._as[0], self._as[1])
        self._run("initdb", "-D", self.data, "-U", USER, f"--pwfile={password}", "-A", "scram-sha-256", "-E", "UTF8",
                  "--locale=C.UTF-8")
        self._databases, self._lock = 0, threading.Lock()
        self.start()

    @property
    def data(self) -> str:
        """Where the server keeps everything."""
        return str(self.folder / "data")

    @staticmethod
    def _somebody() -> tuple[int, int] | None:
        """As root: whose rights the server gets."""
        if not hasattr(os, "geteuid") or os.geteuid() != 0:
            return None
        import pwd

        for name in ("postgres", "nobody"):
            try:
                entry = pwd.getpwnam(name)
                return entry.pw_uid, entry.pw_gid
            except KeyError:
                continue
        raise Absent("PostgreSQL does not run as root, and there is neither a user postgres nor nobody")

    def _run(self, program: str, *arguments: str) -> str:
        user: dict[str, Any] = {"user": self._as[0], "group": self._as[1], "extra_groups": ()} if self._as else {}
        done = subprocess.run([str(self.programs / program), *arguments], cwd="/", capture_output=True, text=True,
                              timeout=60, env={"PATH": os.environ["PATH"], "LC_ALL": "C"}, **user)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        options = {"port": str(self.port), "listen_addresses": "127.0.0.1", "unix_socket_directories": "",
                   "max_connections": "100", "shared_buffers": "64MB", "jit": "off", **self.settings}
        words = " ".join(f"-c {key}='{value}'" for key, value in options.items())
        log = str(self.folder / "data" / "server.log")
        self._run("pg_ctl", "start", "-D", self.data, "-w", "-t", "30", "-l", log, "-o", words)

    def stop(self, mode: str = "immediate") -> None:
        """`immediate` is what a crash looks like; the next start replays its log."""
        self._run("pg_ctl", "stop", "-D", self.data, "-w", "-m", mode)

    def url(self, database: str = "postgres", password: str = PASSWORD, **parameters: str) -> str:
        """The address of a database."""
        words = "&".join(f"{key}={value}" for key, value in parameters.items())
        return (f"postgresql://{USER}:{password.replace('/', '%2F')}@127.0.0.1:{self.port}/{database}"
                + (f"?{words}" if words else ""))

    def fresh(self) -> str:
        """The address of an empty schema, made now: quicker than a database."""
        with self._lock:
            self._databases += 1
            name = f"s{self._databases}"
        self.sql(self.url(), f"CREATE SCHEMA {name}")
        return self.url(options=f"-csearch_path%3D{name}")

    @staticmethod
    def sql(url: str, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run one statement on a connection of its own; its rows."""
        import psycopg

        with psycopg.connect(url, autocommit=True) as connection:
            cursor = connection.execute(sql.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def close(self) -> None:
        """End it and remove its folder."""
        try:
            self.stop()
        except AssertionError:  # it was stopped already, or does not react
            pid = Path(self.data, "postmaster.pid")
            if pid.exists():
                os.kill(int(pid.read_text().split()[0]), signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The server of this run of the tests; nobody stops it."""
    pytest.importorskip("psycopg", reason="the driver is not installed (pip install 'psycopg[binary]')")
    try:
        server = PostgresServer()
    except Absent as reason:
        pytest.skip(str(reason))
    yield server
    server.close()
