"""The values of the worker: what is waiting, what was said, what is to be sent, how it ended.

Not here: SQL, sending, deciding. The law is that of `model.py`: immutable nouns, milliseconds since 1970.
The store hands out a `Step`; the worker acts and gives back a `Finish` or a `Fate`.

Next: `errors.py`; then `store/contract.py`, who makes these values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from minibot.model import Inbound


@dataclass(frozen=True, slots=True)
class Said:
    """One message of the prompt. Images are (MIME type, bytes)."""

    role: Literal["user", "assistant"]
    text: str
    images: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said, and what it cost. `milliseconds` is wall time."""

    text: str
    model: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    milliseconds: int = 0


def said(inbound: Inbound) -> str:
    """`inbound` as the model reads it: the speaker named in a group, foreign words marked as such; "" if nothing."""
    notes = {"image": "[image]", "voice": "" if inbound.text else "[voice message]"}
    words = "\n".join(filter(None, [*(notes[item.kind] for item in inbound.media), inbound.text]))
    if inbound.forwarded and words:
        words = f"[forwarded, not the writer's own words]\n{_indented(words)}"
    if inbound.quoted:
        words = f"[in reply to this message]\n{_indented(inbound.quoted)}\n\n{words}"
    speaker = inbound.name or inbound.person
    return f"{speaker}: {words}" if words and in_group(inbound) else words


def in_group(inbound: Inbound) -> bool:
    """Whether others read along; a private chat may have topics ("chat/topic")."""
    return inbound.person not in ("", inbound.chat.partition("/")[0])


def _indented(text: str) -> str:
    """Every line marked, so that no line of a quotation passes for the writer's own."""
    return "\n".join(f"> {line}" for line in text.splitlines())


PartState = Literal["pending", "sending", "sent", "maybe", "dead", "expired"]


@dataclass(frozen=True, slots=True)
class Conversation:
    """A claimed conversation. `epoch` is the fence: a verb with an outdated epoch changes nothing."""

    id: int
    platform: str
    account: str
    chat: str
    alias: str = ""
    epoch: int = 0
    tries: int = 0  # failed attempts at the model since the last success
    crashes: int = 0  # claims that ended with the process, in a row
    paused_until: int = 0
    blocked: bool = False
    noticed_at: int = 0  # when the "please wait" notice went out for the messages now waiting
    last_inbound_at: int = 0  # platform's time of the person's newest message: the 24-hour window


@dataclass(frozen=True, slots=True)
class Waiting:
    """A stored message that has no outcome yet."""

    id: int
    inbound: Inbound
    received_at: int


@dataclass(frozen=True, slots=True)
class Part:
    """One platform message to send. `text` is in the channel's dialect, or plain where `plain` is true."""

    id: int
    text: str
    plain: bool = False
    state: PartState = "pending"
    tries: int = 0  # calls begun, this one included
    unsure: int = 0  # of them, how many ended without a clear word
    due_at: int = 0
    expires_at: int = 0
    created_at: int = 0
    tag: str = ""  # sent along where the platform returns it; finds this row again
    reply_to: str = ""  # platform's id of the message it answers
    threadless: bool = False  # Telegram refused the topic: send without it


@dataclass(frozen=True, slots=True)
class Usage:
    """What has been used already, for the guard."""

    recent: int = 0  # messages of this conversation in the last minute
    person_tokens: int = 0  # today
    day_tokens: int = 0  # today, everybody
    told: bool = False  # this person has had today's polite sentence
    repeats: int = 0  # identical short exchanges in a row at machine pace: two bots talking


@dataclass(frozen=True, slots=True)
class Step:
    """What a claimed conversation needs next: a part to send, else messages to answer, else it is released."""

    conversation: Conversation
    part: Part | None = None
    waiting: tuple[Waiting, ...] = ()
    history: tuple[Said, ...] = ()
    usage: Usage = Usage()


@dataclass(frozen=True, slots=True)
class Fate:
    """How the sending of a part ended. `rest` applies a dead or expired fate to the turn's later parts too."""

    state: PartState
    message_id: str = ""
    error: str = ""
    due_at: int = 0
    unsure: bool = False
    counted: bool = True  # False: nothing was attempted, or an outage; the try is taken back
    rest: bool = False
    blocked: bool = False
    outcome: str = ""  # replaces the outcome of the messages this part answered
    replace: tuple[str, ...] = ()  # send these texts instead of the part's own
    plain: bool = False  # ... as plain text
    threadless: bool = False
    chat: str = ""  # the conversation's new chat id


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of a turn, written in one transaction. `outcomes` maps inbound ids to outcomes."""

    outcomes: Mapping[int, str]
    parts: tuple[str, ...] = ()
    answer: Answer | None = None  # None: a notice or a command's reply, kept out of the history
    transcripts: Mapping[int, str] = field(default_factory=dict)  # inbound id -> text that history keeps
    person: str = ""  # whom the tokens are charged to
    reply_to: str = ""
    expires_at: int = 0
    noticed: bool = False  # this is the "please wait" notice: the messages go on waiting
    told: bool = False  # this is today's polite sentence about limits
    pause_until: int | None = None
    forget: Literal["", "history", "everything"] = ""  # /reset, /forget
    error: str = ""


class Accepted(NamedTuple):
    """What `accept` did: new messages, known ones, and the conversations that now want a worker."""

    new: int
    known: int
    due: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Health:
    """The queue at a glance; `oldest` in seconds."""

    pending: int
    oldest: int
    dead: int


@dataclass(frozen=True, slots=True)
class Export:
    """A finished exchange on its way to the CRM or the spreadsheet. Times in ms, 0: never."""

    id: int
    tries: int  # this one included
    event_id: str  # the same at every try and at every destination
    platform: str
    chat: str
    person: str
    name: str
    username: str
    phone: str
    message: str  # several that were answered together: one a line
    reply: str  # "" where the model gave none
    outcome: str
    received_at: int
    replied_at: int  # when the last part of the reply was sent
    message_ids: tuple[str, ...]  # the platform's, of the messages
    reply_ids: tuple[str, ...]  # ... and of the reply's parts
