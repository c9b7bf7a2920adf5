"""One SQLite file, opened safely or not at all: lock, look, connect, check, migrate.

Not here: verbs and threads (`sqlite.py`). The law: a database that is damaged, newer, foreign or gone is never
used, repaired or replaced by an empty one; one plain line says what to do. Beside `minibot.db` lie `.lock`
(who uses it) and `.id` (which database it was, so that an empty file in its place is noticed).

Next: `sqlite.py`.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import IO

from minibot.errors import StoreDamaged, StoreDown
from minibot.store.schema import MIGRATIONS

BUSY = 2.0  # seconds that an outsider may keep the database locked before a verb fails
CLOSED = "cannot be opened for writing: check owner and permissions of the file and of its folder"
FORBIDDEN = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH)
DIALECT = {"{id}": "INTEGER PRIMARY KEY", "{clustered}": " WITHOUT ROWID", "'{name}'": "lower(hex(randomblob(6)))"}
# After these nobody knows what is on disk: go on only by a new start, which looks.
FATAL = (sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
PASSING = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM)


def open_writer(path: str, point: Callable[[str], None]) -> tuple[IO[str], sqlite3.Connection]:
    """(lock, the one read-write connection). Raises StoreDamaged, or StoreDown for a passing fault."""
    lock = _hold(path)
    try:
        return lock, _connect(path, point)
    except BaseException:
        lock.close()
        raise


def _hold(path: str) -> IO[str]:
    """Lock `path` for this process by a file beside it that names the process."""
    try:
        file = open(f"{path}.lock", "a+", encoding="ascii", errors="replace")
    except OSError as fault:
        raise StoreDamaged(f"{path} {CLOSED} ({fault.strerror})") from None
    try:
        _lock(file)
    except OSError:
        file.seek(0)
        with file:
            raise StoreDown(f"{path} is in use by process {file.read().strip()}: stop that one first") from None
    file.truncate(0)
    print(os.getpid(), file=file, flush=True)
    return file


def _lock(file: IO[str]) -> None:
    try:
        import fcntl
        return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        file.seek(1 << 20)  # Windows: a byte that nobody reads, for a locked one cannot be read there
    try:
        import msvcrt
        getattr(msvcrt, "locking")(file.fileno(), getattr(msvcrt, "LK_NBLCK"), 1)
    except ImportError:
        return


def _connect(path: str, point: Callable[[str], None]) -> sqlite3.Connection:
    """The file, checked and migrated."""
    mark = Path(f"{path}.id")
    try:
        known = mark.read_text("ascii", "replace").strip() if mark.exists() else ""
        there = os.path.exists(path)
        if known and not (there and os.path.getsize(path)):
            raise StoreDamaged(f"{path} is missing or empty, but {mark} says that it held data: restore a backup, or "
                               f"delete {mark} to begin anew")
        if not there:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # what people write is nobody else's business
        connection = sqlite3.connect(path, BUSY, isolation_level=None, check_same_thread=False, cached_statements=256)
        try:
            name = _prepare(connection, path, point)
            if known and known != name:
                raise StoreDamaged(f"{path} is another database than the one {mark} names: restore that one, or delete "
                                   f"{mark} to use this one")
            if not known:
                mark.write_text(f"{name}\n", "ascii")
        except BaseException:
            connection.close()
            raise
    except sqlite3.DatabaseError as fault:
        raise _explained(path, fault) from None
    except OSError as fault:
        raise StoreDamaged(f"{path} {CLOSED} ({fault.strerror})") from None
    return connection


def _prepare(connection: sqlite3.Connection, path: str, point: Callable[[str], None]) -> str:
    """Look before anything is written; the database's id."""
    version = _examine(connection, path)
    for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", "PRAGMA wal_autocheckpoint = 0",
                      f"PRAGMA journal_size_limit = {16 << 20}", "BEGIN IMMEDIATE", "ROLLBACK"):  # may we write?
        connection.execute(statement).fetchall()
    return _migrate(connection, version, point)


