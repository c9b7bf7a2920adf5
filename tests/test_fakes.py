"""The fake platforms refuse what the real ones refuse: otherwise every other test would prove little.

Each case names a rule of the platform; the second half shows that the server around them does what a fault asks.
Not here: minibot. The law: what is claimed of a platform stands in its documentation or its source.

Next: `test_house_rules.py`.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from minibot.desk.simulator import Answered, Fault, mismatch
from minibot.desk.simulator_html import HtmlFault, parse_html
from tests.botprocess import BotProcess
from tests.fakes import SECRETS, FakeWorld
from tests.platforms import Graph, Telegram, batch, edit, forged, unsend

TOKEN = SECRETS["TELEGRAM_BOT_TOKEN"]
DAY = 24 * 3600 * 1000
NOW = 1_790_000_000_000


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.time = NOW

    def __call__(self) -> int:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def telegram(clock: Clock) -> Telegram:
    side = Telegram(TOKEN, "secret", clock)
    side.text("42", "hello")
    return side


@pytest.fixture
def graph(clock: Clock) -> Graph:
    side = Graph("whatsapp-token", "page-token", "app-secret", clock, instagram_token="instagram-token")
    side.whatsapp.text("4915112345678", "hello")
    side.messenger.text("111", "hello")
    side.instagram.text("222", "hello")
    return side


def bot_api(side: Telegram, method: str, token: str = TOKEN, **given: Any) -> Answered:
    return side.answer("POST", f"/bot{token}/{method}", "", {"content-type": "application/json"},
                       json.dumps(given).encode())


def graph_api(side: Graph, path: str, token: str, method: str = "POST", **given: Any) -> Answered:
    headers = {"content-type": "application/json", "authorization": f"Bearer {token}", "user-agent": "test"}
    return side.answer(method, path, "", headers, json.dumps(given).encode() if method == "POST" else b"")


def description(answered: Answered) -> tuple[int, str]:
    return answered.status, json.loads(answered.body).get("description", "")


def graph_error(answered: Answered) -> tuple[int, int, int]:
    error = json.loads(answered.body).get("error", {})
    return answered.status, error.get("code", 0), error.get("error_subcode", 0)


# Telegram

REFUSED_BY_TELEGRAM = [
    ({"chat_id": 42, "text": ""}, "message text is empty"),
    ({"chat_id": 42}, "message text is empty"),
    ({"text": "hi"}, "chat_id is empty"),
    ({"chat_id": 43, "text": "hi"}, "chat not found"),
    ({"chat_id": 42, "text": " \n\t "}, "text must be non-empty"),
    ({"chat_id": 42, "text": "<b></b>", "parse_mode": "HTML"}, "text must be non-empty"),
    ({"chat_id": 42, "text": "x" * 4097}, "message is too long"),
    ({"chat_id": 42, "text": "😀" * 4097}, "message is too long"),
    ({"chat_id": 42, "text": "ä" * 16385}, "text is too long"),
    ({"chat_id": 42, "text": "a\ud800b"}, "strings must be encoded in UTF-8"),
    ({"chat_id": 42, "text": "1 < 2", "parse_mode": "HTML"}, "can't parse entities: Unclosed start tag"),
    ({"chat_id": 42, "text": "<b>a", "parse_mode": "HTML"}, "can't parse entities: Can't find end tag"),
    ({"chat_id": 42, "text": "<h1>a</h1>", "parse_mode": "HTML"}, 'Unsupported start tag "h1" at byte offset 0'),
    ({"chat_id": 42, "text": "<b><i>a</b></i>", "parse_mode": "HTML"}, "can't parse entities: Unmatched end tag"),
    ({"chat_id": 42, "text": "hi", "parse_mode": "Markdown"}, "invalid parameter parse_mode"),
    ({"chat_id": 42, "text": "hi", "colour": "red"}, "unexpected parameter colour"),
    ({"chat_id": 42, "text": "hi", "message_thread_id": 7}, "message thread not found"),
    ({"chat_id": 42, "text": "hi", "reply_parameters": {"message_id": 99}}, "message to be replied not found"),
]


@pytest.mark.parametrize("given, words", REFUSED_BY_TELEGRAM, ids=[words for _, words in REFUSED_BY_TELEGRAM])
def test_telegram_refuses_a_wrong_message(telegram: Telegram, given: dict[str, Any], words: str) -> None:
    status, said = description(bot_api(telegram, "sendMessage", **given))
    assert status == 400 and said.startswith("Bad Request: ") and words in said
    assert telegram.texts("42") == []


def test_telegram_counts_the_text_without_its_markup(telegram: Telegram) -> None:
    assert bot_api(telegram, "sendMessage", chat_id=42, text=f"<b>{'😀' * 4096}</b>", parse_mode="HTML").status == 200
    assert telegram.texts("42") == ["😀" * 4096]


def test_telegram_knows_only_its_own_token_and_methods(telegram: Telegram) -> None:
    assert description(bot_api(telegram, "getMe", token="7123456789:wrong")) == (401, "Unauthorized")
    assert description(bot_api(telegram, "getMe", token="nonsense")) == (404, "Not Found")
    assert description(bot_api(telegram, "sendNothing")) == (404, "Not Found: method not found")
    assert json.loads(bot_api(telegram, "getMe").body)["result"]["username"] == "minibot_bot"


def test_telegram_shows_formatting_as_entities_in_utf16_units(telegram: Telegram) -> None:
    text = "😀 <b>bold</b> &lt;x&gt; <pre><code class='language-py'>1</code></pre>"
    bot_api(telegram, "sendMessage", chat_id=42, text=text, parse_mode="HTML")
    shown = telegram.shown["42"][0]
    assert shown.text == "😀 bold <x> 1"
    assert shown.entities == ({"type": "bold", "offset": 3, "length": 4},
                              {"type": "pre", "offset": 12, "length": 1, "language": "py"})


def test_telegram_refuses_people_who_blocked_the_bot_and_groups_that_moved(telegram: Telegram) -> None:
    telegram.block("42")
    assert description(bot_api(telegram, "sendMessage", chat_id=42, text="x")) == (
        403, "Forbidden: bot was blocked by the user")
    telegram.block("42", blocked=False)
    assert bot_api(telegram, "sendMessage", chat_id=42, text="x").status == 200
    telegram.text("-5", "hello")
    telegram.migrate("-5", "-1005")
    moved = json.loads(bot_api(telegram, "sendMessage", chat_id=-5, text="x").body)
    assert moved["parameters"] == {"migrate_to_chat_id": -1005}
    assert bot_api(telegram, "sendMessage", chat_id=-1005, text="x").status == 200


REFUSED_WEBHOOKS = [
    ({"url": "http://bot.example.org/x"}, "An HTTPS URL must be provided"),
    ({"url": "https://bot.example.org:8000/x"}, "only on ports 80, 88, 443 or 8443"),
    ({"url": "https://bot.example.org/x", "secret_token": "no spaces"}, "contains unallowed characters"),
    ({"url": "https://bot.example.org/x", "secret_token": "a" * 257}, "secret token is too long"),
]


@pytest.mark.parametrize("given, words", REFUSED_WEBHOOKS, ids=[words for _, words in REFUSED_WEBHOOKS])
def test_telegram_refuses_a_wrong_webhook(telegram: Telegram, given: dict[str, Any], words: str) -> None:
    status, said = description(bot_api(telegram, "setWebhook", **given))
    assert status == 400 and words in said and telegram.webhook["url"] == ""


def test_telegram_hands_updates_out_by_offset_unless_a_webhook_is_set(telegram: Telegram) -> None:
    telegram.text("42", "second")
    updates = json.loads(bot_api(telegram, "getUpdates").body)["result"]
    assert [update["message"]["text"] for update in updates] == ["hello", "second"]
    rest = json.loads(bot_api(telegram, "getUpdates", offset=updates[0]["update_id"] + 1).body)["result"]
    assert [update["message"]["text"] for update in rest] == ["second"]
    url = "https://bot.example.org/x"
    assert bot_api(telegram, "setWebhook", url=url, secret_token="s", allowed_updates=["message"]).status == 200
    assert description(bot_api(telegram, "getUpdates"))[0] == 409
    info = json.loads(bot_api(telegram, "getWebhookInfo").body)["result"]
    assert info["url"] == "https://bot.example.org/x" and info["pending_update_count"] == 1
    assert telegram.text("42", "third").headers["X-Telegram-Bot-Api-Secret-Token"] == "s"


def test_telegram_gives_files_only_by_their_path_and_up_to_20_mib(telegram: Telegram) -> None:
    update = json.loads(telegram.media("42", b"\xff\xd8picture", "image/jpeg", "look").body)
    id = update["message"]["photo"][-1]["file_id"]
    path = json.loads(bot_api(telegram, "getFile", file_id=id).body)["result"]["file_path"]
    assert telegram.answer("GET", f"/file/bot{TOKEN}/{path}", "", {}, b"").body == b"\xff\xd8picture"
    assert telegram.answer("GET", f"/file/bot{TOKEN}/files/other", "", {}, b"").status == 404
    telegram.files[id] = bytes((20 << 20) + 1)
    assert description(bot_api(telegram, "getFile", file_id=id)) == (400, "Bad Request: file is too big")
    assert "wrong file_id" in description(bot_api(telegram, "getFile", file_id="x"))[1]


def test_telegram_refuses_a_late_button_and_a_wrong_menu(telegram: Telegram) -> None:
    query = json.loads(telegram.press("42", "data").body)["callback_query"]["id"]
    assert bot_api(telegram, "answerCallbackQuery", callback_query_id=query).status == 200
    assert "query is too old" in description(bot_api(telegram, "answerCallbackQuery", callback_query_id=query))[1]
    assert bot_api(telegram, "setMyCommands", commands=[{"command": "Help", "description": "x"}]).status == 400
    assert bot_api(telegram, "setMyCommands", commands=[{"command": "help", "description": "x"}]).status == 200


# Graph

def whatsapp(**changed: Any) -> dict[str, Any]:
    given = {"messaging_product": "whatsapp", "recipient_type": "individual", "to": "+4915112345678", "type": "text",
             "text": {"body": "hi"}} | changed
    return {name: value for name, value in given.items() if value is not None}


REFUSED_BY_WHATSAPP = [
    ({"to": None}, 131008), ({"to": "someone"}, 131009), ({"type": "template"}, 131009), ({"text": None}, 131008),
    ({"text": {"body": ""}}, 131009), ({"text": {"body": "x" * 4097}}, 100), ({"messaging_product": None}, 131008),
    ({"colour": "red"}, 100), ({"text": {"body": "x", "colour": 1}}, 100), ({"context": {}}, 131008),
]


@pytest.mark.parametrize("changed, code", REFUSED_BY_WHATSAPP, ids=[str(case)[:50] for case in REFUSED_BY_WHATSAPP])
def test_whatsapp_refuses_a_wrong_message(graph: Graph, changed: dict[str, Any], code: int) -> None:
    path = f"/v25.0/{graph.account.phone_number_id}/messages"
    assert graph_error(graph_api(graph, path, "whatsapp-token", **whatsapp(**changed)))[:2] == (400, code)
    assert graph.whatsapp.texts("4915112345678") == []


def test_whatsapp_accepts_a_message_and_reports_it_with_our_tag(graph: Graph) -> None:
    path = f"/v25.0/{graph.account.phone_number_id}/messages"
    reply = graph_api(graph, path, "whatsapp-token", **whatsapp(biz_opaque_callback_data="part-7"))
    assert json.loads(reply.body)["contacts"] == [{"input": "+4915112345678", "wa_id": "4915112345678"}]
    id = json.loads(reply.body)["messages"][0]["id"]
    reports = [json.loads(each.body)["entry"][0]["changes"][0]["value"]["statuses"][0]
               for each in graph.whatsapp.outgoing]
    assert [(each["status"], each["id"], each["biz_opaque_callback_data"]) for each in reports] == [
        (status, id, "part-7") for status in ("sent", "delivered", "read")]


def test_whatsapp_takes_a_message_outside_the_window_and_fails_it_afterwards(graph: Graph, clock: Clock) -> None:
    clock.time += DAY
    path = f"/v25.0/{graph.account.phone_number_id}/messages"
    assert graph_api(graph, path, "whatsapp-token", **whatsapp()).status == 200
    value = json.loads(graph.whatsapp.outgoing[-1].body)["entry"][0]["changes"][0]["value"]
    assert value["statuses"][0]["status"] == "failed" and value["statuses"][0]["errors"][0]["code"] == 131047
    assert graph.whatsapp.texts("4915112345678") == []


def test_whatsapp_answers_people_without_a_phone_number_by_their_user_id(graph: Graph) -> None:
    value = json.loads(graph.whatsapp.text("US.1349", "hi").body)["entry"][0]["changes"][0]["value"]
    assert value["contacts"][0]["user_id"] == "US.1349" and "from" not in value["messages"][0]
    path = f"/v25.0/{graph.account.phone_number_id}/messages"
    reply = graph_api(graph, path, "whatsapp-token", **whatsapp(to=None, recipient="US.1349"))
    assert json.loads(reply.body)["contacts"] == [{"input": "US.1349", "user_id": "US.1349"}]


def test_whatsapp_marks_as_read_only_what_was_written_to_us(graph: Graph) -> None:
    path = f"/v25.0/{graph.account.phone_number_id}/messages"
    given: dict[str, Any] = {"messaging_product": "whatsapp", "status": "read", "typing_indicator": {"type": "text"}}
    assert graph_error(graph_api(graph, path, "whatsapp-token", message_id="wamid.X", **given))[1] == 131009
    reply = graph_api(graph, path, "whatsapp-token", message_id="wamid.P1", **given)
    assert json.loads(reply.body) == {"success": True}
    assert [shown.kind for shown in graph.whatsapp.shown["4915112345678"]] == ["read", "typing"]


REFUSED_BY_PAGES = [
    ({"recipient": {"id": "999"}, "message": {"text": "x"}}, 100, 2018001),
    ({"recipient": {"id": "111"}, "message": {"text": "x" * 2001}}, 100, 0),
    ({"recipient": {"id": "222"}, "message": {"text": "ä" * 501}}, 100, 0),
    ({"recipient": {"id": "111"}, "message": {"text": ""}}, 100, 0),
    ({"recipient": {"id": "111"}}, 100, 0),
    ({"message": {"text": "x"}}, 100, 0),
    ({"recipient": {"id": "111"}, "message": {"text": "x"}, "tag": "HUMAN_AGENT"}, 100, 0),
    ({"recipient": {"id": "111"}, "message": {"text": "x"}, "messaging_type": "MESSAGE_TAG"}, 100, 0),
    ({"recipient": {"id": "111"}, "message": {"text": "x"}, "sender_action": "typing_on"}, 100, 0),
    ({"recipient": {"id": "111"}, "sender_action": "dance"}, 100, 0),
]


@pytest.mark.parametrize("given, code, subcode", REFUSED_BY_PAGES, ids=[str(case[0])[:60] for case in REFUSED_BY_PAGES])
def test_messenger_and_instagram_refuse_a_wrong_message(graph: Graph, given: dict[str, Any], code: int,
                                                        subcode: int) -> None:
    answered = graph_api(graph, "/v25.0/me/messages", "page-token", **given)
    assert graph_error(answered) == (400, code, subcode)
    assert graph.messenger.texts("111") == graph.instagram.texts("222") == []


@pytest.mark.parametrize("chat, subcode", [("111", 2018278), ("222", 2534022)])
def test_messenger_and_instagram_refuse_outside_the_window(graph: Graph, clock: Clock, chat: str, subcode: int) -> None:
    given: dict[str, Any] = {"recipient": {"id": chat}, "messaging_type": "RESPONSE", "message": {"text": "x"}}
    assert graph_api(graph, "/v25.0/me/messages", "page-token", **given).status == 200
    clock.time += DAY
    assert graph_error(graph_api(graph, "/v25.0/me/messages", "page-token", **given)) == (400, 10, subcode)


def test_messenger_and_instagram_echo_every_message_with_its_metadata(graph: Graph) -> None:
    for people, chat in ((graph.messenger, "111"), (graph.instagram, "222")):
        reply = graph_api(graph, "/v25.0/me/messages", "page-token", recipient={"id": chat},
                          message={"text": "hi", "metadata": "part-7"})
        item = json.loads(people.outgoing[0].body)["entry"][0]["messaging"][0]
        assert item["sender"] == {"id": people.id} and item["recipient"] == {"id": chat}
        assert item["message"]["mid"] == json.loads(reply.body)["message_id"]
        assert item["message"]["metadata"] == "part-7" and item["message"]["is_echo"] is True


REFUSED_TOKENS = [("", 104), ("other", 190)]


@pytest.mark.parametrize("token, code", REFUSED_TOKENS)
def test_graph_refuses_a_missing_and_a_wrong_token(graph: Graph, token: str, code: int) -> None:
    path = f"/v25.0/{graph.account.phone_number_id}/messages"
    assert graph_error(graph_api(graph, path, token, **whatsapp()))[:2] == (401, code)


def test_graph_lets_no_token_act_for_another_account(graph: Graph) -> None:
    path = f"/v25.0/{graph.account.phone_number_id}/messages"
    assert graph_error(graph_api(graph, path, "page-token", **whatsapp())) == (400, 100, 33)
    given: dict[str, Any] = {"recipient": {"id": "222"}, "message": {"text": "x"}}
    assert graph_error(graph_api(graph, "/v25.0/me/messages", "whatsapp-token", **given)) == (400, 100, 33)
    assert graph_error(graph_api(graph, "/v25.0/me/messages", "instagram-token", **given))[1] == 190
    headers = {"content-type": "application/json", "authorization": "Bearer instagram-token"}
    reply = graph.answer("POST", "/v25.0/me/messages", "", headers, json.dumps(given).encode(), login=True)
    assert reply.status == 200 and graph.instagram.texts("222") == ["x"]


def test_graph_checks_a_proof_of_the_app_secret(graph: Graph) -> None:
    proof = graph.account.mac(b"page-token")
    for given, status in ((proof, 200), (proof[::-1], 400)):
        headers = {"authorization": "Bearer page-token"}
        assert graph.answer("GET", "/v25.0/me", f"appsecret_proof={given}", headers, b"").status == status


def test_whatsapp_files_want_the_token_a_user_agent_and_five_minutes(graph: Graph, clock: Clock) -> None:
    value = json.loads(graph.whatsapp.media("4915112345678", b"OggS voice", "audio/ogg").body)["entry"][0]
    id = value["changes"][0]["value"]["messages"][0]["audio"]["id"]
    assert graph_error(graph_api(graph, f"/v25.0/{id}", "page-token", "GET"))[0] == 400
    url = json.loads(graph_api(graph, f"/v25.0/{id}", "whatsapp-token", "GET").body)["url"]
    path, _, query = url.removeprefix("https://lookaside.fbsbx.com").partition("?")
    headers = {"authorization": "Bearer whatsapp-token", "user-agent": "minibot"}
    assert graph.answer("GET", path, query, headers, b"").body == b"OggS voice"
    assert graph.answer("GET", path, query, {"user-agent": "minibot"}, b"").status == 401
    assert graph.answer("GET", path, query, {"authorization": "Bearer whatsapp-token"}, b"").status == 401
    clock.time += 5 * 60 * 1000 + 1
    assert graph.answer("GET", path, query, headers, b"").status == 404


def test_messenger_files_are_open_to_whoever_knows_the_url(graph: Graph) -> None:
    item = json.loads(graph.messenger.media("111", b"\xff\xd8picture", "image/jpeg").body)["entry"][0]["messaging"][0]
    path, _, query = item["message"]["attachments"][0]["payload"]["url"].removeprefix(
        "https://lookaside.fbsbx.com").partition("?")
    assert graph.answer("GET", path, query, {}, b"").body == b"\xff\xd8picture"


# Meta's administration

def subscribe(graph: Graph, **changed: str) -> Answered:
    given = {"object": "page", "callback_url": "https://bot.example.org/messenger/webhook", "verify_token": "v",
             "fields": "messages,messaging_postbacks", "include_values": "true"} | changed
    headers = {"content-type": "application/x-www-form-urlencoded", "authorization": f"Bearer {graph.app_token}"}
    body = "&".join(f"{name}={value}" for name, value in given.items()).encode()
    return graph.answer("POST", f"/v25.0/{graph.account.app_id}/subscriptions", "", headers, body)


def test_meta_subscribes_an_app_only_after_the_handshake(graph: Graph) -> None:
    visited: list[str] = []

    def visit(url: str) -> tuple[int, bytes]:
        visited.append(url)
        return 200, b"1158201444"

    assert graph_error(subscribe(graph))[1] == 2200
    graph.visit = visit
    assert graph_error(subscribe(graph, callback_url="http://bot.example.org/messenger/webhook"))[1] == 2200
    assert graph_error(subscribe(graph, fields="messages,nonsense"))[1] == 100
    assert graph_error(subscribe(graph, object="instagram", fields="message_echoes"))[1] == 100
    assert json.loads(subscribe(graph).body) == {"success": True}
    assert visited == ["https://bot.example.org/messenger/webhook?hub.mode=subscribe&hub.challenge=1158201444"
                       "&hub.verify_token=v"]
    reply = graph_api(graph, f"/v25.0/{graph.account.app_id}/subscriptions", graph.app_token, "GET")
    assert [each["object"] for each in json.loads(reply.body)["data"]] == ["page"]


def test_meta_tells_who_a_token_and_an_account_belong_to(graph: Graph) -> None:
    about = graph.answer("GET", "/v25.0/debug_token", "input_token=page-token",
                         {"authorization": f"Bearer {graph.app_token}"}, b"")
    assert json.loads(about.body)["data"]["is_valid"] is True
    about = graph.answer("GET", "/v25.0/debug_token", "input_token=other",
                         {"authorization": f"Bearer {graph.app_token}"}, b"")
    assert json.loads(about.body)["data"]["is_valid"] is False
    fields = "fields=id,instagram_business_account{id,username}"
    me = graph.answer("GET", "/v25.0/me", fields, {"authorization": "Bearer page-token"}, b"")
    assert json.loads(me.body) == {"id": graph.account.page_id, "instagram_business_account": {
        "id": graph.account.instagram_id, "username": "mypage"}}
    assert me.headers["facebook-api-version"] == "v25.0"


def test_meta_subscribes_accounts_to_the_app(graph: Graph) -> None:
    for path, token in (("me", "page-token"), (graph.account.waba_id, "whatsapp-token")):
        listed = graph_api(graph, f"/v25.0/{path}/subscribed_apps", token, "GET")
        assert json.loads(listed.body) == {"data": []}
    assert graph_error(graph_api(graph, "/v25.0/me/subscribed_apps", "page-token"))[1] == 100
    given: dict[str, Any] = {"subscribed_fields": "messages,message_echoes"}
    assert graph_api(graph, "/v25.0/me/subscribed_apps", "page-token", **given).status == 200
    assert graph_api(graph, f"/v25.0/{graph.account.waba_id}/subscribed_apps", "whatsapp-token").status == 200
    listed = graph_api(graph, "/v25.0/me/subscribed_apps", "page-token", "GET")
    assert json.loads(listed.body)["data"][0]["subscribed_fields"] == ["messages", "message_echoes"]


# What people do

def test_what_people_type_is_signed_and_each_time_a_new_message(world: FakeWorld) -> None:
    for name, people in world.people.items():
        one, two = people.text("77", "hi"), people.text("77", "hi")
        assert one.path == f"/{name}/webhook" and one.body.isascii() and one.id != two.id
        assert forged(one).headers != one.headers and forged(one).body == one.body


def test_edits_unsends_and_batches_have_the_shape_of_their_platform(graph: Graph, telegram: Telegram) -> None:
    assert "edited_message" in json.loads(edit(telegram, "42", "1", "new").body)
    value = json.loads(edit(graph.whatsapp, "49151", "wamid.P1", "new").body)["entry"][0]["changes"][0]["value"]
    assert value["messages"][0]["edit"]["original_message_id"] == "wamid.P1"
    item = json.loads(unsend(graph.instagram, "222", "m_P1").body)["entry"][0]["messaging"][0]
    assert item["message"] == {"mid": "m_P1", "is_deleted": True}
    both = batch(graph.messenger, [graph.messenger.text("111", "a"), graph.messenger.text("112", "b")])
    assert len(json.loads(both.body)["entry"]) == 2
    assert both.headers["X-Hub-Signature-256"] == "sha256=" + graph.account.mac(both.body)


def test_a_shape_finds_what_is_missing_unexpected_or_invalid() -> None:
    shape = {"a!": "x+", "b": int, "c": {"d!": bool}}
    assert mismatch({"a": "xx", "b": 1, "c": {"d": True}}, shape) is None
    assert mismatch({}, shape) == ("missing", "a")
    assert mismatch({"a": "x", "e": 1}, shape) == ("unexpected", "e")
    assert mismatch({"a": "y"}, shape) == ("invalid", "a")
    assert mismatch({"a": "x", "c": {}}, shape) == ("missing", "d")
    assert mismatch({"a": "x", "c": 1}, shape) == ("invalid", "c")


# Telegram's HTML

HTML = [
    ("a <b>b</b> c", "a b c", [("bold", 2, 1)]), ("<i>😀</i>", "😀", [("italic", 0, 2)]),
    ("&lt;&gt;&amp;&quot;&#65;&#x42;&nbsp;", '<>&"AB&nbsp;', []), ("<b></b>", "", []),
    ("<B>x</>", "x", [("bold", 0, 1)]),
    ('<a href="https://example.org/?a=1&amp;b=2">x</a>', "x", [("text_link", 0, 1)]), ('<a href="x">y</a>', "y", []),
    ("<pre><code class=\"language-c\">x</code></pre>", "x", [("pre", 0, 1)]),
    ("<blockquote expandable>q</blockquote>", "q", [("expandable_blockquote", 0, 1)]),
    ("<i   x = 'y' z=a.b-c >q</i >", "q", [("italic", 0, 1)]), ("a > b", "a > b", []),
]
BAD_HTML = ["<", "a < b", "<b", "<b>", "</b>", "<b></i>", "<br>", "<br/>", "<p>x</p>", "<b x=>", "<b x=a,>y</b>",
            '<a href="x>y</a>', "<b>x</b", "<b><i>x</b></i>", "<b =x>y</b>", "&#xD800;", "<!-- x -->", "<a <b>x</b>"]


@pytest.mark.parametrize("source, text, entities", HTML, ids=[case[0] for case in HTML])
def test_html_is_read_as_telegram_reads_it(source: str, text: str, entities: list[tuple[str, int, int]]) -> None:
    got, found = parse_html(source)
    assert (got, [(each["type"], each["offset"], each["length"]) for each in found]) == (text, entities)


@pytest.mark.parametrize("source", BAD_HTML)
def test_html_that_telegram_refuses_is_refused(source: str) -> None:
    with pytest.raises(HtmlFault):
        parse_html(source)


@pytest.mark.shared
def test_html_agrees_with_telegrams_own_cases() -> None:
    file = Path(os.environ["MINIBOT_SHARED"]) / "platforms" / "telegram-html-vectors.json"
    cases = json.loads(file.read_text("utf-8"))["cases"]
    assert len(cases) == 89
    for case in cases:
        try:
            text, entities = parse_html(case["input"])
        except HtmlFault as fault:
            ours_alone = any(f'"{tag}"' in str(fault) for tag in ("span", "tg-emoji", "tg-time"))
            assert "error" in case or ours_alone, case
            continue
        assert "error" not in case, case
        wanted = [(each["type"], each["offset"], each["length"], each.get("language")) for each in case["entities"]]
        got = [(each["type"], each["offset"], each["length"], each.get("language")) for each in entities]
        assert (text, sorted(got, key=str)) == (case["text"], sorted(wanted, key=str)), case


# The server around them

@pytest.fixture
def connection(world: FakeWorld) -> Iterator[http.client.HTTPConnection]:
    world.telegram.text("42", "hello")
    made = http.client.HTTPConnection("127.0.0.1", world.port, timeout=5)
    yield made
    made.close()


def send(connection: http.client.HTTPConnection, text: str = "hi") -> http.client.HTTPResponse:
    connection.request("POST", f"/bot{TOKEN}/sendMessage", json.dumps({"chat_id": 42, "text": text}).encode(),
                       {"Content-Type": "application/json"})
    return connection.getresponse()


def ask(connection: http.client.HTTPConnection, **more: Any) -> tuple[int, Any]:
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello?"}], **more}
    connection.request("POST", "/v1/chat/completions", json.dumps(body).encode(), {
        "Content-Type": "application/json", "Authorization": f"Bearer {SECRETS['AI_API_KEY']}"})
    reply = connection.getresponse()
    return reply.status, json.loads(reply.read())


def test_one_connection_serves_all_upstreams_and_everything_is_recorded(
        world: FakeWorld, connection: http.client.HTTPConnection) -> None:
    assert send(connection).read() and world.telegram.texts("42") == ["hi"]
    status, body = ask(connection)
    assert status == 200 and body["choices"][0]["message"]["content"] == "answer 1 to: Hello?"
    assert [(seen.upstream, seen.method) for seen in world.seen] == [("telegram", "POST"), ("model", "POST")]
    assert world.seen[1].json()["model"] == "gpt-4o-mini" and world.leaks == []


REFUSED_BY_MODEL = [({"model": "gone"}, 404, "model_not_found"), ({"messages": []}, 400, "invalid_value"),
                    ({"colour": 1}, 400, "unknown_parameter"),
                    ({"model": "gpt-6-luna", "max_tokens": 5}, 400, "unsupported_parameter"),
                    ({"messages": [{"role": "user", "content": ""}]}, 400, "invalid_value")]


@pytest.mark.parametrize("given, status, code", REFUSED_BY_MODEL, ids=[case[2] for case in REFUSED_BY_MODEL])
def test_the_model_refuses_what_openai_refuses(connection: http.client.HTTPConnection, given: dict[str, Any],
                                               status: int, code: str) -> None:
    got, body = ask(connection, **given)
    assert (got, body["error"]["code"]) == (status, code)


def test_the_model_waits_until_it_is_released(world: FakeWorld, connection: http.client.HTTPConnection) -> None:
    world.model.hold()
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(ask(connection)))
    asking.start()
    assert world.wait(lambda: world.model.count == 1) and not answers
    world.model.release()
    asking.join(5)
    assert answers and answers[0][0] == 200


def test_a_planned_status_meets_only_the_calls_it_is_for(world: FakeWorld,
                                                         connection: http.client.HTTPConnection) -> None:
    world.telegram.plan("429", retry_after=7)
    connection.request("POST", f"/bot{TOKEN}/getMe")
    assert connection.getresponse().read().startswith(b'{"ok": true')
    reply = send(connection)
    assert reply.status == 429 and reply.headers["retry-after"] == "7"
    assert json.loads(reply.read())["parameters"] == {"retry_after": 7}
    assert send(connection).status == 200


def test_a_rule_decides_about_every_call(world: FakeWorld, connection: http.client.HTTPConnection) -> None:
    world.telegram.rule = lambda name: Fault("500", done=True) if name == "send" else None
    reply = send(connection)
    assert reply.status == 500 and reply.read() and world.telegram.texts("42") == ["hi"]


BROKEN = {"hang": 0, "reset": 0, "hang_after": 1, "reset_after": 1, "half": 1, "garbage": 1, "lie": 1}


@pytest.mark.parametrize("trouble", BROKEN)
def test_a_broken_connection_carries_the_call_out_or_not(world: FakeWorld, connection: http.client.HTTPConnection,
                                                         trouble: str) -> None:
    world.telegram.plan(trouble)
    connection.timeout = 0.3
    with pytest.raises((OSError, http.client.HTTPException)):
        send(connection).read()
    assert len(world.telegram.texts("42")) == BROKEN[trouble]


def test_a_dripping_reply_comes_byte_by_byte(world: FakeWorld, connection: http.client.HTTPConnection) -> None:
    world.telegram.plan("drip")
    world.drip_every = 0.05
    reply, begin = send(connection), time.monotonic()
    assert reply.read(4) == b'{"ok' and time.monotonic() - begin >= 0.1


def test_a_redirect_leads_to_another_host(world: FakeWorld, connection: http.client.HTTPConnection) -> None:
    world.telegram.plan("redirect")
    reply = send(connection)
    assert reply.status == 302 and reply.headers["location"].startswith(f"http://localhost:{world.port}/elsewhere/bot")
    assert world.telegram.texts("42") == []


def test_a_long_poll_waits_for_the_next_update(world: FakeWorld) -> None:
    made = http.client.HTTPConnection("127.0.0.1", world.port, timeout=5)
    made.request("POST", f"/bot{TOKEN}/getUpdates", b'{"timeout": 5}', {"Content-Type": "application/json"})
    world.wait(lambda: world.seen)
    with world.changed:
        world.telegram.text("42", "at last")
        world.changed.notify_all()
    updates = json.loads(made.getresponse().read())["result"]
    made.close()
    assert updates[0]["message"]["text"] == "at last"


def test_a_secret_that_reaches_the_wrong_upstream_is_noticed(world: FakeWorld,
                                                             connection: http.client.HTTPConnection) -> None:
    send(connection, SECRETS["AI_API_KEY"]).read()
    assert world.leaks == ["AI_API_KEY in a request to telegram"]
    world.leaks.clear()
    connection.request("GET", f"/elsewhere/bot{TOKEN.replace(':', '%3A')}/getMe")
    connection.getresponse().read()
    assert world.leaks == ["TELEGRAM_BOT_TOKEN in a request to elsewhere"]


def test_reports_reach_the_bot_in_order_and_again_until_they_are_taken(world: FakeWorld) -> None:
    got: list[str] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def receive() -> None:
        for status in (b"503 No", b"200 OK", b"200 OK", b"200 OK"):
            accepted, _ = listener.accept()
            with accepted, accepted.makefile("rb") as stream:
                head = b"".join(iter(stream.readline, b"\r\n"))
                length = int(head.lower().split(b"content-length:")[1].split()[0])
                got.append(json.loads(stream.read(length))["entry"][0]["changes"][0]["value"]["statuses"][0]["status"])
                accepted.sendall(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    receiving = threading.Thread(target=receive)
    receiving.start()
    world.bot_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with world.changed:
        world.graph.whatsapp.text("4915112345678", "hi")
        world.graph.whatsapp.accept(whatsapp())
        world.changed.notify_all()
    receiving.join(5)
    listener.close()
    assert got == ["sent", "sent", "delivered", "read"]


def test_a_voice_note_is_heard_under_a_name_the_model_accepts(world: FakeWorld,
                                                              connection: http.client.HTTPConnection) -> None:
    for name, status in (("voice.ogg", 200), ("voice.oga", 400)):
        part = b'--b\r\nContent-Disposition: form-data; name='
        body = (part + b'"model"\r\n\r\ngpt-transcribe\r\n' + part + b'"file"; filename="' + name.encode()
                + b'"\r\n\r\nOggS\r\n--b--\r\n')
        connection.request("POST", "/v1/audio/transcriptions", body, {
            "Content-Type": "multipart/form-data; boundary=b", "Authorization": f"Bearer {SECRETS['AI_API_KEY']}"})
        reply = connection.getresponse()
        assert (reply.status, b"spoken words, 4 bytes" in reply.read()) == (status, status == 200)


def test_a_secret_in_anything_a_bot_leaves_behind_is_noticed(world: FakeWorld, tmp_path: Path) -> None:
    bot = BotProcess(world, tmp_path, start=False)
    bot.check_secrets()
    bot.log_file.write_text(f"POST /bot{TOKEN}/getMe", "utf-8")
    with pytest.raises(AssertionError, match="TELEGRAM_BOT_TOKEN in bot.log"):
        bot.check_secrets()
