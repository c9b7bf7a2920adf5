"""`python -m tests.bench [--rounds N] [--seconds S]`: minibot beside FastAPI, the same work in the same run.

The door alone (every conversation paused in minibot, replies off in the peer), then the whole way with an
instant model and platform. Servers are pinned to one core, the load to the other; rounds are interleaved,
medians and the ratios of the medians are shown. Quote the ratios: the machine is shared.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
import statistics
import sys
import time
from collections import defaultdict

from tests.bench import load, servers
from tests.bench.load import CHATS, Steady, Talkers
from tests.bench.servers import LOAD_CORE, SECRET, Running

Figures = dict[str, dict[str, list[float]]]
WEBHOOKS = 100_000
IDLE = 1000


def show(text: str) -> None:
    """Progress on a terminal, a line each elsewhere."""
    print(f"\r\x1b[K{text}" if sys.stderr.isatty() else text, end="" if sys.stderr.isatty() else "\n", file=sys.stderr,
          flush=True)


def pause_everybody(running: Running) -> None:
    """Every bench conversation asks for a person, so that the door is measured without replies."""
    with socket.create_connection(("127.0.0.1", running.port)) as link:
        for chat in range(CHATS):
            link.sendall(load.request(100000 + chat, SECRET, "/human"))
            assert link.recv(4096).startswith(b"HTTP/1.1 200")
    deadline = time.monotonic() + 60
    while _pending(running) and time.monotonic() < deadline:
        time.sleep(0.1)


def _pending(running: Running) -> int:
    import json
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{running.port}/healthz") as reply:
        return int(json.load(reply)["pending"])


def door(name: str, running: Running, figures: Figures, seconds: float, first: bool) -> None:
    """Webhooks per second at four widths, latency at a steady rate, memory."""
    figures["first 200, ms"][name].append(running.first_200 * 1000)
    time.sleep(2.0)  # the model client is loaded in both by now
    figures["idle memory, MB"][name].append(running.rss())
    if name == "minibot":
        pause_everybody(running)
    for connections in (1, 16, 64, 256):
        show(f"{name}: the door at {connections} connections")
        figures[f"webhooks/s at {connections}"][name].append(
            load.wrk(running.port, SECRET, connections, seconds, LOAD_CORE))
    show(f"{name}: a steady 500 webhooks/s")
    time.sleep(1.0)  # what a burst leaves to be tidied up is no part of it
    steady = Steady(running.port, SECRET, 500, seconds)
    asyncio.run(steady.run())
    figures["p50 at 500/s, ms"][name].append(steady.percentile(0.5))
    figures["p99 at 500/s, ms"][name].append(steady.percentile(0.99))
    if first:
        idle_and_full(name, running, figures)


def idle_and_full(name: str, running: Running, figures: Figures) -> None:
    show(f"{name}: {IDLE} idle connections, then {WEBHOOKS} messages")
    before = running.rss()
    with contextlib.ExitStack() as stack:
        for _ in range(IDLE):
            stack.enter_context(socket.create_connection(("127.0.0.1", running.port)))
        time.sleep(0.5)
        figures["KiB per idle connection"][name].append((running.rss() - before) * 1e6 / 1024 / IDLE)
    rate = load.wrk(running.port, SECRET, 64, 2, LOAD_CORE)
    load.wrk(running.port, SECRET, 64, max(1.0, WEBHOOKS / rate), LOAD_CORE)
    figures["memory after 100,000, MB"][name].append(running.rss())


def whole_way(name: str, running: Running, far: int, figures: Figures, seconds: float) -> None:
    """From webhook to platform call, at one conversation and at a hundred; the door while replies saturate."""
    time.sleep(2.0)
    for count in (1, 100):
        show(f"{name}: the whole way, {count} conversation(s)")
        rate, median = asyncio.run(Talkers(running.port, far, SECRET, count, seconds).run())
        figures[f"answers/s, {count} conversations"][name].append(rate)
        figures[f"webhook to platform call, {count}, ms"][name].append(median)
    if name == "minibot":
        show(f"{name}: the door while replies saturate the core")
        steady = Steady(running.port, SECRET, 500, seconds)
        asyncio.run(saturated(steady, Talkers(running.port, far, SECRET, 100, seconds + 1)))
        figures["busy door p50, ms"][name].append(steady.percentile(0.5))
        over = sum(latency > 250 for latency in steady.latencies) / len(steady.latencies)
        figures["busy door over 250 ms, %"][name].append(over * 100)


async def saturated(steady: Steady, talkers: Talkers) -> None:
    await asyncio.gather(steady.run(), talkers.run())


def table(figures: Figures) -> str:
    lines = [f"{'':38}{'minibot':>12}{'FastAPI':>12}{'ratio':>9}"]
    for label, by_name in figures.items():
        ours = statistics.median(by_name["minibot"])
        theirs = statistics.median(by_name["FastAPI"]) if by_name["FastAPI"] else None
        shown = f"{theirs:>12,.1f}{ours / theirs:>9.2f}" if theirs else ""
        lines.append(f"{label:38}{ours:>12,.1f}{shown}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--only", choices=("door", "way"), help="one half")
    chosen = parser.parse_args()
    servers.python()
    os.sched_setaffinity(0, {int(LOAD_CORE)})
    figures: Figures = defaultdict(lambda: defaultdict(list))
    with servers.far_ends() as far:
        for number in range(chosen.rounds):
            show(f"round {number + 1} of {chosen.rounds}")
            if chosen.only != "way":
                with servers.minibot(far) as running:
                    door("minibot", running, figures, chosen.seconds, number == 0)
                with servers.peer(far) as running:
                    door("FastAPI", running, figures, chosen.seconds, number == 0)
            if chosen.only != "door":
                with servers.minibot(far) as running:
                    whole_way("minibot", running, far, figures, chosen.seconds)
                with servers.peer(far, replies=True) as running:
                    whole_way("FastAPI", running, far, figures, chosen.seconds)
    show("")
    print(table(figures))


if __name__ == "__main__":
    main()
