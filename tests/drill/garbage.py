"""Random and mutated octets at full speed against a real door: `python -m tests.drill.garbage --seconds 300`.

A server in a process of its own; threads that throw at it what requests become when they are cut, doubled, flipped,
slowed down and reset. Meanwhile a good request is asked for again and again and must be answered. At the end memory,
descriptors, tasks and the log must be where they were. Exit code 1 and one line for each promise that was broken.
Not here: which answer is right for which octets (`tests/test_wire.py`).

Next: nothing; this is the end of the door's tests.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from minibot.model import Request, Response
from minibot.promise import Promise
from minibot.web.routes import Routes
from minibot.web.server import Server
from minibot.web.limits import Limits

LIMITS = Limits(head_time=1.0, body_time=1.0, body_most=2.0, answer_time=1.0, write_time=1.0, idle=1.0, linger=0.5,
                tick=0.1, connections=300, bodies=8 << 20)
GOOD = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
HEAD = b"POST /telegram/webhook HTTP/1.1\r\nHost: bot.example.org\r\n"
SEEDS = (
    GOOD,
    HEAD + b"Content-Length: 12\r\nX-Telegram-Bot-Api-Secret-Token: abc\r\n\r\n{\"a\": \"b\"}\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n1\r\nx\r\n0\r\nX: y\r\n\r\n",
    HEAD + b"Content-Length: 40000\r\nExpect: 100-continue\r\n\r\n" + b"x" * 40000,
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 3000 + b"0\r\n\r\n",
    HEAD + b"X: " + b"y" * 50000, GOOD * 100, b"GET /" + b"a" * 20000, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
)
BITS = (b"\r\n", b"\n", b"\r", b"\r\n\r\n", b" ", b"\t", b":", b"\x00", b"\xff", b";", b",", b"0", b"0\r\n\r\n",
        b"Content-Length: 9999999\r\n",
        b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"HTTP/1.0", b"HTTP/2.0")


def serve() -> None:
    """The server's process. GET /stats tells what it uses."""

    async def answer_later(promise: Promise[Response]) -> None:
        await asyncio.sleep(0.001)
        if not promise.done():
            promise.set_result(Response(200))

    async def main() -> None:
        loop, tasks = asyncio.get_running_loop(), set[asyncio.Task[None]]()

        def webhook(request: Request) -> Promise[Response]:
            promise: Promise[Response] = Promise()
            tasks.add(task := loop.create_task(answer_later(promise)))
            task.add_done_callback(tasks.discard)
            return promise

        def stats(request: Request) -> Response:
            status = Path("/proc/self/status")
            resident = int(status.read_text().split("VmRSS:")[1].split()[0]) / 1024 if status.exists() else 0.0
            descriptors = len(os.listdir("/proc/self/fd")) if status.exists() else 0
            return Response(200, json.dumps({"MiB": resident, "descriptors": descriptors, "held": server.held,
                                             "tasks": len(asyncio.all_tasks()), "connections": len(server.connections),
                                             "seconds of processor": time.process_time()}).encode())

        server = Server(Routes({("GET", "/healthz"): lambda request: Response(200, b"well"), ("GET", "/stats"): stats,
                                ("POST", "/telegram/webhook"): webhook}), clock=time.time, limits=LIMITS)
        print(await server.start("127.0.0.1", 0), flush=True)
        await asyncio.sleep(86400)

    logging.basicConfig(level=logging.INFO)
    asyncio.run(main())


def garbage(chance: random.Random) -> bytes:
    """Octets that mean no good."""
    if chance.random() < 0.1:
        return chance.randbytes(chance.choice((1, 10, 1000, 100_000)))
    octets = b"".join(chance.choices(SEEDS, k=chance.choice((1, 1, 1, 2, 3))))
    for _ in range(chance.choice((0, 1, 1, 2, 5))):
        at = chance.choice((chance.randrange(len(octets) + 1), chance.randrange(min(len(octets), 200) + 1)))
        bit, cut = chance.choice((b"", chance.randbytes(1), *BITS)), chance.choice((0, 1, 1, 9))
        octets = octets[:at] + bit + octets[at + cut:]
    return octets


