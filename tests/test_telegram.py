"""Telegram: what each update becomes, what is sent, and what each reply means.

The payloads are our own, in the shapes of the Bot API; `payloads/telegram/manifest.json` says what each one must
become. Where MINIBOT_SHARED names a folder with payloads and a machine-readable API, those are run as well.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from minibot.channels import telegram
from minibot.channels.contract import COMMANDS
from minibot.channels.telegram_updates import parse
from minibot.config import Settings
from minibot.errors import Refused, Remedy, SendFailed, Unreadable
from minibot.model import (Acknowledge, Call, Ignored, Inbound, Me, Media, Odd, Presence, Rekey, Reply, Request,
                           Secret)
from minibot.work import Conversation, Part
from tests.outgoing import complies, telegram_api

TOKEN = "7000000001:AAHcanary_canary_canary_canary_cana"
SECRET = "a-secret-of-32-characters-or-more"
SETTINGS = Settings(telegram_bot_token=Secret(TOKEN), telegram_webhook_secret=Secret(SECRET))
CHANNEL = telegram.channel(SETTINGS)
US = Me("7000000001", "Mini_Test_Bot")
OWN = Path(__file__).parent / "payloads" / "telegram"
PAYLOADS = json.loads((OWN / "manifest.json").read_text())
SHARED = Path(os.environ.get("MINIBOT_SHARED") or "/nonexistent") / "platforms"


def one(update: Any, me: Me = US) -> Any:
    (event,) = parse(json.dumps(update).encode(), me)
    return event


def message(text: str = "", chat: int = 5, **more: Any) -> dict[str, Any]:
    return {"update_id": 1, "message": {
        "message_id": 2, "date": 1763800000, "chat": {"id": chat, "type": "private" if chat > 0 else "supergroup"},
        "from": {"id": 5, "is_bot": False, "first_name": "Ada"}, **({"text": text} if text else {}), **more}}


def entity(kind: str, text: str, part: str) -> dict[str, Any]:
    """An entity over the first occurrence of `part`, counted in UTF-16 units by another way than the program's."""
    before = text[:text.index(part)]
    offset, length = (len(some) + sum(c > "\uffff" for c in some) for some in (before, part))
    return {"type": kind, "offset": offset, "length": length}


def shown(event: Any) -> dict[str, Any]:
    fields = event._asdict() if isinstance(event, Inbound) else {n: getattr(event, n) for n in event.__slots__}
    fields["media"] = [[media.kind, media.ref] for media in fields.get("media", ())]
    fields["event_id"] = fields.get("event")
    return {**fields, "event": type(event).__name__}


# In.

@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda payload: payload["file"])
def test_every_payload_becomes_what_the_manifest_says(payload: dict[str, Any]) -> None:
    (event,) = parse((OWN / payload["file"]).read_bytes(), US)
    got = shown(event)
    want = {"media": [], **payload["want"]}
    assert {key: got[key] for key in want} == want, payload["about"]


def test_the_manifest_names_every_payload_once() -> None:
    assert {"manifest.json", *(payload["file"] for payload in PAYLOADS)} == {file.name for file in OWN.glob("*.json")}
    assert len(PAYLOADS) >= 40


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"7", b'"x"', b"{", b"{}{}", b'{"update_id":NaN}', b"\xff{}",
                                  b"[" * 100_000, b'{"update_id":' + b"9" * 5000 + b"}", "{}".encode("utf-16")])
def test_a_body_that_is_no_json_object_is_unreadable(body: bytes) -> None:
    with pytest.raises(Unreadable):
        parse(body, US)


def test_an_update_without_a_usable_number_is_kept_as_odd() -> None:
    for number in (None, True, "7", 7.0, 2**200, [], {}):
        event = one({**message("hi"), "update_id": number})
        assert isinstance(event, Odd) and event.why == "no update_id" and '"hi"' in event.body
    assert event.event == one({**message("hi"), "update_id": {}}).event != one({**message("ho"), "update_id": {}}).event


