"""`python run.py status`: the bot on one screen, refreshing: what comes in and is answered, what waits, what failed.

Not here: metrics for machines (`metrics.py`). The law: the database is only read, and beside a running server; the
server itself is asked for no more than /healthz, so that no token is needed; without a terminal it prints once.

Next: `audit.py`.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress

from minibot.ai_faults import MEANING
from minibot.channels import messenger, telegram, whatsapp
from minibot.config import Settings
from minibot.desk.check_here import ask_health
from minibot.desk.report import age, run
from minibot.errors import NoAnswer
from minibot.model import PLATFORMS
from minibot.store import ledger
from minibot.store.opening import open_reader
from minibot.web.calls import Caller

MINUTES, EVERY = 10, 2.0  # how far back the bars go; seconds between two looks
BARS = " ▁▂▃▄▅▆▇█"
MINUTE, DAY = 60_000, 86_400_000


def main(arguments: list[str], settings: Callable[[], Settings]) -> int:
    """The command; ends with Ctrl-C, or at once where nobody looks on."""
    loaded = settings()
    with suppress(KeyboardInterrupt):
        return run(lambda caller: _watch(loaded, caller))
    return 0


async def _watch(settings: Settings, caller: Caller) -> int:
    while True:
        screen = "\n".join(await picture(settings, caller, time.time_ns() // 1_000_000))
        print(f"\x1b[H\x1b[J{screen}" if sys.stdout.isatty() else screen, flush=True)
        if not sys.stdout.isatty():
            return 0
        await asyncio.sleep(EVERY)


async def picture(settings: Settings, caller: Caller, now: int) -> list[str]:
    """The lines of the screen; `now` in ms."""
    try:
        health = await ask_health(settings, caller)
        state = (f"{health['pending']} waiting" + (f", the oldest for {age(health['oldest_pending_seconds'])}" if
                 health["pending"] else "") + f"; {health['dead']} given up on") if "dead" in health else "in trouble"
    except NoAnswer:
        state = "not running: python run.py"
    with closing(open_reader(settings)) as db:
        counts = [ledger.outcomes(db, now - MINUTE * back) for back in range(MINUTES + 1)]
        used, dead = ledger.tokens(db, now // DAY), ledger.dead(db)
    lines = [f"minibot on port {settings.port}: {state}", "", f"{'':10} messages in the last {MINUTES} minutes"]
    for platform in PLATFORMS:
        came = [sum(number for (name, _), number in count.items() if name == platform) for count in counts]
        gone = [count[platform, "replied"] for count in counts]
        lines.append(f"{platform:10} in {_bars(came)} {came[-1]:<6} answered {_bars(gone)} {gone[-1]}")
    share = 100 * used / settings.daily_tokens
    lines += ["", f"{'tokens':10} {used:,} of {settings.daily_tokens:,} today ({share:.0f} %)", ""]
    errors = Counter((hop.platform if hop.row == "part" else "model", hop.error if hop.row == "part" else
                      hop.state.partition(":")[2]) for hop in dead)
    return lines + [f"{who:10} {count} x {code or 'unreadable'}: {remedy(who, code)}"
                    for (who, code), count in errors.most_common(8)]


def remedy(who: str, code: str) -> str:
    """What the operator can do about an error code of a platform or the model."""
    if who == "model":
        return next((row[2] for row in MEANING.values() if row[1] == code), "python run.py dead shows it")
    rows = whatsapp.REMEDIES if who == "whatsapp" else messenger.REMEDIES
    found = [help for pattern, _, help in telegram.ERRORS if re.match(pattern, f"{code} ?")] if who == "telegram" else [
        rows[int(part)][1] for part in code.split("/")[::-1] if part.isdecimal() and int(part) in rows]
    return (found + ["python run.py dead shows it"])[0].format(key="its setting") or "python run.py dead shows it"


def _bars(cumulative: list[int]) -> str:
    """A bar for each minute, the newest at the right."""
    each = [later - earlier for earlier, later in zip(cumulative, cumulative[1:])][::-1]
    return "".join(BARS[-(-8 * count // (max(each) or 1))] for count in each)
