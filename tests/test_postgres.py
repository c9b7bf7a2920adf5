"""What the store on PostgreSQL promises beyond the contract: many instances, a server that goes away, no word lost.

Not here: the contract itself (`test_store.py` runs on both stores), minutes of kill -9 (`drill/postgres.py`).

Next: `drill/postgres.py`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from minibot.config import Settings
from minibot.errors import LeaseLost, SettingsFault, StoreDamaged, StoreDown
from minibot.model import Inbound
from minibot.store.opening import open_store
from minibot.work import Answer, Finish
from tests.botprocess import ROOT, BotProcess
from tests.drill.house import PATIENT, TOKEN, Crowd
from tests.fakes import FakeWorld
from tests.postgres import PASSWORD, Absent, PostgresServer

NOW = 1_800_000_000_000
LEASE = 18_000


def message(number: int, chat: str = "anna", **more: Any) -> Inbound:
    return Inbound("telegram", "1", chat, f"message:{number}", text=f"text {number}", sent_at=NOW, **more)


def run(url: str, story: Callable[[Any], Awaitable[Any]], **more: Any) -> Any:
    """Open the store, let `story` use it, close it."""
    async def whole() -> Any:
        store = open_store(Settings(database_url=url), NOW, **more)
        try:
            return await story(store)
        finally:
            await store.close(NOW)
    return asyncio.run(whole())


def command(url: str, *arguments: str, python: tuple[str, ...] = (), folder: Path = ROOT) -> Any:
    """`run.py` with these arguments, or none: the server."""
    environ = {"PATH": os.environ["PATH"], "DATABASE_URL": url, "OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "PORT": "0",
               "TELEGRAM_BOT_TOKEN": "123456789:AAHcanarycanarycanarycanarycanary1234"}
    done = subprocess.run([sys.executable, *python, str(ROOT / "run.py"), *arguments], cwd=folder, env=environ,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
    assert PASSWORD not in done.stdout + done.stderr and "canary" not in done.stdout + done.stderr
    return done


@pytest.fixture
def own_server(postgres: PostgresServer) -> Iterator[PostgresServer]:
    """A server that a test may stop."""
    server = PostgresServer()
    yield server
    server.close()


# --- many instances ---------------------------------------------------------------------------------------------------

def test_ten_instances_that_start_at_once_make_one_database(postgres: PostgresServer) -> None:
    url, together = postgres.fresh(), threading.Barrier(10)

    def start(number: int) -> Any:
        async def story(store: Any) -> Any:
            return await store.accept([message(number)], NOW)
        together.wait()
        return run(url, story)

    with ThreadPoolExecutor(10) as pool:
        assert [accepted.new for accepted in pool.map(start, range(10))] == [1] * 10
    assert len(PostgresServer.sql(url, "SELECT id FROM inbound")) == 10
    assert PostgresServer.sql(url, "SELECT COUNT(*) FROM mark") == [(0,)], "a closed store leaves nothing behind"


def test_two_instances_share_a_conversation_of_200_messages_without_a_swap(
        postgres: PostgresServer, world: FakeWorld, tmp_path: Path) -> None:
    bots, crowd, url = [], Crowd(world, 1, platforms=("telegram",)), postgres.fresh()
    crowd.long = frozenset()
    for name in "ab":
        (tmp_path / name).mkdir()
        bots.append(BotProcess(world, tmp_path / name, DATABASE_URL=url, **PATIENT))
    for number in range(200):
        world.bot_url = f"http://127.0.0.1:{bots[number % 2].port}"
        crowd.write(0)
    bots[0].until(crowd.answered, 30, "everything is answered")
    texts = world.telegram.texts(crowd.chats[0][1])
    tokens = [token for text in texts for token in TOKEN.findall(text)]
    assert tokens == [f"[0.{number + 1}]" for number in range(200)]
    stored = PostgresServer.sql(url, "SELECT text FROM inbound ORDER BY id")
    assert [TOKEN.findall(text)[0] for text, in stored] == tokens
    for bot in bots:
        assert bot.term() == 0
        bot.close()


def test_fifty_webhooks_of_one_moment_share_a_transaction(postgres: PostgresServer) -> None:
    commits: list[str] = []

    async def story(store: Any) -> Any:
        return await asyncio.gather(*[store.accept([message(number)], NOW) for number in range(50)])
    assert sum(accepted.new for accepted in run(postgres.fresh(), story, point=commits.append)) == 50
    assert commits.count("accept:commit") < 10


def test_a_chat_that_two_instances_meet_first_at_once_is_one_conversation(postgres: PostgresServer) -> None:
    url = postgres.fresh()

    async def story(one: Any) -> None:
        two = open_store(Settings(database_url=url), NOW)
        for chat in range(30):
            await asyncio.gather(*[asyncio.ensure_future(_taken(store, message(2 * chat + at, f"chat{chat}")))
                                   for at, store in enumerate((one, two))])
        assert len(await one.claim("one", NOW, LEASE, 20)) == 20
        assert len(await two.claim("two", NOW, LEASE, 20)) == 10
        await two.close(NOW)
    run(url, story)
    assert PostgresServer.sql(url, "SELECT COUNT(*) FROM conversation") == [(30,)]


async def _taken(store: Any, *events: Any) -> Any:
    return await store.accept(events, NOW)


def test_a_clean_end_gives_back_only_its_own_leases(postgres: PostgresServer) -> None:
    url = postgres.fresh()

    async def story(one: Any) -> None:
        await one.accept([message(1, "a"), message(2, "b")], NOW)
        assert len(await one.claim("one", NOW, LEASE, 1)) == 1
        two = open_store(Settings(database_url=url), NOW)
        assert len(await two.claim("two", NOW, LEASE, 1)) == 1
        await two.close(NOW)
        again = await one.claim("one", NOW, LEASE, 9)
        assert [step.conversation.crashes for step in again] == [0]
    run(url, story)


# --- what the server refuses, and a server that goes away -------------------------------------------------------------

@pytest.mark.parametrize("state", ["SerializationFailure", "DeadlockDetected"])
def test_what_the_server_wants_to_see_again_is_run_again(postgres: PostgresServer, state: str) -> None:
    import psycopg

    failures = 3

    def fail(name: str) -> None:
        nonlocal failures
        if name in ("accept:commit", "finish:commit") and failures:
            failures -= 1
            raise getattr(psycopg.errors, state)("injected")

    async def story(store: Any) -> None:
        nonlocal failures
        assert (await store.accept([message(1)], NOW)).new == 1 and not failures
        step, = await store.claim("me", NOW, LEASE, 1)
        failures = 3
        await store.finish(step.conversation, Finish({step.waiting[0].id: "replied"}, ("a",), Answer("a")), NOW)
    url = postgres.fresh()
    run(url, story, point=fail)
    assert PostgresServer.sql(url, "SELECT text FROM part") == [("a",)]


class Cut:
    """A way to the server that breaks at a COMMIT: before it arrives, or before its answer does."""

    def __init__(self, port: int) -> None:
        self._port, self.armed, self.broken = port, "", 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._port))
            mute = threading.Event()
            threading.Thread(target=self._there, args=(near, far, mute), daemon=True).start()
            threading.Thread(target=self._back, args=(near, far, mute), daemon=True).start()

    def _there(self, near: socket.socket, far: socket.socket, mute: threading.Event) -> None:
        while octets := _read(near):
            if self.armed and b"COMMIT" in octets:
                how, self.armed = self.armed, ""
                self.broken += 1
                mute.set()
                if how == "answer lost":
                    far.sendall(octets)
                    far.settimeout(2)
                    _read(far)  # the server has done it
                break
            far.sendall(octets)
        _shut(near), _shut(far)

    def _back(self, near: socket.socket, far: socket.socket, mute: threading.Event) -> None:
        while (octets := _read(far, socket.MSG_PEEK)) and not mute.is_set():
            with suppress(OSError):
                near.sendall(far.recv(len(octets)))

    def close(self) -> None:
        self._listener.close()


def _read(end: socket.socket, how: int = 0) -> bytes:
    try:
        return end.recv(65536, how)
    except OSError:
        return b""


def _shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


@pytest.mark.parametrize("how", ["never arrived", "answer lost"])
def test_a_commit_in_doubt_is_decided_by_looking(postgres: PostgresServer, how: str) -> None:
    url, cut = postgres.fresh(), Cut(postgres.port)

    async def story(store: Any) -> None:
        await store.accept([message(1)], NOW)
        step, = await store.claim("me", NOW, LEASE, 1)
        cut.armed = how
        done = Finish({step.waiting[0].id: "replied"}, ("one", "two"), Answer("one two"))
        step = await store.finish(step.conversation, done, NOW)
        assert step.part and step.part.text == "one" and cut.broken == 1
        cut.armed = how
        assert (await store.accept([message(2)], NOW)).new == 1 and cut.broken == 2
    run(url.replace(f":{postgres.port}/", f":{cut.port}/"), story)
    cut.close()
    assert PostgresServer.sql(url, "SELECT text FROM part ORDER BY id") == [("one",), ("two",)]
    assert PostgresServer.sql(url, "SELECT text FROM turn") == [("one two",)]


def test_nothing_acknowledged_is_lost_when_the_server_crashes_under_load(
        own_server: PostgresServer, world: FakeWorld, tmp_path: Path) -> None:
    bot = BotProcess(world, tmp_path, DATABASE_URL=own_server.url(), **PATIENT)
    crowd = Crowd(world, 6)
    with crowd.writing(3, pause=0.01):
        for _ in range(2):
            enough = len(crowd.acked) + 40
            bot.until(lambda: len(crowd.acked) >= enough, 20, "messages are taken")
            own_server.stop("immediate")
            bot.until(lambda: bot.get("/healthz")[0] == 503, 20, "health says so")
            own_server.start()
    bot.until(crowd.answered, 40, "everything is answered")
    bot.until(lambda: b'"pending": 0' in bot.get("/healthz")[1], 20, "nothing waits")
    stored = {token for text, in PostgresServer.sql(own_server.url(), "SELECT text FROM inbound")
              for token in TOKEN.findall(text)}
    assert crowd.acked <= stored
    assert bot.term() == 0
    assert "Traceback" not in bot.log
    bot.close()


def test_a_frozen_instance_loses_its_connection_and_changes_nothing_any_more(postgres: PostgresServer) -> None:
    url = postgres.fresh()

    async def story(frozen: Any) -> None:
        await frozen.accept([message(1)], NOW)
        late, = await frozen.claim("frozen", NOW, LEASE, 1)
        other = open_store(Settings(database_url=url), NOW)
        mine, = await other.claim("other", NOW + LEASE, LEASE, 1)
        PostgresServer.sql(url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = "
                                "'minibot'")
        done = Finish({late.waiting[0].id: "replied"}, ("late",), Answer("late"))
        with pytest.raises(LeaseLost):
            await frozen.finish(late.conversation, done, NOW + LEASE)
        assert (await other.finish(mine.conversation, done, NOW + LEASE)).part
        await other.close(NOW)
    run(url, story)
    assert len(PostgresServer.sql(url, "SELECT id FROM turn")) == 1


# --- what cannot be used ----------------------------------------------------------------------------------------------

def test_without_the_driver_one_line_names_the_command_that_installs_it() -> None:
    done = command("postgresql://u:p@127.0.0.1:9/db", "dead", python=("-S",))
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "pip install 'psycopg[binary]'" in done.stderr


@pytest.mark.parametrize("change, code, told", [
    (lambda url: url.replace("canary", "wrong"), 2, "user or password"),
    (lambda url: url.replace("minibot:", "nobody:"), 2, "user or password"),
    (lambda url: url.replace("/postgres", "/nowhere"), 2, "no such database"),
    (lambda url: re.sub(r":\d+/", ":9/", url), 1, "cannot be reached"),
    (lambda url: url.replace("%2F", "%zz"), 2, "hex digits"),
    (lambda url: url + "?colour=blue", 2, "parameters that libpq knows"),
    (lambda url: url + "?sslmode=require", 2, "sslmode"),
])
def test_a_database_that_cannot_be_used_is_one_line(postgres: PostgresServer, change: Callable[[str], str], code: int,
                                                    told: str, tmp_path: Path) -> None:
    for arguments in ((), ("why", "1")):
        done = command(change(postgres.url()), *arguments, folder=tmp_path)
        assert done.returncode == code and told in done.stderr, done.stdout + done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("spoil, fault, told", [
    ("CREATE TABLE conversation (id INT)", StoreDamaged, "another program"),
    ("CREATE TABLE meta (name TEXT, value TEXT)", StoreDamaged, "another program"),
    ("CREATE TABLE meta (k TEXT PRIMARY KEY, v TEXT); INSERT INTO meta VALUES ('schema', '99')", StoreDamaged, "newer"),
])
def test_a_database_that_is_not_ours_is_left_alone(postgres: PostgresServer, spoil: str, fault: type[Exception],
                                                   told: str) -> None:
    url = postgres.fresh()
    PostgresServer.sql(url, spoil)
    with pytest.raises(fault, match=told):
        open_store(Settings(database_url=url), NOW)


def test_a_user_without_rights_is_told_which(postgres: PostgresServer) -> None:
    PostgresServer.sql(postgres.url(), "CREATE USER guest PASSWORD 'x'")
    with pytest.raises(SettingsFault, match="GRANT CREATE"):
        open_store(Settings(database_url=postgres.url().replace("minibot:", "guest:").replace(
            PASSWORD.replace("/", "%2F"), "x")), NOW)


# --- no difference to SQLite ------------------------------------------------------------------------------------------

def test_characters_that_postgresql_refuses_are_replaced(postgres: PostgresServer) -> None:
    async def story(store: Any) -> Any:
        await store.accept([message(1)._replace(text="a\0b \ud800 \U0001f600", name="\0")], NOW)
        step, = await store.claim("me", NOW, LEASE, 1)
        step = await store.finish(step.conversation, Finish({step.waiting[0].id: "replied"}, ("x\0", "\udfff"),
                                                            Answer("\0", "m\0")), NOW)
        return step.part.text
    url = postgres.fresh()
    assert run(url, story) == "x\ufffd"
    assert PostgresServer.sql(url, "SELECT text FROM inbound") == [("a\ufffdb \ufffd \U0001f600",)]


def test_a_payload_with_nul_and_lone_surrogates_is_answered(
        postgres: PostgresServer, start_bot: Callable[..., BotProcess]) -> None:
    bot = start_bot(DATABASE_URL=postgres.fresh().replace("postgresql://", "postgresql+asyncpg://"))
    bot.say("telegram", "9007199254740993", "nul \0, lone \ud83d, both \ude00\0")
    assert "nul \ufffd, lone \ufffd" in bot.replies("telegram", "9007199254740993")[0]
    bot.settled()
    assert bot.term() == 0


# --- the operator -----------------------------------------------------------------------------------------------------

def test_the_operators_commands_work_beside_a_running_bot(postgres: PostgresServer,
                                                          start_bot: Callable[..., BotProcess]) -> None:
    bot = start_bot(DATABASE_URL=postgres.fresh())

    def operate(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, str(ROOT / "run.py"), *arguments], cwd=bot.folder, text=True, timeout=30,
                              env={**bot.settings, "PORT": str(bot.port)}, capture_output=True)

    bot.world.model.plan("401", times=1)
    bot.say("telegram", "77", "Hello?")
    bot.replies("telegram", "77")
    bot.settled()
    listed = operate("dead")
    assert "ai_failed" in listed.stdout and listed.returncode == 0
    number = re.findall(r"message in (\d+)", listed.stdout)[0]
    assert operate("retry", number).stdout.startswith("1 will be tried again")
    bot.replies("telegram", "77", 2)
    bot.settled()
    assert "replied" in operate("why", number).stdout
    assert [each["message"] for each in json.loads(operate("export").stdout)] == ["Hello?"]
    assert "telegram" in operate("status").stdout
    assert "PostgreSQL server answers" in operate("check").stdout
    copied = operate("backup", str(bot.folder / "copy"))
    assert copied.returncode == 1 and "pg_dump" in copied.stderr and len(copied.stderr.splitlines()) == 1
    assert operate("forget", "77").returncode == 0
    assert "Hello?" not in operate("why", "77").stdout


def test_a_database_is_moved_whole_and_goes_on_where_it_was(
        postgres: PostgresServer, start_bot: Callable[..., BotProcess]) -> None:
    bot, url = start_bot(), postgres.fresh()

    def move(to: str = url) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, str(ROOT / "run.py"), "move", "--to", to], cwd=bot.folder, text=True,
                              env=bot.settings, capture_output=True, timeout=30)

    bot.say("telegram", "77", "first")
    bot.replies("telegram", "77")
    bot.settled()
    busy = move()
    assert busy.returncode == 1 and "in use by process" in busy.stderr and len(busy.stderr.splitlines()) == 1
    assert bot.term() == 0
    kept = bot.rows("SELECT id, text FROM inbound UNION ALL SELECT id, text FROM part ORDER BY 1")
    done = move()
    assert done.returncode == 0 and "rows copied and counted" in done.stdout and PASSWORD not in done.stdout, done
    again = move()
    assert again.returncode == 0 and "there already" in again.stdout
    arrived = PostgresServer.sql(url, "SELECT id, text FROM inbound UNION ALL SELECT id, text FROM part ORDER BY 1")
    assert arrived == kept
    bot.settings["DATABASE_URL"] = url
    bot.start()
    webhook = bot.say("telegram", "77", "second")
    assert len(bot.replies("telegram", "77", 2)) == 2
    bot.world.deliver(webhook)
    bot.settled()
    assert [text for text, in PostgresServer.sql(url, "SELECT text FROM inbound ORDER BY id")] == ["first", "second"]
    bot.settings["DATABASE_URL"] = "sqlite:///minibot.db"
    refused = move()
    assert refused.returncode == 1 and "newer than the move" in refused.stderr
    assert move("sqlite:///other.db").returncode == move("mysql://x").returncode == 2


def test_a_move_that_breaks_off_leaves_nothing_and_can_be_repeated(postgres: PostgresServer, tmp_path: Path) -> None:
    from minibot.store.opening import open_reader
    from minibot.store.postgres_move import move

    url, here = postgres.fresh(), f"sqlite:///{tmp_path}/minibot.db"

    async def story(store: Any) -> None:
        await store.accept([message(number) for number in range(2500)], NOW)
        await store.health(NOW)
    run(here, story)

    def break_off(table: str, count: int) -> None:
        if table == "history":
            raise KeyboardInterrupt

    reader = open_reader(Settings(database_url=here))
    with sqlite3.connect(tmp_path / "minibot.db") as mark:  # as after a crash, and a disk that was full at the end
        filed, = mark.execute("SELECT v FROM meta WHERE k = 'filed'").fetchone()
        mark.execute("UPDATE meta SET v = '0' WHERE k = 'filed'")
    with pytest.raises(StoreDown, match="nothing was copied"):
        move(reader, url, break_off)
    with sqlite3.connect(tmp_path / "minibot.db") as mark:
        mark.execute("UPDATE meta SET v = ? WHERE k = 'filed'", (filed,))
    with pytest.raises(KeyboardInterrupt):
        move(reader, url, break_off)
    assert PostgresServer.sql(url, "SELECT COUNT(*) FROM inbound") == [(0,)]
    assert move(reader, url, lambda table, count: None)["inbound"] == 2500
    assert move(reader, url, lambda table, count: None) == {}
    reader.close()


def test_a_machine_without_postgresql_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.postgres.Path.glob", lambda *_: iter(()))
    monkeypatch.setattr("tests.postgres.shutil.which", lambda _: None)
    with pytest.raises(Absent, match="postgresql"):
        PostgresServer()
