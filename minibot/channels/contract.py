"""What a channel is: one platform's knowledge as a frozen record of pure functions, in the order of a message's life.

Not here: any platform's words (each has its own file), any network, clock or event loop: a channel returns a
`Call` and later judges the `Reply`. The law: nothing a platform sends may raise anything but `Unreadable`,
and one bad item of a batch never costs the others.

Next: `fields.py`, how their JSON is read; then `meta.py`, what three of the four share.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from minibot.model import Call, Event, Me, Media, Reply, Request, Response
from minibot.work import Conversation, Part

UNSEEN = "[something came with this that cannot be seen here: {}]"  # beside words or pictures
COMMANDS = ("start", "help", "reset", "privacy", "forget", "human", "bot")


@dataclass(frozen=True, slots=True)
class Channel:
    """One platform, ready to use. Functions that may have nothing to do return None."""

    name: str
    verify: Callable[[Request], None]  # is it really them? raises Refused(401) (400 for a doubled header)
    handshake: Callable[[Request], Response] | None  # Meta's GET verification; None for Telegram
    parse: Callable[[bytes, Me], list[Event]]  # what was said? raises Unreadable for the whole body only
    compose: Callable[[str], list[str]]  # the model's Markdown -> parts in this platform's dialect, within its limit
    call: Callable[[Conversation, Part], Call]  # how is one part sent?
    judge: Callable[[Reply], str]  # -> the platform's message id; raises SendFailed
    plain: Callable[[str], str]  # a part's dialect text without its mark-up
    typing: Callable[[Conversation, str], tuple[Call, ...]]  # (conversation, message id) -> read mark and typing
    typing_every: float  # seconds until `typing` must be repeated
    media: Callable[[Media], Call] | None  # file id -> where is it? None: media come as URLs only
    located: Callable[[Reply], str] | None  # ... -> its URL; raises SendFailed
    download: Callable[[str], Call]  # URL -> the fetch, with the token only where it belongs
    media_hosts: tuple[str, ...]  # "host" or ".suffix"; https only
    media_origins: tuple[str, ...] = ()  # "scheme://host:port" from the *_API_URL settings, allowed as they are
    account: str = ""  # our own id where the settings tell it; "" where only the payload does
    whoami: Call | None = None  # learn `Me` (Telegram's getMe)
    named: Callable[[Reply], Me] | None = None
    acknowledge: Callable[[str], Call] | None = None  # callback query id -> the sign of life
    fetch: Callable[[int], Call] | None = None  # long polling: what came since this number; None: webhooks
    fetched: Callable[[Reply], list[tuple[int, bytes]]] | None = None  # -> (number, a webhook's body), or SendFailed
    window_hours: float = 24.0  # answers later than this after the person's last message are not sent
    group_gap: float = 0.0  # seconds between the parts of one answer in a group
    looks_up: bool = True  # a status or echo tells later what became of an unsure send


def command_of(text: str) -> str:
    """The command that `text` is ("/help", "/reset please"), without its slash; "" if it is none of ours."""
    if not text.startswith("/"):
        return ""
    word = text[1:].split(maxsplit=1)[0].lower() if len(text) > 1 else ""
    return word if word in COMMANDS else ""
