"""The demo's stage: four simulated platforms with a person on each, and trouble at will.

Not here: what a platform accepts (`simulator.py`). The law: whatever the page shows went over a real connection
between two processes; a webhook is posted again until it is taken, as the platforms do.

Next: `demo_rehearsal.py`.
"""

from __future__ import annotations

import asyncio
import time
from base64 import b64decode
from collections import defaultdict
from collections.abc import Callable, Coroutine
from functools import partial
from itertools import chain, repeat
from typing import Any

from minibot.desk.demo_page import Wire
from minibot.desk.simulator import Answered, Fault, Screen, Webhook, json_answer
from minibot.desk.simulator_graph import GraphSide
from minibot.desk.simulator_meta import DAY
from minibot.desk.simulator_telegram import TelegramSide
from minibot.errors import NoAnswer
from minibot.model import Call, Request, Response
from minibot.web.calls import Caller
from minibot.web.media import sniff
from minibot.web.routes import Stream

CHATS = {"telegram": "4815162342", "whatsapp": "4915112345678", "messenger": "1254459154682919",
         "instagram": "5550001112223"}
FAR_ENDS = ("telegram", "graph", "instagram", "model")
WAYS = ("text", "media", "message", "human")  # what happens on a phone: the simulator's makers of webhooks
AGAIN = 0.4, 0.8, 1.6, 3.2  # seconds until a webhook is posted again; the real platforms are slower
THINKING = 2.0  # seconds, of a slow model
FORGED = {"X-Hub-Signature-256": f"sha256={'0' * 64}", "X-Telegram-Bot-Api-Secret-Token": "a-guess"}


