"""Payloads with something wrong in them, thousands over HTTP to the running program: it takes all and stays well.

`MINIBOT_MUTATIONS` says how many for each platform; the full run takes 5,000. What each parser makes of a wrong value
in every single place is looked at in the platforms' own tests; here it is the whole program that must live on.
"""

from __future__ import annotations

import copy
import json
import os
import random
import socket
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any, BinaryIO

import pytest

from minibot.desk.simulator import Webhook
from minibot.model import PLATFORMS
from tests.botprocess import BotProcess
from tests.fakes import FakeWorld
from tests.meta_cases import ODD_VALUES
from tests.replay import OUR_NAME, own_plays, rewritten

COUNT = int(os.environ.get("MINIBOT_MUTATIONS", "500"))
AT_ONCE, PER_CONNECTION = 50, 1000  # requests on their way together; until the bot closes a connection


@pytest.fixture(scope="module")
def bot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BotProcess]:
    """One bot for all four platforms."""
    world = FakeWorld()
    world.telegram.me["username"] = OUR_NAME
    made = BotProcess(world, tmp_path_factory.mktemp("mutated"))
    yield made
    made.close()
    world.close()


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (holder, key) inside a document."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    return [(value, key) for key in keys] + [found for key in keys for found in places(value[key])]


def mutated(document: Any, dice: random.Random) -> bytes:
    """The document with one to four things wrong in it, as the bytes of a body."""
    for _ in range(dice.randrange(1, 5)):
        holder, key = dice.choice(places(document) or [({"": 0}, "")])
        kind = dice.randrange(6)
        if kind == 0 and isinstance(holder, dict):
            del holder[key]
        elif kind == 1:
            holder[key] = [holder[key]] * dice.randrange(3)
        elif kind == 2 and isinstance(holder, dict):
            holder[dice.choice(["type", "id", "text", "message", "from", "\ud83d"])] = holder.pop(key)
        elif kind == 3:
            holder[key] = copy.deepcopy(holder)
        else:
            holder[key] = copy.deepcopy(dice.choice(ODD_VALUES))
    body = bytearray(json.dumps(document).encode())
    for _ in range(dice.choice((0, 0, 0, 1, 3))):  # and now and then the JSON itself
        at = dice.randrange(len(body))
        body[at:at + dice.randrange(3)] = dice.randbytes(dice.randrange(3)) or b"}"
    return bytes(body)


def webhook(world: FakeWorld, platform: str, body: bytes) -> Webhook:
    """A body as the platform would send it, authentic."""
    if platform == "telegram":
        return Webhook("/telegram/webhook", {"X-Telegram-Bot-Api-Secret-Token": world.telegram.secret}, body)
    mac = world.graph.account.mac(body)
    return Webhook(f"/{platform}/webhook", {"X-Hub-Signature-256": f"sha256={mac}"}, body)


def request(made: Webhook) -> bytes:
    fields = "".join(f"{name}: {value}\r\n" for name, value in made.headers.items())
    head = f"POST {made.path} HTTP/1.1\r\nHost: bot\r\nContent-Length: {len(made.body)}\r\n{fields}\r\n"
    return head.encode() + made.body


def posted(port: int, requests: Iterator[bytes]) -> Counter[str]:
    """Send everything, pipelined; how often each status came."""
    statuses: Counter[str] = Counter()
    while first := list(islice(requests, AT_ONCE)):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            with connection.makefile("rb") as answers:
                for _ in range(PER_CONNECTION // AT_ONCE):
                    burst, first = first or list(islice(requests, AT_ONCE)), []
                    connection.sendall(b"".join(burst))
                    statuses.update(answered(answers) for _ in burst)
    return statuses


def answered(answers: BinaryIO) -> str:
    """Read one answer; its status."""
    status, *fields = iter(answers.readline, b"\r\n")
    length = next(field.split()[1] for field in fields if field.lower().startswith(b"content-length:"))
    answers.read(int(length))
    return status.split()[1].decode()


@pytest.mark.parametrize("platform", PLATFORMS)
def test_thousands_of_mutated_payloads_neither_break_nor_silence_it(bot: BotProcess, platform: str) -> None:
    dice, world = random.Random(platform), bot.world
    plays = [play.document for play, _ in own_plays(platform)]

    def requests() -> Iterator[bytes]:
        for number in range(COUNT):
            def fresh(path: tuple[str, ...], value: Any) -> Any:
                if path[-1] == "update_id":
                    return 600_000_000 + number
                if path[-1] == "phone_number_id":
                    return world.graph.account.phone_number_id
                is_id = path[-1] in ("mid", "id") and str(value)[:2] in ("m_", "wa", "aW")
                return f"{value}.{number}" if is_id else value
            document = rewritten(dice.choice(plays), fresh)
            yield request(webhook(world, platform, mutated(document, dice)))

    assert posted(bot.port, requests()) == {"200": COUNT}
    bot.say(platform, "4915112345678", "Are you well?")
    assert bot.replies(platform, "4915112345678", timeout=30)[-1].endswith("Are you well?")
    assert "Traceback" not in bot.log and not bot.exited
    assert bot.rows("SELECT count(*) > 0 FROM inbound WHERE kind = 'unreadable'") == [(1,)]
