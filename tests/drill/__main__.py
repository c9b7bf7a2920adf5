"""`python -m tests.drill [name ...]`: the drills, one after the other, and a table at the end.

Without names all of them; `--list` shows them. The exit code is 1 if any of them failed its pass mark.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable

from tests.drill import breakage, crash, days, disk, host, load, postgres
from tests.drill.house import Say, Skipped, Verdict

DRILLS: dict[str, tuple[str, Callable[[Say], Verdict]]] = {
    "points": ("T3 every crash point", crash.every_point),
    "pairs": ("T3 death during take-over", crash.pairs_of_points),
    "kills": ("T1 200 x kill -9", crash.kills_under_load),
    "faulty": ("T2 200 x kill -9, 20 % faults", lambda say: crash.kills_under_load(say, faults=0.2)),
    "poison": ("T12 a message that kills", crash.poison),
    "power": ("T4 200 power cuts", disk.power_cuts),
    "errors": ("T5 the n-th disk error", disk.failing_writes),
    "upgrade": ("T24 migrations cut off", disk.cut_migrations),
    "full": ("T7 disk full", host.disk_full),
    "locked": ("T8 database locked", host.locked),
    "damaged": ("T9 database damaged", host.damaged),
    "crowd": ("T15 10,000 connections", host.crowded),
    "slow": ("T11 slow neighbours", load.slow_neighbours),
    "backlog": ("T13 a backlog of 150,000", load.backlog),
    "repeats": ("T14 repeats in disorder", load.repeats_in_disorder),
    "fuzz": ("T16 a million broken payloads", load.fuzz),
    "hour": ("T10 an outage of an hour", days.outage_of_an_hour),
    "day": ("T18 a day, and clocks that jump", days.a_day),
    "stops": ("T6 50 clean stops", crash.clean_stops),
    "instances": ("T19 three on one PostgreSQL", postgres.killed_each_second),
    "throughput": ("T19 1, 2, 3 instances", postgres.throughput),
    "breakage": ("T25 minibot broken on purpose", breakage.broken),
}


def main(names: list[str]) -> int:
    """Run them; the exit code."""
    if "--list" in names or set(names) - set(DRILLS):
        print("\n".join(f"{name:10} {title}" for name, (title, _) in DRILLS.items()))
        return 0 if "--list" in names else 2
    table = []
    for name in names or DRILLS:
        title, drill = DRILLS[name]
        begun = time.monotonic()
        try:
            verdict = drill(lambda words: show(f"{title}: {words}"))
        except Skipped as reason:
            verdict = Verdict(f"skipped: {reason}", [])
        except Exception:  # a drill that breaks has not passed; the others go on
            verdict = Verdict("broke", [traceback.format_exc()])
        table.append((title, verdict, time.monotonic() - begun))
        show(line(*table[-1]) + "\n")
        for complaint in verdict.complaints[:20]:
            print(f"    {complaint}", flush=True)
    print("\n" + "\n".join(line(*row) for row in table))
    return int(any(verdict.complaints for _, verdict, _ in table))


def line(title: str, verdict: Verdict, seconds: float) -> str:
    """A row of the table."""
    return f"{'FAILED' if verdict.complaints else 'passed':7} {seconds:6.0f} s  {title:32} {verdict.figures}"


def show(words: str) -> None:
    """The progress: one line that is written over on a terminal, and nothing but results elsewhere."""
    if sys.stdout.isatty():
        print(f"\r\x1b[K{words}", end="", flush=True)
    elif words.endswith("\n"):
        print(words, end="", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