def throw(port: int, octets: bytes, chance: random.Random) -> None:
    """One connection: send in pieces, read or do not, end politely or do not."""
    with socket.create_connection(("127.0.0.1", port), timeout=3) as thrower:
        try:
            while octets:
                cut = chance.choice((len(octets), len(octets), 1, 7, 5000))
                thrower.sendall(octets[:cut])
                octets = octets[cut:] if chance.random() < 0.99 else b""
                if chance.random() < 0.003:
                    time.sleep(chance.choice((0.01, 0.2, 1.5)))
            manner = chance.random()
            if manner < 0.4:
                thrower.shutdown(socket.SHUT_WR)
                while thrower.recv(65536):
                    pass
            elif manner < 0.7:
                thrower.settimeout(0.05)
                thrower.recv(65536)
            elif manner < 0.8:
                thrower.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass  # the door closed first: its right


def ask(port: int, path: bytes = b"/healthz") -> bytes:
    """A good request's answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as asker:
        asker.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        received = b""
        while octets := asker.recv(65536):
            received += octets
    return received


def stats_of(port: int) -> dict[str, float]:
    return dict(json.loads(ask(port, b"/stats").partition(b"\r\n\r\n")[2]))


def settled(port: int) -> dict[str, float]:
    """What the server uses once every thrown connection is gone."""
    until = time.monotonic() + 20
    while (stats := stats_of(port))["connections"] > 1 and time.monotonic() < until:
        time.sleep(0.1)
    return stats


def drill(port: int, seconds: float, seed: int, counts: Counter[str]) -> None:
    """Throw with four threads, ask for good answers meanwhile."""
    until = time.monotonic() + seconds

    def thrower(number: int) -> None:
        chance = random.Random(seed * 10 + number)
        while time.monotonic() < until:
            octets = garbage(chance)
            try:
                throw(port, octets, chance)
            except OSError:  # no port is left on our side
                time.sleep(0.05)
            counts["connections"] += 1
            counts["octets"] += len(octets)

    threads = [threading.Thread(target=thrower, args=(number,), daemon=True) for number in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        counts["good requests"] += 1
        try:
            counts["unanswered"] += not ask(port).endswith(b"well")
        except OSError:
            counts["unanswered"] += 1
        if sys.stderr.isatty():
            print(f"\r{max(0, until - time.monotonic()):6.0f} s left, {counts['connections']} connections", end="",
                  file=sys.stderr)
        time.sleep(0.02)


def main() -> int:
    """Run the drill; the exit code says whether every promise was kept."""
    parser = argparse.ArgumentParser(description="Throw garbage at minibot's door and see that it leaves no trace.")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    choice = parser.parse_args()
    if choice.serve:
        serve()
    counts: Counter[str] = Counter()
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen([sys.executable, "-m", "tests.drill.garbage", "--serve"], text=True,
                                  stdout=subprocess.PIPE, stderr=log)
        try:
            assert server.stdout
            port = int(server.stdout.readline())
            drill(port, min(2.0, choice.seconds / 4), choice.seed + 1, Counter())  # warm up
            before = settled(port)
            drill(port, choice.seconds, choice.seed, counts)
            after = settled(port)
        finally:
            server.kill()
            server.wait()
        log.seek(0)
        lines = log.read().splitlines()
    room = {"MiB": 12.0, "descriptors": 0, "tasks": 0, "held": 0, "connections": 0}
    broken = [f"{name} grew from {before[name]:g} to {after[name]:g}" for name in room
              if after[name] > before[name] + room[name]]
    if counts["unanswered"]:
        broken.append(f"{counts['unanswered']} good requests were not answered")
    if len(lines) > 5 + choice.seconds / 10 or any("Traceback" in line for line in lines):
        broken.append(f"{len(lines)} lines of log, the last: {lines[-1]}")
    print(f"\nseed {choice.seed}: {counts['connections']} connections, {counts['octets'] / 1e6:.0f} MB of garbage, "
          f"{counts['good requests']} good requests; memory {before['MiB']:.1f} -> {after['MiB']:.1f} MiB, descriptors "
          f"{before['descriptors']:g} -> {after['descriptors']:g}, {len(lines)} lines of log")
    print("\n".join(broken) or "every promise was kept")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
