"""May we answer these messages? Decided before the model is called, from what the store has counted.

Not here: counting (`store/`), the sentences (`wording.py`). The law: a pure function, checked with the worst
case of the call that would follow; tokens of calls in flight are reserved here, those of finished ones are in
the store. The polite sentence goes out once per person and day, never once per message.

Next: `commands.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import takewhile

from minibot.channels.contract import COMMANDS, UNSEEN
from minibot.config import Settings
from minibot.flow import wording
from minibot.work import Step, Waiting

LOOP_REPEATS = 4  # this many machine-paced, equal exchanges in a row are two bots talking


@dataclass(frozen=True, slots=True)
class Verdict:
    """`answer` may go to the model; `refused` maps the other inbound ids to outcomes; `say` at most once a day."""

    answer: tuple[Waiting, ...]
    refused: dict[int, str]
    say: str = ""


def leading_run(waiting: tuple[Waiting, ...]) -> tuple[Waiting, ...]:
    """The messages at the front that one reaction covers: all that ask, or all that cannot be read, or one command.

    An album asks as a whole, if anything in it does: what cannot be read is noted.
    """
    asking = {item.inbound.album for item in waiting if item.inbound.kind == "ask"} - {""}
    waiting = tuple(_noted(item) if item.inbound.album in asking else item for item in waiting)
    kind = waiting[0].inbound.kind if waiting else ""
    return waiting[:1] if kind in COMMANDS else tuple(takewhile(lambda item: item.inbound.kind == kind, waiting))


def _noted(item: Waiting) -> Waiting:
    inbound = item.inbound
    text = inbound.text if inbound.kind == "ask" else UNSEEN.format(inbound.notice)
    return replace(item, inbound=inbound._replace(kind="ask", text=text))


def judge(step: Step, waiting: tuple[Waiting, ...], settings: Settings, now: int) -> Verdict:
    """Everything that can be known without building the prompt: allow-list, pause, loops, rate."""
    person = waiting[-1].inbound.person or step.conversation.chat
    allowed = settings.allowed_users
    if allowed and not allowed & {person, step.conversation.chat, step.conversation.alias}:
        return _refuse(waiting, "ignored:not_allowed")
    if step.conversation.paused_until > now:
        return _refuse(waiting, "paused")
    if step.usage.repeats >= LOOP_REPEATS:
        return _refuse(waiting, "ignored:bot_loop")
    earlier = step.usage.recent - len(waiting)
    room = max(0, settings.messages_per_minute - earlier)
    refused = {item.id: "rate_limited" for item in waiting[room:]}
    return Verdict(waiting[:room], refused, wording.TOO_MANY if refused and not step.usage.told else "")


def _refuse(waiting: tuple[Waiting, ...], outcome: str, say: str = "") -> Verdict:
    return Verdict((), {item.id: outcome for item in waiting}, say)


class Purse:
    """Tokens reserved by the calls now in flight, by person. Bounds a day's cost even while 100 calls run."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._reserved: dict[str, int] = {}

    def reserve(self, step: Step, person: str, cost: int) -> bool:
        """Take `cost` tokens out of today's budgets, or say that they do not suffice."""
        usage, settings = step.usage, self._settings
        mine = usage.person_tokens + self._reserved.get(person, 0) + cost
        all_ = usage.day_tokens + sum(self._reserved.values()) + cost
        if mine > settings.daily_tokens_per_user or all_ > settings.daily_tokens:
            return False
        self._reserved[person] = self._reserved.get(person, 0) + cost
        return True

    def give_back(self, person: str, cost: int) -> None:
        """The call is over; what it really used is in the store."""
        left = self._reserved.get(person, 0) - cost
        if left > 0:
            self._reserved[person] = left
        else:
            self._reserved.pop(person, None)
