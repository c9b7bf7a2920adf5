"""The four platforms seen from the other side: what the demo's phones and the tests' fake platforms have in common.

Not here: any platform's words (`simulator_telegram.py`, `simulator_graph.py`), sockets, clock: a carrier brings the
bot's calls to `answer`, treats the connection as `Answered.trouble` says, and posts the `Webhook`s. The law: as
strict as the real platform or stricter, since the tests believe what is accepted here.

Next: `simulator_telegram.py`; then `simulator_graph.py`.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

Clock = Callable[[], int]  # milliseconds since 1970

# What a carrier can do to a connection. BEFORE: the call is not carried out; AFTER: it is, and the reply suffers.
BEFORE = ("hang", "reset", "redirect")  # silence; connection reset; 302 to another host
AFTER = ("hang_after", "reset_after", "half", "garbage", "html", "drip", "lie")  # garbage: no HTTP; lie: too long


class Webhook(NamedTuple):
    """One POST from a platform to us. `id` is that of the message it carries. Posting it twice is a redelivery."""

    path: str
    headers: dict[str, str]
    body: bytes
    id: str = ""


class Answered(NamedTuple):
    """A platform's reply to a call of the bot. `trouble`: one of BEFORE and AFTER, or "" for an orderly reply."""

    status: int
    headers: dict[str, str]
    body: bytes
    trouble: str = ""


class Refusal(Exception):
    """The platform says no; its one argument is the Answered that says so."""


class Shown(NamedTuple):
    """What a person sees of the bot, in order. `kind`: text, typing, read; `entities` are Telegram's formatting."""

    kind: str
    at: int
    text: str = ""
    id: str = ""
    reply_to: str = ""
    tag: str = ""
    entities: tuple[dict[str, Any], ...] = ()


class Fault(NamedTuple):
    """A planned fault: `kind` is a status ("429") or a trouble. `done`: the call is carried out all the same."""

    kind: str
    name: str = "send"  # of the calls it is for: send, action, media, download, a method of the Bot API; "" for any
    retry_after: int = 1  # seconds, with Telegram's 429
    body: dict[str, Any] | None = None  # instead of the platform's usual error
    done: bool = False


class Screen:
    """One platform's people, what they see of the bot, and the faults that its calls meet: planned, else by rule."""

    def __init__(self, now: Clock) -> None:
        self.now = now
        self.chats: dict[str, Any] = {}  # everyone who has written, with what the platform knows of them
        self.refusing: dict[str, Answered] = {}  # chats that cannot be written to, with the platform's words for it
        self.shown: defaultdict[str, list[Shown]] = defaultdict(list)
        self.outgoing: deque[Webhook] = deque(maxlen=100_000)  # receipts and echoes, for the carrier to post
        self.planned: list[Fault] = []
        self.rule: Callable[[str], Fault | None] = lambda name: None
        self.last_id = 0

    def next_id(self) -> int:
        """A number never used before on this platform."""
        self.last_id += 1
        return self.last_id

    def show(self, chat: str, kind: str, **more: Any) -> None:
        """Record one thing a person sees; `more` are the fields of Shown."""
        self.shown[chat].append(Shown(kind, self.now(), **more))

    def texts(self, chat: str) -> list[str]:
        """The texts delivered to a chat, in order."""
        return [shown.text for shown in self.shown[chat] if shown.kind == "text"]

    def plan(self, kind: str, times: int = 1, **more: Any) -> None:
        """The next `times` calls meet this fault; `more` are the fields of Fault."""
        self.planned += [Fault(kind, **more)] * times

    def fail(self, fault: Fault) -> Answered:
        """A fault's status, with its own body; the platforms put their usual words where it has none."""
        return json_answer(int(fault.kind), fault.body)

    def meet(self, name: str, carry_out: Callable[[], Answered]) -> Answered:
        """Carry a call out, unless it runs into a fault."""
        fault = next((each for each in self.planned if each.name in ("", name)), None)
        if fault:
            self.planned.remove(fault)
        fault = fault or self.rule(name)
        answered = Answered(200, {}, b"")
        if not fault or fault.done or fault.kind in AFTER:
            try:
                answered = carry_out()
            except Refusal as refusal:
                answered = refusal.args[0]
        if fault:
            return self.fail(fault) if fault.kind.isdigit() else answered._replace(trouble=fault.kind)
        return answered


def arguments(query: str, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    """The arguments of a call from its query and its JSON or form body. Raises ValueError for broken ones."""
    found: dict[str, Any] = dict(parse_qsl(query, keep_blank_values=True))
    kind = headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == "application/json" and body:
        found |= dict(json.loads(body))
    elif kind == "application/x-www-form-urlencoded":
        found |= parse_qsl(body.decode(), keep_blank_values=True)
    return found


def mismatch(value: Any, shape: Any, name: str = "") -> tuple[str, str] | None:
    """How a JSON value differs from its shape: ("missing" | "unexpected" | "invalid", argument), or None if it fits.

    A shape is a type, a regular expression for a whole string, or an object of shapes; "name!" must be there.
    """
    if isinstance(shape, str):
        return None if isinstance(value, str) and re.fullmatch(shape, value, re.DOTALL) else ("invalid", name)
    if not isinstance(shape, dict) or not isinstance(value, dict):
        return None if isinstance(value, dict if isinstance(shape, dict) else shape) else ("invalid", name)
    shapes = {key.rstrip("!"): each for key, each in shape.items()}
    wrong = [("unexpected", key) for key in value if key not in shapes]
    wrong += [("missing", key[:-1]) for key in shape if key[-1] == "!" and key[:-1] not in value]
    inner = [found for key in shapes if key in value and (found := mismatch(value[key], shapes[key], key))]
    return next(iter(wrong + inner), None)


def filled(**parts: Any) -> dict[str, Any]:
    """An object of those parts that are not empty."""
    return {name: part for name, part in parts.items() if part}


def json_answer(status: int, value: Any, headers: Mapping[str, str] | None = None) -> Answered:
    """A reply with a JSON body."""
    return Answered(status, {"content-type": "application/json", **(headers or {})}, json.dumps(value).encode())