def test_every_command_is_recognised_with_and_without_entities() -> None:
    for word in COMMANDS:
        for text in (f"/{word}", f"/{word.upper()}@mini_test_BOT now"):
            for marks in ({}, {"entities": [{"type": "bot_command", "offset": 0, "length": len(text.split()[0])}]}):
                event = one(message(text, -5, **marks))
                assert (event.kind, event.text) == (word, text.replace("@mini_test_BOT", "")), (text, marks)


def test_while_our_name_is_unknown_private_commands_are_ours_and_group_ones_are_not() -> None:
    nameless = Me(US.account)
    assert one(message("/help@whoever"), nameless).kind == "help"
    assert one(message("/help@whoever", -5), nameless) == Ignored("telegram", "not addressed")
    assert one(message("/help", -5), nameless).kind == "help"
    assert one(message("hello", -5), Me("", "")) == Ignored("telegram", "not addressed")


def test_a_mention_is_cut_out_wherever_it_stands_among_astral_characters() -> None:
    rng = random.Random(7)
    for _ in range(500):
        letters = "ab \u00e9\u4e2d\U0001f600\U0001f469\u200d"
        before, after = ("".join(rng.choices(letters, k=rng.randrange(9))) for _ in "12")
        text = f"x{before} @Mini_Test_Bot {after}x"
        event = one(message(text, -5, entities=[entity("bold", text, "x"), entity("mention", text, "@Mini_Test_Bot")]))
        assert event.text == f"x{before}  {after}x"


def test_entities_outside_the_text_or_inside_a_character_do_no_harm() -> None:
    for offset, length in ((-1, 5), (99, 5), (0, 10**12), (10**30, 1), (1, 1), (0, 1)):
        marks = [{"type": "text_mention", "user": {"id": 7000000001}, "offset": offset, "length": length}]
        event = one(message("\U0001f600\U0001f600 hello", -5, entities=marks))
        assert isinstance(event, (Inbound, Ignored))
        assert event.text.encode() if isinstance(event, Inbound) else True


def test_thirty_thousand_entities_over_a_megabyte_are_no_burden() -> None:
    marks = [{"type": "mention", "offset": 0, "length": 1 << 30}] * 30_000
    assert one(message("a" * 1_000_000, -5, entities=marks)) == Ignored("telegram", "not addressed")


def test_a_deeply_nested_rich_message_is_cut_off_not_followed() -> None:
    deep = '{"text":"a","blocks":[' * 300 + '"bottom"' + "]}" * 300
    (event,) = parse(json.dumps(message(rich_message="RICH")).replace('"RICH"', deep).encode(), US)
    assert event.text.startswith("a\na\na") and "bottom" not in event.text


def mutations(node: Any) -> Iterator[None]:
    """Every place of `node`, one after the other, holds every wrong value; afterwards it is as it was."""
    for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
        right = node[key]
        for node[key] in (None, True, 0, -1, 1e308, 2**70, "", "\ud800\0" + "x" * 3000, [], {}, [right]):
            yield
        node[key] = right
        yield from mutations(right)


def test_no_wrong_value_anywhere_raises_or_brings_unclean_text() -> None:
    tried = 0
    for payload in PAYLOADS:
        update = json.loads((OWN / payload["file"]).read_bytes())
        for _ in mutations(update):
            tried += 1
            (event,) = parse(json.dumps(update).encode(), US)
            if isinstance(event, Inbound):
                assert event.kind in (*COMMANDS, "ask", "unsupported")
                assert bool(event.notice) == (event.kind == "unsupported")
                assert event.event.startswith("update:") and 0 <= event.sent_at < 1 << 63
                assert b"\0" not in repr(event).encode() and "\\x00" not in repr(event) and "\\ud8" not in repr(event)
                assert telegram._place(event.chat)["chat_id"] == int(event.chat.split("/")[0])
    assert tried > 10_000


# Who may post.

