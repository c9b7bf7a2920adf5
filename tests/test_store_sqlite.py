"""What the SQLite store promises when the host fails: kill -9, full disk, locked, damaged, replaced, a dead thread."""

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from minibot.config import Settings
from minibot.errors import StoreDamaged, StoreDown
from minibot.model import Inbound
from minibot.promise import Promise
from minibot.store import sqlite, sqlite_file
from minibot.store.schema import MIGRATIONS
from minibot.store.sqlite import SqliteStore
from minibot.work import Accepted, Answer, Fate, Finish

NOW = 1_800_000_000_000
ROOT = Path(__file__).resolve().parent.parent


def settings(folder: Path, **more: Any) -> Settings:
    return Settings(database_url=f"sqlite:///{folder}/minibot.db", **more)


def message(number: int, chat: str = "anna", **more: Any) -> Inbound:
    return Inbound("telegram", "1", chat, f"message:{number}", text=f"text {number}", sent_at=NOW, **more)


def run(folder: Path, story: Callable[[SqliteStore], Awaitable[Any]], **more: Any) -> Any:
    """Open the store, let `story` use it, close it."""
    async def whole() -> Any:
        store = SqliteStore(settings(folder), NOW, **{"floor": 0, **more})
        try:
            return await story(store)
        finally:
            await store.close(NOW)
    return asyncio.run(whole())


def stored(folder: Path) -> set[str]:
    """The texts on disk, read by a connection of its own."""
    reader = sqlite_file.open_reader(str(folder / "minibot.db"))
    try:
        return {text for text, in reader.execute("SELECT text FROM inbound")}
    finally:
        reader.close()


def filled(folder: Path, messages: int = 200) -> Path:
    """A database that was used and cleanly closed."""
    async def use(store: SqliteStore) -> None:
        await asyncio.gather(*[store.accept([message(each, f"chat{each % 20}")], NOW) for each in range(messages)])

    run(folder, use)
    return folder / "minibot.db"


# --- the commit -------------------------------------------------------------------------------------------------------

def test_many_webhooks_share_a_commit(tmp_path: Path) -> None:
    points: list[str] = []

    async def crowd(store: SqliteStore) -> None:
        await store.health(NOW)
        points.clear()
        await asyncio.gather(*[store.accept([message(number)], NOW) for number in range(500)])

    run(tmp_path, crowd, point=points.append)
    assert 1 <= points.count("accept:commit") == points.count("accept:committed") < 100


def test_nobody_is_told_of_a_message_before_its_commit(tmp_path: Path) -> None:
    told: list[bool] = []
    waiting: list[Promise[Accepted]] = []

    def point(name: str) -> None:
        if name == "accept:commit":
            told.extend(future.done() for future in waiting)

    async def one(store: SqliteStore) -> None:
        waiting.append(store.accept([message(1)], NOW))
        await waiting[0]

    run(tmp_path, one, point=point)
    assert told == [False] and stored(tmp_path) == {"text 1"}


def test_the_log_is_synced_at_every_commit_and_copied_back_outside_of_it(tmp_path: Path) -> None:
    async def look(store: SqliteStore) -> dict[str, Any]:
        def pragmas(db: Any) -> dict[str, Any]:
            return {name: db.one(f"PRAGMA {name}")[0] for name in ("synchronous", "journal_mode", "wal_autocheckpoint")}
        return dict(await store._ask("look", pragmas))

    assert run(tmp_path, look) == {"synchronous": 2, "journal_mode": "wal", "wal_autocheckpoint": 0}


def test_a_message_costs_few_pages(tmp_path: Path) -> None:
    log = tmp_path / "minibot.db-wal"

    async def one_by_one(store: SqliteStore) -> float:
        await store.accept([message(0)], NOW)
        await store.health(NOW)
        before = log.stat().st_size
        for number in range(1, 101):
            await store.accept([message(number)], NOW)
        return (log.stat().st_size - before) / 100 / (4096 + 24)

    assert run(tmp_path, one_by_one) < 3


TOO_MUCH: Any = 1 << 70


@pytest.mark.parametrize("bad", [message(7)._replace(text="\ud800"), message(7)._replace(chat="anna\udfff"),
                                 message(7)._replace(text=TOO_MUCH)])
