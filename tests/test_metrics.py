"""`GET /metrics` in Prometheus' format, /healthz, the lines of the start, and a Telegram webhook that mends itself."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest

from minibot.config import load
from minibot.desk import startup
from minibot.desk.tunnel import Tunnel
from minibot.work import Health
from tests.botprocess import BotProcess
from tests.fakes import SECRETS
from tests.platforms import forged

Start = Callable[..., BotProcess]
BEARER = f"Bearer {SECRETS['ADMIN_TOKEN']}"
SAMPLE = re.compile(r'(minibot_\w+)(?:\{((?:\w+="[^"\\\n]*",?)*)\})? (-?[0-9.]+(?:e[+-]?\d+)?)')


def samples(bot: BotProcess) -> dict[str, float]:
    """name{labels} -> value; every line must be one or a TYPE line of its family."""
    status, body = bot.get("/metrics", Authorization=BEARER)
    assert status == 200
    found, family = {}, ""
    for line in body.decode("ascii").splitlines():
        if line.startswith("# TYPE "):
            family, kind = line.split()[2:]
            assert kind in ("counter", "gauge", "histogram")
        else:
            match = SAMPLE.fullmatch(line)
            assert match and re.fullmatch(family + "(_bucket|_sum|_count)?", match[1]), line
            found[line.rpartition(" ")[0]] = float(match[3])
    return found


def test_metrics_count_what_came_in_what_went_out_and_how_long_it_took(bot: BotProcess) -> None:
    bot.world.model.delay = 0.3
    bot.say("whatsapp", "4915112345678", "hello")
    bot.replies("whatsapp", "4915112345678")
    bot.post(forged(bot.world.people["messenger"].text("1254459154682919", "I am not who I say")))
    bot.settled()
    found = samples(bot)
    assert found['minibot_events_total{source="whatsapp",event="received"}'] == 1
    assert found['minibot_events_total{source="whatsapp",event="replied"}'] == 1
    assert found['minibot_events_total{source="whatsapp",event="sent"}'] == 1
    assert found['minibot_events_total{source="messenger",event="refused"}'] == 1
    assert found['minibot_events_total{source="model",event="answered"}'] == 1
    assert found['minibot_calls_total{upstream="whatsapp",result="200"}'] >= 1
    assert found['minibot_tokens_total{direction="in"}'] > 0
    assert (found["minibot_pending"], found["minibot_dead"], found["minibot_oldest_pending_seconds"]) == (0, 0, 0)
    assert found['minibot_duration_seconds_count{of="answer"}'] == 1
    assert found['minibot_duration_seconds_count{of="model"}'] == 1
    assert found['minibot_duration_seconds_bucket{of="answer",le="+Inf"}'] == 1
    row = [value for name, value in found.items() if name.startswith('minibot_duration_seconds_bucket{of="model"')]
    assert row == sorted(row) and row[0] == 0 and row[-1] == 1 and len(row) == 11  # cumulative
    assert found['minibot_duration_seconds_sum{of="model"}'] >= 0.3


def test_metrics_want_the_admin_token_and_do_not_exist_without_one(bot: BotProcess) -> None:
    first = bot.get("/healthz")[1]
    assert re.search(rb'"id": "[0-9a-f]{16}"', first) and bot.get("/healthz")[1] == first
    assert bot.get("/metrics")[0] == 401
    for wrong in ("Bearer wrong", "Basic " + SECRETS["ADMIN_TOKEN"], BEARER + "x", "Bearer ", BEARER[:-1]):
        assert bot.get("/metrics", Authorization=wrong) == (401, b"")
    bot.kill()
    bot.settings.pop("ADMIN_TOKEN")
    bot.start()
    assert bot.get("/metrics", Authorization=BEARER)[0] == 404
    assert bot.get("/metrics", Authorization="Bearer ")[0] == 404
    assert bot.get("/healthz")[1] != first  # its number is another one after each start


# --- the start -----------------------------------------------------------------------------------------------

META = {"META_APP_SECRET": "s" * 32, "VERIFY_TOKEN": "v"}


def lines(public: Tunnel = Tunnel("https://bot.example.org", "", "PUBLIC_URL"), health: Health = Health(0, 0, 0),
          colour: bool = False, **given: str) -> str:
    return "\n".join(startup.lines(load({"AI_API_KEY": "k", **given}, complete=False)[0], public, health, colour))


def test_the_start_tells_the_address_and_who_named_it() -> None:
    assert "  address    https://bot.example.org (PUBLIC_URL)" in lines()
    assert "  address    no ngrok runs" in lines(Tunnel("", "no ngrok runs on this machine"))


@pytest.mark.parametrize("given, line", [
    ({}, "telegram   off    missing in .env: TELEGRAM_BOT_TOKEN"),
    ({"TELEGRAM_BOT_TOKEN": "123456789:" + "a" * 35}, "telegram   ready  https://bot.example.org/telegram/webhook"),
    ({"TELEGRAM_BOT_TOKEN": "123456789:" + "a" * 35, "TELEGRAM_POLLING": "1"},
     "telegram   ready  fetches its messages (TELEGRAM_POLLING=1)"),
    ({"META_ACCESS_TOKEN": "EAA", **META}, "whatsapp   wrong  missing in .env: META_PHONE_NUMBER_ID"),
    ({"META_ACCESS_TOKEN": "EAA", "META_PHONE_NUMBER_ID": "1", "VERIFY_TOKEN": "v"},
     "whatsapp   wrong  missing in .env: META_APP_SECRET"),
    ({"META_ACCESS_TOKEN": "EAA", "META_PHONE_NUMBER_ID": "1", **META},
     "whatsapp   ready  https://bot.example.org/whatsapp/webhook"),
    ({"META_PAGE_ACCESS_TOKEN": "EAA", **META}, "instagram  ready  https://bot.example.org/instagram/webhook")])
def test_each_platform_is_ready_off_or_wrong(given: dict[str, str], line: str) -> None:
    assert "  " + line in lines(**given).splitlines()


def test_the_start_names_the_model_its_end_and_what_waits() -> None:
    told = lines(health=Health(3, 9, 1))
    end = "will be shut down on 2027-01-14; its successor is gpt-6-luna: set OPENAI_MODEL"
    assert f"  model      gpt-4o-mini ({end})" in told
    assert "  database   minibot.db: 3 wait, 1 given up" in told
    assert "  database   minibot.db: nothing waits" in lines()
    assert "  model      qwen3 at http://localhost:11434/v1" in lines(
        OPENAI_MODEL="qwen3", OPENAI_BASE_URL="http://localhost:11434/v1")


def test_colour_only_where_somebody_looks() -> None:
    assert "\x1b" not in lines() and "\x1b[2moff" in lines(colour=True)


def test_the_start_asks_ngrok_only_where_no_address_is_named(start_bot: Start) -> None:
    bot = start_bot(PUBLIC_URL="https://bot.example.org")
    assert "  address    https://bot.example.org (PUBLIC_URL)" in bot.log
    assert "https://bot.example.org/whatsapp/webhook" in bot.log and "\x1b" not in bot.log


# --- a webhook set by hand -----------------------------------------------------------------------------------


def by_hand(bot: BotProcess, url: str) -> int:
    """Somebody calls setWebhook in the browser; then a message comes. -> how it was answered"""
    bot.world.telegram.webhook |= {"url": url}
    bot.world.telegram.secret = ""
    made = bot.world.telegram.text("4815162342", "hello")
    return bot.world.post(made, **{"X-Telegram-Bot-Api-Secret-Token": ""})[0]


def test_a_telegram_webhook_without_our_secret_is_registered_again_with_it(start_bot: Start) -> None:
    bot = start_bot(PUBLIC_URL="https://bot.example.org")
    assert by_hand(bot, "https://bot.example.org/telegram/webhook") == 401
    bot.until(lambda: bot.world.telegram.registrations, what="setWebhook")
    assert bot.world.telegram.secret == SECRETS["TELEGRAM_WEBHOOK_SECRET"]
    bot.until(lambda: "registered again, with it" in bot.log, what="the log says so")
    bot.say("telegram", "4815162342", "and now?")
    assert bot.replies("telegram", "4815162342")[0].endswith("and now?")


@pytest.mark.parametrize("url", ["https://somebody.example/telegram/webhook", "https://bot.example.org/elsewhere", ""])
def test_somebody_elses_webhook_is_left_alone(start_bot: Start, url: str) -> None:
    bot = start_bot(PUBLIC_URL="https://bot.example.org")
    assert by_hand(bot, url) == 401
    bot.until(lambda: bot.world.calls("telegram", "/getWebhookInfo"), what="it looked")
    bot.say("telegram", "4815162342", "hello") if bot.world.telegram.secret else None
    bot.settled()
    assert bot.world.telegram.registrations == 0


def test_refused_updates_make_it_look_at_most_once_a_minute(start_bot: Start) -> None:
    bot = start_bot(PUBLIC_URL="https://bot.example.org")
    for _ in range(20):
        assert by_hand(bot, "https://somebody.example/telegram/webhook") == 401
    bot.until(lambda: bot.world.calls("telegram", "/getWebhookInfo"), what="it looked")
    bot.settled()
    assert len(bot.world.calls("telegram", "/getWebhookInfo")) == 1


# --- the log -------------------------------------------------------------------------------------------------


def test_each_exchange_is_one_line_with_its_numbers_and_without_what_was_said(bot: BotProcess) -> None:
    bot.say("telegram", "4815162342", "my secret question")
    bot.replies("telegram", "4815162342")
    bot.settled()
    lines = [line for line in bot.log.splitlines() if "conversation" in line]
    assert len(lines) == 1
    assert re.search(r" info     conversation \d+ \(telegram\): message \d+ replied, \d+ \+ \d+ tokens in \d+ ms$",
                     lines[0])
    assert "my secret question" not in bot.log and "answer 1 to" not in bot.log
    for _ in range(30):  # a fault that repeats is counted and not repeated
        bot.post(forged(bot.world.people["messenger"].text("1254459154682919", "no")))
    assert bot.log.count("a webhook was refused") == 1


def test_a_json_log_carries_the_numbers_as_fields(start_bot: Start) -> None:
    bot = start_bot(LOG_FORMAT="json")
    bot.say("whatsapp", "4915112345678", "hello")
    bot.replies("whatsapp", "4915112345678")
    bot.settled()
    found = [json.loads(line) for line in bot.log.splitlines() if '"conversation"' in line]
    (conversation, message), = bot.rows("SELECT conversation, id FROM inbound")
    assert len(found) == 1 and found[0]["conversation"] == conversation and found[0]["messages"] == [message]


def test_debug_shows_what_was_said_and_still_no_secret(start_bot: Start) -> None:
    bot = start_bot(LOG_LEVEL="debug")
    bot.say("telegram", "4815162342", "my secret question")
    bot.replies("telegram", "4815162342")
    bot.settled()
    assert "my secret question" in bot.log  # and no secret: `BotProcess.close` looks
