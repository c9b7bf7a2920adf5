"""A sound bot in a sound world, for `connect` and `check`: a real minibot behind a real https address (`gate.py`),
every platform registered at strict fakes. A test breaks one thing and looks what is said.

Not here: the fakes (`fakes.py`, `platforms.py`). The law: one bot for all tests of a file, since both commands only
ask it for /healthz and the handshake; a world of their own for each test.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from minibot.config import Settings, load
from minibot.desk import check, connect, report
from minibot.desk.report import Report
from tests.botprocess import BotProcess
from tests.fakes import FakeWorld
from tests.gate import Gate

PUBLIC = "https://bot.example.org"
APP = "138483919580948"


class Town(NamedTuple):
    """A running bot behind its public address."""

    bot: BotProcess
    gate: Gate


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """One for the whole file: `check` only looks."""
    folder = tmp_path_factory.mktemp("town")
    gate, world = Gate(folder), FakeWorld()
    bot = BotProcess(world, folder, ADMIN_TOKEN=None)
    gate.port = bot.port
    yield Town(bot, gate)
    bot.kill()
    world.close()
    gate.close()


@pytest.fixture
def way(town: Town, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """The internet leads here, and back to the bot when the test is over."""
    for name, value in town.gate.environment().items():
        monkeypatch.setenv(name, value)
        monkeypatch.delenv(name.lower(), raising=False)
    yield town.gate
    town.gate.port = town.bot.port


class Case:
    """A world in order, with everything registered, until a test breaks something in it."""

    def __init__(self, world: FakeWorld, town: Town) -> None:
        self.world, self.town = world, town
        world.bot_url, world.public_url = f"http://127.0.0.1:{town.bot.port}", PUBLIC
        self.given: dict[str, str] = {}
        self.now = time.time()
        assert self.connect() == 0

    def settings(self) -> Settings:
        known = self.world.settings(**{
            "PORT": str(self.town.bot.port), "PUBLIC_URL": PUBLIC, "META_APP_ID": APP,
            "META_WABA_ID": "102290129340398", "DATABASE_URL": f"sqlite:///{self.town.bot.database}", **self.given})
        return load({key: value for key, value in known.items() if value}, complete=False)[0]

    def connect(self, *names: str) -> int:
        return report.run(lambda caller: connect.connect(self.settings(), caller, list(names), None, time.time, ()))

    def check(self) -> Report:
        return self.examine()

    def examine(self, *agents: str) -> Report:
        found = Report()
        report.run(lambda caller: check.examine(found, self.settings(), caller, self.now, agents))
        return found


@pytest.fixture
def case(world: FakeWorld, town: Town, way: Gate, capsys: pytest.CaptureFixture[str]) -> Case:
    """Everything in order."""
    made = Case(world, town)
    capsys.readouterr()
    return made