def post(*secrets: str) -> Request:
    return Request("POST", "/telegram/webhook", "", tuple(
        (b"x-telegram-bot-api-secret-token", secret.encode()) for secret in secrets), b"{}")


def test_only_our_secret_opens_the_door() -> None:
    CHANNEL.verify(post(SECRET))
    for secrets, status, reason in (((), 401, "no secret header"), (("",), 401, "another"), (("A",), 401, "another"),
                                    ((SECRET[:-1] + "\u00e9",), 401, "another"), ((SECRET,) * 2, 400, "two")):
        with pytest.raises(Refused) as refusal:
            CHANNEL.verify(post(*secrets))
        assert refusal.value.status == status and refusal.value.reason.startswith(reason)
        assert "a-secret" not in refusal.value.reason


def test_an_empty_secret_opens_nothing_and_unsigned_posts_only_pass_where_allowed() -> None:
    with pytest.raises(Refused):
        telegram.channel(Settings(telegram_bot_token=Secret(TOKEN))).verify(post(""))
    open_door = telegram.channel(Settings(telegram_bot_token=Secret(TOKEN), allow_unsigned_webhooks=True))
    open_door.verify(post())
    open_door.verify(post("whatever"))


# Out.

def sent(chat: str = "5", text: str = "<b>Yes</b> &amp; no", **part: Any) -> Call:
    return CHANNEL.call(Conversation(1, "telegram", "7000000001", chat), Part(9, text, **part))


def body(call: Call) -> dict[str, Any]:
    return dict(json.loads(call.body))


def test_a_private_answer_is_html_without_preview_and_without_a_reply() -> None:
    call = sent(reply_to="77")
    assert (call.method, call.url) == ("POST", f"https://api.telegram.org/bot{TOKEN}/sendMessage")
    assert call.fields["Content-Type"] == "application/json"
    assert body(call) == {"chat_id": 5, "text": "<b>Yes</b> &amp; no", "parse_mode": "HTML",
                          "link_preview_options": {"is_disabled": True}}


def test_plain_text_names_no_parse_mode() -> None:
    assert "parse_mode" not in body(sent(plain=True))


def test_in_a_group_the_answer_points_at_the_question_if_that_still_exists() -> None:
    reply_parameters = body(sent("-5", reply_to="77"))["reply_parameters"]
    assert reply_parameters == {"message_id": 77, "allow_sending_without_reply": True}
    assert "reply_parameters" not in body(sent("-5")) and "reply_parameters" not in body(sent("-5", reply_to="x"))


def test_a_topic_is_answered_in_its_topic_unless_it_is_gone() -> None:
    assert body(sent("-5/33"))["message_thread_id"] == 33
    assert not {"message_thread_id", "reply_parameters"} & set(body(sent("-5/33", threadless=True, reply_to="7")))
    direct = body(sent("-5/d44"))
    assert direct["direct_messages_topic_id"] == 44 and "message_thread_id" not in direct


def test_typing_goes_to_the_topic_and_never_to_direct_messages() -> None:
    def typing(chat: str) -> list[dict[str, Any]]:
        return [body(call) for call in CHANNEL.typing(Conversation(1, "telegram", "7000000001", chat), "77")]
    assert typing("5") == [{"action": "typing", "chat_id": 5}]
    assert typing("-5/33") == [{"action": "typing", "chat_id": -5, "message_thread_id": 33}]
    assert typing("-5/d44") == []


def test_a_long_answer_is_split_within_telegrams_limit() -> None:
    parts = CHANNEL.compose("**Hear** <me> \U0001f600: " + "one two. " * 2000)
    assert len(parts) > 3 and parts[0].startswith("<b>Hear</b> &lt;me&gt;")
    assert all(len(CHANNEL.plain(part).encode("utf-16-le")) <= 8192 for part in parts)


def test_the_webhook_is_registered_with_its_secret_and_drops_nothing() -> None:
    assert body(telegram.set_webhook(SETTINGS, "https://a.example/telegram/webhook")) == {
        "url": "https://a.example/telegram/webhook", "secret_token": SECRET,
        "allowed_updates": ["message", "my_chat_member", "callback_query"], "max_connections": 40,
        "drop_pending_updates": False}


