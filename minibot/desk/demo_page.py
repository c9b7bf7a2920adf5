"""The demo's page, seen from Python: a door that lets only this page through, and the stream of what it draws.

Not here: what happens (`demo_stage.py`), how it looks (`pages/`). The law: this machine only, and of all the pages that
a browser has open only ours: Host against DNS rebinding, Origin and a token of this run against posts from elsewhere.
Octets are shown as they were, but for the secrets, which are shown by name; who comes late reads all from the start.

Next: `demo_stage.py`.
"""

from __future__ import annotations

import hmac
import json
import os
import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from minibot.errors import Refused
from minibot.model import Request, Response
from minibot.web.media import sniff
from minibot.web.routes import Endpoint, Routes, Stream, Write

PAGES = Path(__file__).parent / "pages"
FILES = {"/": ("demo.html", "text/html"), "/demo.css": ("demo.css", "text/css"),
         "/demo.js": ("demo.js", "text/javascript")}
POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src data:; "
          "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
STRICT = (("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"), ("Referrer-Policy", "no-referrer"),
          ("Cross-Origin-Resource-Policy", "same-origin"), ("Content-Security-Policy", POLICY))
KEPT = 3000  # events
SHOWN = 30_000  # characters of a request or reply


class Page(Routes):
    """The table of the demo's paths. `actions` take the members of the JSON object that was posted; `trees` are
    endpoints by the beginning of their paths; `hosts` are our own names."""

    def __init__(self, wire: Wire, actions: Mapping[str, Callable[..., None]], trees: Mapping[str, Endpoint]) -> None:
        super().__init__({("GET", path): self._file for path in FILES} | {("POST", path): self._act for path in actions}
                         | {("GET", "/events"): wire.stream})
        self.hosts: set[bytes] = set()
        self._token = os.urandom(16).hex().encode()
        self._actions, self._trees = actions, trees

    def find(self, method: str, path: str) -> Endpoint:
        """As in every table, but for the trees; nothing is found for a foreign Host."""
        tree = next((tree for beginning, tree in self._trees.items() if path.startswith(beginning)), None)
        endpoint = tree or super().find(method, path)

        def guarded(request: Request) -> Any:
            if not self.hosts.issuperset(request.all(b"host")):
                raise Refused(421, "a foreign Host")
            return endpoint(request)
        return guarded

    def _file(self, request: Request) -> Response:
        name, kind = FILES[request.path]
        body = (PAGES / name).read_bytes().replace(b"{{token}}", self._token)
        return Response(200, body, f"{kind}; charset=utf-8", STRICT)

    def _act(self, request: Request) -> Response:
        origins = {each.removeprefix(b"http://") for each in request.all(b"origin")}
        token = hmac.compare_digest(b"".join(request.all(b"x-demo-token")), self._token)
        if not (token and origins <= self.hosts and {*request.all(b"sec-fetch-site")} <= {b"same-origin"}):
            raise Refused(403, "not from our page")
        try:
            self._actions[request.path](**json.loads(request.body))
        except (ValueError, TypeError, KeyError) as fault:
            raise Refused(400, f"not an action: {fault}") from None
        return Response(204)


class Wire:
    """Everything that happens, as events in order; `state` is what holds now. `keys` are the secrets by name."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        self.state: dict[str, Any] = {}
        self._names = {value: f"‹{name}›" for name, value in keys.items()}
        self._events: deque[bytes] = deque(maxlen=KEPT)
        self._readers: dict[Write, bool] = {}  # whether each has got everything

    def tell(self, kind: str, **facts: Any) -> None:
        """One event. Those of the kind "state" change what holds now."""
        line = _line(kind, facts)
        if kind == "state":
            self.state |= facts
        else:
            self._events.append(line)
        for write, complete in [*self._readers.items()]:
            self._readers[write] = write(line if complete else self._whole())

    def hop(self, platform: str, step: str, message: str = "", at: float = 0.0, **facts: Any) -> None:
        """One step of a message's way; without `message`, of the one that the platform is busy with."""
        self.tell("hop", platform=platform, step=step, message=message, at=(at or time.time()) * 1000, **facts)

    def hear(self, line: str) -> None:
        """A line that the program printed: a hop of its own, or something for the operator."""
        try:
            record = json.loads(line)
        except ValueError:
            return self.tell("log", level="info", text=self._masked(line))
        name, _, rest = record["message"].partition(" ")
        if record["logger"] == "minibot.hop":
            facts, at = json.loads(rest), datetime.fromisoformat(record["time"]).timestamp()
            self.hop(facts["platform"], name, "", at, facts=facts)
        elif record["level"] not in ("debug", "info"):
            self.tell("log", level=record["level"], text=record["message"], trace=record.get("trace", ""))

    def octets(self, head: str, fields: Mapping[str, str], body: bytes) -> str:
        """A request or reply as it is on the wire; pictures and sounds only by their size."""
        try:
            text = body.decode()
        except UnicodeDecodeError:
            text = f"({len(body):,} bytes of {sniff(body) or 'something else'})"
        text = self._masked("\n".join([head, *(f"{name}: {value}" for name, value in fields.items()), "", text]))
        return text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text) - SHOWN:,} more characters)"

    def stream(self, request: Request) -> Stream:
        """The endpoint of the events."""
        def begin(write: Write) -> Callable[[], None]:
            self._readers[write] = write(self._whole())
            return lambda: self._readers.__delitem__(write)
        return Stream(Response(200, content_type="text/event-stream", fields=STRICT), begin)

    def _masked(self, text: str) -> str:
        return re.sub("|".join(self._names), lambda found: self._names[found[0]], text)

    def _whole(self) -> bytes:
        return b"".join([_line("hello", self.state), *self._events])


def _line(kind: str, facts: Mapping[str, Any]) -> bytes:
    return f"event: {kind}\ndata: {json.dumps(facts)}\n\n".encode()
