"""One claimed conversation, worked until nothing is left: send what is pending, else answer what waits, else rest.

Not here: which conversation comes next (`dispatch.py`), sending one part (`delivery.py`), when to try again
(`retry.py`), whether we may answer (`guard.py`). The law: one worker per conversation; what the store handed
out is the only truth; a turn ends in one transaction; whatever fails ends in a `Fate`, a `Finish` or a later
try, never in silence; a result in hand is kept until the store has taken it.

Next: `dispatch.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from minibot.ai import estimate
from minibot.errors import AiFailed, AiRemedy, LeaseLost, StoreDown
from minibot.flow import commands, guard, retry, wording
from minibot.flow.delivery import deliver, start_typing
from minibot.flow.kit import Kit
from minibot.flow.media import Gathered, gather
from minibot.logs import hop
from minibot.work import Answer, Finish, Said, Step, Waiting, in_group, said

log = logging.getLogger("minibot.conversation")
JOINS = 3  # a follow-up drops the call in flight this often; the rest waits for the next turn
DEATHS = 5  # a message in hand while the process died this often is not tried again
PLEASE_WAIT_AFTER = 60_000  # ms of an outage until the person gets one short notice
WINDOW_MARGIN = 600_000  # ms before the 24-hour window closes: an answer sent then might arrive too late
Run = tuple[Waiting, ...]
Result = TypeVar("Result")


class Worker:
    """Works one conversation. The dispatcher calls `follow` when something new was stored for it."""

    def __init__(self, kit: Kit, step: Step) -> None:
        self.kit = kit
        self.step: Step | None = step
        self.channel = kit.channels[step.conversation.platform]
        self.asking: asyncio.Future[Answer] | None = None  # the only thing a stop may cut short
        self.ending = False  # a stop: what is in hand is finished, but nothing further begun
        self.finished = False  # in the end: nothing was put off, nothing is left
        self._media, self._put_off = Gathered(), False
        self._news: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def follow(self) -> None:
        """A further message of this conversation is in the store; it may join the answer being made."""
        if not self._news.done():
            self._news.set_result(None)

    @property
    def missed(self) -> bool:
        """Whether something was stored that it has not looked at, or not since."""
        return self._news.done()

    async def run(self) -> None:
        """Until the store has released the conversation, somebody else took it over, or a stop ends it."""
        assert self.step is not None
        hop("claimed", self.step.conversation, number=self.step.conversation.id, part=self.step.part,
            messages=_ids(self.step.waiting))
        try:
            while self.step is not None:
                if self.step.part is not None:
                    self.step = await self._send(self.step)
                elif self.step.waiting and not self.ending:
                    self.step = await self._react(self.step)
                else:
                    self.finished = not self._put_off
                    return
        except LeaseLost:
            log.info("a conversation was taken over by another worker")

    async def _send(self, step: Step) -> Step:
        assert step.part is not None
        part, store = step.part, self.kit.store
        fate = await deliver(self.kit, step.conversation, part)
        self._put_off = fate.state == "pending"
        if not self._put_off:
            self.kit.counts[self.channel.name, fate.state] += 1
        hop("settled", step.conversation, part=part, fate=fate)
        gap = self.channel.group_gap if part.reply_to and fate.state == "sent" else 0.0
        step = await self._kept(lambda: store.settle(step.conversation, part.id, fate, self.kit.clock()))
        if gap and step.part is not None:
            await asyncio.sleep(gap)
        return step

    async def _react(self, step: Step) -> Step | None:
        run, now = guard.leading_run(step.waiting), self.kit.clock()
        kind = run[0].inbound.kind
        if kind in commands.REACTIONS:
            says, finish = commands.react(kind, run[0].id, self.kit.settings, now)
            log.info("conversation %d: /%s", step.conversation.id, kind)
            return await self._finish(step, run, finish, says)
        if step.conversation.crashes >= DEATHS:
            log.error("conversation %d: given up, the process died %d times on it", step.conversation.id, DEATHS)
            return await self._close(step, run, "ai_failed:poison", wording.APOLOGY)
        if now > self._expires(step):  # what is sent now might arrive after the window: not even the model is asked
            return await self._close(step, run, "window_closed", "")
        verdict = guard.judge(step, run, self.kit.settings, now)
        if verdict.refused:
            return await self._finish(step, run, Finish(verdict.refused, told=bool(verdict.say)), verdict.say)
        if kind == "unsupported":
            return await self._close(step, run, kind, wording.NOTICES.get(run[-1].inbound.notice, wording.UNREADABLE))
        return await self._answer(step, run)

    async def _answer(self, step: Step, run: Run, joins: int = 0) -> Step | None:
        if later := self.kit.breakers["model"].admit(self.kit.clock()):
            later += round(self.kit.chance() * 2000)  # so that all who wait do not come back at once
            return await self._wait(step, run, later, counted=False, code="outage")
        stop_typing = start_typing(self.kit, step.conversation, run[-1].inbound.message_id)
        person, cost = _person(step, run), 0
        try:
            await gather(self._media, self.channel, self.kit.caller, self.kit.model, run)
            prompt = list(step.history) + [self._prompt(item) for item in run]
            cost = estimate(prompt) + self.kit.settings.max_output_tokens
            if not self.kit.purse.reserve(step, person, cost):
                cost = 0
                self.kit.breakers["model"].dropped()
                return await self._over_budget(step, run)
            hop("prompt", step.conversation, said=prompt, messages=_ids(run))
            self.asking = asyncio.ensure_future(self.kit.model.answer(prompt, f"{self.channel.name}:{person}"))
            newer = await self._newer(step, run) if joins < JOINS else None
            if newer is None:
                return await self._answered(step, run, await self.asking)
        except AiFailed as fault:
            return await self._no_answer(step, run, fault)
        finally:
            stop_typing()
            if self.asking is not None:
                self.asking.cancel()
            self.kit.purse.give_back(person, cost)
        self.kit.breakers["model"].dropped()
        return await self._joined(newer, joins + 1)

    async def _newer(self, step: Step, run: Run) -> Step | None:
        """Wait for the model or a follow-up, whichever comes first; the new step, if it changes this turn."""
        assert self.asking is not None
        while not self.asking.done():
            await asyncio.wait((self.asking, self._news), return_when=asyncio.FIRST_COMPLETED)
            if self.asking.done():
                return None
            self._news = asyncio.get_running_loop().create_future()
            newer = await self._kept(lambda: self.kit.store.refresh(step.conversation, self.kit.clock()))
            paused = newer.conversation.paused_until > self.kit.clock()
            if guard.leading_run(newer.waiting)[: len(run) + 1] != run or paused:
                return newer
        return None

    async def _joined(self, step: Step, joins: int) -> Step | None:
        """The turn begins anew with the follow-up, unless the guard has something to say about it."""
        run = guard.leading_run(step.waiting)
        asks = run and run[0].inbound.kind == "ask"
        if not asks or guard.judge(step, run, self.kit.settings, self.kit.clock()).refused:
            return step
        return await self._answer(step, run, joins)

    async def _answered(self, step: Step, run: Run, answer: Answer) -> Step:
        outcomes = {item.id: "merged" for item in run[:-1]} | {run[-1].id: "replied"}
        hop("answer", step.conversation, answer=answer, messages=_ids(run))
        self.kit.breakers["model"].worked()
        self.kit.counts["model", "answered"] += 1
        self.kit.counts["tokens", "in"] += answer.tokens_in
        self.kit.counts["tokens", "out"] += answer.tokens_out
        self.kit.observe("model", answer.milliseconds)
        self.kit.observe("answer", self.kit.clock() - run[-1].received_at)
        transcripts = {item.id: self._media.transcripts[item.id] for item in run if item.id in self._media.transcripts}
        return await self._finish(step, run, Finish(outcomes, answer=answer, transcripts=transcripts), answer.text)

    async def _no_answer(self, step: Step, run: Run, fault: AiFailed) -> Step | None:
        now, breaker = self.kit.clock(), self.kit.breakers["model"]
        self.kit.counts["model", fault.code] += 1
        if fault.remedy is AiRemedy.WAIT:
            breaker.failed(now)
            if fault.retry_after is not None:
                breaker.pause(now + round(fault.retry_after * 1000))
            wait = retry.delay("model", step.conversation.tries + 1, self.kit.chance(), fault.retry_after) or 0
            return await self._wait(step, run, now + wait, counted=True, code=fault.code)
        breaker.worked()
        log.error("the model gave no answer (%s): %s", fault.code, fault.help or "see the code")
        return await self._close(step, run, f"ai_failed:{fault.code}",
                                 wording.REFUSED if fault.remedy is AiRemedy.REFUSED else wording.APOLOGY)

    async def _wait(self, step: Step, run: Run, due_at: int, counted: bool, code: str) -> Step | None:
        """An outage: the messages keep waiting, within their window; after a minute one short notice goes out."""
        now, conversation = self.kit.clock(), step.conversation
        if not conversation.noticed_at:
            notice_at = run[0].received_at + PLEASE_WAIT_AFTER
            if now >= notice_at:
                return await self._finish(step, run, Finish({}, noticed=True), wording.PLEASE_WAIT)
            due_at = min(due_at, notice_at)
        hop("postponed", conversation, why=code, until=due_at, messages=_ids(run))
        await self._kept(lambda: self.kit.store.postpone(conversation, due_at, counted, code, now))
        return None

    async def _over_budget(self, step: Step, run: Run) -> Step:
        say = "" if step.usage.told else wording.OVER_BUDGET
        return await self._finish(step, run, Finish({item.id: "over_budget" for item in run}, told=bool(say)), say)

    async def _close(self, step: Step, run: Run, outcome: str, say: str) -> Step:
        return await self._finish(step, run, Finish({item.id: outcome for item in run}), say)

    async def _finish(self, step: Step, run: Run, finish: Finish, says: str) -> Step:
        for outcome in finish.outcomes.values():
            self.kit.counts[self.channel.name, outcome] += 1
        person = _person(step, run)
        finish = replace(finish, parts=tuple(self.channel.compose(says)) if says else (), person=person,
                         expires_at=self._expires(step),
                         reply_to=run[-1].inbound.message_id if in_group(run[-1].inbound) else "")
        answer, number = finish.answer, step.conversation.id
        log.info("conversation %d (%s): %s%s", number, self.channel.name, "; ".join(
            f"message {message} {outcome}" for message, outcome in finish.outcomes.items()) or "a notice to wait",
            f", {answer.tokens_in} + {answer.tokens_out} tokens in {answer.milliseconds} ms" if answer else "",
            extra={"facts": {"conversation": number, "messages": [*finish.outcomes]}})
        hop("finished", step.conversation, parts=finish.parts, messages=_ids(run), outcomes={
            item.inbound.message_id: finish.outcomes.get(item.id, "waits") for item in run})
        return await self._kept(lambda: self.kit.store.finish(step.conversation, finish, self.kit.clock()))

    async def _kept(self, verb: Callable[[], Awaitable[Result]]) -> Result:
        """A result in hand is not thrown away because the disk is full: try until the store takes it."""
        while True:
            try:
                return await verb()
            except StoreDown as fault:
                log.error("the store does not take a result, it is kept and tried again: %s", fault)
                await asyncio.sleep(1.0)

    def _expires(self, step: Step) -> int:
        hours = round(self.channel.window_hours * 3_600_000)
        return (step.conversation.last_inbound_at or self.kit.clock()) + hours - WINDOW_MARGIN

    def _prompt(self, item: Waiting) -> Said:
        """One waiting message as the model sees it."""
        spoken = self._media.transcripts.get(item.id)
        inbound = item.inbound if spoken is None else item.inbound._replace(text=spoken)
        return Said("user", said(inbound), self._media.images.get(item.id, ()))


def _ids(run: Run) -> list[str]:
    return [item.inbound.message_id for item in run]


def _person(step: Step, run: Run) -> str:
    return run[-1].inbound.person or step.conversation.chat
