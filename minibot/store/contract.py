"""What a store is: the verbs that intake, worker and operator use. Each is one transaction, durable when it returns.

Not here: SQL (`sql.py`), the two databases (`sqlite.py`, `postgres.py`). The law:
- a verb that writes for a conversation checks the fence (`epoch`) first and raises LeaseLost if it moved;
- `accept` is all a webhook waits for, so it writes as little as it can: one row a message where possible;
- every `now` comes from the caller, in milliseconds; the store has no clock of its own;
- a verb raises StoreDown when it could not be made durable, and then nothing of it has happened.

The step after a verb is computed in the verb's own transaction, and a part that the step hands out is already
marked `sending` with its try counted: what is on disk before a call is made always says that it may be made.

Next: `schema.py`, the tables; `sql_intake.py`, how a message comes in; `sql.py`, how it is worked.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol

from minibot.model import Event
from minibot.promise import Promise
from minibot.work import Accepted, Conversation, Export, Fate, Finish, Health, Step


class Store(Protocol):
    """Every method may be called from the event loop's thread only.

    On SQLite the call alone asks for a verb, and what is asked in one breath is one transaction, intake first.
    """

    def accept(self, events: Sequence[Event], now: int) -> Promise[Accepted]:
        """Store what a webhook brought. Duplicates are absorbed; the future fails with StoreDown."""

    def claim(self, owner: str, now: int, lease: int, limit: int, alone: bool = False) -> Awaitable[list[Step]]:
        """Lease up to `limit` due conversations for `lease` ms, longest due first, and say what each needs.

        `alone` claims only suspects (two or more deaths in a row), the least suspect first; otherwise they are left
        aside.
        """

    def renew(self, owner: str, now: int, lease: int) -> Awaitable[None]:
        """Heartbeat: every lease `owner` still holds lasts `lease` ms from now."""

    def finish(self, conversation: Conversation, finish: Finish, now: int) -> Awaitable[Step]:
        """End a turn: answer, parts, outcomes, cost. Returns what is next (usually the first part)."""

    def settle(self, conversation: Conversation, part: int, fate: Fate, now: int) -> Awaitable[Step]:
        """Record how a part's sending ended. Returns what is next."""

    def refresh(self, conversation: Conversation, now: int) -> Awaitable[Step]:
        """What the conversation needs, read again: a follow-up arrived while the model was being asked."""

    def postpone(self, conversation: Conversation, due_at: int, counted: bool, error: str, now: int) -> Awaitable[None]:
        """Release until `due_at`; `counted` adds a try."""

    def next_due(self, now: int) -> Awaitable[int | None]:
        """When the next conversation wants a worker that nobody has leased; None if none does."""

    def exports(self, destination: str, now: int, lease: int, limit: int) -> Awaitable[list[Export]]:
        """Up to `limit` exchanges due at `destination`, of as many conversations; handed out again after `lease` ms."""

    def exported(self, number: int) -> Awaitable[None]:
        """The destination has it."""

    def export_failed(self, number: int, error: str, due_at: int | None) -> Awaitable[None]:
        """It goes again at `due_at`, and what follows in its conversation waits for it; None gives it up."""

    def export_at_once(self, destination: str) -> Awaitable[None]:
        """An outage is over: all that wait there are due now."""

    def health(self, now: int) -> Awaitable[Health]:
        """Counts for /healthz; raises StoreDown when the store cannot be used."""

    def maintain(self, now: int) -> Awaitable[None]:
        """Retention, old dedup keys, checkpoint, clock jumps: small steps, called about once a minute."""

    def retry(self, ids: Sequence[int], force: bool, now: int) -> Awaitable[int]:
        """Re-drive these parts, messages and exports that were given up on (none named: all); how many."""

    def forget(self, chat: str) -> Awaitable[int]:
        """Erase every conversation that `chat` names; how many."""

    def backup(self, path: str) -> Awaitable[None]:
        """An online copy at `path`, checked."""

    def close(self, now: int) -> Awaitable[None]:
        """Release this process's leases, checkpoint, close."""
