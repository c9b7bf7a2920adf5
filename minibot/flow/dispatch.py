"""Who works on what: claims due conversations, runs a worker for each, keeps the leases alive.

Not here: the work itself (`conversation.py`). The law: a conversation in hand here is never claimed twice;
conversations never wait for each other, only for a free lane; of the suspects (the process died twice with them in
hand) one at a time is worked, so that the one at fault is found and the others are cleared; nothing is claimed any
more once stopping has begun, and a send in flight is never cut short.

Next: `app.py`, where it is put together.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from contextlib import suppress

from minibot.errors import LeaseLost, StoreDown
from minibot.flow.conversation import Worker
from minibot.flow.kit import Kit
from minibot.work import Step

log = logging.getLogger("minibot.dispatch")
LANES, FEWEST = 128, 8  # conversations in hand at once; not more than the event loop bears, see `ease`
LONG_TURN = 0.008  # seconds of one turn of the loop; a webhook waits for some of them
MOST_AT_ONCE = 16  # conversations claimed in one transaction: the webhooks wait for it
LEASE = 18_000  # ms; renewed after a third of it. With the next look that makes a takeover within 20 s
SHORT_SLEEP = 0.02  # seconds until the loop is asked again whether it bears more
FAR = 1 << 62  # ms; no time to come
LOOK_FOR_SUSPECTS = 1_000  # ms between two looks
LONGEST_SLEEP = 1.0  # seconds; another instance's work is found by looking
COLD = 2_000  # ms from the start; a first call takes so long that a death in it says little about the message
CLAIM_GRACE = 1.0  # seconds that a stop waits for a claim under way; then it begins to count
MODEL_GRACE, SEND_GRACE = 3.0, 8.0  # seconds after a stop: a cut model call costs nothing, a cut send may repeat


class Dispatcher:
    """The loop between the store's due conversations and the workers. It asks the store for nothing that it knows."""

    def __init__(self, kit: Kit, owner: str) -> None:
        self._kit = kit
        self._owner = owner
        self._alarm, self._over = asyncio.Event(), asyncio.Event()
        self._over.set()
        self._stopping = self._resting = False
        self._woken: set[int] = set()  # conversations with something new that nobody has in hand
        self._more, self._due = False, 0  # more was due than was claimed; when the next one will be, 0 if unknown
        self._ahead: Awaitable[list[Step]] | None = None  # a claim that went along with a message
        self.lanes = LANES
        self._suspect = 0  # the one in hand
        self._limit = self._renewed = self._begun = self._suspected = 0
        self.workers: dict[int, Worker] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def wake(self, conversations: tuple[int, ...]) -> None:
        """New messages were stored for these: tell their workers, or look for work."""
        for conversation in conversations:
            worker = self.workers.get(conversation)
            if worker is not None:
                worker.follow()
            else:
                self._woken.add(conversation)
                self._alarm.set()

    def expect(self) -> None:
        """A message is on its way into the store: what it makes due is claimed in the same transaction.

        Only while nothing else is to do, and where what is asked together is one transaction; else `wake` sees to it.
        """
        now = self._kit.clock()
        if (self._resting and not self._stopping and not self._ahead and self._kit.settings.sqlite_path
                and self._free() > 0 and not self._overdue(now)):
            self._resting = False
            self._ahead = self._request(now)
            self._alarm.set()

    async def run(self) -> None:
        """Until `stop` is called."""
        self._begun = self._kit.clock()
        await self._kit.model.warm()  # before anything is in hand: what is, while a process dies, comes under suspicion
        self._over.clear()
        while not self._stopping or self._ahead:
            self._alarm.clear()  # the claim below sees what it was about
            try:
                await self._renew()
                await self.ease()
                await self._claim()
                sleep = await self._until_due()
            except StoreDown as fault:
                log.error("the store is out of reach, work waits: %s", fault)
                sleep = LONGEST_SLEEP
            except Exception:  # a fault of ours must not end all answers for good
                log.exception("a fault in minibot itself; the next look for work is in a second")
                sleep = LONGEST_SLEEP
            if sleep and not self._stopping:
                await self._sleep(sleep)
        self._over.set()

    async def stop(self) -> None:
        """No more claims; give model calls a moment, sends as long as it takes within the grace, then end."""
        self._stopping = True
        self._alarm.set()
        for worker in self.workers.values():
            worker.ending = True
        with suppress(TimeoutError):  # what is being claimed is in hand as well
            await asyncio.wait_for(self._over.wait(), CLAIM_GRACE)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=MODEL_GRACE)
        for worker in self.workers.values():
            if worker.asking is not None and not worker.asking.done():
                worker.asking.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=SEND_GRACE - MODEL_GRACE)
        for task in self._tasks:
            task.cancel()

    async def _renew(self) -> None:
        """The heartbeat, always before a claim: after a machine's sleep the leases in hand look like lost ones."""
        now = self._kit.clock()
        if self._overdue(now) and not self._ahead:
            await self._kit.store.renew(self._owner, now, LEASE)
            self._renewed = now

    def _overdue(self, now: int) -> bool:
        return bool(self._tasks) and not 0 <= now - self._renewed < LEASE / 3

    async def ease(self) -> None:
        """Where answers keep the loop busy, work on fewer: the door stays open, and nobody's answer comes later."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await asyncio.sleep(0)
        if loop.time() - begun > LONG_TURN:
            self.lanes = max(FEWEST, min(self.lanes, len(self._tasks)) * 3 // 4)
        else:
            self.lanes = min(LANES, self.lanes + 1 + self.lanes // 8)

    async def _claim(self) -> None:
        woken = set[int]()
        asked, self._ahead = self._ahead, None
        now = self._kit.clock()
        if asked is None:
            self._more = self._free() <= 0
            if self._more:
                return
            woken, self._woken = self._woken, set()  # all of it is in the store
            asked = self._request(now)
        steps = await asked
        for step in steps:
            self._start(step)
        self._more = len(steps) >= self._limit
        if not steps or now >= self._due or not woken <= {step.conversation.id for step in steps}:
            self._due = 0
        if not self._suspect and not 0 <= now - self._suspected < LOOK_FOR_SUSPECTS and self._warmed_up():
            self._suspected = now
            for step in await self._kit.store.claim(self._owner, now, LEASE, 1, alone=True):
                self._suspect = step.conversation.id
                self._start(step)

    def _free(self) -> int:
        return min(self.lanes - len(self._tasks), MOST_AT_ONCE)

    def _request(self, now: int) -> Awaitable[list[Step]]:
        if not self._tasks:
            self._renewed = now
        self._limit = self._free()
        return self._kit.store.claim(self._owner, now, LEASE, self._limit)

    def _warmed_up(self) -> bool:
        """Somebody has been answered, or it has run for a while: a suspect is in hand for as short as can be."""
        answered = self._kit.counts["model", "answered"]
        return bool(answered) or not 0 <= self._kit.clock() - self._begun < COLD

    def _start(self, step: Step) -> None:
        worker = Worker(self._kit, step)
        worker.ending = self._stopping  # claimed while the stop came
        number = step.conversation.id
        self._woken.discard(number)
        self.workers[number] = worker
        task = asyncio.create_task(self._guarded(worker, number))
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(done, worker, number))

    async def _guarded(self, worker: Worker, number: int) -> None:
        try:
            await worker.run()
        except asyncio.CancelledError:
            log.info("conversation %d: cut short by the stop, goes on after the next start", number)
        except Exception:  # a fault of ours in one conversation must not end the others; it is tried again later
            log.exception("conversation %d: a fault in minibot itself; tried again in half a minute", number)
            await self._shelve(worker)

    async def _shelve(self, worker: Worker) -> None:
        if worker.step is None:
            return
        while not self._stopping:
            now = self._kit.clock()
            try:
                return await self._kit.store.postpone(worker.step.conversation, now + 30_000, True, "fault", now)
            except LeaseLost:
                return  # somebody else has it
            except StoreDown:  # left alone it would stay ours as long as there is a heartbeat
                await asyncio.sleep(LONGEST_SLEEP)

    def _ended(self, task: asyncio.Task[None], worker: Worker, number: int) -> None:
        self._tasks.discard(task)
        if self.workers.get(number) is worker:  # it may have been released and claimed again meanwhile
            del self.workers[number]
        cleared = self._suspect == number
        if cleared:
            self._suspect = self._suspected = 0  # the next one at once
        if worker.missed:
            self._woken.add(number)
        if not worker.finished:
            self._due = 0
        if self._woken or self._more or cleared or not worker.finished:
            self._alarm.set()

    async def _until_due(self) -> float:
        """Seconds; 0 where there is something to do."""
        self._alarm.clear()
        if self._free() <= 0:
            return SHORT_SLEEP if self.lanes < LANES else LONGEST_SLEEP  # whoever ends rings the alarm
        if self._woken or self._more:
            return 0.0
        alone = self._kit.settings.sqlite_path  # several instances do not look all at once
        longest = LONGEST_SLEEP if alone else LONGEST_SLEEP * (0.25 + 0.75 * self._kit.chance())
        if not self._due:
            due = await self._kit.store.next_due(self._kit.clock())
            if self._alarm.is_set():  # who knows what the answer has missed
                return 0.0
            self._due = FAR if due is None else due
        return min(max((self._due - self._kit.clock()) / 1000, 0.01), longest)

    async def _sleep(self, seconds: float) -> None:
        """Until then, or until the alarm rings."""
        self._resting = True
        with suppress(TimeoutError):
            await asyncio.wait_for(self._alarm.wait(), seconds)
        self._resting = False
