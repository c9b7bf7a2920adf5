"""The commands a person can send on any platform: one table from word to reaction.

Not here: recognising a command in a message (each channel), carrying the reaction out (`conversation.py`).
The law: a command never asks the model, costs nothing, and works while the bot is paused.

Next: `conversation.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from urllib.parse import urlsplit

from minibot.config import Settings
from minibot.flow import wording
from minibot.work import Finish

Reaction = Callable[[Settings, int], tuple[str, Finish]]


def react(command: str, inbound_id: int, settings: Settings, now: int) -> tuple[str, Finish]:
    """The reply's text and the end of the turn (parts still to be composed) for one command."""
    text, finish = REACTIONS[command](settings, now)
    return text, replace(finish, outcomes={inbound_id: "command"})


def _says(text: str) -> Reaction:
    return lambda settings, now: (text, Finish({}))


def _privacy(settings: Settings, now: int) -> tuple[str, Finish]:
    host = urlsplit(settings.openai_base_url).hostname or "api.openai.com"
    return wording.privacy(settings.retention_days, host, bool(settings.destinations)), Finish({})


def _human(settings: Settings, now: int) -> tuple[str, Finish]:
    return wording.HUMAN, Finish({}, pause_until=now + round(settings.human_pause_hours * 3_600_000))


REACTIONS: dict[str, Reaction] = {
    "start": _says(wording.START),
    "help": _says(wording.HELP),
    "privacy": _privacy,
    "reset": lambda settings, now: (wording.RESET, Finish({}, forget="history")),
    "forget": lambda settings, now: (wording.FORGOTTEN, Finish({}, forget="everything")),
    "human": _human,
    "bot": lambda settings, now: (wording.BOT, Finish({}, pause_until=0)),
}
