"""When to try again, decided by one pure function for everything that can fail.

Not here: trying (`conversation.py`, `export.py`), or what a platform's error means (the channel's `judge`).
The law: a wait that the other side asked for is kept to the letter, everything else backs off with jitter,
a permanent fault is final at once, and an unsure send is repeated at most once.

Next: `breaker.py`, one wait for a whole upstream.
"""

from __future__ import annotations

from minibot.errors import NoAnswer, Remedy, SendFailed
from minibot.work import Fate, Part

# Seconds before try 1, 2, 3, ...; the last one repeats. None at the end: no further try.
SCHEDULES: dict[str, tuple[float | None, ...]] = {
    "send": (1, 2, 5, 15, 30, 60, 120, 300),
    "model": (1, 2, 4, 8, 16, 30, 60),
    "pair": (1, 4, 16, 64, 256),  # WhatsApp's 131056: retry after 4^x seconds
    "stopped": (60, 120, 300),  # token, permission, account: probe slowly until the operator has mended it
    "export": (5, 30, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400, None),
}
LOOK_UP_SECONDS = 15.0  # how long a status or echo may take to tell what became of an unsure send
UNSURE_REPEATS = 1


def delay(schedule: str, tries: int, chance: float, retry_after: float | None = None) -> int | None:
    """Milliseconds until the next try after `tries` failed ones (at least 1), or None for never.

    `chance` in [0, 1) spreads the waits over half to whole of the schedule; `retry_after` (seconds) is kept
    to the letter, with up to a tenth on top so that all who wait do not come back at once.
    """
    if retry_after is not None:
        return round(retry_after * 1000 * (1 + chance / 10)) + 1
    steps = SCHEDULES[schedule]
    seconds = steps[min(max(tries, 1), len(steps)) - 1]
    return None if seconds is None else round(seconds * 1000 * (0.5 + chance / 2))


def decide(error: SendFailed | NoAnswer, part: Part, now: int, chance: float, looks_up: bool) -> Fate:
    """What becomes of `part` after a failed send. `looks_up`: the platform will tell about an unsure one."""
    if isinstance(error, NoAnswer):
        error = SendFailed(Remedy.UNSURE if error.unsure else Remedy.RETRY, "no_answer", help=str(error))
    wait = delay(_SCHEDULE.get(error.remedy, "send"), part.tries, chance, error.retry_after) or 0
    failed = f"send_failed:{error.code}"
    if error.remedy in _SCHEDULE:
        return Fate("pending", error=error.code, due_at=now + wait)
    if error.remedy is Remedy.UNSURE:
        return unsure(part, now, looks_up)
    if error.remedy is Remedy.DELIVERED:
        return Fate("sent", error=error.code)
    if error.remedy is Remedy.MOVED and error.chat:
        return Fate("pending", error=error.code, chat=error.chat)
    if error.remedy is Remedy.THREADLESS and not part.threadless:
        return Fate("pending", error=error.code, threadless=True)
    if error.remedy is Remedy.WINDOW:
        return Fate("expired", error=error.code, rest=True, outcome="window_closed")
    unreachable = error.remedy is Remedy.UNREACHABLE
    return Fate("dead", error=error.code, rest=unreachable, blocked=unreachable, outcome=failed)


def unsure(part: Part, now: int, looks_up: bool) -> Fate:
    """A send that may have arrived: wait for the platform's word where there is one, repeat once, then `maybe`."""
    if part.unsure >= UNSURE_REPEATS:
        return Fate("maybe", error="unsure", unsure=True)
    wait = LOOK_UP_SECONDS if looks_up else 1.0
    return Fate("pending", error="unsure", due_at=now + round(wait * 1000), unsure=True)


_SCHEDULE = {Remedy.RETRY: "send", Remedy.WAIT_CHAT: "pair", Remedy.WAIT_CHANNEL: "send", Remedy.STOP: "stopped"}