def test_a_message_that_no_database_takes_fails_alone(tmp_path: Path, bad: Inbound) -> None:
    async def mixed(store: SqliteStore) -> Any:
        return await asyncio.gather(store.accept([message(1)], NOW), store.accept([bad], NOW),
                                    store.accept([message(2)], NOW), store.health(NOW), return_exceptions=True)

    first, failed, second, health = run(tmp_path, mixed)
    assert first.new == second.new == 1 and isinstance(failed, StoreDown) and health.pending == 2
    assert stored(tmp_path) == {"text 1", "text 2"}


def test_ids_are_never_given_twice(tmp_path: Path) -> None:
    seen: set[int] = set()
    for life in range(3):
        async def live(store: SqliteStore) -> list[int]:
            await store.accept([message(life)], NOW)
            step, = await store.claim("me", NOW, 1000, 9)
            step = await store.finish(step.conversation, Finish({w.id: "replied" for w in step.waiting}, ("a", "b"),
                                                                Answer("ab")), NOW)
            assert step.part
            return [step.part.id, await store.forget("anna")]

        number, _ = run(tmp_path, live)
        assert number not in seen and number > max(seen, default=0)
        seen.add(number)


def test_a_listener_that_fails_does_not_silence_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail(promise: Promise[Accepted]) -> None:
        raise ZeroDivisionError

    async def listen(store: SqliteStore) -> Accepted:
        first, second = store.accept([message(1)], NOW), store.accept([message(2)], NOW)
        first.add_done_callback(fail)
        return await second

    assert run(tmp_path, listen).new == 1
    assert "a listener of the store failed" in caplog.text


# --- kill -9 ----------------------------------------------------------------------------------------------------------

VICTIM = """
import asyncio, os, sys
from minibot.config import Settings
from minibot.model import Inbound
from minibot.promise import Promise
from minibot.store.sqlite import SqliteStore

NOW = 1_800_000_000_000
at, left = sys.argv[2], int(sys.argv[3])

def point(name):
    global left
    if name == at:
        left -= 1
        if not left:
            os.kill(os.getpid(), 9)

async def main():
    store = SqliteStore(Settings(database_url=f"sqlite:///{sys.argv[1]}/minibot.db"), NOW, floor=0, point=point)
    async def one(number):
        accepted = await store.accept([Inbound("telegram", "1", f"chat{number % 7}", f"message:{number}",
                                               text=f"text {number}", sent_at=NOW)], NOW)
        os.write(1, f"text {number}\\n".encode())
    for start in range(0, 2000, 10):
        await asyncio.gather(*[one(number) for number in range(start, start + 10)])
        await store.claim("me", NOW, 20_000, 3)

asyncio.run(main())
"""


def victim(folder: Path, *args: str, **more: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-c", VICTIM, str(folder), *args], cwd=ROOT, capture_output=True, timeout=60,
                          **more)


@pytest.mark.parametrize("point", ["migrate:commit", "migrate:committed", "accept:commit", "accept:committed",
                                   "claim:commit", "claim:committed"])
def test_what_was_acknowledged_before_a_kill_is_there_after_it(tmp_path: Path, point: str) -> None:
    for times in ("1", "9"):
        if point.startswith("migrate") and times == "9":
            continue
        ended = victim(tmp_path, point, times)
        assert ended.returncode == -9, ended.stderr
        acknowledged = set(ended.stdout.decode().split("\n")) - {""}

        async def after(store: SqliteStore) -> int:
            health = await store.health(NOW)
            steps = await store.claim("next", NOW, 20_000, 1000) + await store.claim("n", NOW, 20_000, 99, alone=True)
            assert sum(len(step.waiting) for step in steps) == health.pending
            return health.pending

        assert run(tmp_path, after) == len(stored(tmp_path)) and acknowledged <= stored(tmp_path)


# --- who has it -------------------------------------------------------------------------------------------------------

def test_a_second_start_says_who_has_the_database(tmp_path: Path) -> None:
    async def second(store: SqliteStore) -> None:
        with pytest.raises(StoreDown, match=f"in use by process {os.getpid()}"):
            SqliteStore(settings(tmp_path), NOW)

    run(tmp_path, second)
    run(tmp_path, lambda store: store.health(NOW))  # and afterwards it is free