def test_the_menu_offers_every_command() -> None:
    commands = body(telegram.set_commands(SETTINGS))["commands"]
    assert {c["command"] for c in commands} == {*COMMANDS, "ask"}
    assert all(1 <= len(c["description"]) <= 256 for c in commands)


def test_a_file_is_found_and_fetched_with_a_path_that_cannot_escape() -> None:
    assert CHANNEL.media and CHANNEL.located
    assert body(CHANNEL.media(Media("image", "AgAC"))) == {"file_id": "AgAC"}
    url = CHANNEL.located(ok({"file_id": "AgAC", "file_path": "photos/a b?c#d%2e\r\n.jpg"}))
    assert url == f"https://api.telegram.org/file/bot{TOKEN}/photos/a%20b%3Fc%23d%252e%0D%0A.jpg"
    fetch = CHANNEL.download(url)
    assert (fetch.method, fetch.url, fetch.body, fetch.max_bytes) == ("GET", url, b"", 20 << 20)
    for path in ("../../etc/passwd", "a/./b", "", "/abs", None, 7):
        with pytest.raises(SendFailed) as failure:
            CHANNEL.located(ok({"file_path": path}))
        assert failure.value.remedy is Remedy.REFUSED


def test_a_server_of_ones_own_is_asked_instead_and_trusted_with_media() -> None:
    local = telegram.channel(Settings(telegram_bot_token=Secret(TOKEN), telegram_api_url="http://127.0.0.1:8081"))
    assert local.whoami and local.whoami.url == f"http://127.0.0.1:8081/bot{TOKEN}/getMe"
    assert local.media_origins == ("http://127.0.0.1:8081",) and local.media_hosts == ("api.telegram.org",)


def test_getme_tells_our_name_but_the_token_tells_our_id() -> None:
    assert CHANNEL.account == "7000000001" and CHANNEL.named
    assert CHANNEL.named(ok({"id": 1, "is_bot": True, "username": "Mini_Test_Bot"})) == US
    assert CHANNEL.named(ok({"username": 7})) == Me("7000000001", "")


CALLS = [
    (sent("-5/33", reply_to="77"), "sendMessage"), (sent("5", plain=True), "sendMessage"),
    (sent("-5/d4"), "sendMessage"),
    (CHANNEL.typing(Conversation(1, "telegram", "1", "-5/33"), "")[0], "sendChatAction"),
    (CHANNEL.media(Media("voice", "AwAC")) if CHANNEL.media else None, "getFile"), (CHANNEL.whoami, "getMe"),
    (CHANNEL.acknowledge("666") if CHANNEL.acknowledge else None, "answerCallbackQuery"),
    (telegram.set_webhook(SETTINGS, "https://a.example/telegram/webhook"), "setWebhook"),
    (telegram.set_commands(SETTINGS), "setMyCommands"),
    (telegram.request(SETTINGS, "getWebhookInfo"), "getWebhookInfo"),
]
METHODS: dict[str, dict[str, Any]] = {  # what we may send; "!" marks what must be there
    "sendMessage": {"chat_id!": int, "text!": str, "parse_mode": str, "message_thread_id": int,
                    "direct_messages_topic_id": int, "link_preview_options": {"is_disabled": bool},
                    "reply_parameters": {"message_id!": int, "allow_sending_without_reply": bool}},
    "sendChatAction": {"chat_id!": int, "action!": str, "message_thread_id": int}, "getFile": {"file_id!": str},
    "getMe": {}, "getWebhookInfo": {}, "answerCallbackQuery": {"callback_query_id!": str},
    "setWebhook": {"url!": str, "secret_token": str, "allowed_updates": list, "max_connections": int,
                   "drop_pending_updates": bool},
    "setMyCommands": {"commands!": list},
}


