"""`python run.py connect`, against an ngrok agent, a Bot API and a Graph of our own, over real sockets."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from minibot.config import Settings, load
from minibot.desk import connect, report, tunnel
from minibot.web.calls import Caller

TOKEN = "7123456789:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw"
NOW = 1_800_000_000
PUBLIC = "https://abc123.ngrok-free.app"
HOOK = PUBLIC + "/telegram/webhook"


class Fake:
    """Answers what `answers` says for a path (or its last segment), 404 otherwise, and keeps what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, Any]] = {}
        self.asked: list[tuple[str, Any]] = []
        fake = self

        class Door(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fake.asked.append((self.path, json.loads(body) if body else None))
                status, answer = fake.answers.get(self.path.rpartition("/")[2], (404, "nothing here"))
                raw = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            do_POST = do_GET

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "LOOK_EVERY", 0.0)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def api() -> Iterator[Fake]:
    """A Bot API where everything works."""
    fake = Fake()
    fake.answers = {"setWebhook": (200, {"ok": True, "result": True, "description": "Webhook was set"}),
                    "getWebhookInfo": (200, {"ok": True, "result": {"url": HOOK, "pending_update_count": 0}})}
    yield fake
    fake.close()


@pytest.fixture
def agent() -> Iterator[Fake]:
    """An ngrok agent with nothing to tell yet."""
    fake = Fake()
    yield fake
    fake.close()


def settings(api: Fake, **given: str) -> Settings:
    return load({"AI_API_KEY": "k", "TELEGRAM_BOT_TOKEN": TOKEN, "TELEGRAM_API_URL": api.url, "VERIFY_TOKEN": "v",
                 **given})[0]


def run(loaded: Settings, url: str | None = None, agents: tuple[str, ...] = (), names: tuple[str, ...] = ("telegram",)
        ) -> int:
    async def all_of_it() -> int:
        caller = Caller(clock=time.monotonic)
        try:
            return await connect.connect(loaded, caller, list(names), url, lambda: NOW, agents)
        finally:
            caller.close()

    return asyncio.run(all_of_it())


def find(*agents: str) -> tunnel.Tunnel:
    async def all_of_it() -> tunnel.Tunnel:
        caller = Caller(clock=time.monotonic)
        try:
            return await tunnel.find(caller, 8000, agents)
        finally:
            caller.close()

    return asyncio.run(all_of_it())


def closed_port() -> str:
    fake = Fake()
    fake.close()
    return fake.url


# --- ngrok's agent -------------------------------------------------------------------------------------------

OLD = {"tunnels": [
    {"name": "command_line (http)", "public_url": "http://abc123.ngrok-free.app", "proto": "http",
     "config": {"addr": "http://localhost:8000", "inspect": True}},
    {"name": "other", "public_url": "https://other.ngrok-free.app", "config": {"addr": "localhost:9000"}},
    {"name": "command_line", "public_url": PUBLIC, "proto": "https", "config": {"addr": "http://localhost:8000"}},
], "uri": "/api/tunnels"}
NEW = {"endpoints": [{"name": "default", "uri": "/api/endpoints/default", "url": PUBLIC,
                      "upstream": {"url": "http://localhost:8000", "protocol": "http1"}}]}


def test_an_older_agent_tells_the_https_tunnel_to_our_port(agent: Fake) -> None:
    agent.answers["tunnels"] = 200, OLD
    assert find(agent.url)[:2] == (PUBLIC, "")
    assert agent.asked == [("/api/tunnels", None)]


def test_a_newer_agent_is_asked_for_its_endpoints(agent: Fake) -> None:
    agent.answers["endpoints"] = 200, NEW
    assert find(agent.url)[:2] == (PUBLIC, "")


def test_a_newer_agent_with_an_empty_old_list_is_asked_for_its_endpoints_too(agent: Fake) -> None:
    agent.answers |= {"tunnels": (200, {"tunnels": []}), "endpoints": (200, NEW)}
    assert find(agent.url).url == PUBLIC


def test_the_second_agent_is_asked_where_the_first_leads_elsewhere(agent: Fake) -> None:
    second = Fake()
    agent.answers["tunnels"] = 200, {"tunnels": OLD["tunnels"][1:2]}
    second.answers["tunnels"] = 200, OLD
    assert find(closed_port(), agent.url, second.url).url == PUBLIC
    second.close()