def now() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class Stage:
    """All far ends. `serving` says where the program listens (`port`, `up`); `keys` are this run's credentials,
    invented, named as in `.env`."""

    def __init__(self, wire: Wire, serving: Any, caller: Caller, keys: dict[str, str]) -> None:
        self.wire, self.serving, self.caller = wire, serving, caller
        self.telegram = TelegramSide(keys["TELEGRAM_BOT_TOKEN"], keys["TELEGRAM_WEBHOOK_SECRET"], now)
        self.graph = GraphSide(keys["META_ACCESS_TOKEN"], keys["META_PAGE_ACCESS_TOKEN"], keys["META_APP_SECRET"], now,
                               instagram_token=keys["INSTAGRAM_ACCESS_TOKEN"])
        self.sides: dict[str, Any] = {"telegram": self.telegram, **{
            side.name: side for side in (self.graph.whatsapp, self.graph.messenger, self.graph.instagram)}}
        self.far_ends = self.sides | {"model": Screen(now)}
        self._days: set[str] = set()  # platforms where 24 hours go by before the next answer leaves
        self._sent = ""  # the platform of the newest file
        self._seen: defaultdict[str, int] = defaultdict(int)  # of what each person is shown
        self._reports: asyncio.Queue[tuple[str, Webhook]] = asyncio.Queue()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._spawn(self._report())
        for name, side in self.sides.items():
            side.last_id = now()  # a database that was kept knows the ids of earlier runs
            side.rule = partial(self._pass_a_day, name)

    # What happens on a phone

    def act(self, platform: str, way: str, shown: str, times: int = 1, late: float = 0.0, forged: bool = False,
            day: bool = False, **given: Any) -> None:
        """One of WAYS, with its arguments: delivered `times` times, `late` seconds late, by a forger, answered a day
        later. `shown` is what the phone shows of it; a file is given in Base64."""
        if way not in WAYS:
            raise ValueError(way)
        file = {}
        if "data" in given:
            self._sent, file = platform, {"data": given["data"], "mime": sniff(b64decode(given["data"]))}
            given |= {"data": b64decode(given["data"]), "mime": file["mime"]}
        webhook = getattr(self.sides[platform], way)(CHATS[platform], **given)
        self._days |= {platform} if day else set()
        self.wire.tell("wrote", platform=platform, id=webhook.id, text=shown, at=now(), way=way, forged=forged,
                       late=late, **file)
        if forged:
            webhook = webhook._replace(headers={**webhook.headers, **{
                name: guess for name, guess in FORGED.items() if name in webhook.headers}})
        self._spawn(self._deliver(platform, webhook, times, late))
        self.look(platform)

    def plan(self, platform: str, kind: str) -> None:
        """The next call of `platform`, or of the model, meets this fault."""
        self.far_ends[platform].plan(kind, retry_after=3)
        self.look(platform)

    async def _deliver(self, platform: str, webhook: Webhook, times: int, late: float) -> None:
        for number in range(times):
            await asyncio.sleep(0.4 if number else late)
            if await self._take(platform, webhook, "webhook", webhook.id) == 200:
                self.wire.tell("delivered", platform=platform, id=webhook.id)

    async def _report(self) -> None:
        """Post receipts and echoes, in order."""
        while True:
            await self._take(*await self._reports.get(), "receipt")

    async def _take(self, platform: str, webhook: Webhook, kind: str, message: str = "") -> int:
        """POST until it is taken, or refused for what it is; the status."""
        for pause in chain(AGAIN, repeat(AGAIN[-1])):
            begun = time.time()
            self.wire.hop(platform, kind, message, begun, octets=self.wire.octets(
                f"POST {webhook.path} HTTP/1.1", webhook.headers, webhook.body))
            url = f"http://127.0.0.1:{self.serving.port}{webhook.path}"
            call = Call("the webhook", "POST", url, webhook.headers, webhook.body, timeout=15.0)
            try:
                status = (await self.caller.perform(call, f"{platform} {kind}")).status
            except NoAnswer as fault:
                self.wire.hop(platform, "away", message, note=str(fault))
                await self.serving.up.wait()
            else:
                self.wire.hop(platform, "taken", message, status=status, ms=(time.time() - begun) * 1000, of=kind)
                if status != 503:
                    return status
            await asyncio.sleep(pause)
        raise AssertionError

    # What the program asks for

    def serve(self, upstream: str, request: Request) -> Any:
        """The endpoint of the Bot API ("telegram"), of Graph ("graph", "instagram"), and of the model."""
        if upstream == "model":
            return self._carry(self.far_ends["model"].meet("send", lambda: json_answer(200, {})))
        path = request.path.removeprefix(f"/sim/{upstream}")
        target = f"{path}?{request.query}" if request.query else path
        fields = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.fields}
        platform, side = self._whose(upstream, fields), self.telegram if upstream == "telegram" else self.graph
        name = path.rstrip("/").split("/")[-1]
        self.wire.hop(platform, "call", name=name, octets=self.wire.octets(
            f"{request.method} {target} HTTP/1.1", fields, request.body))
        answered = side.answer(request.method, path, request.query, fields, request.body)
        self.wire.hop(platform, "reply", name=name, status=answered.status, trouble=answered.trouble,
                      octets=self.wire.octets(f"HTTP/1.1 {answered.status}", answered.headers, answered.body))
        return self._carry(answered, platform)

    def _whose(self, upstream: str, fields: dict[str, str]) -> str:
        """Graph serves three, told apart by their tokens; a file without one is that which was sent last."""
        role = self.graph.tokens.get(fields.get("authorization", "").removeprefix("Bearer "), "")
        return upstream if upstream != "graph" else {"page": "messenger", "": self._sent}.get(role, role)

    def _carry(self, answered: Answered, platform: str = "") -> Any:
        """A reply on its way, as far as its trouble lets it come."""
        self.look(platform)
        fields = dict(answered.headers)
        response = Response(answered.status, answered.body, fields.pop("content-type", ""), tuple(fields.items()))
        if answered.trouble == "slow":
            return self._spawn(asyncio.sleep(THINKING, response))
        if answered.trouble.startswith("hang"):
            return asyncio.get_running_loop().create_future()
        if answered.trouble:
            return Stream(response._replace(fields=(("Content-Length", "1"),)), _break)
        return response

    def _pass_a_day(self, platform: str, name: str) -> Fault | None:
        if name == "send" and platform in self._days:
            self._days.remove(platform)
            self.sides[platform].chats[CHATS[platform]] = now() - DAY
            self.wire.hop(platform, "day", note="24 hours have gone by since the person wrote")
        return None

    def look(self, platform: str) -> None:
        """Tell the page what a person sees now and which faults are planned; post what the platform reports."""
        if side := self.sides.get(platform):
            shown = side.shown[CHATS[platform]]
            for one in shown[self._seen[platform]:]:
                self.wire.tell("shown", platform=platform, what=one._asdict())
            self._seen[platform] = len(shown)
            while side.outgoing:
                self._reports.put_nowait((platform, side.outgoing.popleft()))
        planned = {name: [fault.kind for fault in each.planned] for name, each in self.far_ends.items()}
        self.wire.tell("state", planned=planned)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _break(write: Callable[[bytes], bool]) -> Callable[[], None]:
    """End an answer before its body has come."""
    write(b"")
    return lambda: None