def check(value: Any, shape: Any) -> None:
    if not isinstance(shape, dict):
        assert type(value) is shape
        return
    named = {name.rstrip("!"): inner for name, inner in shape.items()}
    assert set(value) <= set(named) and {n[:-1] for n in shape if n.endswith("!")} <= set(value)
    for name, inner in value.items():
        check(inner, named[name])


@pytest.mark.parametrize("call, method", CALLS, ids=lambda value: value if isinstance(value, str) else "")
def test_every_call_has_the_parameters_it_may_have(call: Call, method: str) -> None:
    assert call.url.endswith(f"/{method}") and call.name == f"telegram {method}" and call.method == "POST"
    check(body(call), METHODS[method])


def test_the_token_shows_in_no_representation() -> None:
    shown = repr((CHANNEL, CALLS, SETTINGS))
    assert "canary" not in shown and "a-secret" not in shown


# What the replies mean.

def reply(status: int, said: str | None, fields: dict[str, str] | None = None, **parameters: Any) -> Reply:
    content = {"ok": False, "error_code": status, "description": said, "parameters": parameters}
    return Reply(status, fields or {}, b"<html>" if said is None else json.dumps(content).encode())


def ok(result: Any) -> Reply:
    return Reply(200, {}, json.dumps({"ok": True, "result": result}).encode())


def failure(answer: Reply) -> SendFailed:
    with pytest.raises(SendFailed) as failed:
        CHANNEL.judge(answer)
    return failed.value


ERRORS = [
    (401, "Unauthorized", Remedy.STOP), (401, "Unauthorized: invalid token specified", Remedy.STOP),
    (404, "Not Found", Remedy.STOP), (404, "Not Found: method not found", Remedy.STOP), (404, None, Remedy.STOP),
    (421, "Misdirected Request", Remedy.STOP),
    (403, "Forbidden: bot was blocked by the user", Remedy.UNREACHABLE),
    (403, "Forbidden: user is deactivated", Remedy.UNREACHABLE),
    (403, "Forbidden: bot can't initiate conversation with a user", Remedy.UNREACHABLE),
    (403, "Forbidden: bot was kicked from the supergroup chat", Remedy.UNREACHABLE),
    (403, "Forbidden: bot is not a member of the supergroup chat", Remedy.UNREACHABLE),
    (403, "Forbidden: the group chat was deleted", Remedy.UNREACHABLE),
    (403, "Forbidden: bots can't send messages to bots", Remedy.UNREACHABLE),
    (403, "Forbidden: user can't send messages to the bot", Remedy.UNREACHABLE),
    (400, "Bad Request: chat not found", Remedy.UNREACHABLE),
    (400, "Bad Request: private chat not found", Remedy.UNREACHABLE),
    (400, "Bad Request: can't parse entities: Unsupported start tag \"x\" at byte offset 3", Remedy.PLAIN),
    (400, "Bad Request: Can't parse MessageEntity: Type is not a String", Remedy.PLAIN),
    (400, "Bad Request: Entity begins in a middle of a UTF-16 symbol at byte offset 3", Remedy.PLAIN),
    (400, "Bad Request: message is too long", Remedy.HALVE), (400, "Bad Request: MESSAGE_TOO_LONG", Remedy.HALVE),
    (400, "Bad Request: text is too long", Remedy.HALVE),
    (400, "Bad Request: message text is empty", Remedy.EMPTY),
    (400, "Bad Request: text must be non-empty", Remedy.EMPTY),
    (400, "Bad Request: message is not modified: specified new message content ...", Remedy.DELIVERED),
    (400, "Bad Request: message to edit not found", Remedy.REFUSED),
    (400, "Bad Request: message can't be edited", Remedy.REFUSED),
    (400, "Bad Request: message to be replied not found", Remedy.THREADLESS),
    (400, "Bad Request: message thread not found", Remedy.THREADLESS),
    (400, "Bad Request: TOPIC_CLOSED", Remedy.THREADLESS), (400, "Bad Request: TOPIC_DELETED", Remedy.THREADLESS),
    (400, "Bad Request: not enough rights to send text messages to the chat", Remedy.UNREACHABLE),
    (400, "Bad Request: have no write access to the chat", Remedy.UNREACHABLE),
    (400, "Bad Request: CHAT_WRITE_FORBIDDEN", Remedy.UNREACHABLE),
    (400, "Bad Request: need administrator rights in the channel chat", Remedy.UNREACHABLE),
    (400, "Bad Request: VOICE_MESSAGES_FORBIDDEN", Remedy.UNREACHABLE),
    (400, "Bad Request: query is too old and response timeout expired or query ID is invalid", Remedy.DELIVERED),
    (400, "Bad Request: file is too big", Remedy.REFUSED),
    (400, "Bad Request: wrong file_id or the file is temporarily unavailable", Remedy.REFUSED),
    (400, "Bad Request: strings must be encoded in UTF-8", Remedy.REFUSED),
    (409, "Conflict: terminated by other getUpdates request; make sure that only one bot ...", Remedy.STOP),
    (413, "Request Entity Too Large", Remedy.REFUSED), (413, None, Remedy.REFUSED),
    (429, "Too Many Requests: retry after 7", Remedy.WAIT_CHAT), (429, None, Remedy.WAIT_CHAT),
    (500, "Internal Server Error: restart", Remedy.RETRY), (500, None, Remedy.RETRY), (502, None, Remedy.RETRY),
    (503, "", Remedy.RETRY), (504, None, Remedy.RETRY), (408, None, Remedy.RETRY),
    (403, None, Remedy.STOP), (400, None, Remedy.STOP), (302, None, Remedy.STOP), (418, "I'm a teapot", Remedy.REFUSED),
]


