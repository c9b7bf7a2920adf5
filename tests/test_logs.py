"""The log: one clean line for each record, and no secret in any of them."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from minibot import logs
from minibot.config import load

ROOT = Path(__file__).resolve().parent.parent
TOKEN = "7123456789:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw"
GIVEN = {
    "AI_API_KEY": "local/canary-key", "TELEGRAM_BOT_TOKEN": TOKEN, "VERIFY_TOKEN": "canary-verify",
    "META_APP_SECRET": "canary-app-one,canary-app-two", "META_ACCESS_TOKEN": "canary+access/token=",
    "CRM_WEBHOOK_URL": "https://crm.example/canary?x=1", "ADMIN_TOKEN": "canary-verify-and-longer",
}
log = logging.getLogger("minibot.test")


class Captured:
    """A log that writes into memory."""

    def __init__(self, **given: str) -> None:
        self.stream = io.StringIO()
        self.settings = load({**GIVEN, **given})[0]
        logs.setup(self.settings, self.stream)

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """What setup changes belongs to the whole process: put it back."""
    root, hook, complain = logging.getLogger(), sys.excepthook, logging.raiseExceptions
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = []  # pytest's own must not be closed by the set-up
    yield
    root.handlers[:], sys.excepthook, logging.raiseExceptions = handlers, hook, complain
    root.setLevel(level)
    logging.getLogger("minibot").setLevel(logging.NOTSET)


def test_a_record_is_one_line_with_time_level_and_message() -> None:
    captured = Captured()
    log.warning("telegram: %d messages wait", 3)
    when, level, message = captured.lines[0].split(maxsplit=2)
    assert when[10] == "T" and when.endswith("Z") and level == "warning" and message == "telegram: 3 messages wait"


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("secret", [
    *",".join(GIVEN.values()).split(","), f"https://api.telegram.org/bot{TOKEN}/getMe", f"bot{TOKEN}",
    "bot1234567890:" + "x" * 35, "1234567890%3A" + "x" * 35, "sk-proj-" + "a1_-" * 10, "EAAG" + "b2" * 40,
    "IGAA" + "c3" * 40,
    "postgresql://me:canary@host/db",
], ids=repr)
def test_no_secret_of_ours_and_nothing_like_a_token_is_printed(secret: str, form: str) -> None:
    captured = Captured(LOG_FORMAT=form)
    log.warning("asked with %s just now", secret)
    try:
        raise ValueError(f"Illegal header value b'Bearer {secret}'")
    except ValueError:
        log.exception("failed")
    assert captured.text.count("[secret]") == 2
    for hidden in (secret, TOKEN, "canary", "and-longer", "x" * 20, "a1_-a1_-", "b2b2b2", "c3c3c3"):
        assert hidden not in captured.text
    assert "just now" in captured.text and "Illegal header value" in captured.text


def test_the_derived_webhook_secret_is_masked_too() -> None:
    captured = Captured()
    log.warning("header %s", captured.settings.telegram_webhook_secret.reveal())
    assert captured.lines[0].endswith("header [secret]")


def test_a_secret_of_a_few_letters_does_not_blot_out_ordinary_words() -> None:
    captured = Captured(VERIFY_TOKEN="bot")
    log.warning("the bot starts")
    assert captured.lines[0].endswith("the bot starts")


@pytest.mark.parametrize("evil", ["a\n2026-01-01T00:00:00Z critical forged", "a\r\x1b[2Jb", "a\x1b]8;;http://x\x07b",
                                  "a\u2028b", "a\x00b", "a\x85b", "a\u202eb", "a\ud800b"], ids=ascii)
@pytest.mark.parametrize("form", ["text", "json"])
def test_a_name_cannot_forge_a_line_or_drive_the_terminal(evil: str, form: str) -> None:
    captured = Captured(LOG_FORMAT=form)
    log.warning("from %s", evil)
    assert len(captured.lines) == 1 and captured.lines[0].isprintable()
    assert captured.text.encode("utf-8")


def test_a_forged_line_in_an_exception_stays_indented() -> None:
    captured = Captured()
    try:
        raise ValueError("a\n2026-01-01T00:00:00Z critical forged\x1b[2J")
    except ValueError:
        log.exception("failed")
    assert "Traceback" in captured.lines[1] and "forged" in captured.text and "\x1b" not in captured.text
    assert all(line.startswith("    ") for line in captured.lines[1:])


def test_a_flood_is_cut_to_a_line_of_bearable_length() -> None:
    captured = Captured()
    log.warning("from %s", "x " * 50_000)
    assert len(captured.text) < 1100


def test_json_lines_carry_the_same_as_text() -> None:
    captured = Captured(LOG_FORMAT="json")
    log.warning("grüße\n%s", "zwei")
    try:
        raise KeyError("three")
    except KeyError:
        log.exception("failed")
    first, second = map(json.loads, captured.lines)
    assert first["message"] == "grüße\nzwei" and first["level"] == "warning" and first["logger"] == "minibot.test"
    assert "trace" not in first and "KeyError: 'three'" in second["trace"]


@pytest.mark.parametrize("level, heard", [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_the_level_is_ours_to_set(level: str, heard: int) -> None:
    captured = Captured(LOG_LEVEL=level)
    for say in (log.debug, log.info, log.warning, log.error):
        say("x")
    assert len(captured.lines) == heard


@pytest.mark.parametrize("name", ["openai", "openai._base_client", "httpx2", "httpcore2.http11", "asyncio", "root"])
def test_libraries_speak_from_warning_on_even_if_they_set_their_own_level(name: str) -> None:
    captured, library = Captured(LOG_LEVEL="debug"), logging.getLogger(name if name != "root" else None)
    library.setLevel(logging.DEBUG)  # as OPENAI_LOG=debug makes the SDK do
    library.info("HTTP Request: POST ...")
    library.warning("heard")
    library.setLevel(logging.WARNING)
    assert len(captured.lines) == 1 and captured.lines[0].endswith("heard")


def test_setting_up_twice_does_not_double_the_lines() -> None:
    Captured()
    captured = Captured()
    log.warning("once")
    assert len(captured.lines) == 1


def test_an_uncaught_exception_leaves_the_process_masked() -> None:
    script = ("import os; from minibot.config import load; from minibot import logs; settings = load(os.environ)[0]; "
              "logs.setup(settings); raise ValueError('bad url /bot' + settings.telegram_bot_token.reveal())")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT,
                          env={**os.environ, **GIVEN})
    assert done.returncode == 1 and "ValueError: bad url /bot[secret]" in done.stderr and TOKEN[11:] not in done.stderr


def test_a_line_that_repeats_is_counted_instead() -> None:
    captured, now = Captured(), [0.0]
    seldom = logs.Seldom(60.0, lambda: now[0])
    for _ in range(42):
        seldom.warning(log, "secret", "a webhook was refused, 100% sure")
    seldom.warning(log, "other", "something else")
    assert [line.split(maxsplit=2)[2] for line in captured.lines] == [
        "a webhook was refused, 100% sure", "something else"]
    now[0] = 59.9
    seldom.warning(log, "secret", "a webhook was refused")
    now[0] = 60.0
    seldom.warning(log, "secret", "a webhook was refused")
    assert captured.lines[2].endswith("a webhook was refused (repeated 42 times)")
    now[0] = 120.0
    seldom.warning(log, "secret", "a webhook was refused")
    assert captured.lines[3].endswith("a webhook was refused") and len(captured.lines) == 4