@pytest.mark.parametrize("answer, problem", [
    ((200, {"tunnels": []}), "has no tunnel"),
    ((200, {"endpoints": []}), "has no tunnel"),
    ((200, {"tunnels": OLD["tunnels"][:1]}), "no https address"),
    ((200, {"tunnels": OLD["tunnels"][1:2]}), "forwards to localhost:9000, not to our port"),
    ((200, "<html>Welcome</html>"), "no ngrok runs"),
    ((200, "[" * 100_000), "no ngrok runs"),
    ((200, []), "no ngrok runs"), ((200, None), "no ngrok runs"), ((200, {}), "no ngrok runs"),
    ((200, {"tunnels": {}}), "no ngrok runs"), ((500, OLD), "no ngrok runs"), ((302, OLD), "no ngrok runs"),
    ((200, {"tunnels": [None, 1, "x", {}, {"public_url": 7, "config": []}]}), "not to our port"),
    ((200, {"tunnels": [{"public_url": "https://evil/\r\nX: y", "config": {"addr": "8000"}}]}), "no https address"),
    ((200, {"tunnels": [{"public_url": "https://a@evil", "config": {"addr": "8000"}}]}), "no https address"),
], ids=repr)
def test_whatever_else_answers_is_not_believed(agent: Fake, answer: tuple[int, Any], problem: str) -> None:
    agent.answers["tunnels"] = answer
    url, said, _ = find(agent.url)
    assert url == "" and problem in said and "ngrok http 8000" in said and said.isprintable()


def test_without_an_agent_the_command_that_starts_one_is_named() -> None:
    assert find(closed_port())[:2] == ("", "no ngrok runs on this machine; start it with: ngrok http 8000")


@pytest.mark.parametrize("upstream, port", [
    ("http://localhost:8000", 8000), ("localhost:8000", 8000), ("8000", 8000), ("http://127.0.0.1:8000/", 8000),
    ("https://localhost", 443), ("http://localhost", 80), ("http://[::1]:8000", 8000),
    ("", -1), ("file:///tmp", -1), ("tcp://localhost:22", -1), ("http://localhost:8000/path", -1), ("８０", -1),
])
def test_the_port_behind_an_upstream_is_read_as_ngrok_writes_it(upstream: str, port: int) -> None:
    assert tunnel.port_of(upstream) == port


# --- the registration ----------------------------------------------------------------------------------------


