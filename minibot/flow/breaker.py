"""One upstream's health: while it is down nobody's message is spent on finding that out again.

Not here: single retries (`retry.py`). The law: five failures of the outage kind in a row open the breaker;
while it is open nothing is attempted and no try is counted; one probe at a time finds out whether it is over.
Time comes in as an argument, in milliseconds.

Next: `guard.py`, whether we may answer at all.
"""

from __future__ import annotations

FAILURES = 5
FIRST_PAUSE, LONGEST_PAUSE = 15_000, 60_000
PROBE_PATIENCE = 5_000  # how long the others wait before they ask what the probe found out
CLOCK_STEP = 30_000  # that the clock may go back without anybody setting it
PROBE_LIMIT = 90_000  # a probe that never came back frees the way for the next one


class Breaker:
    """Closed (all go), open (nobody goes before `until`), probing (one is on its way)."""

    def __init__(self) -> None:
        self.failures = 0
        self.until = 0
        self._pause = FIRST_PAUSE
        self._probe_at = 0
        self._asked_at = 0

    def admit(self, now: int) -> int:
        """0: go ahead (and report back: `worked`, `failed` or `dropped`); else when to ask again."""
        if now < self._asked_at - CLOCK_STEP:  # the clock was set back: nobody waits for that hour
            self.until = self._probe_at = 0
        self._asked_at = now
        if now < self.until:
            return self.until
        if self.failures < FAILURES:
            return 0
        if self._probe_at and now < self._probe_at + PROBE_LIMIT:
            return now + PROBE_PATIENCE
        self._probe_at = now
        return 0

    def worked(self) -> None:
        """An answer came, whatever it said: the upstream is alive."""
        self.failures = self._probe_at = 0
        self._pause = FIRST_PAUSE

    def failed(self, now: int) -> None:
        """No answer, or one of the outage kind."""
        self.failures += 1
        self._probe_at = 0
        if self.failures >= FAILURES:
            self.until = max(self.until, now + self._pause)
            self._pause = min(self._pause * 2, LONGEST_PAUSE)

    def dropped(self) -> None:
        """What was let go was not made, or told nothing: the way is free for the next probe."""
        self._probe_at = 0

    def pause(self, until: int) -> None:
        """The upstream itself asked for quiet (429 for the account, a refused token)."""
        self.until = max(self.until, until)
        self._probe_at = 0