@pytest.mark.parametrize("status, said, remedy", ERRORS)
def test_every_refusal_leads_to_its_remedy(status: int, said: str | None, remedy: Remedy) -> None:
    failed = failure(reply(status, said))
    assert (failed.remedy, failed.code) == (remedy, str(status))
    assert "\n" not in str(failed)
    if remedy is Remedy.STOP and status in (401, 404, 421):
        assert "TELEGRAM_BOT_TOKEN" in failed.help


def test_a_moved_group_names_its_new_id() -> None:
    said = "Bad Request: group chat was upgraded to a supergroup chat"
    failed = failure(reply(400, said, migrate_to_chat_id=-1001700000042))
    assert (failed.remedy, failed.chat) == (Remedy.MOVED, "-1001700000042")
    assert failure(reply(400, said, migrate_to_chat_id=True)).remedy is Remedy.REFUSED


@pytest.mark.parametrize("given, header, seconds", [
    (7, None, 7.0), (0, None, 0.5), (10**9, None, 3600.0), (None, "9", 9.0), (None, "99999999999999999999", 3600.0),
    (None, "\u0667", 5.0), (None, "1_0", 5.0), (None, "-3", 5.0), (None, "nan", 5.0), (None, "1e9", 5.0),
    (True, None, 5.0),
    (-1, "8", 8.0), ("6", None, 6.0), (1.5, None, 1.5), (None, None, 5.0), ([], "", 5.0),
])
def test_how_long_to_wait_is_read_strictly(given: Any, header: str | None, seconds: float) -> None:
    fields = {} if header is None else {"retry-after": header}
    assert failure(reply(429, "Too Many Requests", fields, **({} if given is None else {"retry_after": given}))
                   ).retry_after == seconds


def test_a_sent_message_gives_its_id() -> None:
    assert CHANNEL.judge(ok({"message_id": 4711, "chat": {"id": 5}})) == "4711"


@pytest.mark.parametrize("answer", [
    ok(True), ok({}), ok({"message_id": True}), ok({"message_id": "4711"}), ok({"message_id": 2**80}), ok([]),
    Reply(200, {}, b""), Reply(200, {}, b"<html>ok</html>"), Reply(200, {}, b"[]"),
    Reply(200, {}, b'{"ok":1,"result":{"message_id":5}}'),
    Reply(204, {}, b""), Reply(200, {}, b"[" * 100_000),
])
def test_a_yes_that_proves_nothing_is_unsure(answer: Reply) -> None:
    assert failure(answer).remedy is Remedy.UNSURE


