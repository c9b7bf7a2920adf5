"""Every row of the table of threats that concerns minibot, against the running program: one test a row.

The rows are in `threats_in.py` and `threats_out.py`, each under its number; those that do not concern minibot stand
here with the reason. Whatever a row did, afterwards every bot lives, is well, has printed no traceback and no secret.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import threats_in, threats_out
from tests.threats import ROWS, Scene

NOT_OURS = {
    66: "no file is ever written for a chat, so there is no folder to plant a link in (row 65 looks)",
}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """The bots of this file."""
    made = Scene(tmp_path_factory.mktemp("threats"))
    yield made
    made.close()


@pytest.mark.parametrize("number", sorted(ROWS), ids=lambda number: f"{number:03d} {ROWS[number][0]}")
def test_a_threat_is_met(scene: Scene, number: int) -> None:
    printed = {name: len(bot.log) for name, bot in scene.bots.items()}
    try:
        ROWS[number][1](scene)
    finally:
        for bot in scene.bots.values():
            bot.world.model.release()
            bot.world.model.reply = bot.world.model.echo
            bot.world.model.planned.clear()
    for name, bot in scene.bots.items():
        assert not bot.exited and bot.get("/healthz")[0] == 200, name
        assert "Traceback" not in bot.log[printed.get(name, 0):], name
        assert not bot.world.leaks, bot.world.leaks


def test_no_threat_is_forgotten() -> None:
    assert {*ROWS} | {*NOT_OURS} == {*range(1, 103)} and not {*ROWS} & {*NOT_OURS}
    assert {check.__module__ for _, check in ROWS.values()} == {threats_in.__name__, threats_out.__name__}
