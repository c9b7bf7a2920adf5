"""T25: minibot is broken on purpose, one protection at a time, and the drill for it must notice.

Not here: any drill. The law: each breakage is an edit of a copy of the source, and the small version of an ordinary
drill, run within that copy, has to find complaints (or never come to its end); a drill that passes although what it
watches over is gone proves nothing.

Next: `__main__.py`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.botprocess import ROOT
from tests.drill.house import Say, Verdict, copy_of_minibot

PATIENCE = 200.0  # seconds; a drill that has not passed by then has noticed
RUN = """
import sys
from functools import partial
from tests.drill import crash, days, disk, host, load
from tests.drill.days import Lived
from tests.drill.virtual import live

def quiet(words): pass

def lived(life, **settings):
    found = Lived()
    live(partial(life, found=found), **settings)
    return found.complaints

def died(*points, **more):
    return crash.die_at(*points, chats=2, platforms=("telegram",), **more).found.complaints

def shaken():  # so many faults that some parts never arrive; what counts here is what nobody may get
    complaints = crash.kills_under_load(quiet, 12, 0.5, platforms=("telegram",)).complaints
    return [each for each in complaints if "times" in each or "too early" in each]

complaints = %s
print(*complaints[:3], sep="\\n")
sys.exit(3 if complaints else 0)
"""


class Breakage(NamedTuple):
    """What is broken: (file, old text, new text) each, and the drill that must notice, as an expression of RUN."""

    what: str
    changes: tuple[tuple[str, str, str], ...]
    drill: str


BREAKAGES = (
    Breakage("the fence is gone", (
        ("store/sql.py", 'WHERE id = ? AND epoch = ? AND lease_until > 0 "', 'WHERE id = ? AND epoch >= 0 * ? "'),),
        "lived(days.stalled)"),
    Breakage("200 before the commit", (
        ("flow/intake.py", "self._expect()\n        return answer", "self._expect()\n        return OK"),),
        "disk.power_cuts(quiet, 60, 900).complaints"),
    Breakage("an event may be stored twice", (
        ("store/schema.py", "event TEXT NOT NULL UNIQUE,", "event TEXT NOT NULL,"),
        ("store/sql_intake.py", "ON CONFLICT (event) DO NOTHING", "")),
        "load.repeats_in_disorder(quiet, 8, 5).complaints"),
    Breakage("synchronous is NORMAL", (
        ("store/sqlite_file.py", "synchronous = FULL", "synchronous = NORMAL"),),
        "disk.power_cuts(quiet, 60, 900).complaints"),
    Breakage("a call is made before it is written down", (
        ("store/sql.py", "SET state = 'sending', tries = ?", "SET tries = ?"),
        ("store/sql.py", "AND conversation = ? AND \"\n              \"state = 'sending'\"", 'AND conversation = ?"')),
        "died('call:telegram sendMessage:after')"),
    Breakage("leases are not renewed", (("flow/dispatch.py", "                await self._renew()\n", ""),),
             "lived(days.suspended)"),
    Breakage("an unsure send is repeated for ever", (("flow/retry.py", "UNSURE_REPEATS = 1", "UNSURE_REPEATS = 9"),),
             "shaken()"),
    Breakage("Retry-After is not heeded", (
        ("flow/retry.py", "    if retry_after is not None:", "    if False:"),
        ("flow/delivery.py", "        breaker.pause(fate.due_at)", "        pass")),
        "shaken() or shaken()"),  # a call that comes too early needs a chance to be made
    Breakage("parts leave in any order", (
        ("store/sql.py", "ORDER BY turn, place LIMIT 1", "ORDER BY id DESC LIMIT 1"),),
        "crash.die_at('call:model:after', chats=4, platforms=('instagram',)).found.complaints"),
    Breakage("of joined messages the first is forgotten", (
        ("flow/conversation.py", '"merged" for item in run[:-1]', '"merged" for item in run[1:-1]'),),
        "died('call:telegram sendMessage:after', rounds=4)"),
    Breakage("a poisonous message is never given up", (("flow/conversation.py", "DEATHS = 5", "DEATHS = 500"),),
             "crash.poison(quiet, 4, platforms=('telegram',)).complaints"),
    Breakage("suspects are worked with all others", (("store/sql.py", "SUSPECT = 2", "SUSPECT = 200"),),
             "crash.poison(quiet, 12).complaints"),
    Breakage("an outage costs a call for every try", (("flow/breaker.py", "FAILURES = 5", "FAILURES = 5_000_000"),),
             "days.outage_of_an_hour(quiet, 30, seconds=600).complaints"),
    Breakage("the window never closes", (
        ("flow/conversation.py", "if now > self._expires(step):", "if now < 0:"),
        ("flow/delivery.py", "if part.expires_at and now > part.expires_at:", "if now < 0:")),
        "lived(days.the_window_closes)"),
    Breakage("budgets are not kept", (("flow/guard.py", "if mine > settings.daily_tokens_per_user or", "if"),),
             "lived(days.a_new_day, DAILY_TOKENS_PER_USER='1000')"),
    Breakage("old data stays", (("store/upkeep.py", "        _retain(db, now - db.keep)", "        pass"),),
             "lived(days.retention, RETENTION_DAYS='1')"),
    Breakage("the clock is believed", (
        ("store/upkeep.py", "now if now < db.clock - CLOCK_STEP else now + DAY", "now + DAY"),
        ("flow/breaker.py", "if now < self._asked_at - CLOCK_STEP:", "if False:")), "lived(days.set_back)"),
    Breakage("a stop cuts sends short", (
        ("flow/dispatch.py", "MODEL_GRACE, SEND_GRACE = 3.0, 8.0", "MODEL_GRACE, SEND_GRACE = 0.0, 0.0"),),
        "crash.clean_stops(quiet, 6).complaints"),
    Breakage("a failed sync is tried again", (
        ("store/sqlite_file.py", "sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC, sqlite3.SQLITE_CORRUPT",
         "sqlite3.SQLITE_CORRUPT"),),
        "disk.failing_writes(quiet, 40).complaints"),
    Breakage("a migration is written bit by bit", (
        ("store/sqlite_file.py", "            connection.execute(statement)\n",
         "            connection.execute(statement)\n            connection.execute('COMMIT')\n"
         "            connection.execute('BEGIN IMMEDIATE')\n"),), "disk.cut_migrations(quiet, every=9).complaints"),
    Breakage("a damaged database is used", (
        ("store/sqlite_file.py", '    if verdict != "ok":\n        raise sqlite3', "    if 0:\n        raise sqlite3"),
        ),
        "host.damaged(quiet).complaints"),
)


def broken(say: Say, only: str = "") -> Verdict:
    """T25: every breakage whose name contains `only`; a complaint for each that nobody noticed."""
    complaints, noticed, sound = list[str](), list[str](), dict[str, str]()
    for number, breakage in enumerate(BREAKAGES, 1):
        if only in breakage.what:
            say(f"{number}/{len(BREAKAGES)} {breakage.what}, {len(complaints)} unnoticed")
            if breakage.drill not in sound:
                sound[breakage.drill] = notice(breakage._replace(changes=()))
                complaints += [f"{breakage.drill} fails on the whole program: {how}"
                               for how in (sound[breakage.drill],) if how]
            how = notice(breakage)
            noticed += [f"{breakage.what}: {how}"] if how else []
            complaints += [] if how else [f"{breakage.what}: {breakage.drill} passed all the same"]
    return Verdict(f"{len(noticed)} of {len(BREAKAGES)} breakages noticed\n    " + "\n    ".join(noticed), complaints)


def notice(breakage: Breakage) -> str:
    """The first words of the drill's complaint within a copy that is broken like this; "" where there is none."""
    with tempfile.TemporaryDirectory(prefix="drill-") as folder:
        copy_of_minibot(Path(folder), *breakage.changes)
        shutil.copytree(ROOT / "tests", Path(folder) / "tests", ignore=shutil.ignore_patterns("__pycache__"))
        environ = {**os.environ, "PYTHONPATH": folder, "TMPDIR": folder}
        try:
            done = subprocess.run([sys.executable, "-c", RUN % breakage.drill], cwd=folder, env=environ, text=True,
                                  capture_output=True, timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            return "it never comes to its end"
        if done.returncode == 3:
            return done.stdout.strip()[:100].splitlines()[0]
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if re.match(r"[\w.]+(Error|Interrupt|Exit)\b", line)]
            return f"it broke: {said[-1][:100] if said else done.stderr[-100:]}"
        return ""
