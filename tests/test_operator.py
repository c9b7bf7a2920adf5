"""Promises of why, dead, retry, forget and backup: beside a running bot and without one."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys

import pytest

from tests.botprocess import ROOT, BotProcess


def run(bot: BotProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(ROOT / "run.py"), *arguments], cwd=bot.folder, env=bot.settings,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)


def test_why_shows_the_whole_way_of_a_message_by_any_of_its_names(bot: BotProcess) -> None:
    bot.say("whatsapp", "4915112345678", "Do you open on Sunday?")
    bot.replies("whatsapp", "4915112345678")
    bot.settled()
    (wamid,), = bot.rows("SELECT message_id FROM inbound")
    (sent,), = bot.rows("SELECT message_id FROM part")
    for name in ("4915112345678", "+4915112345678", wamid, sent):
        shown = run(bot, "why", name)
        assert shown.returncode == 0, shown.stderr
        assert "Do you open on Sunday?" in shown.stdout and "replied" in shown.stdout and "sent part" in shown.stdout
    assert run(bot, "why", "nobody").returncode == 1


def test_what_the_model_failed_on_is_dead_until_it_is_tried_again(bot: BotProcess) -> None:
    bot.world.model.plan("401", times=1)
    bot.say("telegram", "77", "Hello?")
    bot.replies("telegram", "77")
    bot.settled()
    listed = run(bot, "dead")
    assert listed.returncode == 0 and "ai_failed" in listed.stdout and "Hello?" in listed.stdout
    (number,), = bot.rows("SELECT id FROM inbound")
    again = run(bot, "retry", str(number))
    assert again.returncode == 0 and again.stdout.startswith("1 will be tried again")
    assert bot.replies("telegram", "77", 2)[1].endswith("to: Hello?")
    assert "nothing was given up on" in run(bot, "dead").stderr


def test_a_forgotten_person_is_erased_from_the_running_bot(bot: BotProcess) -> None:
    bot.say("telegram", "77", "My name is Rumpelstiltskin.")
    bot.replies("telegram", "77")
    bot.settled()
    assert run(bot, "forget", "77").returncode == 0
    assert run(bot, "forget", "78").returncode == 1
    assert not bot.rows("SELECT 1 FROM inbound WHERE text LIKE '%Rumpel%'")
    assert not bot.rows("SELECT 1 FROM turn WHERE text LIKE '%Rumpel%'")


@pytest.mark.parametrize("running", [True, False])
def test_a_backup_is_a_whole_database(bot: BotProcess, running: bool) -> None:
    bot.say("telegram", "77", "Keep this.")
    bot.replies("telegram", "77")
    bot.settled()
    if not running:
        bot.kill()
    done = run(bot, "backup", "copy.db")
    assert done.returncode == 0, done.stderr
    copy = sqlite3.connect(bot.folder / "copy.db")
    assert copy.execute("SELECT text FROM inbound").fetchall() == [("Keep this.",)]
    copy.close()
    assert run(bot, "backup", "copy.db").returncode == 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such socket")
def test_the_operators_socket_is_the_users_alone_and_goes_with_the_bot(bot: BotProcess) -> None:
    socket = bot.folder / "minibot.db.sock"
    assert stat.S_IMODE(socket.stat().st_mode) == 0o600
    assert bot.term() == 0
    assert not socket.exists()


@pytest.mark.parametrize("arguments", [["why"], ["dead", "x"], ["retry"], ["retry", "x"], ["forget"], ["backup"]])
def test_wrong_arguments_are_answered_with_the_usage(bot: BotProcess, arguments: list[str]) -> None:
    done = run(bot, *arguments)
    assert done.returncode == 2 and done.stderr.startswith("usage: ") and done.stderr.count("\n") == 1
