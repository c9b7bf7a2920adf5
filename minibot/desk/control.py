"""The operator's way into the running bot: a Unix socket beside the database, for what changes something.

Not here: reading (`ledger.py` reads the file), anything a stranger could reach. The law: the socket belongs to the
user who started the bot (mode 0600); one JSON object a line in each direction; where no bot runs, and on PostgreSQL,
the command opens the database itself. Windows has no such socket: there the bot must be stopped first, and the message
says so.

Next: `ledger.py`, the commands.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from minibot.config import Settings
from minibot.errors import MinibotError, StoreDown
from minibot.store.contract import Store
from minibot.store.opening import open_store

log = logging.getLogger("minibot.control")
LONGEST = 1 << 20  # octets of a request


def now() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


async def _retry(store: Store, ids: list[int], force: bool) -> int:
    return await store.retry(ids, force, now())


async def _forget(store: Store, chat: str) -> int:
    return await store.forget(chat)


async def _backup(store: Store, path: str) -> int:
    await store.backup(path)
    return 1


VERBS: dict[str, Callable[..., Awaitable[int]]] = {"retry": _retry, "forget": _forget, "backup": _backup}


def where(settings: Settings) -> str:
    """The socket's path, the shorter of relative and absolute: the system takes some 100 octets."""
    path = f"{settings.sqlite_path}.sock"
    return min(path, os.path.relpath(path), key=len)


async def listen(settings: Settings, store: Store) -> Callable[[], None]:
    """Serve the socket, where the system has such; gives the function that ends it."""
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(json.dumps(await _carried_out(store, await reader.readline())).encode() + b"\n")
        with suppress(OSError):
            await writer.drain()
        writer.close()

    if not settings.sqlite_path:
        return lambda: None  # PostgreSQL takes the commands beside the bot
    path, mask = where(settings), os.umask(0o177)
    try:
        with suppress(OSError):
            os.unlink(path)  # of a bot that was killed: the lock beside the database says that none runs
        if hasattr(asyncio, "start_unix_server"):
            server = await asyncio.start_unix_server(serve, path, limit=LONGEST)
            return lambda: _leave(server, path)
    except OSError as fault:
        log.warning("retry, forget and backup need the bot stopped, the socket %s cannot be made: %s", path, fault)
    finally:
        os.umask(mask)
    return lambda: None


def _leave(server: asyncio.AbstractServer, path: str) -> None:
    server.close()
    with suppress(OSError):
        os.unlink(path)


async def _carried_out(store: Store, line: bytes) -> dict[str, Any]:
    try:
        wish = json.loads(line)
        return {"done": await VERBS[wish.pop("verb")](store, **wish)}
    except MinibotError as fault:
        return {"fault": str(fault)}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {"fault": "the bot that runs is of another version: restart it"}


async def ask(settings: Settings, verb: str, **wish: Any) -> int:
    """Have the running bot do it, or do it here where none runs. How many it concerned; raises StoreDown."""
    if settings.sqlite_path and hasattr(asyncio, "open_unix_connection"):
        with suppress(ConnectionError, FileNotFoundError):
            reader, writer = await asyncio.open_unix_connection(where(settings), limit=LONGEST)
            writer.write(json.dumps({"verb": verb, **wish}).encode() + b"\n")
            answer = json.loads(await reader.readline() or b'{"fault": "the bot ended meanwhile; try again"}')
            writer.close()
            if "fault" in answer:
                raise StoreDown(answer["fault"])
            return int(answer["done"])
    store = open_store(settings, now())
    try:
        return await VERBS[verb](store, **wish)
    finally:
        await store.close(now())
