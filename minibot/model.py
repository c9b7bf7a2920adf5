"""The values that come in and go out: requests, events, calls. Nothing here acts.

Not here: behaviour, input/output, settings, and what the worker holds in hand (`work.py`). The law: each
value is immutable, is named with a noun of the domain, and is built once at the border where its bytes were
understood; no dict travels further than the function that parsed it. Times are integers, milliseconds since
1970, UTC; 0 means unknown. What every webhook needs is a NamedTuple, three times cheaper to build.

Next: `work.py`; then `errors.py`, what may go wrong; then `channels/contract.py`, who makes these values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

PLATFORMS = ("telegram", "whatsapp", "messenger", "instagram")


class Secret:
    """A string that does not show itself: `repr`, `str` and formatting give `…`. Ask with `reveal()`."""

    __slots__ = ("_value",)

    def __init__(self, value: str = "") -> None:
        self._value = value

    def reveal(self) -> str:
        """The secret itself; call it only where it is put into a request or compared."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return "Secret(…)" if self._value else "Secret()"

    __str__ = __repr__


class Request(NamedTuple):
    """One complete HTTP request as the door understood it. `fields` are (lower-case name, value) in order."""

    method: str
    path: str
    query: str
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes
    peer: str = ""

    def all(self, name: bytes) -> list[bytes]:
        """Every value of the field `name` (lower-case bytes), in the order sent."""
        return [value for key, value in self.fields if key == name]


class Response(NamedTuple):
    """What a handler answers. `fields` are further header fields; the door adds Date, length and the rest."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    fields: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Media:
    """A picture or voice note to fetch: `ref` is the platform's file id, or a URL where `url` is true."""

    kind: Literal["image", "voice"]
    ref: str
    url: bool = False
    mime: str = ""
    size: int = 0


class Inbound(NamedTuple):
    """One message that wants a reaction, as a channel read it. All text is clean: no NUL, no lone surrogate.

    `kind` names the reaction: "ask" goes to the model; "unsupported" gets the polite sentence, and `notice`
    says what it was ("video", "sticker", "unavailable", ...); any other value is a command without its slash.
    """

    platform: str
    account: str  # our own id on the platform: bot id, phone number id, Page id, Instagram account id
    chat: str  # where the answer goes; one conversation per (platform, account, chat)
    event: str  # unique per (platform, account): "<event kind>:<id>"
    kind: str = "ask"
    text: str = ""
    notice: str = ""
    person: str = ""  # who wrote; differs from `chat` only in a group
    name: str = ""  # display name, without control or direction characters
    alias: str = ""  # a second identifier of the same chat (WhatsApp's BSUID), "" if none
    message_id: str = ""  # the platform's id of the message: for quotes, read marks, unsends
    sent_at: int = 0
    media: tuple[Media, ...] = ()
    forwarded: bool = False
    quoted: str = ""  # the quoted text, where the payload carries it
    quotes: str = ""  # the quoted message's id, to be looked up where it does not
    album: str = ""  # items with the same album id are one question
    phone: str = ""  # where the platform tells it
    username: str = ""


@dataclass(frozen=True, slots=True)
class Aside:
    """A group's album picture that does not call us: part of the question if another one of its album did."""

    inbound: Inbound


@dataclass(frozen=True, slots=True)
class Receipt:
    """The platform's word on a message of ours: `state` is sent, delivered, read or failed."""

    platform: str
    account: str
    state: Literal["sent", "delivered", "read", "failed"]
    message_id: str = ""
    tag: str = ""
    chat: str = ""  # with an empty message_id: everything in this chat up to `at` (Messenger's watermark)
    code: str = ""
    at: int = 0


@dataclass(frozen=True, slots=True)
class Echo:
    """A message that left our account, sent by us or by a person: `ours` is None where only the store can tell."""

    platform: str
    account: str
    chat: str
    message_id: str
    text: str = ""
    tag: str = ""
    ours: bool | None = None
    at: int = 0


@dataclass(frozen=True, slots=True)
class Handover:
    """A person took the conversation (`human`), or gave it back."""

    platform: str
    account: str
    chat: str
    human: bool


@dataclass(frozen=True, slots=True)
class Erase:
    """The sender took a message back: its text must leave the store."""

    platform: str
    account: str
    chat: str
    message_id: str


@dataclass(frozen=True, slots=True)
class Rekey:
    """The chat `old` is called `new` from now on; its history moves. Safe to apply twice and in any order."""

    platform: str
    account: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Presence:
    """The person blocked us (`blocked`) or came back."""

    platform: str
    account: str
    chat: str
    blocked: bool


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """The platform waits for a small sign of life (Telegram's callback query) that needs no store."""

    platform: str
    query: str


@dataclass(frozen=True, slots=True)
class Alert:
    """Something the operator must read; `text` is ours or cleaned, one line."""

    platform: str
    text: str


@dataclass(frozen=True, slots=True)
class Odd:
    """Authentic but unreadable: kept for `run.py dead`, so that nothing vanishes. `event` is a digest of it."""

    platform: str
    event: str
    why: str
    body: str


@dataclass(frozen=True, slots=True)
class Ignored:
    """An event that wants no reaction; counted under `why` (one word or two, from a closed set)."""

    platform: str
    why: str


Event = Inbound | Aside | Receipt | Echo | Handover | Erase | Rekey | Presence | Acknowledge | Alert | Odd | Ignored


@dataclass(frozen=True, slots=True)
class Me:
    """Who we are on a platform, as far as known: Telegram learns its username from getMe."""

    account: str = ""
    username: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """One outgoing HTTP request. `name` is what logs and errors say; `url` may hold a token and is never shown."""

    name: str
    method: str
    url: str = field(repr=False)
    fields: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)
    timeout: float = 30.0  # seconds, for the whole call
    max_bytes: int = 1 << 20  # of the reply
    cut: bool = False  # off, once nobody waits for the reply any more


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a Call, read whole. Field names are lower-case."""

    status: int
    fields: Mapping[str, str]
    body: bytes = field(repr=False)