def copy_back(connection: sqlite3.Connection) -> None:
    """Move what is in the log into the database itself, as far as no reader needs it."""
    try:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    except sqlite3.OperationalError as fault:
        if fault.sqlite_errorcode in FATAL:
            raise  # anything else: the log keeps it until the next time


def copy(connection: sqlite3.Connection, path: str, between: Callable[[], None]) -> None:
    """A checked copy at `path`, which replaces what is there; `between` runs every few milliseconds meanwhile."""
    draft = f"{path}.part"
    os.close(os.open(draft, os.O_CREAT | os.O_TRUNC | os.O_RDWR, 0o600))
    target = sqlite3.connect(draft, isolation_level=None)
    try:
        connection.backup(target, pages=1024, progress=lambda *_: between())
        target.set_progress_handler(between, 100_000)
        target.execute("PRAGMA journal_mode = DELETE").fetchall()  # one file, nothing beside it
        verdict = target.execute("PRAGMA quick_check(1)").fetchone()[0]
    finally:
        target.close()
    if verdict != "ok":
        raise StoreDown(f"the copy is damaged ({verdict})")
    os.replace(draft, path)


def open_reader(path: str) -> sqlite3.Connection:
    """A connection that only reads, beside a running server or without one. Raises StoreDown or StoreDamaged."""
    if not os.path.exists(path):
        raise StoreDown(f"{path} is not there (yet): python run.py makes it; or is DATABASE_URL another folder's?")
    try:
        connection = sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro", BUSY, uri=True, isolation_level=None)
        connection.execute("SELECT v FROM meta").fetchall()
    except sqlite3.DatabaseError as fault:
        raise _explained(path, fault) from None
    return connection


def free(path: str) -> int:
    """Bytes left on the disk that holds `path`."""
    folder = os.path.dirname(path) or "."
    if hasattr(os, "statvfs"):
        disk = os.statvfs(folder)
        return disk.f_bavail * disk.f_frsize
    import shutil  # Windows

    return shutil.disk_usage(folder).free


def log_size(path: str) -> int:
    """Bytes of the write-ahead log."""
    try:
        return os.path.getsize(f"{path}-wal")
    except OSError:
        return 0


def _explained(path: str, fault: sqlite3.DatabaseError) -> StoreDamaged | StoreDown:
    """What a person should read about it."""
    code, words = getattr(fault, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xff, " ".join(str(fault).split())
    if code in PASSING:
        return StoreDown(f"{path} cannot be opened now ({words})")
    damaged = (f"is damaged ({words}): move it, its -wal and its -shm away together and restore a backup; delete "
               f"{path}.id only to begin anew")
    return StoreDamaged(f"{path} {CLOSED if code in FORBIDDEN else damaged}")


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except (OSError, ValueError):
        return ""


def _examine(connection: sqlite3.Connection, path: str) -> int:
    """The number of the schema that is there, 0 for an empty file. Reads only."""
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)
    if tables and "meta" not in tables:
        raise StoreDamaged(f"{path} is not a minibot database: name another file in DATABASE_URL")
    version = int(connection.execute("SELECT v FROM meta WHERE k = 'schema'").fetchone()[0]) if tables else 0
    if version > len(MIGRATIONS):
        raise StoreDamaged(f"{path} was written by a newer minibot (schema {version}): update minibot")
    return version


def _migrate(connection: sqlite3.Connection, version: int, point: Callable[[str], None]) -> str:
    """Bring the schema up to date, each step whole or not at all; the database's id."""
    for number, script in enumerate(MIGRATIONS[version:], version + 1):
        connection.execute("BEGIN IMMEDIATE")
        for word, meaning in DIALECT.items():
            script = script.replace(word, meaning)
        for statement in script.split(";"):
            connection.execute(statement)
        connection.execute("INSERT INTO meta VALUES ('schema', ?) ON CONFLICT (k) DO UPDATE SET v = excluded.v",
                           (str(number),))
        point("migrate:commit")
        connection.execute("COMMIT")
        point("migrate:committed")
    if version < len(MIGRATIONS):
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()  # the main file alone tells whose it is
    return str(connection.execute("SELECT v FROM meta WHERE k = 'database'").fetchone()[0])
