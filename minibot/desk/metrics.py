"""What is counted and timed, as Prometheus reads it at `GET /metrics`.

Not here: deciding what to count (`flow/` adds to one Counter, an increment each). The law: no secret and nothing a
person wrote; every label comes from a closed set; a stranger learns nothing without ADMIN_TOKEN. Format:
prometheus.io/docs/instrumenting/exposition_formats, text version 0.0.4; seconds as its naming rules demand.

Next: `status.py`.
"""

from __future__ import annotations

import hmac
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from minibot.errors import NoAnswer
from minibot.model import Call, Reply, Request, Response, Secret
from minibot.web.calls import Caller
from minibot.web.routes import Endpoint
from minibot.work import Health

BUCKETS = (50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000)  # ms
KIND = "text/plain; version=0.0.4; charset=utf-8"
Sample = tuple[str, float]  # labels in braces or "", value


class Meter:
    """How often outgoing calls ended how, and how long things took: buckets and a sum (ms) for each."""

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        self.times: defaultdict[str, list[int]] = defaultdict(lambda: [0] * (len(BUCKETS) + 2))

    def observe(self, what: str, milliseconds: int) -> None:
        """`what` took so long."""
        row = self.times[what]
        row[bisect_left(BUCKETS, milliseconds)] += 1
        row[-1] += milliseconds


class MeteredCaller(Caller):
    """A Caller whose calls are counted by upstream and status, and timed."""

    def __init__(self, *, meter: Meter, **more: Any) -> None:
        super().__init__(**more)
        self.meter = meter

    async def perform(self, call: Call, pool: str) -> Reply:
        upstream, begun, result = pool.partition(":")[0], self._clock(), "cancelled"
        try:
            reply = await super().perform(call, pool)
            result = str(reply.status)
            return reply
        except NoAnswer:
            result = "no_answer"
            raise
        finally:
            self.meter.calls[upstream, result] += 1
            self.meter.observe(f"call {pool}", round((self._clock() - begun) * 1000))


def guarded(token: Secret, endpoint: Endpoint) -> Endpoint:
    """`endpoint` for those who carry `token` as their bearer."""
    def look(request: Request) -> Any:
        given = b",".join(request.all(b"authorization"))
        known = hmac.compare_digest(given, b"Bearer " + token.reveal().encode())
        return endpoint(request) if known else Response(401, fields=(("WWW-Authenticate", "Bearer"),))
    return look


def page(counts: Counter[tuple[str, str]], meter: Meter, health: Health) -> Response:
    """Everything counted, timed and waiting."""
    families: list[tuple[str, str, Iterable[Sample]]] = [
        ("events_total", "counter", ((f'{{source="{source}",event="{event}"}}', count)
                                     for (source, event), count in sorted(counts.items()) if source != "tokens")),
        ("calls_total", "counter", ((f'{{upstream="{upstream}",result="{result}"}}', count)
                                    for (upstream, result), count in sorted(meter.calls.items()))),
        ("tokens_total", "counter", ((f'{{direction="{way}"}}', counts["tokens", way]) for way in ("in", "out"))),
        ("pending", "gauge", [("", health.pending)]), ("oldest_pending_seconds", "gauge", [("", health.oldest)]),
        ("dead", "gauge", [("", health.dead)]),
        ("duration_seconds", "histogram", (sample for what, row in sorted(meter.times.items())
                                           for sample in _histogram(what, row)))]
    told = [line for name, kind, samples in families for line in (
        f"# TYPE minibot_{name} {kind}", *(f"minibot_{name}{labels} {value}" for labels, value in samples))]
    return Response(200, ("\n".join(told) + "\n").encode(), KIND)


def _histogram(what: str, row: list[int]) -> Iterable[Sample]:
    """Cumulative buckets, sum and count of one row of `Meter.times`."""
    for at, bound in enumerate((*(f"{bucket / 1000:g}" for bucket in BUCKETS), "+Inf"), 1):
        yield f'_bucket{{of="{what}",le="{bound}"}}', sum(row[:at])
    yield f'_sum{{of="{what}"}}', row[-1] / 1000
    yield f'_count{{of="{what}"}}', sum(row[:-1])
