"""What every test may use: a world of fake far ends, and a bot in it. See `fakes.py` and `botprocess.py`.

`--no-skips` makes a skipped test a failure: for the run in which every extra is installed. The law: what a test
started is ended, whatever the test did.

Next: `fakes.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.botprocess import BotProcess
from tests.fakes import FakeWorld
from tests.halves import Halves
from tests.postgres import postgres  # noqa: F401  a fixture for every file
from tests.town import case, town, way  # noqa: F401  fixtures for every file

CHATS = {"telegram": "4815162342", "whatsapp": "4915112345678", "messenger": "1254459154682919",
         "instagram": "5550001112223"}


@pytest.fixture
def world() -> Iterator[FakeWorld]:
    """All far ends, freshly made."""
    made = FakeWorld()
    yield made
    made.close()


@pytest.fixture
def bot(world: FakeWorld, tmp_path: Path) -> Iterator[BotProcess]:
    """A running bot with every platform configured."""
    made = BotProcess(world, tmp_path)
    yield made
    made.close()


@pytest.fixture
def start_bot(world: FakeWorld, tmp_path: Path) -> Iterator[Callable[..., BotProcess]]:
    """`start_bot(DAILY_TOKENS="10")`: a bot with settings of one's own; start=False only prepares it."""
    bots: list[BotProcess] = []

    def start(**settings: Any) -> BotProcess:
        bots.append(BotProcess(world, tmp_path, **settings))
        return bots[-1]

    yield start
    for made in bots:
        made.close()


@pytest.fixture(params=CHATS)
def platform(request: pytest.FixtureRequest) -> str:
    """Each of the four platforms in turn."""
    return str(request.param)


@pytest.fixture
def chat(platform: str) -> str:
    """Somebody's chat on `platform`."""
    return CHATS[platform]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "shared: needs the folder of platform facts that MINIBOT_SHARED names")
    config.pluginmanager.register(Halves(config))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests on facts that are not part of the repository are deselected where those are absent."""
    if not os.environ.get("MINIBOT_SHARED"):
        absent = [item for item in items if item.get_closest_marker("shared")]
        config.hook.pytest_deselected(items=absent)
        items[:] = [item for item in items if item not in absent]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="a skipped test is a failure (every extra is installed)")
    parser.addoption("--claims", default="", help="a folder shared with a second process, see halves.py")


def _skipped(config: pytest.Config) -> list[str]:
    """Why tests were skipped, other than for facts that are not part of the repository."""
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    reasons = [str(report.longrepr) for report in reporter.stats.get("skipped", [])] if reporter else []
    return [reason for reason in reasons if "MINIBOT_SHARED" not in reason] if config.getoption("--no-skips") else []


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if exitstatus == pytest.ExitCode.OK and _skipped(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if reasons := _skipped(config):
        terminalreporter.write_line(f"FAILED: {len(reasons)} skipped, and --no-skips", red=True)
