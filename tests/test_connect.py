"""`python run.py connect`, against an ngrok agent, a Bot API and a Graph of our own, over real sockets."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from minibot.config import Settings, load
from minibot.desk import connect, connect_meta, report, tunnel
from minibot.desk.graph import Graph
from minibot.web.calls import Caller
from tests.botprocess import ROOT
from tests.fakes import SECRETS
from tests.gate import Gate
from tests.town import PUBLIC as BOT
from tests.town import Case

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


def test_without_a_token_or_with_polling_nothing_is_registered_and_nothing_dropped(
        api: Fake, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(settings(api, TELEGRAM_BOT_TOKEN=""), PUBLIC) == 1
    assert "missing in .env: TELEGRAM_BOT_TOKEN" in capsys.readouterr().err and api.asked == []
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


# --- Meta, with a real minibot that answers the handshake (town.py) ------------------------------------------

PATHS = {"whatsapp_business_account": "whatsapp", "page": "messenger", "instagram": "instagram"}


def test_all_four_platforms_are_registered_and_it_is_safe_to_repeat(
        case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    graph, telegram = case.world.graph, case.world.telegram
    graph.subscriptions.clear()
    graph.subscribed.clear()
    telegram.webhook["url"] = ""
    for _ in range(2):
        assert case.connect() == 0
        assert {name: hook["callback_url"] for name, hook in graph.subscriptions.items()} == {
            name: f"{BOT}/{path}/webhook" for name, path in PATHS.items()}
        assert all("messages" in [field["name"] for field in hook["fields"]] for hook in graph.subscriptions.values())
        assert set(graph.subscribed) == {"whatsapp", "page", "instagram"} and "messages" in graph.subscribed["page"]
        assert telegram.webhook["url"] == f"{BOT}/telegram/webhook"
        out, err = capsys.readouterr()
        assert err == "" and out.count("registered") == 4 and "has changed" not in out
    assert not case.world.leaks


def test_an_address_that_has_changed_is_said_and_registered_anew(
        case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    old = "https://old.ngrok-free.app"
    case.world.telegram.webhook["url"] = f"{old}/telegram/webhook"
    for object, path in PATHS.items():
        case.world.graph.subscriptions[object]["callback_url"] = f"{old}/{path}/webhook"
    assert case.connect() == 0
    out = capsys.readouterr().out
    assert out.count("the address has changed") == 4 and f"{old}/whatsapp/webhook" in out
    assert old not in str(case.world.graph.subscriptions) + case.world.telegram.webhook["url"]


def test_fields_that_somebody_else_subscribed_stay(case: Case) -> None:
    case.world.graph.subscriptions["page"]["fields"].append({"name": "message_reactions", "version": "v25.0"})
    case.world.graph.subscribed["page"].append("messaging_referrals")
    assert case.connect("messenger") == 0
    assert "message_reactions" in [field["name"] for field in case.world.graph.subscriptions["page"]["fields"]]
    assert "messaging_referrals" in case.world.graph.subscribed["page"]


@pytest.mark.parametrize("missing", ["META_APP_ID", "META_APP_SECRET"])
@pytest.mark.parametrize("name", ["whatsapp", "messenger", "instagram"])
def test_without_the_apps_id_or_secret_the_exact_clicks_are_told(
        case: Case, name: str, missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    case.given[missing] = ""
    asked = len(case.world.calls("graph"))
    assert case.connect(name) == 1
    out, err = capsys.readouterr()
    assert err == "" and f"{BOT}/{name}/webhook" in out and "VERIFY_TOKEN" in out and "messages" in out
    assert connect_meta.CLICKS[name] in out and SECRETS["VERIFY_TOKEN"] not in out
    assert len(case.world.calls("graph")) == asked


@pytest.mark.parametrize("name", ["whatsapp", "messenger", "instagram"])
def test_the_readme_shows_the_clicks_that_the_program_prints(name: str) -> None:
    graph = Graph(load({"META_PAGE_ACCESS_TOKEN": "EAA"}, complete=False)[0], Caller(clock=time.monotonic))
    readme = (ROOT / "README.md").read_text("utf-8")
    section = readme.split(f"\n## {dict(whatsapp='WhatsApp').get(name, name.capitalize())}\n")[1]
    section = " ".join(section.split("\n## ")[0].replace("*", "").replace("`", "").split())
    assert connect_meta.CLICKS[name] in section and f"https://<public address>/{name}/webhook" in section
    for field in graph.product(name).fields:
        assert field in section, field


def test_a_verification_that_fails_says_what_to_look_at(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    case.given["VERIFY_TOKEN"] = "changed-since-the-start"
    assert case.connect("messenger", "telegram") == 1
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and err.startswith("messenger: ") and "VERIFY_TOKEN" in err and "run.py check" in err
    assert "telegram: the webhook is registered" in out  # the others are not held up


@pytest.mark.parametrize("given, words", [
    ({"META_ACCESS_TOKEN": "EAAnobodysToken0123456789012"}, "META_ACCESS_TOKEN"),
    ({"META_APP_ID": "999999999999"}, "META_APP_ID, META_APP_SECRET"),
    ({"META_PHONE_NUMBER_ID": ""}, "META_PHONE_NUMBER_ID"), ({"META_GRAPH_URL": "http://127.0.0.1:1"}, "refused"),
    ({"META_WABA_ID": "4711"}, "4711")])
def test_a_refusal_of_meta_is_one_line(case: Case, given: dict[str, str], words: str,
                                       capsys: pytest.CaptureFixture[str]) -> None:
    case.given |= given
    assert case.connect("whatsapp") == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("whatsapp: ") and words in err


def test_the_business_account_is_known_from_the_tokens_own_rights(case: Case) -> None:
    case.given["META_WABA_ID"] = ""
    case.world.graph.subscribed.clear()
    assert case.connect("whatsapp") == 0 and "whatsapp" in case.world.graph.subscribed
    case.world.graph.debug[SECRETS["META_ACCESS_TOKEN"]]["granular_scopes"] = []
    assert case.connect("whatsapp") == 1


def test_what_meta_did_not_take_is_noticed(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    case.world.graph.subscribers["page"] = {"id": "999", "name": "Old App"}
    assert case.connect("messenger") == 1
    assert "META_APP_ID" in capsys.readouterr().err


def test_an_instagram_login_token_is_renewed_where_it_stands(
        case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(connect_meta, "FOLDERS", (tmp_path,))
    env, old, new = tmp_path / ".env", SECRETS["INSTAGRAM_ACCESS_TOKEN"], "IGAArenewedToken0123456789"
    case.world.graph.renewed = new
    assert case.connect("instagram") == 0 and "not renewed" in capsys.readouterr().out  # it comes from elsewhere
    env.write_bytes(f"# mine\r\nINSTAGRAM_ACCESS_TOKEN='{old}' # Login\r\nX=1".encode())
    env.chmod(0o600)
    assert case.connect("instagram") == 0
    out, err = capsys.readouterr()
    assert "renewed for 59 days" in out and "start minibot again" in out and new not in out + err
    assert env.read_bytes() == f"# mine\r\nINSTAGRAM_ACCESS_TOKEN='{new}' # Login\r\nX=1".encode()
    assert env.stat().st_mode & 0o777 == 0o600 and [path.name for path in tmp_path.iterdir()] == [".env"]


def test_a_self_signed_certificate_goes_to_telegram_and_one_with_a_chain_does_not(
        case: Case, tmp_path: Path, way: Gate) -> None:
    key, chain = way.cert.with_suffix(".key"), tmp_path / "chain.pem"
    case.given |= {"TLS_CERT": str(way.cert), "TLS_KEY": str(key)}
    assert case.connect("telegram") == 0 and case.world.telegram.webhook["has_custom_certificate"]
    assert case.world.telegram.secret == SECRETS["TELEGRAM_WEBHOOK_SECRET"]
    chain.write_bytes(way.cert.read_bytes() * 2)
    case.given["TLS_CERT"] = str(chain)
    assert case.connect("telegram") == 0 and not case.world.telegram.webhook["has_custom_certificate"]


def test_it_looks_until_what_waits_has_arrived(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    looks: list[int] = []
    waiting = case.world.telegram.pending

    def arrive(name: str) -> None:
        if name == "getWebhookInfo":
            looks.append(len(waiting))
            waiting.popleft() if waiting else None

    waiting.extend({"update_id": number} for number in range(3))
    case.world.telegram.rule = arrive
    assert case.connect("telegram") == 0
    assert looks == [3, 2, 1] and "0 at Telegram" in capsys.readouterr().out


def test_an_error_after_the_registration_ends_the_command_with_1(
        case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(name: str) -> None:
        if name == "setWebhook":
            case.world.telegram.pending.append({"update_id": 1})
        elif case.world.telegram.pending:
            case.world.telegram.webhook |= {"last_error_date": int(time.time()),
                                            "last_error_message": "Connection refused"}

    case.world.telegram.rule = fail
    assert case.connect("telegram") == 1
    assert "Connection refused" in capsys.readouterr().out
