"""What the operator's commands tell: findings with their remedies, in columns, in colour where a person looks on.

Not here: finding anything out (`check.py` and its neighbours). The law: a finding is one line of what is so and one of
what to do; whatever comes from outside is escaped before it is shown; no finding holds a secret.

Next: `tunnel.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Literal, NamedTuple

from minibot.text import safe_line
from minibot.web.calls import Caller

Level = Literal["ok", "warning", "error"]
COLOURS = {"ok": 32, "ready": 32, "warning": 33, "error": 31, "wrong": 31, "off": 2}
UNITS = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


class Finding(NamedTuple):
    """`about`: a platform, settings, server, address, database, model. `remedy`: "" where nothing is to be done."""

    level: Level
    about: str
    what: str
    remedy: str


class Report(list[Finding]):
    """The findings of one part of an examination, in order."""

    def say(self, about: str, *rows: tuple[object, Level, str, str]) -> None:
        """Add what the first of `rows` says, (does it hold?, level, what is so, what to do), whose condition holds."""
        self.extend([Finding(level, about, what, remedy) for holds, level, what, remedy in rows if holds][:1])

    def lines(self, colour: bool) -> list[str]:
        """A line for each finding, with a second one for its remedy, aligned."""
        return [f"{paint(level, 8, colour)} {about:<10} {safe_line(what, 400)}" + (
            f"\n{'':19} -> {safe_line(remedy, 400)}" if remedy else "") for level, about, what, remedy in self]


def paint(word: str, width: int, colour: bool) -> str:
    """`word` padded to `width`, in its colour."""
    return f"\x1b[{COLOURS.get(word, 0)}m{word:<{width}}\x1b[0m" if colour else f"{word:<{width}}"


def age(seconds: float) -> str:
    """A span in the largest unit that fits: "41 seconds", "3 minutes", "2 hours", "5 days"."""
    size, unit = next((row for row in UNITS if seconds >= row[0]), (0, ""))
    return f"{seconds / size:.0f} {unit}{'' if seconds < 1.5 * size else 's'}" if size else "a moment"


def moved(old: object, new: str) -> list[str]:
    """A line about the address that was registered before, if it was another one (ngrok's changes at each start)."""
    return [f"  before     {safe_line(str(old))}: the address has changed"] if old and old != new else []


def run(work: Callable[[Caller], Coroutine[Any, Any, int]]) -> int:
    """Do `work`, which makes outgoing calls, in an event loop of its own; its exit code."""
    async def all_of_it() -> int:
        caller = Caller(clock=time.monotonic)
        try:
            return await work(caller)
        finally:
            caller.close()
    return asyncio.run(all_of_it())
