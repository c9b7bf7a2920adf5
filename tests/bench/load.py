"""Load for the bench: wrk for full speed, and a steady open-loop sender for latencies.

Telegram-like updates of about 600 bytes; update ids never repeat within a process.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import math
import os
import re
import statistics
import subprocess
import tempfile
import time

CHATS = 1000
IDS = itertools.count(int(time.time()) % 1_000_000 * 1000)
LUA = """
local id = %d + math.random(1000) * 100000
local secret = "%s"
local head = { ["Content-Type"] = "application/json", ["X-Telegram-Bot-Api-Secret-Token"] = secret }
request = function()
  id = id + 1
  local chat = 100000 + id %% %d
  local body = string.format('%s', id, id %% 100000, chat, chat, id)
  return wrk.format("POST", "/telegram/webhook", head, body)
end
"""
FILLER = "Could you tell me whether the shop is open on Sunday, and from when? I would come by train. " * 2
BODY = ('{"update_id":%d,"message":{"message_id":%d,"from":{"id":%d,"is_bot":false,"first_name":"Anna",'
        '"last_name":"Bench","username":"anna_bench","language_code":"en"},"chat":{"id":%d,"first_name":"Anna",'
        '"last_name":"Bench","username":"anna_bench","type":"private"},"date":DATE,"text":"%d: ' + FILLER + '"}}')


def body(chat: int, text: str = "") -> bytes:
    """One update as bytes."""
    number = next(IDS)
    update = (BODY % (number, number % 100000, chat, chat, number)).replace("DATE", str(int(time.time())))
    return (update.replace(f"{number}: {FILLER}", text) if text else update).encode()


def request(chat: int, secret: str, text: str = "") -> bytes:
    """One update as a whole HTTP request."""
    payload = body(chat, text)
    return (f"POST /telegram/webhook HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
            f"X-Telegram-Bot-Api-Secret-Token: {secret}\r\nContent-Length: {len(payload)}\r\n\r\n").encode() + payload


def wrk(port: int, secret: str, connections: int, seconds: float, core: str) -> float:
    """Webhooks per second at full speed; raises when any answer was not 2xx."""
    base = next(IDS) * 1000 + int(time.time() * 1000) % 1_000_000_000 * 1000
    script = LUA % (base, secret, CHATS, BODY.replace("DATE", str(int(time.time()))))
    with tempfile.NamedTemporaryFile("w", suffix=".lua", delete=False) as file:
        file.write(script)
    try:
        shown = subprocess.run(["taskset", "-c", core, "wrk", "-t1", f"-c{connections}", f"-d{math.ceil(seconds)}s",
                                "-s", file.name, f"http://127.0.0.1:{port}"],
                               capture_output=True, text=True, check=True)
    finally:
        os.unlink(file.name)
    if "Non-2xx" in shown.stdout:
        raise RuntimeError(f"the server refused some webhooks:\n{shown.stdout}")
    found = re.search(r"Requests/sec:\s+([0-9.]+)", shown.stdout)
    assert found, shown.stdout
    return float(found[1])


class Steady:
    """A fixed rate over some connections, whatever the server does; latencies in milliseconds."""

    def __init__(self, port: int, secret: str, rate: float, seconds: float, connections: int = 32) -> None:
        self.port, self.secret, self.rate, self.seconds, self.connections = port, secret, rate, seconds, connections
        self.latencies: list[float] = []
        self.failures = 0

    async def run(self) -> None:
        pool: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        for _ in range(self.connections):
            pool.put_nowait(await asyncio.open_connection("127.0.0.1", self.port))
        begin, tasks = time.monotonic(), []
        for number in range(int(self.rate * self.seconds)):
            at = begin + number / self.rate
            if (wait := at - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            tasks.append(asyncio.create_task(self.one(pool, at)))
        await asyncio.gather(*tasks)
        while not pool.empty():
            pool.get_nowait()[1].close()

    async def one(self, pool: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]], at: float) -> None:
        reader, writer = await pool.get()
        writer.write(request(100000 + next(IDS) % CHATS, self.secret))
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head.split(b"\r\n")[0]:
            self.failures += 1
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        if length and int(length[1]):
            await reader.readexactly(int(length[1]))
        self.latencies.append((time.monotonic() - at) * 1000)
        pool.put_nowait((reader, writer))

    def percentile(self, share: float) -> float:
        return sorted(self.latencies)[min(len(self.latencies) - 1, int(len(self.latencies) * share))]


class Talkers:
    """`count` people who each write the next message as soon as the platform got the answer to the last one.

    Who talks alone takes a moment to write: what the server still does for one answer is not measured with the next.
    """

    def __init__(self, port: int, far: int, secret: str, count: int, seconds: float) -> None:
        self.port, self.far, self.secret, self.count, self.seconds = port, far, secret, count, seconds
        self.moment = 0.002 if count == 1 else 0.0
        self.times: list[float] = []

    async def run(self) -> tuple[float, float]:
        """(messages answered per second, median milliseconds from webhook to platform call)."""
        waiting: dict[int, float] = {}
        connections = [await asyncio.open_connection("127.0.0.1", self.port) for _ in range(min(self.count, 50))]
        notes = await asyncio.open_connection("127.0.0.1", self.far)
        free = list(range(500000, 500000 + self.count))
        end = time.monotonic() + self.seconds
        answered = 0
        with contextlib.suppress(TimeoutError):
            while time.monotonic() < end:
                for number, chat in enumerate(free):
                    waiting[chat] = time.monotonic()
                    connections[number % len(connections)][1].write(request(chat, self.secret))
                for number in range(len(free)):
                    await connections[number % len(connections)][0].readuntil(b"\r\n\r\n")
                free = []
                while not free:
                    for chat, at in await asyncio.wait_for(self._sent(*notes), 2.0):
                        if waiting.get(chat, math.inf) < at:  # not an answer to somebody of an earlier run
                            self.times.append((at - waiting.pop(chat)) * 1000)
                            free.append(chat)
                            answered += 1
                await asyncio.sleep(self.moment)
        return answered / self.seconds, statistics.median(self.times or [math.nan])

    async def _sent(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> list[tuple[int, float]]:
        writer.write(b"GET /sent HTTP/1.1\r\nHost: far\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        assert length
        return [(chat, at) for chat, at in json.loads(await reader.readexactly(int(length[1])))]
