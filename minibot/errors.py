"""The one tree of errors. An error says what follows from it; nobody reads its text to decide.

    MinibotError
    ├── SettingsFault      the start ends with exit 2 and every fault named
    ├── Refused            the door answers `status` with a constant body
    ├── Unreadable         authentic but not understood: kept, counted, answered 200
    ├── StoreDown          503 at the door; the platform repeats
    ├── StoreDamaged       the start ends with exit 78 and one plain line
    ├── LeaseLost          somebody else holds the conversation now: drop it quietly
    ├── NoAnswer           a call got no usable reply; `unsure` says whether it may have arrived
    ├── SendFailed         a platform said no; `remedy` says what to do
    └── AiFailed           the model gave no answer; `remedy` says what to do

Not here: retry times (`flow/retry.py`) and sentences for people in a chat (`flow/wording.py`).
A permanent fault never inherits from a passing one.

Next: `config.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum


class MinibotError(Exception):
    """The root. `str()` of every one is a single line without secrets, fit for an operator."""


class SettingsFault(MinibotError):
    """One or more settings are wrong; `faults` holds a line for each: key, problem, remedy."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


class Refused(MinibotError):
    """The door says no. `reason` is for the log; the answer's body is constant, `fields` are added to its head."""

    def __init__(self, status: int, reason: str, *fields: tuple[str, str]) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.fields = fields


class Unreadable(MinibotError):
    """A signed body that is not what the platform documents."""


class StoreDown(MinibotError):
    """The store cannot take a write now (disk full, locked, server away)."""


class StoreDamaged(MinibotError):
    """The database must not be used as it is; the message says what to do."""


class LeaseLost(MinibotError):
    """The conversation's fence has moved on."""


class NoAnswer(MinibotError):
    """A call ended without a usable reply. `unsure`: the request may have been carried out all the same."""

    def __init__(self, reason: str, *, unsure: bool) -> None:
        super().__init__(reason)
        self.unsure = unsure


class Remedy(StrEnum):
    """What to do about a send that failed."""

    RETRY = "retry"  # passing fault, surely not done: again later
    WAIT_CHAT = "wait_chat"  # rate limit of this person: only they wait
    WAIT_CHANNEL = "wait_channel"  # rate limit of the account: the channel waits
    UNREACHABLE = "unreachable"  # this person cannot be written to: give up on them until they write
    WINDOW = "window"  # outside the 24-hour window: expired
    REFUSED = "refused"  # our request is wrong: dead
    STOP = "stop"  # token, permission, account: keep everything, tell the operator, probe slowly
    HALVE = "halve"  # too long: send two halves
    PLAIN = "plain"  # formatting refused: once more as plain text
    EMPTY = "empty"  # there is nothing to see in it: send a sentence of our own instead
    MOVED = "moved"  # the chat has a new id: there
    THREADLESS = "threadless"  # the topic is gone: once more without it
    UNSURE = "unsure"  # may have arrived
    DELIVERED = "delivered"  # an error came back, but the platform says it was sent


class SendFailed(MinibotError):
    """A platform refused a message. `code` is short and stable ("403", "131047"); `help` tells the operator."""

    def __init__(self, remedy: Remedy, code: str, *, retry_after: float | None = None, chat: str = "",
                 help: str = "") -> None:
        super().__init__(f"{code}: {help}" if help else code)
        self.remedy = remedy
        self.code = code
        self.retry_after = retry_after  # seconds
        self.chat = chat  # for MOVED
        self.help = help


class AiRemedy(StrEnum):
    """What to do about a model that gave no answer."""

    WAIT = "wait"  # outage or rate limit: messages wait, no attempt is counted
    GIVE_UP = "give_up"  # permanent: one apology, `ai_failed:<code>`, the operator is told
    REFUSED = "refused"  # the model's maker refused this content: say so, `ai_failed:<code>`


class AiFailed(MinibotError):
    """The model gave no answer. `code` is short and stable; `help` tells the operator; never shown in a chat."""

    def __init__(self, remedy: AiRemedy, code: str, *, retry_after: float | None = None, help: str = "") -> None:
        super().__init__(f"{code}: {help}" if help else code)
        self.remedy = remedy
        self.code = code
        self.retry_after = retry_after
        self.help = help


def retry_after(fields: Mapping[str, str]) -> float | None:
    """How long the other side asks us to wait, in seconds, 0.5 to 3600, by its header fields; None: it does not say.

    From retry-after-ms, or Retry-After as seconds or as a date, which counts from the answer's own Date. Strict,
    because float() takes "nan", "1_0" and Arabic digits.
    """
    from email.utils import parsedate_to_datetime  # 10 ms that the start does not need

    try:
        given = fields.get("retry-after-ms") or fields["retry-after"]
        if re.fullmatch(r"[0-9]{1,99}(\.[0-9]{1,6})?", given):
            wait = float(given) / (1000 if "retry-after-ms" in fields else 1)
        else:
            wait = (parsedate_to_datetime(given) - parsedate_to_datetime(fields["date"])).total_seconds()
    except (KeyError, TypeError, ValueError):
        return None
    return min(max(wait, 0.5), 3600.0)
