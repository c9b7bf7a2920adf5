"""`python run.py check`: the testing checklist and the troubleshooting table as a command, live.

Not here: the examinations (`check_here.py`, `check_platforms.py`). The law: nothing is changed and nobody gets a
message; a fault is named once, with its remedy, and never ends the examination of the rest. The only cost is a
question of a few words to the model.

Next: `check_here.py`.
"""

from __future__ import annotations

import asyncio
import io
import json
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from email.utils import parsedate_to_datetime

from minibot.config import Settings
from minibot.desk import check_here, check_platforms, tunnel
from minibot.desk.check_here import Case
from minibot.desk.graph import Graph
from minibot.desk.report import Report, age
from minibot.dotenv import wants_colour
from minibot.errors import NoAnswer, SendFailed, SettingsFault
from minibot.model import Call, Reply
from minibot.web.calls import Caller

USAGE = "usage: python run.py check [--json]"
PARTS = {"database": check_here.database, "server": check_here.server,
         "telegram": check_platforms.telegram, "meta": check_platforms.application,
         "whatsapp": check_platforms.whatsapp, "messenger": check_platforms.page, "instagram": check_platforms.login,
         "model": check_here.model}


def main(arguments: list[str], settings: Callable[..., Settings]) -> int:
    """The command. Exit code 0: it works, perhaps with warnings; 1: something is broken; 2: wrong arguments."""
    if {*arguments} - {"--json"}:
        print(USAGE, file=sys.stderr)
        return 2
    report = Report()
    loaded = _settings(report, settings)
    if loaded:
        report += asyncio.run(examine(loaded, time.time()))
    broken, odd = ([each.level for each in report].count(level) for level in ("error", "warning"))
    if "--json" in arguments:
        print(json.dumps([finding._asdict() for finding in report], indent=1))
    else:
        print(*report.lines(wants_colour(sys.stdout)), "", f"{broken} broken, {odd} to look at", sep="\n")
    return int(broken > 0)


def _settings(report: Report, settings: Callable[..., Settings]) -> Settings | None:
    """The settings if they can be used at all; what is wrong with them goes into the report."""
    faults: list[str] = []
    loaded, said = None, io.StringIO()
    for complete in (True, False):
        try:
            with redirect_stderr(said):  # where the command line's own loader puts its warnings
                loaded = loaded or settings(complete)
        except SettingsFault as fault:
            faults = fault.faults
    warnings = [line.removeprefix("warning: ") for line in said.getvalue().splitlines()]
    for line in dict.fromkeys((*faults, *warnings)):
        what, _, remedy = line.partition("; ")
        report.say("settings", (line in warnings, "warning", what, remedy), (True, "error", what, remedy))
    return loaded


class _Listener(Caller):
    """A Caller that keeps what the platforms say of the time."""

    date = ""

    async def perform(self, call: Call, pool: str) -> Reply:
        reply = await super().perform(call, pool)
        self.date = reply.fields.get("date", "") if pool in ("telegram", "meta") else self.date
        return reply


async def examine(settings: Settings, now: float, agents: tuple[str, ...] = tunnel.AGENTS) -> Report:
    """Everything that can be found out from here; `now`: seconds since 1970."""
    caller = _Listener(clock=time.monotonic)
    try:
        public = await tunnel.address(settings, caller, settings.port, None, agents)
        whole = Report()
        settings = check_here.shapes(settings, whole.say)
        case = Case(settings, caller, Graph(settings, caller), public, now)
        whole += await _part(case, "meta")  # first: what it finds out about the app's own token, others use
        for report in await asyncio.gather(*(_part(case, about) for about in PARTS if about != "meta")):
            whole += report
        _skew(whole, caller.date, now)
        return whole
    finally:
        caller.close()


async def _part(case: Case, about: str) -> Report:
    """The findings of one part, up to the fault that keeps it from going on."""
    report = Report()
    try:
        await PARTS[about](case, report.say)
    except NoAnswer as fault:
        report.say(about, (True, "error", str(fault), "is this machine online, behind a proxy (HTTPS_PROXY), and the "
                           "API's address right (TELEGRAM_API_URL, META_GRAPH_URL)?"))
    except SendFailed as fault:
        report.say(about, (True, "error", f"the question was refused ({fault.code})", fault.help))
    return report


def _skew(report: Report, date: str, now: float) -> None:
    """How far our clock is from the platforms'."""
    try:
        ahead = now - parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        return
    report.say("clock", (abs(ahead) > 60, "warning", f"this machine's clock is {age(abs(ahead))} "
                         f"{'ahead' if ahead > 0 else 'behind'}", "set it, e.g. timedatectl set-ntp true"))