def test_a_refusal_behind_a_200_is_a_refusal() -> None:
    content = {"ok": False, "error_code": 403, "description": "Forbidden: bot was blocked by the user"}
    assert failure(Reply(200, {}, json.dumps(content).encode())).remedy is Remedy.UNREACHABLE


def test_a_yes_behind_an_error_status_is_none() -> None:
    assert failure(Reply(502, {}, ok({"message_id": 5}).body)).remedy is Remedy.RETRY


def test_no_error_body_of_any_shape_raises_anything_else() -> None:
    base = {"ok": False, "error_code": 400, "description": "Bad Request: chat not found",
            "parameters": {"retry_after": 3, "migrate_to_chat_id": -5}, "result": {"message_id": 3}}
    for _ in mutations(base):
        for status in (200, 400, 502):
            try:
                assert CHANNEL.judge(Reply(status, {}, json.dumps(base).encode()))
            except SendFailed as failed:
                assert "\0" not in str(failed) and len(str(failed)) < 400


# The stored payloads and the machine-readable API, where they are at hand.

def shared_payloads() -> list[dict[str, Any]]:
    manifest = SHARED / "payloads" / "manifest.json"
    return [p for p in json.loads(manifest.read_text()) if p["platform"] == "telegram"] if manifest.is_file() else []


REACTIONS: list[tuple[str, Any]] = [  # the beginning of the wanted action -> does the event show it?
    ("TEXT", lambda event: event.kind == "ask" and event.text and not event.media),
    ("IMAGE", lambda event: event.kind == "ask" and [media.kind for media in event.media] == ["image"]),
    ("TRANSCRIBE", lambda event: event.kind == "ask" and [media.kind for media in event.media] == ["voice"]),
    ("CANNOT-READ", lambda event: event.kind == "unsupported" and event.notice or event.text.startswith("[location:")),
    ("COMMAND if it is one of our own", lambda event: isinstance(event, Ignored)),
    ("COMMAND", lambda event: event.kind == "ask" if event.forwarded else (
        event.kind in (*COMMANDS, "ask") and event.text.startswith("/"))),
    ("CALLBACK", lambda event: isinstance(event, Acknowledge) and event.query),
    ("MIGRATE", lambda event: isinstance(event, Rekey) and event.old != event.new),
    ("STATE: user blocked", lambda event: isinstance(event, Presence) and event.blocked),
    ("GROUP, not addressed: IGNORE", lambda event: event == Ignored("telegram", "not addressed")),
    ("IGNORE", lambda event: isinstance(event, Ignored)),
]


@pytest.mark.shared
def test_every_stored_payload_gets_its_reaction() -> None:
    payloads = shared_payloads()
    assert len(payloads) > 100
    for payload in payloads:
        (event,) = parse((SHARED / "payloads" / payload["file"]).read_bytes(), US)
        shows = next(shows for action, shows in REACTIONS if payload["action"].startswith(action))
        assert shows(event), (payload["file"], payload["action"], event)


@pytest.mark.shared
def test_every_stored_group_message_is_answered_once_it_replies_to_us() -> None:
    for payload in shared_payloads():
        if payload["action"].startswith("GROUP"):
            update = json.loads((SHARED / "payloads" / payload["file"]).read_bytes())
            update["message"]["reply_to_message"] = {"message_id": 1, "from": {"id": 7000000001, "is_bot": True}}
            event = one(update)
            assert event.kind == ("unsupported" if "CANNOT-READ" in payload["action"] else "ask"), payload["file"]


@pytest.mark.shared
def test_every_call_is_one_of_the_machine_readable_api() -> None:
    api = telegram_api()
    for call, method in CALLS:
        assert call and complies(body(call), api["methods"][method].get("fields", []), api["types"]), (
            method, body(call))
