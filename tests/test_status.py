"""`python run.py status`: one screen that tells what a running, a troubled and a stopped bot are up to."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from minibot.desk import status
from tests.botprocess import ROOT, BotProcess
from tests.fakes import SECRETS

Start = Callable[..., BotProcess]


def screen(bot: BotProcess, *arguments: str) -> str:
    ran = subprocess.run([sys.executable, str(ROOT / "run.py"), "status", *arguments], capture_output=True, text=True,
                         cwd=bot.folder, env={**bot.settings, "PATH": os.environ["PATH"], "PORT": str(bot.port)})
    assert (ran.returncode, ran.stderr) == (0, "") and "\x1b" not in ran.stdout
    assert not [secret for secret in SECRETS.values() if secret in ran.stdout]
    return ran.stdout


def test_a_running_bot_shows_what_came_in_and_what_was_answered(bot: BotProcess) -> None:
    for text in ("one", "two", "three"):
        bot.say("telegram", "4815162342", text)
        bot.settled()
    told = screen(bot)
    assert f"minibot on port {bot.port}: 0 waiting; 0 given up on" in told
    assert re.search(r"^telegram +in  {9}█ 3 +answered  {9}█ 3$", told, re.M), told
    assert re.search(r"^whatsapp +in  {10} 0 +answered  {10} 0$", told, re.M)
    assert re.search(r"^tokens +[1-9][0-9,]* of 2,000,000 today \(\d+ %\)$", told, re.M)


def test_errors_are_shown_with_their_number_and_their_remedy(bot: BotProcess) -> None:
    bot.world.model.plan("401", times=2)
    for chat in ("11", "12"):
        bot.say("telegram", chat, "hello")
    bot.settled()
    made = bot.world.telegram.text("13", "hello")
    bot.world.telegram.block("13")
    assert bot.post(made) == 200
    bot.settled()
    told = screen(bot)
    assert re.search(r"^model +2 x bad_key: AI_API_KEY is wrong", told, re.M), told
    assert re.search(r"^telegram +1 x 403: python run.py dead", told, re.M), told


def test_a_stopped_bot_is_told_from_its_database(bot: BotProcess) -> None:
    bot.say("whatsapp", "4915112345678", "hello")
    bot.settled()
    bot.kill()
    told = screen(bot)
    assert "not running: python run.py" in told and re.search(r"^whatsapp +in .*█ 1 ", told, re.M)


def test_without_a_database_one_line_says_so(start_bot: Start, tmp_path: Path) -> None:
    bot = start_bot(start=False)
    ran = subprocess.run([sys.executable, str(ROOT / "run.py"), "status"], capture_output=True, text=True,
                         cwd=bot.folder, env={**bot.settings, "PATH": os.environ["PATH"]})
    assert ran.returncode == 1 and ran.stderr.count("\n") == 1 and "minibot.db is not there (yet)" in ran.stderr


@pytest.mark.parametrize("cumulative, bars", [
    ([0, 0, 0], "  "), ([0, 8, 8], " █"), ([0, 1, 9], "█▁"), ([0, 4, 12], "█▄"), ([0, 1, 101], "█▁")])
def test_bars_show_the_newest_minute_at_the_right(cumulative: list[int], bars: str) -> None:
    assert status._bars(cumulative) == bars


@pytest.mark.parametrize("who, code, words", [
    ("telegram", "401", "BotFather"), ("whatsapp", "190", "token is not valid"),
    ("messenger", "10/2018278", "24 hours"),
    ("whatsapp", "131047", "24 hours"), ("model", "no_credit", "CREDIT"), ("telegram", "unsure", "run.py dead"),
    ("model", "http_503", "run.py dead"), ("messenger", "", "run.py dead"), ("instagram", "７", "run.py dead")])
def test_every_code_has_a_remedy(who: str, code: str, words: str) -> None:
    assert words in status.remedy(who, code)
