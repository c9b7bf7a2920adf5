"""The demo's other process: the whole real program among simulated platforms; and lessons in what it is protected from.

Not here: those platforms (`demo_stage.py`), what a lesson shows (the page says it). The law: this changes what the
program is made of and none of its files, and without every platform's address on this machine it refuses to start, so
that no setting can bring the offline responder or a lesson to real people.

Next: `simulator.py`.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from threading import Thread
from typing import Any

from minibot.ai_faults import rejected
from minibot.ai_offline import OfflineModel
from minibot.channels.contract import Channel
from minibot.config import Settings
from minibot.errors import AiFailed, AiRemedy, NoAnswer, SettingsFault
from minibot.model import Call, Event, Inbound, Me
from minibot.promise import Promise
from minibot.work import Accepted, Answer, Said

LESSONS = ("no-dedup", "no-order", "ack-first", "no-signature", "truncate")
COMMIT_AFTER = 2.0  # seconds between the hasty 200 and the commit: time enough for a kill -9
_number = count(1)


class StageModel(OfflineModel):
    """The offline responder, behind a far end that can fail as a real model's server does."""

    def __init__(self, kit: Any) -> None:
        self._kit = kit

    async def answer(self, said: Sequence[Said], person: str) -> Answer:
        settings = self._kit.settings
        call = Call("model", "POST", f"{settings.openai_base_url}/", timeout=settings.ai_timeout_seconds)
        try:
            reply = await self._kit.caller.perform(call, "model")
        except NoAnswer as fault:
            raise AiFailed(AiRemedy.WAIT, "unreachable", help=str(fault)) from None
        if reply.status != 200:
            raise rejected(reply.status, json.loads(reply.body), reply.fields, key="OPENAI_MODEL", model=self.name)
        return await super().answer(said, person)


class HastyStore:
    """A store that says "it is on disk" before it is."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def accept(self, events: Sequence[Event], now: int) -> Promise[Accepted]:
        """Done at once; the real thing follows."""
        asyncio.get_running_loop().call_later(COMMIT_AFTER, self._store.accept, events, now)
        done = Promise[Accepted]()
        done.set_result(Accepted(len(events), 0, (0,)))
        return done


def _reread(channel: Channel, field: str, change: Callable[[Inbound], Any]) -> Channel:
    """A channel that reads one field of each message differently."""
    def parse(body: bytes, me: Me) -> list[Event]:
        return [event._replace(**{field: change(event)}) if isinstance(event, Inbound) else event
                for event in channel.parse(body, me)]
    return replace(channel, parse=parse)


CHANNELS: dict[str, Callable[[Channel], Channel]] = {
    # every delivery looks new
    "no-dedup": lambda channel: _reread(channel, "event", lambda message: f"{message.event}:{next(_number)}"),
    # every message is a conversation of its own, and conversations do not wait for each other
    "no-order": lambda channel: _reread(channel, "account", lambda message: f"{message.account}#{message.event}"),
    "no-signature": lambda channel: replace(channel, verify=lambda request: None),
    "truncate": lambda channel: replace(channel, compose=lambda markdown: channel.compose(markdown)[:1]),
}


def rehearsal(settings: Settings, environ: Mapping[str, str]) -> Callable[[Any], Any]:
    """What changes the program's parts for the demo. Raises SettingsFault where these are not the demo's settings."""
    urls, lesson = (settings.telegram_api_url, settings.meta_graph_url, settings.instagram_graph_url), environ.get(
        "MINIBOT_LESSON", "")
    if lesson not in ("", *LESSONS) or not all(url.startswith("http://127.0.0.1:") for url in urls):
        raise SettingsFault(["MINIBOT_DEMO, MINIBOT_LESSON: only `python run.py demo` may set these; remove them"])
    Thread(target=_end_with_parent, daemon=True).start()

    def rehearse(kit: Any) -> Any:
        kit = replace(kit, model=StageModel(kit)) if environ.get("MINIBOT_OFFLINE") else kit
        change = CHANNELS.get(lesson, replace)
        return replace(kit, store=HastyStore(kit.store) if lesson == "ack-first" else kit.store,
                       channels={name: change(channel) for name, channel in kit.channels.items()})
    return rehearse


def _end_with_parent() -> None:
    """Standard input ends when the process that started this one does, in whatever way."""
    while os.read(0, 1024):
        pass
    os._exit(0)
