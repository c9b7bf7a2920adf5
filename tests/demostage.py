"""`run.py demo` as a real process, and what its page is told: for the tests of the demo.

Not here: the browser (`browser.py`). The law: the environment is clean but for what a test sets; waits are for events.

Next: `test_demo.py`.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from minibot.dotenv import surroundings
from tests.botprocess import ROOT

Event = dict[str, Any]


class Demo:
    """One demo. `events` is everything that its page has been told, each with its kind under "kind"."""

    def __init__(self, folder: Path, *options: str, python: str = sys.executable, **environ: str) -> None:
        """Start it in `folder`; raises AssertionError with its output if it ends at once."""
        self.events: list[Event] = []
        self._changed = threading.Condition()
        self.begun = time.monotonic()
        self.running = subprocess.Popen(
            [python, str(ROOT / "run.py"), "demo", "--no-browser", *options], cwd=folder, text=True,
            env={**surroundings(), "TMPDIR": str(folder), "TEMP": str(folder), **environ}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert self.running.stdout
        lines = iter(self.running.stdout.readline, "")
        found = next((found for line in lines if (found := re.search(r"http://127\.0\.0\.1:(\d+)", line))), None)
        assert found, "it ended at once"
        self.port, self.url = int(found[1]), found[0]
        self.token = str(re.search(r'demo-token" content="(\w+)"', self.get("/")[1].decode())[1])  # type: ignore[index]
        threading.Thread(target=self._listen, daemon=True).start()

    def close(self) -> int:
        """Ctrl-C; the exit code."""
        if self.running.poll() is None:
            self.running.send_signal(signal.SIGINT)
        self.rest = self.running.communicate(timeout=20)[0]
        return self.running.returncode

    def request(self, method: str, path: str, body: bytes = b"", **fields: str) -> tuple[int, bytes, Any]:
        """Any request; (status, body, header fields). Header names are written with _ for -."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            headers = {name.replace("_", "-"): value for name, value in fields.items()}
            connection.request(method, path, body, headers)
            reply = connection.getresponse()
            return reply.status, reply.read(), reply.headers
        finally:
            connection.close()

    def get(self, path: str) -> tuple[int, bytes, Any]:
        """GET from the demo."""
        return self.request("GET", path)

    def post(self, path: str, **given: Any) -> int:
        """One of the page's actions; the status."""
        return self.request("POST", path, json.dumps(given).encode(), X_Demo_Token=self.token)[0]

    def say(self, platform: str, text: str, **trouble: Any) -> None:
        """Write on a phone."""
        assert self.post("/act", platform=platform, way="text", shown=text, text=text, **trouble) == 204

    def kill(self) -> None:
        """kill -9 for the program, and wait until the page was told that it is gone."""
        before = len(self.events)
        assert self.post("/kill") == 204
        self.until(lambda: any(event.get("up") is False for event in self.events[before:]))

    def _listen(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.request("GET", "/events")
        kind = ""
        try:
            for line in connection.getresponse():
                name, _, value = line.decode().rstrip("\n").partition(": ")
                kind = value if name == "event" else kind
                if name == "data":
                    with self._changed:
                        self.events.append({**json.loads(value), "kind": kind})
                        self._changed.notify_all()
        except (OSError, http.client.HTTPException):
            return  # the demo has ended

    def _story(self) -> str:
        """The last events in a few words each, for a failure."""
        return "\n".join(f"{event['kind']} {str({**event, 'octets': ''})[:160]}" for event in self.events[-40:])

    # What the page was told

    def until(self, condition: Callable[[], Any], timeout: float = 30.0) -> Any:
        """Wait until something true comes of it; looked at after each event."""
        end = time.monotonic() + timeout
        with self._changed:
            while not (found := condition()):
                assert self._changed.wait(max(0.0, end - time.monotonic())), self._story()
        return found

    def told(self, kind: str, **facts: Any) -> list[Event]:
        """The events of a kind with these facts."""
        return [event for event in self.events if event["kind"] == kind and facts.items() <= event.items()]

    def texts(self, platform: str) -> list[str]:
        """What the bot has said on a phone."""
        return [cast(str, event["what"]["text"]) for event in self.told("shown", platform=platform)
                if event["what"]["kind"] == "text"]

    def hops(self, platform: str, step: str = "") -> list[Event]:
        """The hops on a platform, of one kind or all."""
        return [event for event in self.told("hop", platform=platform) if step in ("", event["step"])]

    def replies(self, platform: str, count: int, timeout: float = 30.0) -> list[str]:
        """The bot's texts, as soon as there are `count`."""
        self.until(lambda: len(self.texts(platform)) >= count, timeout)
        return self.texts(platform)

    def gone(self, pid: int, timeout: float = 30.0) -> None:
        """Wait until a process is over; signal 0 only asks."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            try:
                os.kill(pid, 0)
            except OSError:
                return
            time.sleep(0.02)
        raise AssertionError(f"process {pid} goes on")

    def up(self) -> bool:
        """Whether the program serves, as told last."""
        return bool([event["up"] for event in self.events if "up" in event][-1:] == [True])

    def planned(self, platform: str) -> list[str]:
        """The faults that calls of a platform, or of the model, have yet to meet, as told last."""
        plans = [state["planned"][platform] for state in self.told("state") if "planned" in state]
        return cast(list[str], plans[-1])