def test_the_webhook_is_registered_with_its_secret_and_nothing_is_dropped(
        api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = settings(api)
    assert run(loaded, PUBLIC) == 0
    (first, _), (path, asked), (last, _) = api.asked
    assert path == f"/bot{TOKEN}/setWebhook" and first == last == f"/bot{TOKEN}/getWebhookInfo"
    assert asked["url"] == HOOK and asked["secret_token"] == loaded.telegram_webhook_secret.reveal()
    assert asked["drop_pending_updates"] is False and "message" in asked["allowed_updates"]
    out, err = capsys.readouterr()
    assert HOOK in out and err == ""
    assert TOKEN not in out and loaded.telegram_webhook_secret.reveal() not in out


def test_the_address_is_found_from_ngrok(api: Fake, agent: Fake) -> None:
    agent.answers["tunnels"] = 200, OLD
    assert run(settings(api), None, (agent.url,)) == 0
    assert api.asked[1][1]["url"] == HOOK


def test_a_named_address_comes_before_the_setting_and_the_setting_before_ngrok(api: Fake, agent: Fake) -> None:
    agent.answers["tunnels"] = 200, OLD
    run(settings(api, PUBLIC_URL="https://bot.example.org"), None, (agent.url,))
    run(settings(api, PUBLIC_URL="https://bot.example.org"), "https://named.example.org", (agent.url,))
    assert [body["url"] for _, body in api.asked if body and "url" in body] == [
        "https://bot.example.org/telegram/webhook", "https://named.example.org/telegram/webhook"]
    assert agent.asked == []


@pytest.mark.parametrize("written", [PUBLIC + "/", HOOK, HOOK + "/", PUBLIC])
def test_the_path_may_be_written_or_left_out(api: Fake, written: str) -> None:
    assert run(settings(api), written) == 0
    assert api.asked[1][1]["url"] == HOOK


def test_what_waits_and_the_last_error_are_told_in_plain_words(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    api.answers["getWebhookInfo"] = 200, {"ok": True, "result": {
        "url": HOOK, "pending_update_count": 3, "last_error_date": NOW - 200,
        "last_error_message": "Wrong response from the webhook: 502 Bad Gateway"}}
    assert run(settings(api), PUBLIC) == 0
    out = capsys.readouterr().out
    assert "3 at Telegram" in out and "3 minutes ago: Wrong response from the webhook: 502 Bad Gateway" in out
    assert "does it run" in out


@pytest.mark.parametrize("seconds, told", [(0, "a moment"), (1, "1 second"), (41, "41 seconds"), (60, "1 minute"),
                                           (200, "3 minutes"), (7200, "2 hours"), (432000, "5 days"), (-9, "a moment")])
def test_an_age_is_told_in_its_largest_unit(seconds: int, told: str) -> None:
    assert report.age(seconds) == told


@pytest.mark.parametrize("info", [{}, {"url": 7, "pending_update_count": "x", "last_error_message": 1},
                                  {"url": HOOK, "last_error_message": "a\x1b[2J", "last_error_date": "x"}])
def test_a_strange_report_is_no_crash(api: Fake, info: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    api.answers["getWebhookInfo"] = 200, {"ok": True, "result": info}
    assert run(settings(api), PUBLIC) == (0 if info.get("url") == HOOK else 1)
    assert "\x1b" not in capsys.readouterr().out


# --- what goes wrong, each in one line with its remedy -------------------------------------------------------


def refused(code: int, description: str) -> tuple[int, Any]:
    return code, {"ok": False, "error_code": code, "description": description}


@pytest.mark.parametrize("answer, remedy", [
    (refused(401, "Unauthorized"), "@BotFather"),
    (refused(404, "Not Found"), "@BotFather"),
    (refused(400, "Bad Request: bad webhook: Failed to resolve host: Name not known"), "is the address right"),
    (refused(400, "Bad Request: bad webhook: IP address 10.0.0.1 is reserved"), "not public"),
    (refused(429, "Too Many Requests: retry after 1"), "run it again"),
    ((502, "<html>Bad Gateway</html>"), "502"),
    ((200, "<html>Welcome to the hotel</html>"), "200"),
], ids=repr)
def test_a_refusal_of_telegram_is_one_line_with_its_remedy(
        api: Fake, answer: tuple[int, Any], remedy: str, capsys: pytest.CaptureFixture[str]) -> None:
    api.answers["setWebhook"] = answer
    assert run(settings(api), PUBLIC) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("telegram: setWebhook") and remedy in err
    assert TOKEN not in err


@pytest.mark.parametrize("url, remedy", [
    ("http://abc123.ngrok-free.app", "demand https"), ("abc123.ngrok-free.app", "https://abc"), ("", "ngrok http"),
    ("https://bot.example.org:8000", "443, 80, 88, 8443"), ("https://u:p@bot.example.org", "no address"),
    ("https://bot.example.org/?x=1", "no address"), ("https://bot\r\n.example", "no address"),
    ("https://", "no address"),
], ids=repr)
def test_an_address_that_cannot_work_is_refused_before_telegram_is_asked(
        api: Fake, url: str, remedy: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(settings(api), url, (closed_port(),)) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and remedy in err and api.asked == []


def test_without_an_address_the_ways_to_one_are_named(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(settings(api), None, (closed_port(),)) == 1
    err = capsys.readouterr().err
    assert "ngrok http 8000" in err and "--url" in err and "PUBLIC_URL" in err and api.asked == []


def test_a_telegram_that_cannot_be_reached_is_one_line(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(settings(api, TELEGRAM_API_URL=closed_port()), PUBLIC) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "TELEGRAM_API_URL" in err and TOKEN not in err


def test_without_a_token_or_with_polling_nothing_is_registered_and_nothing_dropped(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(settings(api, TELEGRAM_BOT_TOKEN=""), PUBLIC) == 1
    assert "@BotFather" in capsys.readouterr().err and api.asked == []
    api.answers["deleteWebhook"] = 200, {"ok": True, "result": True, "description": "Webhook was deleted"}
    assert run(settings(api, TELEGRAM_POLLING="1"), "", (closed_port(),)) == 0
    assert "TELEGRAM_POLLING" in capsys.readouterr().out
    assert api.asked == [(f"/bot{TOKEN}/deleteWebhook", {"drop_pending_updates": False})]


def test_another_program_that_registers_the_same_bot_is_noticed(api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    api.answers["getWebhookInfo"] = 200, {"ok": True, "result": {"url": "https://elsewhere.example/hook"}}
    assert run(settings(api), PUBLIC) == 1
    assert "https://elsewhere.example/hook" in capsys.readouterr().err


# --- the command ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--url"], ["telegramm"], ["--help"], ["telegram", "--url", "x", "y"]])
def test_arguments_that_make_no_sense_get_the_usage(
        arguments: list[str], api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    assert connect.main(arguments, lambda: settings(api)) == 2
    assert capsys.readouterr().err == connect.USAGE + "\n"


@pytest.mark.parametrize("arguments", [["telegram", "--url", PUBLIC], [f"--url={PUBLIC}"],
                                       ["--url", PUBLIC, "telegram"]])
def test_the_command_registers_the_address_it_is_given(arguments: list[str], api: Fake) -> None:
    assert connect.main(arguments, lambda: settings(api)) == 0
    assert api.asked[1][1]["url"] == HOOK
