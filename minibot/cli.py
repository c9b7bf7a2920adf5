"""The command line: which command runs, which exit code it ends with.

Exit codes: 0 fine · 1 something is broken (said in a line) · 2 wrong settings or arguments · 78 the database
must not be used as it is. Not here: what the commands do (`app.py`, `desk/`). The law: a foreseeable fault is
one line on stderr, never a traceback; only the chosen command's modules are imported.

Next: `config.py`, then `app.py`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from itertools import count
from typing import NamedTuple

from minibot.config import Settings, load, read_env_file
from minibot.errors import MinibotError, SettingsFault, StoreDamaged

BROKEN, USAGE, DAMAGED = 1, 2, 78
NO_OPENAI = "the openai package is missing: python3 -m venv .venv && .venv/bin/pip install openai, " \
    "then start with .venv/bin/python run.py (python3 run.py demo needs no package)"


class Command(NamedTuple):
    """`main(arguments, settings)` of the module does the work, or the function named behind a colon.

    The module is imported only when it is asked for.
    """

    module: str
    usage: str
    summary: str


COMMANDS = {
    "demo": Command("minibot.desk.demo", "demo [--port N] [--no-browser] [--db FILE] [--lesson NAME]",
                    "four simulated platforms on one page; needs no account, no key, no package"),
    "connect": Command("minibot.desk.connect", "connect [platform ...] [--url URL]",
                       "register the webhooks with the platforms"),
    "check": Command("minibot.desk.check", "check [--json]", "examine everything, live; each fault with its remedy"),
    "status": Command("minibot.desk.status", "status", "the running bot on one screen"),
    "export": Command("minibot.desk.export", "export [--since DATE] [--platform P] [--json FILE | --csv FILE]",
                      "write the conversations out, as JSON or for a spreadsheet"),
    "why": Command("minibot.desk.ledger:why", "why ID", "what became of a message, a chat or a reply, hop by hop"),
    "dead": Command("minibot.desk.ledger:dead", "dead", "what was given up on"),
    "retry": Command("minibot.desk.ledger:retry", "retry ID ... | --all [--force]", "try that again"),
    "forget": Command("minibot.desk.ledger:forget", "forget CHAT", "erase what is stored about a person"),
    "backup": Command("minibot.desk.ledger:backup", "backup FILE", "a checked copy of the database"),
    "move": Command("minibot.desk.move", "move --to URL", "copy the SQLite database into an empty PostgreSQL one"),
    "audit": Command("minibot.desk.audit", "audit", "paths, hosts, secrets, personal data, threads, lines per file"),
    "unit": Command("minibot.desk.unit", "unit", "a systemd unit for this folder and user"),
}


def main(arguments: list[str]) -> int:
    """Run one command; the exit code."""
    name = arguments[0] if arguments else ""
    if name in ("-h", "--help", "help"):
        print(_help())
        return 0
    if name and name not in COMMANDS:
        print(f"unknown command {name!r}: python run.py --help lists them", file=sys.stderr)
        return USAGE
    try:
        if not name:
            return _serve()
        module, _, function = COMMANDS[name].module.partition(":")
        run: Callable[[list[str], Callable[[], Settings]], int] = getattr(import_module(module), function or "main")
        return run(arguments[1:], settings)
    except SettingsFault as fault:
        print("\n".join(fault.faults), file=sys.stderr)
        return USAGE
    except StoreDamaged as fault:
        print(fault, file=sys.stderr)
        return DAMAGED
    except MinibotError as fault:
        print(fault, file=sys.stderr)
        return BROKEN
    except KeyboardInterrupt:
        return 130


def settings(complete: bool = False) -> Settings:
    """The settings of this environment and folder; warnings go to stderr. `complete`: enough of them to serve."""
    text, warnings = read_env_file(os.getcwd(), os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    loaded, more = load(os.environ, text, complete=complete)
    for line in (*warnings, *more):
        print(f"warning: {line}", file=sys.stderr)
    return loaded


def _serve() -> int:
    if "MINIBOT_DEMO" in os.environ:
        return _rehearse()
    loaded = settings(complete=True)
    if find_spec("openai") is None:
        print(NO_OPENAI, file=sys.stderr)
        return USAGE
    from minibot.app import serve  # asyncio and sqlite3 only for the command that needs them

    return serve(loaded, _crash_point(os.environ.get("CRASH_AT", "")))


def _rehearse() -> int:
    """The serving half of `run.py demo`: no `.env`, simulated platforms, and openai only for a real model."""
    from minibot.app import serve

    loaded, _ = load(os.environ)
    rehearse = import_module("minibot.desk.demo_rehearsal").rehearsal(loaded, os.environ)
    return serve(loaded, _crash_point(""), rehearse)


def _crash_point(wanted: str) -> Callable[[str], None]:
    """For the crash tests: CRASH_AT kills this process hard at the n-th point, or at the first one of that name."""
    if not wanted:
        return lambda name: None
    number = count(1)

    def reach(name: str) -> None:
        if wanted in (str(next(number)), name):
            print(f"CRASH_AT reached: {name}", file=sys.stderr, flush=True)
            os.kill(os.getpid(), 9)

    return reach


def _help() -> str:
    width = max(len(command.usage) for command in COMMANDS.values())
    lines = [f"  python run.py {'':{width}}  serve: answer on the platforms that .env configures"]
    lines += [f"  python run.py {command.usage:{width}}  {command.summary}" for command in COMMANDS.values()]
    return "minibot: an AI chatbot on Telegram, WhatsApp, Messenger and Instagram\n\n" + "\n".join(lines)
