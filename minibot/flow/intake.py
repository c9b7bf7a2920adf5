"""A webhook's way in: verify, parse, accept, and only then 200.

What each answer makes the platform do:
- 200: the events are on disk (or wanted none): it never sends them again;
- 401, 400: not from the platform, or our secret differs: Telegram and Meta repeat for hours, so the log says why;
- 503: the store could not take them: the platform repeats, and nothing is lost.

Not here: sockets (`web/`), what a message means (`channels/`), answering (`conversation.py`). The law: an
answer's body is empty or constant, never something Telegram would execute, and nothing after the 200 can fail.

Next: `retry.py`, then `conversation.py`.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable
from functools import partial

from minibot.channels.contract import Channel
from minibot.errors import Refused, StoreDown, Unreadable
from minibot.logs import Seldom, hop
from minibot.model import (Acknowledge, Alert, Aside, Echo, Erase, Event, Handover, Ignored, Inbound, Me, Odd, Presence,
                           Receipt, Rekey, Request, Response)
from minibot.promise import Promise
from minibot.store.contract import Store
from minibot.text import clean
from minibot.work import Accepted

log = logging.getLogger("minibot.intake")
OK = Response(200)
UNAVAILABLE = Response(503, b"try again later\n", fields=(("Retry-After", "5"),))
REFUSALS = {400: Response(400, b"bad request\n"), 401: Response(401, b"unauthorized\n")}
STORED = (Inbound, Aside, Receipt, Echo, Handover, Erase, Rekey, Presence, Odd)
HINTS = {
    "telegram": "if this is your bot, register the webhook with its secret: python run.py connect telegram",
    "whatsapp": "META_APP_SECRET must be the App Secret of the Meta app that sends this (Settings > Basic)",
}
Answer = Response | Promise[Response]


class Intake:
    """The handlers of the four webhook paths."""

    def __init__(self, store: Store, clock: Callable[[], int], wake: Callable[[tuple[int, ...]], None],
                 acknowledge: Callable[[Acknowledge], None], counts: Counter[tuple[str, str]],
                 refused: Callable[[str], None] = lambda name: None, expect: Callable[[], None] = lambda: None
                 ) -> None:
        self._store = store
        self._clock = clock
        self._wake = wake
        self._acknowledge = acknowledge
        self._counts = counts
        self._refused = refused
        self._expect, self._fruitful = expect, False  # whether the last message was to be answered: so will be this one
        self._seldom = Seldom()
        self.me: dict[str, Me] = {}  # who we are, once known; Telegram's username decides what is addressed to us

    def webhook(self, channel: Channel, ready: bool) -> Callable[[Request], Answer]:
        """The POST handler of one channel; without credentials it cannot answer, so it does not acknowledge either."""
        verify, name = channel.verify, channel.name

        def take(request: Request) -> Answer:
            try:
                verify(request)
            except Refused as refusal:
                return self._refuse(name, refusal)
            if not ready:
                return self._unavailable(StoreDown(f"{name} has no access token in .env"))
            return self.take(channel, request.body)

        return take

    def take(self, channel: Channel, body: bytes) -> Answer:
        """Store one authentic body's events; polling uses it as well as the webhooks."""
        try:
            events = channel.parse(body, self.me.get(channel.name) or Me(channel.account))
        except Unreadable as fault:
            digest = hashlib.sha256(body).hexdigest()[:32]
            events = [Odd(channel.name, f"odd:{digest}", str(fault), clean(body[:65536].decode("utf-8", "replace")))]
        stored = [event for event in events if isinstance(event, STORED)]
        if len(stored) != len(events) or not isinstance(stored[0] if stored else None, Inbound):
            self._note(channel.name, events)
        if not stored:
            return OK
        answer: Promise[Response] = Promise()
        self._store.accept(stored, self._clock()).add_done_callback(
            partial(self._answer, channel.name, stored[0], answer))
        if self._fruitful:
            self._expect()
        return answer

    def _answer(self, name: str, first: Event, answer: Promise[Response], accepted: Promise[Accepted]) -> None:
        fault = accepted.exception()
        if fault is not None:
            return answer.set_result(self._unavailable(fault))
        new, known, due = accepted.result()
        if isinstance(first, Inbound):
            hop("accepted", first, new=new, known=known, due=len(due), event=first)
        self._counts[name, "received"] += new
        if known:
            self._counts[name, "repeated"] += known
        self._fruitful = bool(due)
        if due:
            self._wake(due)
        answer.set_result(OK)

    def _unavailable(self, fault: BaseException) -> Response:
        self._counts["store", "unavailable"] += 1
        self._seldom.warning(log, "store", f"a webhook was answered 503, the platform will repeat it: {fault}")
        return UNAVAILABLE

    def _refuse(self, name: str, refusal: Refused) -> Response:
        self._counts[name, "refused"] += 1
        self._refused(name)
        hint = HINTS.get(name, HINTS["whatsapp"])
        self._seldom.warning(log, f"refused {name}", f"{name}: a webhook was refused, {refusal.reason}; {hint}")
        return REFUSALS.get(refusal.status) or Response(refusal.status)

    def _note(self, name: str, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Ignored):
                self._counts[name, f"ignored:{event.why}"] += 1
            elif isinstance(event, Acknowledge):
                self._acknowledge(event)
            elif isinstance(event, Alert):
                log.error("%s: %s", name, event.text)
            elif isinstance(event, Odd):
                self._counts[name, "unreadable"] += 1
                self._seldom.warning(log, f"odd {name}", f"{name}: authentic but unreadable, kept: {event.why}")