def test_without_any_way_of_locking_it_still_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(9 << 30, 0, 9 << 30))
    monkeypatch.delattr(os, "statvfs")
    assert run(tmp_path, lambda store: store.accept([message(1)], NOW)).new == 1


def test_nobody_else_on_this_machine_may_read_it(tmp_path: Path) -> None:
    async def modes(store: SqliteStore) -> None:
        await store.accept([message(1)], NOW)
        await store.backup(str(tmp_path / "copy.db"))
        for name in ("minibot.db", "minibot.db-wal", "copy.db"):
            assert (tmp_path / name).stat().st_mode & 0o077 == 0

    run(tmp_path, modes)


def test_a_reader_sees_what_the_running_server_stores(tmp_path: Path) -> None:
    async def read(store: SqliteStore) -> None:
        await store.accept([message(1)], NOW)
        assert stored(tmp_path) == {"text 1"}

    run(tmp_path, read)
    assert stored(tmp_path) == {"text 1"}  # and without a server


def test_a_reader_of_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreDown, match="not there"):
        sqlite_file.open_reader(str(tmp_path / "minibot.db"))
    assert list(tmp_path.iterdir()) == []


# --- damaged, replaced, newer -----------------------------------------------------------------------------------------

def overwrite(path: Path, at: int, junk: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(junk)


def newer(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE meta SET v = ? WHERE k = 'schema'", (str(len(MIGRATIONS) + 1),))
    connection.close()


def somebody_elses(path: Path) -> None:
    path.unlink()
    path.with_name("minibot.db.id").unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    connection.close()


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def another(path: Path) -> None:
    elsewhere = path.parent / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(filled(elsewhere, 3), path)


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "garbage header": (lambda path: overwrite(path, 0, b"\xff" * 100), "is damaged"),
    "a page of garbage": (lambda path: overwrite(path, 4096 * 3, b"\xa5" * 4096), "is damaged"),
    "truncated": (lambda path: os.truncate(path, path.stat().st_size // 2 // 4096 * 4096), "is damaged"),
    "emptied": (lambda path: os.truncate(path, 0), "missing or empty"),
    "removed": (lambda path: path.unlink(), "missing or empty"),
    "newer schema": (newer, "newer minibot"),
    "somebody else's": (somebody_elses, "not a minibot database"),
    "another minibot's": (another, "another database"),
    "a folder": (a_folder, "minibot.db"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_database_that_must_not_be_used_is_named_and_left_alone(tmp_path: Path, damage: str) -> None:
    path = filled(tmp_path)
    harm, words = DAMAGE[damage]
    harm(path)
    before = path.read_bytes() if path.is_file() else None
    for _ in range(2):
        with pytest.raises((StoreDamaged, StoreDown), match=words) as refused:
            SqliteStore(settings(tmp_path), NOW)
        assert "\n" not in str(refused.value) and "minibot.db" in str(refused.value)
        if damage != "a folder":
            assert isinstance(refused.value, StoreDamaged)
    assert (path.read_bytes() if path.is_file() else None) == before


def test_garbage_in_the_shared_memory_file_harms_nothing(tmp_path: Path) -> None:
    victim(tmp_path, "accept:committed", "20")
    overwrite(tmp_path / "minibot.db-shm", 0, b"\x5a" * 200)
    run(tmp_path, lambda store: store.health(NOW))
    assert stored(tmp_path)


def test_a_restored_backup_is_the_same_database(tmp_path: Path) -> None:
    path = filled(tmp_path, 5)
    run(tmp_path, lambda store: store.backup(str(tmp_path / "copy.db")))
    overwrite(path, 0, b"\xff" * 100)
    shutil.copy(tmp_path / "copy.db", path)
    run(tmp_path, lambda store: store.health(NOW))
    assert len(stored(tmp_path)) == 5


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("mode", [0o444, 0o000])
def test_a_file_without_permission_is_named(tmp_path: Path, mode: int) -> None:
    path = filled(tmp_path)
    for name in ("minibot.db.lock", "minibot.db.id"):
        (tmp_path / name).chmod(0o666)
    path.chmod(mode)
    pid = os.fork()
    if not pid:
        try:
            os.chdir(tmp_path)
            tmp_path.chmod(0o777)
            os.setuid(65534)
            SqliteStore(Settings(database_url="sqlite:///minibot.db"), NOW)
        except StoreDamaged as fault:
            os._exit(0 if "cannot be opened for writing" in str(fault) else 1)
        except BaseException:
            os._exit(2)
        os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# --- disk full, locked, dead thread -----------------------------------------------------------------------------------

@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_on_a_full_disk_webhooks_wait_and_nothing_acknowledged_is_lost(small_disk: Path) -> None:
    ballast = small_disk / "ballast"

    async def fill(store: SqliteStore) -> set[str]:
        await store.health(NOW)
        ballast.write_bytes(b"x" * max(0, sqlite_file.free(str(small_disk / "minibot.db")) - (300 << 10)))
        there, refused = set(), 0
        for number in range(400):
            try:
                await store.accept([message(number)._replace(text=f"text {number}" + "x" * 4000)], NOW)
                there.add(f"text {number}" + "x" * 4000)
            except StoreDown as fault:
                assert "full" in str(fault)
                refused += 1
        assert refused and there
        ballast.unlink()
        assert (await store.accept([message(1000)], NOW)).new == 1
        return there

    assert run(small_disk, fill) < stored(small_disk)


def test_a_full_disk_at_the_start_does_not_end_it(small_disk: Path) -> None:
    filled(small_disk, 20)
    victim(small_disk, "claim:committed", "3")
    before = stored(small_disk)
    room = sqlite_file.free(str(small_disk / "minibot.db"))
    (small_disk / "ballast").write_bytes(b"x" * (room - (60 << 10)))

    async def live(store: SqliteStore) -> None:
        (small_disk / "more").write_bytes(b"x" * sqlite_file.free(str(small_disk / "minibot.db")))
        with pytest.raises(StoreDown):
            for number in range(5000, 5100):
                await store.accept([message(number)._replace(text="y" * 9000)], NOW)
        (small_disk / "ballast").unlink()
        assert (await store.accept([message(9999)], NOW)).new == 1

    run(small_disk, live)
    assert before < stored(small_disk)


def test_below_the_floor_no_webhook_is_taken_but_work_goes_on(tmp_path: Path) -> None:
    filled(tmp_path, 3)

    async def low(store: SqliteStore) -> None:
        with pytest.raises(StoreDown, match="almost full"):
            await store.accept([message(7)], NOW)
        assert len(await store.claim("me", NOW, 1000, 99)) == 3

    run(tmp_path, low, floor=1 << 60)


def test_a_database_locked_by_an_outsider_refuses_in_time_and_recovers(tmp_path: Path,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "BUSY", 0.1)

    async def locked(store: SqliteStore) -> None:
        await store.health(NOW)
        outsider = sqlite3.connect(tmp_path / "minibot.db", isolation_level=None)
        outsider.execute("BEGIN IMMEDIATE")
        results = await asyncio.gather(*[store.accept([message(number)], NOW) for number in range(20)],
                                       return_exceptions=True)
        assert all(isinstance(result, StoreDown) and "locked" in str(result) for result in results)
        outsider.execute("ROLLBACK")
        outsider.close()
        assert (await store.accept([message(1)], NOW)).new == 1

    run(tmp_path, locked)


def test_who_came_while_the_database_was_locked_is_told_together(tmp_path: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "BUSY", 0.3)

    async def locked(store: SqliteStore) -> None:
        outsider = sqlite3.connect(tmp_path / "minibot.db", isolation_level=None)
        outsider.execute("BEGIN IMMEDIATE")
        first = store.accept([message(1)], NOW)
        while not store._jobs.empty():
            await asyncio.sleep(0)
        late = store.accept([message(2)], NOW), asyncio.ensure_future(store.health(NOW))
        with pytest.raises(StoreDown, match="locked"):
            await first
        await asyncio.sleep(0)
        assert all(future.done() and isinstance(future.exception(), StoreDown) for future in late)
        outsider.close()

    run(tmp_path, locked)


def failing(code: int) -> Callable[[str], None]:
    def point(name: str) -> None:
        if name == "accept:commit":
            fault = sqlite3.OperationalError("disk I/O error")
            fault.sqlite_errorcode = code
            raise fault
    return point


@pytest.mark.filterwarnings("ignore")
def test_after_a_failed_sync_the_process_ends(tmp_path: Path) -> None:
    died = threading.Event()

    async def sync_fails() -> None:
        store = SqliteStore(settings(tmp_path), NOW, floor=0, point=failing(sqlite3.SQLITE_IOERR_FSYNC), die=died.set)
        future = store.accept([message(1)], NOW)
        await asyncio.to_thread(died.wait, 10)
        assert died.is_set() and not future.done()
        store._connection.close()
        store._lock.close()

    asyncio.run(sync_fails())
    assert "text 1" not in stored(tmp_path)


def test_a_failed_write_is_survived(tmp_path: Path) -> None:
    async def write_fails(store: SqliteStore) -> None:
        with pytest.raises(StoreDown, match="I/O"):
            await store.accept([message(1)], NOW)
        assert (await store.health(NOW)).pending == 0

    run(tmp_path, write_fails, point=failing(sqlite3.SQLITE_IOERR_WRITE))


def test_a_thread_that_cannot_go_on_ends_the_process(tmp_path: Path) -> None:
    died = threading.Event()

    def point(name: str) -> None:
        if name == "accept:committed":
            raise SystemExit

    async def dies() -> None:
        store = SqliteStore(settings(tmp_path), NOW, floor=0, point=point, die=died.set)
        store.accept([message(1)], NOW)
        await asyncio.to_thread(died.wait, 10)
        store._connection.close()
        store._lock.close()

    asyncio.run(dies())
    assert died.is_set()


def test_a_closed_store_refuses_politely(tmp_path: Path) -> None:
    async def late() -> None:
        store = SqliteStore(settings(tmp_path), NOW, floor=0)
        await store.close(NOW)
        await store.close(NOW)
        with pytest.raises(StoreDown, match="closed"):
            await store.accept([message(1)], NOW)
        with pytest.raises(StoreDown, match="closed"):
            await store.health(NOW)

    asyncio.run(late())


# --- behind the door --------------------------------------------------------------------------------------------------

def test_a_backup_is_whole_and_the_door_stays_open_meanwhile(tmp_path: Path) -> None:
    filled(tmp_path, 3000)

    async def both(store: SqliteStore) -> None:
        copying = asyncio.ensure_future(store.backup(str(tmp_path / "copy.db")))
        await asyncio.gather(*[store.accept([message(number)], NOW) for number in range(5000, 5200)])
        await copying

    run(tmp_path, both)
    copy = sqlite3.connect(tmp_path / "copy.db")
    assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert copy.execute("SELECT COUNT(*) FROM inbound WHERE text <> ''").fetchone()[0] >= 3000
    copy.close()
    assert not list(tmp_path.glob("copy.db?*"))


def test_a_backup_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "copy.db").write_text("yesterday's")

    async def fail(store: SqliteStore) -> None:
        (tmp_path / "copy.db.part").mkdir()
        with pytest.raises(StoreDown):
            await store.backup(str(tmp_path / "copy.db"))
        assert (await store.accept([message(1)], NOW)).new == 1

    run(tmp_path, fail)
    assert (tmp_path / "copy.db").read_text() == "yesterday's"


def test_paused_messages_are_filed_and_the_log_copied_back_in_quiet_moments(tmp_path: Path,
                                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "IDLE", 0.01)
    monkeypatch.setattr(sqlite, "FILE_STEP", 30)

    async def quiet(store: SqliteStore) -> None:
        await store.accept([message(number, f"chat{number}") for number in range(100)], NOW)
        reader = sqlite_file.open_reader(str(tmp_path / "minibot.db"))
        while reader.execute("SELECT COUNT(*) FROM history").fetchone()[0] < 100 or store._commits:
            await asyncio.sleep(0.01)
        reader.close()

    run(tmp_path, quiet)


def test_filing_goes_on_where_a_kill_interrupted_it(tmp_path: Path) -> None:
    victim(tmp_path, "accept:committed", "30")

    async def after(store: SqliteStore) -> None:
        steps = await store.claim("me", NOW, 1000, 99)
        steps += await store.claim("me", NOW, 1000, 99, alone=True)
        assert sum(len(step.waiting) for step in steps) == (await store.health(NOW)).pending > 0

    run(tmp_path, after)


def test_every_row_ends_with_exactly_one_outcome(tmp_path: Path) -> None:
    async def whole_day(store: SqliteStore) -> None:
        for number in range(60):
            await store.accept([message(number, f"chat{number % 9}")], NOW)
            if number % 5 == 4:
                for step in await store.claim("me", NOW, 1000, 99):
                    while step.waiting or step.part:
                        if step.part:
                            step = await store.settle(step.conversation, step.part.id, Fate("sent"), NOW)
                        else:
                            done = {item.id: "replied" for item in step.waiting}
                            step = await store.finish(step.conversation, Finish(done, ("a", "b"), Answer("a b")), NOW)

    run(tmp_path, whole_day)
    reader = sqlite_file.open_reader(str(tmp_path / "minibot.db"))
    assert reader.execute("SELECT COUNT(*), COUNT(outcome) FROM inbound").fetchone() == (60, 60)
    assert reader.execute("SELECT COUNT(*) FROM waiting").fetchone() == (0,)
    assert reader.execute("SELECT COUNT(*) FROM conversation WHERE due_at IS NOT NULL").fetchone() == (0,)
    reader.close()


@pytest.mark.parametrize("sql, index", [
    ("SELECT id FROM conversation WHERE due_at <= 1 AND lease_until <= 1 AND crashes < 2 ORDER BY due_at LIMIT 9",
     "conversation_due"),
    ("SELECT id FROM part WHERE conversation = 1 AND state IN ('pending', 'sending') ORDER BY turn, place LIMIT 1",
     "part_live"),
    ("SELECT COUNT(*) FROM inbound WHERE outcome >= 'ai_failed' AND outcome < 'ai_failee'", "inbound_failed"),
    ("SELECT COUNT(*) FROM part WHERE state IN ('dead', 'maybe')", "part_dead"),
])
def test_what_runs_often_uses_its_index(tmp_path: Path, sql: str, index: str) -> None:
    reader = sqlite_file.open_reader(str(filled(tmp_path, 1)))
    plan = " ".join(row[3] for row in reader.execute(f"EXPLAIN QUERY PLAN {sql}"))
    reader.close()
    assert index in plan and "TEMP B-TREE" not in plan


def test_a_claim_in_the_same_breath_finds_the_message_before_it(tmp_path: Path) -> None:
    committed = list[str]()

    async def both(store: SqliteStore) -> Any:
        committed.clear()
        return await asyncio.gather(store.accept([message(1)], NOW), store.claim("me", NOW, 1000, 5))

    accepted, steps = run(tmp_path, both, point=committed.append)
    assert accepted.new == 1 and [item.inbound.text for item in steps[0].waiting] == ["text 1"]
    assert committed[:4] == ["accept:commit", "claim:commit", "accept:committed", "claim:committed"]  # of one COMMIT


def full_once(where: str) -> Callable[[str], None]:
    """A disk that is full when the store first comes to the point `where`."""
    left = [where]

    def point(name: str) -> None:
        if name in left:
            left.remove(name)
            raise sqlite3.OperationalError("database or disk is full")
    return point


def test_after_a_failed_first_commit_and_a_new_start_messages_still_reach_their_conversations(tmp_path: Path) -> None:
    async def first(store: SqliteStore) -> None:
        with pytest.raises(StoreDown):
            await store.accept([message(1)], NOW)
        for number in range(2, 40):
            await store.accept([message(number)], NOW)
        assert (await store.health(NOW)).pending == 38

    async def second(store: SqliteStore) -> Any:
        await store.accept([message(40)], NOW)
        return await store.health(NOW)

    run(tmp_path, first, point=full_once("accept:commit"))
    assert run(tmp_path, second).pending == 39


def test_a_clock_set_back_is_noticed_although_the_first_commit_after_it_fails(tmp_path: Path) -> None:
    async def story(store: SqliteStore) -> Any:
        await store.accept([message(1)], NOW)
        earlier = NOW - 3_600_000
        with pytest.raises(StoreDown):
            await store.maintain(earlier)
        await store.maintain(earlier + 1)
        return await store.claim("me", earlier + 2, 1000, 5)

    assert len(run(tmp_path, story, point=full_once("maintain:commit"))) == 1
