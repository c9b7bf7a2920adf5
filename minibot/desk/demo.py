"""`python3 run.py demo`: the whole program on one page, with nothing but Python; only the far ends are simulated.

Not here: the far ends (`demo_stage.py`), the page's door (`demo_page.py`), the program (`demo_rehearsal.py`). The law:
of this machine's settings the program gets the model's and no others, so that nobody real is ever written to; whoever
is killed is back within a second, on the same database; the end leaves nothing behind.

Next: `demo_page.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import subprocess
import sys
import time
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

from minibot.ai_offline import OfflineModel
from minibot.config import Settings
from minibot.desk.demo_page import Page, Wire
from minibot.desk.demo_rehearsal import LESSONS
from minibot.desk.demo_stage import FAR_ENDS, Stage
from minibot.desk.simulator_meta import Account
from minibot.dotenv import surroundings
from minibot.errors import SettingsFault
from minibot.web.calls import Caller
from minibot.web.server import Server
from minibot.web.limits import Limits

NOT_BESIDE = "--lesson switches a protection off, and real credentials are set here: run it in a folder without .env"
KEYS = {"TELEGRAM_BOT_TOKEN": "7000000000:AA", "TELEGRAM_WEBHOOK_SECRET": "", "VERIFY_TOKEN": "", "META_APP_SECRET": "",
        "META_ACCESS_TOKEN": "EAA", "META_PAGE_ACCESS_TOKEN": "EAA", "INSTAGRAM_ACCESS_TOKEN": "IGAA"}
DOOR = Path(__file__).resolve().parents[2] / "run.py"
LISTENING = re.compile(r"minibot listens on http://127\.0\.0\.1:(\d+)")
DOWN = 1.0  # seconds until the program is started again: long enough to be seen
SILENCE = 100.0  # seconds that a simulated platform may keep silent


def main(arguments: list[str], settings: Callable[[], Settings]) -> int:
    """The command. Exit code 0: ended by Ctrl-C; 1: the program did not start; 2: wrong arguments."""
    parser = argparse.ArgumentParser("python3 run.py demo", allow_abbrev=False)
    parser.add_argument("--port", type=int, choices=range(65536), default=8000, metavar="N")
    parser.add_argument("--no-browser", action="store_true")
    parser.add_argument("--db", metavar="FILE")
    parser.add_argument("--lesson", choices=LESSONS, default="")
    options = parser.parse_args(arguments)
    try:
        known = settings()
    except SettingsFault:
        known = Settings()  # a broken .env is no reason not to show the demo
    if options.lesson and known.platforms:
        print(NOT_BESIDE, file=sys.stderr)
        return 2
    with TemporaryDirectory(prefix="minibot-demo-", ignore_cleanup_errors=True) as folder, \
            asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        options.db = Path(options.db or f"{folder}/demo.db").resolve()
        with suppress(KeyboardInterrupt, asyncio.CancelledError):
            return runner.run(_play(options, known))
    return 0


async def _play(options: argparse.Namespace, known: Settings) -> int:
    """Set the stage, start the program, say where the page is; until Ctrl-C, or until the program cannot start."""
    keys = {name: prefix + os.urandom(16).hex() for name, prefix in KEYS.items()}
    wire, caller = Wire(keys), Caller(clock=time.monotonic)
    serving = Serving(wire)
    stage = Stage(wire, serving, caller, keys)
    page = Page(wire, {"/act": stage.act, "/plan": stage.plan, "/kill": serving.kill},
                {f"/sim/{name}/": partial(stage.serve, name) for name in FAR_ENDS})
    server = Server(page, clock=time.time, limits=Limits(answer_time=SILENCE))
    url = f"http://127.0.0.1:{await _listen(server, page, options.port)}"
    stage.graph.account.media_url = f"{url}/sim/graph"
    serving.start(surroundings() | keys | _environment(url, options, known))
    print(f"minibot demo: {url}  (Ctrl-C ends it)", flush=True)
    with suppress(NotImplementedError):  # Windows has no SIGTERM
        asyncio.get_running_loop().add_signal_handler(
            signal.SIGTERM, asyncio.current_task().cancel)  # type: ignore[union-attr]
    Thread(target=caller.warm, daemon=True).start()
    if not options.no_browser:
        Thread(target=webbrowser.open, args=(url,), daemon=True).start()
    try:
        return await serving.over
    finally:
        await asyncio.to_thread(serving.stop)
        await server.stop(0.2)
        caller.close()


async def _listen(server: Server, page: Page, port: int) -> int:
    """On `port`, or a free one after it."""
    for attempt in (*range(port, port + 20), 0):
        with suppress(OSError, OverflowError):
            found = await server.start("127.0.0.1", attempt)
            page.hosts |= {f"{host}:{found}".encode() for host in ("127.0.0.1", "localhost")}
            return found
    raise AssertionError


def _environment(url: str, options: argparse.Namespace, known: Settings) -> dict[str, str]:
    """Where the program finds the far ends, and the real model where one is set up here."""
    model = {"OPENAI_BASE_URL": f"{url}/sim/model", "OPENAI_MODEL": OfflineModel.name, "AI_TIMEOUT_SECONDS": "8",
             "MINIBOT_OFFLINE": "1"}
    if (known.ai_api_key or known.openai_base_url) and find_spec("openai"):
        model = {"AI_API_KEY": known.ai_api_key.reveal(), "OPENAI_BASE_URL": known.openai_base_url,
                 "OPENAI_MODEL": known.openai_model, "SYSTEM_PROMPT": known.system_prompt}
    return model | {
        "META_PHONE_NUMBER_ID": Account.phone_number_id, "META_APP_ID": Account.app_id, "PORT": "0",
        "MINIBOT_DEMO": "1", "MINIBOT_LESSON": options.lesson, "DATABASE_URL": f"sqlite:///{options.db}",
        "LOG_LEVEL": "debug", "LOG_FORMAT": "json",
        "TELEGRAM_API_URL": f"{url}/sim/telegram", "META_GRAPH_URL": f"{url}/sim/graph",
        "INSTAGRAM_GRAPH_URL": f"{url}/sim/instagram", "NO_PROXY": "127.0.0.1", "PYTHONIOENCODING": "utf-8"}


class Serving:
    """The program, as a process: `port` is where it listens now, `up` is set while it does. `over` gets its exit code
    if it never came to that."""

    def __init__(self, wire: Wire) -> None:
        self.wire, self.port = wire, 0
        self.up = asyncio.Event()
        self.over: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._stopping = False

    def start(self, environ: dict[str, str]) -> None:
        """Start it, and again whenever it has ended, until `stop`."""
        self.wire.tell("state", up=False, lesson=environ["MINIBOT_LESSON"], model=environ["OPENAI_MODEL"],
                       offline="MINIBOT_OFFLINE" in environ)
        Thread(target=self._run, args=(environ, asyncio.get_running_loop().call_soon_threadsafe), daemon=True).start()

    def kill(self) -> None:
        """kill -9: it gets no chance to put anything in order."""
        if self.up.is_set():
            self._program.kill()

    def stop(self) -> None:
        """End it; blocks until it has ended."""
        self._stopping = True
        with suppress(AttributeError):  # it was not even started
            self._program.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._program.wait(5)
            self._program.kill()

    def _run(self, environ: dict[str, str], tell: Callable[..., object]) -> None:
        """A thread's work: start it, pass on what it prints, start it again."""
        with suppress(RuntimeError):  # the loop is over
            while not self._stopping:
                with subprocess.Popen([sys.executable, str(DOOR)], env=environ, text=True, encoding="utf-8",
                                      errors="replace", stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      stderr=subprocess.STDOUT) as self._program:
                    for line in self._program.stdout or ():
                        tell(self._hear, line.rstrip())
                tell(self._ended, self._program.returncode)
                time.sleep(DOWN)

    def _hear(self, line: str) -> None:
        if found := LISTENING.search(line):
            self.port = int(found[1])
            self.up.set()
            self.wire.tell("state", up=True, pid=self._program.pid)
        elif not self.up.is_set():
            print(line, file=sys.stderr)  # it says why it cannot start
        self.wire.hear(line)

    def _ended(self, code: int) -> None:
        if not self.up.is_set() and not self.over.done():
            self.over.set_result(code)
        self.up.clear()
        self.wire.tell("state", up=False)
