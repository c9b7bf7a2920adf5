"""minibot as a real process against a FakeWorld: start, talk to it, kill it, start it again, read what it left behind.

Not here: the far ends (`fakes.py`). The law: the environment is clean, so a test sees what it sets and nothing else;
when a test ends, no secret may have shown itself in the log, the answers, the calls or the database.

Next: `conftest.py`; then any `test_*.py`.
"""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from minibot.desk.simulator import Webhook
from tests.fakes import SECRETS, FakeWorld
from tests.outgoing import complaints

ROOT = Path(__file__).resolve().parent.parent
LISTENING = re.compile(r"minibot listens on http://[^\s:]+:(\d+)")
INHERITED = ("PATH", "SYSTEMROOT", "TEMP", "TMP", "MINIBOT_COVERAGE")  # what an operating system needs, no more


class BotProcess:
    """One bot in a folder of its own. Settings are given by key; None leaves one out (`VERIFY_TOKEN=None`)."""

    program = ROOT / "run.py"

    def __init__(self, world: FakeWorld, folder: Path, start: bool = True, **settings: str | None) -> None:
        self.world, self.folder, self.port = world, folder, 0
        self.database = folder / "minibot.db"
        self.log_file = folder / "bot.log"
        known: dict[str, str | None] = {**world.settings(), "DATABASE_URL": "sqlite:///minibot.db", "HOME": str(folder)}
        self.settings = {key: value for key, value in (known | settings).items() if value is not None}
        self.process: subprocess.Popen[bytes] | None = None
        if start:
            self.start()

    # Life and death

    def start(self, more: Mapping[str, str] | None = None, wait: bool = True) -> None:
        """Start the process, on the same port as before; wait until /healthz answers 200. `more`: settings."""
        begin = len(self.log)
        inherited = {key: os.environ[key] for key in INHERITED if key in os.environ}
        environ = {"PYTHONFAULTHANDLER": "1", **inherited, **self.settings, "PORT": str(self.port), **(more or {})}
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen([sys.executable, str(self.program)], cwd=self.folder, env=environ,
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        if wait:
            try:
                self.until(lambda: LISTENING.search(self.log[begin:]) or self.exited, 60, "the bot listens")
            except AssertionError:
                self.process.send_signal(signal.SIGABRT)  # the log then tells where every thread was
                self.process.wait()
                raise AssertionError(f"it does not listen after a minute:\n{self.log[begin:]}") from None
            found = LISTENING.search(self.log[begin:])
            assert found, f"the bot ended with {self.process.poll()}:\n{self.log[begin:]}"
            self.port = int(found[1])
            self.world.bot_url = f"http://127.0.0.1:{self.port}"
            self.until(lambda: self.get("/healthz")[0] == 200 or self.exited, 60, "/healthz says ok")
            assert not self.exited, f"the bot died at once:\n{self.log[begin:]}"
            self.until(lambda: "\n  database " in self.log[begin:] or self.exited, 60, "the start is told to its end")

    @property
    def exited(self) -> bool:
        """The process is over."""
        return self.process is None or self.process.poll() is not None

    def kill(self) -> None:
        """kill -9."""
        assert self.process
        self.process.kill()
        self.process.wait()

    def term(self, timeout: float = 15.0) -> int:
        """SIGTERM (on Windows: the end); the exit code."""
        assert self.process
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def wait(self, timeout: float = 20.0) -> int:
        """Wait until the process ends by itself; the exit code."""
        assert self.process
        return self.process.wait(timeout)

    def restart(self, **settings: str) -> None:
        """kill -9, then start again on the same folder and port."""
        if not self.exited:
            self.kill()
        self.start(settings)

    def close(self) -> None:
        """End the process; look for secrets in everything it left, and at every call it made."""
        if not self.exited:
            self.kill()
        self.check_secrets()
        assert not (wrong := complaints(self.world)), wrong[:5]

    def check_secrets(self) -> None:
        """No secret in the log, the database, the answers, or a call to somebody it is not for."""
        leaks = list(self.world.leaks)
        for file in [path for path in self.folder.rglob("*") if path.is_file() and path.name != ".env"]:
            content = file.read_bytes()
            leaks += [f"{name} in {file.name}" for name, secret in SECRETS.items() if secret.encode() in content]
        assert not leaks, leaks

    # Looking in

    @property
    def log(self) -> str:
        """Everything that was printed, by all its lives."""
        return self.log_file.read_text("utf-8", "replace") if self.log_file.exists() else ""

    def get(self, path: str, **fields: str) -> tuple[int, bytes]:
        """GET from the bot; (0, b"") when it is away."""
        try:
            return self.world.request("GET", path, headers=fields)[::2]
        except OSError:
            return 0, b""

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Read the database beside the running bot."""
        connection = sqlite3.connect(f"{self.database.as_uri()}?mode=ro", uri=True, timeout=5)
        try:
            return connection.execute(sql, values).fetchall()
        finally:
            connection.close()

    def until(self, condition: Callable[[], Any], timeout: float = 30.0, what: str = "") -> Any:
        """Wait until `condition` gives something true, and return it; else fail with the end of the log."""
        end = time.monotonic() + timeout
        while True:
            if found := condition():
                return found
            if time.monotonic() > end:
                raise AssertionError(f"not within {timeout} s: {what or condition}\n{self.log[-3000:]}")
            with self.world.changed:
                self.world.changed.wait(0.02)

    # Talking

    def post(self, webhook: Webhook, **fields: str) -> int:
        """POST a webhook once; the status."""
        return self.world.post(webhook, **fields)[0]

    def say(self, platform: str, chat: str, text: str, **more: Any) -> Webhook:
        """A person writes; the webhook must be taken."""
        with self.world.changed:
            webhook: Webhook = self.world.people[platform].text(chat, text, **more)
        status, body = self.world.post(webhook)
        assert status == 200, (status, body, self.log[-2000:])
        return webhook

    def replies(self, platform: str, chat: str, count: int = 1, timeout: float = 30.0) -> list[str]:
        """The texts that reached a chat, as soon as there are `count`."""
        def texts() -> list[str]:
            found: list[str] = self.world.people[platform].texts(chat)
            return found

        self.until(lambda: len(texts()) >= count, timeout, f"{count} texts for {chat} on {platform}")
        return texts()

    def settled(self, timeout: float = 30.0) -> None:
        """Wait until nothing is pending any more."""
        self.until(lambda: b'"pending": 0' in self.get("/healthz")[1], timeout, "nothing pending")
