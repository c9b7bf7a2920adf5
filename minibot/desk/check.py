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

from minibot.config import Settings
from minibot.desk import check_here, check_platforms, report, tunnel
from minibot.desk.check_here import Case
from minibot.desk.graph import Graph
from minibot.desk.report import Report
from minibot.dotenv import wants_colour
from minibot.errors import NoAnswer, SendFailed, SettingsFault
from minibot.web.calls import Caller

USAGE = "usage: python run.py check [--json]"
OFFLINE = "is this machine online, behind a proxy (HTTPS_PROXY), and TELEGRAM_API_URL or META_GRAPH_URL right?"
PARTS = {"database": check_here.database, "server": check_here.server, "telegram": check_platforms.telegram,
         "whatsapp": check_platforms.whatsapp, "messenger": check_platforms.page, "instagram": check_platforms.login,
         "model": check_here.model, "meta": check_platforms.application}


def main(arguments: list[str], settings: Callable[..., Settings]) -> int:
    """The command. Exit code 0: it works, perhaps with warnings; 1: something is broken; 2: wrong arguments."""
    if {*arguments} - {"--json"}:
        print(USAGE, file=sys.stderr)
        return 2
    found = Report()
    loaded = _settings(found, settings)
    if loaded:
        report.run(lambda caller: examine(found, loaded, caller, time.time()))
    broken, odd = ([each.level for each in found].count(level) for level in ("error", "warning"))
    if "--json" in arguments:
        print(json.dumps([finding._asdict() for finding in found], indent=1))
    else:
        print(*found.lines(wants_colour(sys.stdout)), "", f"{broken} broken, {odd} to look at", sep="\n")
    return int(broken > 0)


def _settings(found: Report, settings: Callable[..., Settings]) -> Settings | None:
    """The settings if they can be used at all; what is wrong with them goes into the report."""
    faults, loaded, said = list[str](), None, io.StringIO()
    for complete in (True, False):
        try:
            with redirect_stderr(said):  # where the command line's own loader puts its warnings
                loaded = loaded or settings(complete)
        except SettingsFault as fault:
            faults = fault.faults
    warnings = [line.removeprefix("warning: ") for line in said.getvalue().splitlines()]
    for line in dict.fromkeys((*faults, *warnings)):
        what, _, remedy = line.partition("; ")
        found.say("settings", (True, "warning" if line in warnings else "error", what, remedy))
    return loaded


async def examine(found: Report, settings: Settings, caller: Caller, now: float,
                  agents: tuple[str, ...] = tunnel.AGENTS) -> int:
    """Everything that can be found out from here; `now`: seconds since 1970."""
    settings = check_here.shapes(settings, found.say)
    public = await tunnel.address(settings, caller, settings.port, None, agents)
    case = Case(settings, caller, Graph(settings, caller), public, now)
    reports = [await _part(case, "meta")]  # first: what it finds out about the app's own token, others use
    reports += await asyncio.gather(*(_part(case, about) for about in PARTS if about != "meta"))
    found += [finding for each in reports for finding in each]
    return 0


async def _part(case: Case, about: str) -> Report:
    """The findings of one part, up to the fault that keeps it from going on."""
    found = Report()
    try:
        await PARTS[about](case, found.say)
    except NoAnswer as fault:
        found.say(about, (True, "error", str(fault), OFFLINE))
    except SendFailed as fault:
        found.say(about, (True, "error", f"the question was refused ({fault.code})", fault.help))
    return found
