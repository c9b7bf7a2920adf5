"""Threats 1 to 54: who may post, what JSON may be, what a message may be, who may write how much.

Each function is a row; its name is the promise. Not here: the stage (`threats.py`), what goes out (`threats_out.py`).
"""

from __future__ import annotations

import concurrent.futures
import json
import re
from itertools import repeat
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

import minibot
from minibot.config import load
from minibot.errors import SettingsFault
from minibot.flow import wording
from minibot.model import PLATFORMS
from minibot.text import clean, clean_name
from tests import platforms
from tests.botprocess import BotProcess
from tests.fakes import SECRETS, text_of
from tests.platforms import forged
from tests.test_mutated import mutated, posted, request, webhook
from tests.threats import (
    ALLOWED, NUMBERS, Scene, authentic, counted, octets, outcomes, prompt, questions, row, rows, send, statuses, taken,
    unreadable, update, whatsapp)

SECRET_HEADER = "X-Telegram-Bot-Api-Secret-Token"
SIGNATURE = "X-Hub-Signature-256"
META = PLATFORMS[1:]
PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)


def refused(bot: BotProcess, platform: str, chat: str, **fields: str) -> bool:
    """A message with these header fields gets 401 with a constant body, is not stored, and is counted."""
    made, before, seen = bot.world.people[platform].text(chat, "hello"), rows(bot), counted(bot, platform, "refused")
    status, body = bot.world.post(made, **{name.replace("_", "-"): value for name, value in fields.items()})
    return (status, body, rows(bot) - before, counted(bot, platform, "refused") - seen) == (
        401, b"unauthorized\n", 0, 1)


# Authentic?

@row(1)
def a_telegram_post_without_the_secret_is_refused(scene: Scene) -> None:
    assert refused(scene.bot(), "telegram", scene.somebody(), **{SECRET_HEADER: ""})


@row(2)
def a_wrong_secret_is_refused_whatever_it_has_in_common_with_the_right_one(scene: Scene) -> None:
    right = SECRETS["TELEGRAM_WEBHOOK_SECRET"]
    for wrong in ("wrong", right[:-1], right + "a", right.upper(), right[::-1], f"{right},{right}", f'"{right}"'):
        assert refused(scene.bot(), "telegram", scene.somebody(), **{SECRET_HEADER: wrong}), wrong


@row(3)
def a_secret_of_other_characters_is_refused_too(scene: Scene) -> None:
    assert refused(scene.bot(), "telegram", scene.somebody(), **{SECRET_HEADER: "gehe\xefm\xff"})


@row(4)
def two_secret_headers_are_a_bad_request(scene: Scene) -> None:
    bot, right = scene.bot(), SECRETS["TELEGRAM_WEBHOOK_SECRET"]
    body = json.dumps(update(bot, scene.somebody())).encode()
    for pair in ((right, "wrong"), ("wrong", right), (right, right)):
        head = "".join(f"{SECRET_HEADER}: {value}\r\n" for value in pair)
        sent = f"POST /telegram/webhook HTTP/1.1\r\nHost: a\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode()
        assert statuses(octets(bot, sent + body, close=True)) == [400]


@row(5)
def an_empty_or_short_secret_opens_nothing(scene: Scene) -> None:
    bot = scene.bot("bare")  # its secret is derived from the token
    for given in ("", " ", SECRETS["TELEGRAM_WEBHOOK_SECRET"], SECRETS["TELEGRAM_BOT_TOKEN"]):
        assert refused(bot, "telegram", scene.somebody(), **{SECRET_HEADER: given})
    with pytest.raises(SettingsFault, match="TELEGRAM_WEBHOOK_SECRET: must be 16"):
        load(bot.settings | {"TELEGRAM_WEBHOOK_SECRET": "short"})


@row(6)
def a_meta_post_without_signature_or_with_the_outdated_one_is_refused(scene: Scene) -> None:
    for platform in META:  # the fakes send X-Hub-Signature as well
        assert refused(scene.bot(), platform, scene.somebody(), **{SIGNATURE: ""})


@row(7)
def a_signature_that_is_none_is_refused(scene: Scene) -> None:
    bot, platform = scene.bot(), "whatsapp"
    for make in (lambda mac: mac[:-1] + "0", lambda mac: mac[:-2], lambda mac: mac + "00", lambda mac: mac.upper(),
                 lambda mac: mac.replace("sha256=", "md5="), lambda mac: mac.replace("sha256=", ""),
                 lambda mac: "sha256=a=b", lambda mac: "sha256=" + "z" * 64, lambda mac: "sha256=", lambda mac: "="):
        made = bot.world.people[platform].text(scene.somebody(), "hello")
        wrong = make(made.headers[SIGNATURE])
        if wrong == made.headers[SIGNATURE]:  # by chance its last digit is 0
            continue
        before = rows(bot)
        assert send(bot, made, **{SIGNATURE: wrong}) == 401 and rows(bot) == before, wrong


@row(8)
def the_raw_octets_are_what_is_signed(scene: Scene) -> None:
    bot, document = scene.bot(), whatsapp(scene.bot(), {
        "from": scene.somebody(), "id": "wamid.raw/1", "timestamp": "1", "type": "text", "text": {"body": "é / ✓"}})
    forms = [json.dumps(document), json.dumps(document, indent=1), json.dumps(document, sort_keys=True),
             json.dumps(document, ensure_ascii=False), json.dumps(document).replace("/", "\\/")]
    mac = f"sha256={bot.world.graph.account.mac(forms[0].encode())}"
    for form in forms:
        made = webhook(bot.world, "whatsapp", form.encode())
        assert send(bot, made, **{SIGNATURE: mac}) == (200 if form == forms[0] else 401)
        assert send(bot, made) == 200  # each under its own signature; it is the same message


@row(9)
def a_body_changed_in_one_octet_is_refused(scene: Scene) -> None:
    bot = scene.bot()
    for platform in META:
        made = bot.world.people[platform].text(scene.somebody(), "hello")
        for body in (made.body.replace(b"hello", b"hellp"), made.body + b" ", b" " + made.body, made.body[:-1], b""):
            assert send(bot, made._replace(body=body)) == 401
        assert send(bot, made) == 200


@row(10)
def another_apps_signature_is_refused_and_another_numbers_message_is_not_ours(scene: Scene) -> None:
    bot = scene.bot()
    made = bot.world.people["messenger"].text(scene.somebody(), "hello")
    assert send(bot, forged(made)) == 401
    taken(bot, "instagram", [made.body])  # a Page's event on Instagram's path: kept as unreadable
    document, chat = whatsapp(bot, {"from": scene.somebody(), "id": "w", "type": "text", "text": {"body": "hi"}}), ""
    document["entry"][0]["changes"][0]["value"]["metadata"]["phone_number_id"] = "999999999999999"
    before = counted(bot, "whatsapp", "ignored:other number")
    taken(bot, "whatsapp", [document], kept=False)
    assert counted(bot, "whatsapp", "ignored:other number") == before + 1 and not chat


@row(11)
def a_replayed_post_is_taken_and_answered_no_second_time(scene: Scene) -> None:
    bot = scene.bot()
    for platform in PLATFORMS:
        chat = scene.somebody()
        made = bot.say(platform, chat, "once")
        bot.replies(platform, chat)
        assert send(bot, made) == send(bot, made) == 200
        assert outcomes(bot, chat) == ["replied"]
    asked, late = questions(bot), scene.somebody()  # nobody knows this one any more, and it is two days old
    assert authentic(bot, "telegram", update(bot, late, date=bot.world.now() // 1000 - 2 * 86_400)) == 200
    assert outcomes(bot, late) == ["window_closed"] and bot.world.model.count == asked


@row(12)
def an_event_posted_fifty_times_at_once_is_one_message(scene: Scene) -> None:
    bot, chat = scene.bot(), scene.somebody()
    made = bot.world.people["messenger"].text(chat, "fifty times")
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        assert {*pool.map(lambda each: send(bot, each), repeat(made, 50))} == {200}
    assert outcomes(bot, chat) == ["replied"]


@row(13)
def a_post_cut_short_is_nothing_and_its_repetition_everything(scene: Scene) -> None:
    bot, chat = scene.bot(), scene.somebody()
    made, before = bot.world.people["telegram"].text(chat, "hello"), rows(scene.bot())
    assert octets(bot, request(made)[:-20], close=True)[9:12] in (b"", b"400")
    assert rows(bot) == before
    assert send(bot, made) == 200 and outcomes(bot, chat) == ["replied"]


@row(14)
def secrets_are_compared_in_constant_time(scene: Scene) -> None:
    sources = {path: path.read_text("utf-8") for path in Path(minibot.__file__).parent.rglob("*.py")}
    compared = [line for source in sources.values() for line in source.splitlines()
                if re.search(r"(==|!=|\bin\b).*\.reveal\(\)|\.reveal\(\)[^)]*(==|!=)", line)]
    assert not [line for line in compared if " for " not in line], compared
    for name in ("channels/meta.py", "channels/telegram.py", "desk/metrics.py", "desk/demo_page.py"):
        source = next(source for path, source in sources.items() if path.as_posix().endswith(name))
        assert "hmac.compare_digest(" in source, name


@row(15)
def a_thousand_wrong_secrets_shut_nobody_out_and_fill_no_log(scene: Scene) -> None:
    bot, chat = scene.bot(), scene.somebody()
    made = bot.world.people["telegram"].text(chat, "hello")
    wrong, lines = made._replace(headers={SECRET_HEADER: "wrong"}), bot.log.count("\n")
    assert posted(bot.port, repeat(request(wrong), 1000)) == {"401": 1000}
    assert send(bot, made) == 200 and outcomes(bot, chat) == ["replied"]
    assert bot.log.count("\n") - lines < 10


@row(16)
def the_handshake_wants_the_right_token_once(scene: Scene) -> None:
    bot, right = scene.bot(), quote(SECRETS["VERIFY_TOKEN"])
    for platform in META:
        for wrong in ("", "hub.verify_token=", "hub.verify_token=wrong", f"hub.verify_token[]={right}",
                      f"hub.verify_token={right}&hub.verify_token={right}", "hub.verify_token=" + "a" * 7000,
                      "hub.verify_token=%ff%00", f"verify_token={right}", f"hub.verify_token={right}x"):
            status, body = bot.get(f"/{platform}/webhook?hub.mode=subscribe&hub.challenge=1&{wrong}")
            assert (status, body) == (403, b""), wrong
        assert bot.get(f"/{platform}/webhook?hub.verify_token=" + "a" * 10_000)[0] == 414


@row(17)
def without_a_verify_token_nothing_verifies(scene: Scene) -> None:
    for token in ("", "None", "x"):
        path = f"/messenger/webhook?hub.mode=subscribe&hub.challenge=1&hub.verify_token={token}"
        assert scene.bot("bare").get(path) == (403, b"")


def shaken(bot: BotProcess, challenge: str, mode: str = "subscribe") -> tuple[int, dict[str, str], bytes]:
    """The answer to a handshake with the right token."""
    path = f"/whatsapp/webhook?hub.mode={mode}&hub.verify_token={quote(SECRETS['VERIFY_TOKEN'])}{challenge}"
    status, fields, body = bot.world.request("GET", path)
    return status, {name.lower(): value for name, value in fields.items()}, body


@row(18)
def a_challenge_that_is_a_script_is_not_echoed(scene: Scene) -> None:
    for evil in ("<script>alert(1)</script>", "a b", "1;2", "\u00e9", "a" * 201):
        assert shaken(scene.bot(), f"&hub.challenge={quote(evil)}")[::2] == (400, b"")
    status, fields, body = shaken(scene.bot(), "&hub.challenge=1158201444")
    assert (status, body, fields["content-type"]) == (200, b"1158201444", "text/plain; charset=utf-8")
    assert (fields["x-content-type-options"], fields["content-security-policy"]) == ("nosniff", "default-src 'none'")


@row(19)
def another_mode_or_a_broken_challenge_verifies_nothing(scene: Scene) -> None:
    assert shaken(scene.bot(), "&hub.challenge=1", mode="unsubscribe")[0] == 403
    assert shaken(scene.bot(), "")[0] == 400
    status, fields, body = shaken(scene.bot(), "&hub.challenge=1%0d%0aSet-Cookie:%20a=b")
    assert (status, body) == (400, b"") and "set-cookie" not in fields


@row(20)
def guessing_the_verify_token_neither_works_nor_locks_the_platform_out(scene: Scene) -> None:
    for number in range(300):
        assert scene.bot().get(f"/instagram/webhook?hub.mode=subscribe&hub.verify_token=guess{number}")[0] == 403
    assert shaken(scene.bot(), "&hub.challenge=42")[::2] == (200, b"42")


# JSON

@row(21)
def json_nested_without_end_is_kept_as_unreadable(scene: Scene) -> None:
    deep = 100_000
    taken(scene.bot(), "whatsapp", [b"[" * deep, b"[" * deep + b"]" * deep, b'{"a":' * deep + b"1" + b"}" * deep,
                                    b'{"object":"whatsapp_business_account","entry":' + b"[" * deep + b"]" * deep])


@row(22)
def numbers_too_large_for_anything_are_kept_as_unreadable(scene: Scene) -> None:
    bot = scene.bot()
    taken(bot, "telegram", [b'{"update_id":' + b"9" * 5000 + b"}"] + [
        update(bot, "1") | {"update_id": 2**power} for power in (63, 70, 200)])
    taken(bot, "whatsapp", [whatsapp(bot, {"from": 2**200, "id": 2**63, "type": "text", "text": {"body": "hi"}})])
    chat = scene.somebody()
    assert authentic(bot, "whatsapp", whatsapp(bot, {  # an id is only a name: a large number is none
        "from": chat, "id": 2**200, "timestamp": 2**200, "type": "text", "text": {"body": "large"}})) == 200
    assert bot.replies("whatsapp", chat) if chat in bot.world.people["whatsapp"].chats else outcomes(bot, chat)


@row(23)
def of_two_equal_keys_the_same_one_counts_for_all(scene: Scene) -> None:
    bot, chat = scene.bot(), scene.somebody()
    bot.world.telegram.chats[chat] = {"id": int(chat), "type": "private"}
    document = update(bot, chat, "twice")
    number, text = document["update_id"], json.dumps(document)
    doubled = text.replace(f'"update_id": {number}', f'"update_id": 1, "update_id": {number}')
    assert authentic(bot, "telegram", doubled) == authentic(bot, "telegram", text) == 200
    assert outcomes(bot, chat) == ["replied"]


@row(24)
def numbers_that_are_none_are_kept_as_unreadable(scene: Scene) -> None:
    taken(scene.bot(), "telegram", ['{"update_id": NaN}', '{"update_id": Infinity}', '{"update_id": -Infinity}',
                                    '{"update_id": 1e999}', '{"update_id": 5, "message": {"date": NaN}}'])


def wrote(bot: BotProcess, chat: str, text: str, **more: object) -> str:
    """Somebody's Telegram message with this raw JSON text; what was stored of it once it was answered."""
    bot.world.telegram.chats[chat] = {"id": int(chat), "type": "private"}
    body = json.dumps(update(bot, chat, "@text@", **more)).replace('"@text@"', text)
    assert authentic(bot, "telegram", body) == 200
    assert outcomes(bot, chat) == ["replied"] and bot.replies("telegram", chat)
    return str(bot.rows("SELECT text FROM inbound WHERE chat = ?", chat)[0][0])


@row(25)
def half_a_surrogate_becomes_a_replacement_character(scene: Scene) -> None:
    assert wrote(scene.bot(), scene.somebody(), r'"a\ud800b"') == "a\ufffdb"
    assert wrote(scene.bot(), scene.somebody(), r'"\ud83d\ude00"') == "\U0001f600"


@row(26)
def octets_that_are_no_utf8_are_kept_as_unreadable(scene: Scene) -> None:
    taken(scene.bot(), "telegram", [b'{"update_id": 5, "x": "' + wrong + b'"}' for wrong in (
        b"\xed\xa0\x80", b"\xff", b"\xc0\xaf", b"\xf5\x80\x80\x80", b"\xe2\x82")])


@row(27)
def only_utf8_is_read_and_its_mark_is_dropped(scene: Scene) -> None:
    bot, chat = scene.bot(), scene.somebody()
    bot.world.telegram.chats[chat] = {"id": int(chat), "type": "private"}
    text = json.dumps(update(bot, chat, "marked"))
    taken(bot, "telegram", [text.encode(code) for code in ("utf-16", "utf-16-le", "utf-32", "utf-32-be")])
    assert authentic(bot, "telegram", b"\xef\xbb\xbf" + text.encode()) == 200
    assert outcomes(bot, chat) == ["replied"]


@row(28)
def nul_reaches_neither_database_nor_model(scene: Scene) -> None:
    bot = scene.bot()
    assert wrote(bot, scene.somebody(), r'"a\u0000b"') == "a\ufffdb"
    wrote(bot, scene.somebody(), '"x"', **{"from": {"id": 5, "is_bot": False, "first_name": "A\0da"}})
    taken(bot, "whatsapp", [whatsapp(bot, {"from": "4915\0", "id": "a\0b", "type": "text", "text": {"body": "hi"}})])
    assert not any("\0" in text_of(message) for messages in bot.world.model.prompts for message in messages)
    assert not bot.rows("SELECT 1 FROM inbound WHERE instr(name || text || chat || event, char(0)) > 0")


@row(29)
def json_that_is_no_event_is_taken_and_asks_nothing(scene: Scene) -> None:
    for platform in PLATFORMS:
        taken(scene.bot(), platform, [b"", b"null", b"[]", b'"x"', b"0", b"true", b"{}", b" "], kept=None)


@row(30)
def what_follows_the_json_makes_it_none(scene: Scene) -> None:
    bot = scene.bot()
    text = json.dumps(update(bot, scene.somebody()))
    taken(bot, "telegram", [text + "x", text + text, text + ",", f"// hi\n{text}", text[:-1], f"{text}\n]"])


@row(31)
def a_million_of_anything_is_read_or_too_long(scene: Scene) -> None:
    bot = scene.bot()
    taken(bot, "whatsapp", [b"[" + b"0," * 1_000_000 + b"0]",
                            b'{"object":"whatsapp_business_account","entry":[' + b"{}," * 300_000 + b"{}]}"], kept=None)
    keys = ",".join(f'"{number:x}":1' for number in range(380_000))
    taken(bot, "telegram", [f'{{"update_id":5,{keys}}}'], kept=None)
    assert authentic(bot, "telegram", b" " * (4 << 20) + b"{}") == 413


# Types and kinds

@row(32)
def every_field_may_be_anything(scene: Scene) -> None:
    import random

    bot, dice = scene.bot(), random.Random(32)
    for platform in PLATFORMS:
        documents = [json.loads(bot.world.people[platform].text(scene.somebody(), "mutated").body) for _ in range(60)]
        made = (request(webhook(bot.world, platform, mutated(document, dice))) for document in documents)
        assert posted(bot.port, made) == {"200": 60}


@row(33)
def true_is_no_id(scene: Scene) -> None:
    bot = scene.bot()
    taken(bot, "telegram", [{"update_id": True, "message": {}}, {"update_id": next(NUMBERS), "message": {
        "chat": {"id": True}, "from": {"id": True}, "text": "hi"}}])
    taken(bot, "whatsapp", [whatsapp(bot, {"from": True, "id": True, "type": "text", "text": {"body": "hi"}})])
    taken(bot, "messenger", [{"object": "page", "entry": [{"id": True, "messaging": [{}]}]}])


@row(34)
def a_list_that_is_none_is_kept_as_unreadable(scene: Scene) -> None:
    bot, name = scene.bot(), "whatsapp_business_account"
    taken(bot, "whatsapp", [{"object": name}, {"object": name, "entry": {}}, {"object": name, "entry": "x"},
                            {"object": name, "entry": [{"id": "1", "changes": {"a": 1}}]}])
    for kind, platform in (("page", "messenger"), ("instagram", "instagram")):
        taken(bot, platform, [{"object": kind}, {"object": kind, "entry": {"id": "1"}},
                              {"object": kind, "entry": [{"id": "1", "messaging": {"a": 1}}]}])


@row(35)
def one_broken_message_of_a_thousand_costs_no_other(scene: Scene) -> None:
    bot, chat = scene.bot(), scene.somebody()
    bot.world.people["whatsapp"].chats[chat] = bot.world.now()
    batch: list[object] = [{"from": chat, "id": f"wamid.{chat}.{number}", "type": "text", "text": {"body": f"{number}"}}
                           for number in range(1000)]
    batch[500] = {"from": ["nobody"], "id": 7, "type": "text"}
    before = unreadable(bot)
    assert authentic(bot, "whatsapp", whatsapp(bot, *batch)) == 200
    assert len(outcomes(bot, chat)) == 999 and unreadable(bot) == before + 1


@row(36)
def events_of_another_kind_are_counted_and_nothing_else(scene: Scene) -> None:
    bot = scene.bot()
    before = counted(bot, "telegram", "ignored:poll")
    taken(bot, "telegram", [{"update_id": next(NUMBERS), "poll": {"id": "5"}}, {"update_id": next(NUMBERS), "new": {}},
                            {"update_id": next(NUMBERS), "my_chat_member": {"chat": {"id": -5}}}], kept=False)
    assert counted(bot, "telegram", "ignored:poll") == before + 1
    taken(bot, "whatsapp", [{"object": "whatsapp_business_account", "entry": [
        {"id": "1", "changes": [{"field": "payment_configuration_update", "value": {}}]}]}], kept=False)
    taken(bot, "messenger", [bot.world.people["messenger"].event(scene.somebody(), {"new_thing": {}}).body], kept=False)


@row(37)
def a_status_is_noted_at_its_message_and_answered_by_nobody(scene: Scene) -> None:
    bot, chat = scene.bot(), scene.somebody()
    bot.say("whatsapp", chat, "hello")
    bot.replies("whatsapp", chat)
    bot.until(lambda: bot.rows("SELECT 1 FROM part p JOIN conversation c ON c.id = p.conversation WHERE c.chat = ? AND "
                               "p.delivered_at > 0 AND p.read_at > 0", chat), 30, "the status is noted")
    assert len(bot.world.people["whatsapp"].texts(chat)) == 1


@row(38)
def what_nobody_can_read_gets_one_polite_sentence_or_nothing(scene: Scene) -> None:
    bot, people = scene.bot(), scene.bot().world.people["whatsapp"]
    asked = questions(bot)
    for kind, content, notice in (("sticker", {"id": "1"}, wording.NOTICES["sticker"]),
                                  ("contacts", [{"name": {}}], wording.UNREADABLE),
                                  ("order", {"catalog_id": "1"}, wording.UNREADABLE), ("system", {"body": "news"}, ""),
                                  ("reaction", {"emoji": "+"}, ""), ("a_new_kind", {"a": 1}, "")):
        chat = scene.somebody()
        assert send(bot, people.message(chat, kind, content)) == 200
        assert not notice or bot.replies("whatsapp", chat) == [notice]
        assert notice or not bot.rows("SELECT 1 FROM inbound WHERE chat = ?", chat)
    assert bot.world.model.count == asked


@row(39)
def an_edited_or_deleted_message_and_a_reaction_are_no_new_question(scene: Scene) -> None:
    bot = scene.bot()
    for platform in PLATFORMS:
        chat, people = scene.somebody(), bot.world.people[platform]
        first = bot.say(platform, chat, "first")
        bot.replies(platform, chat)
        asked = questions(bot)
        assert send(bot, platforms.edit(people, chat, first.id, "changed")) == 200
        if platform != "telegram":
            assert send(bot, platforms.unsend(people, chat, first.id)) == 200
        bot.settled()
        assert bot.world.model.count == asked and len(people.texts(chat)) == 1


@row(40)
def a_time_that_is_none_becomes_the_time_of_arrival(scene: Scene) -> None:
    bot, people = scene.bot(), scene.bot().world.people["whatsapp"]
    times: tuple[Any, ...] = (
        "0", "-1", "253402300799", "soon", "\u0661\u0662\u0663", 0, -1, 1e300, None, True, [], "")
    for time in times:
        chat = scene.somebody()
        assert send(bot, people.message(chat, "text", {"body": "when?"}, timestamp=time)) == 200
        assert outcomes(bot, chat) == ["replied"], time
    assert bot.rows("SELECT max(abs(sent_at - received_at)) < 1000 FROM inbound WHERE text = 'when?'") == [(1,)]


@row(41)
def a_message_that_shows_nothing_never_leads_to_an_empty_one(scene: Scene) -> None:
    bot = scene.bot()
    for platform in PLATFORMS:
        for text in (" ", "\n\t ", "\u200b\u200d\ufeff", "\u2800", "\U0001f600"):
            chat = scene.somebody()
            assert send(bot, bot.world.people[platform].text(chat, text)) == 200
            bot.settled()
            assert all(shown.strip() for shown in bot.world.people[platform].texts(chat))


@row(42)
def a_text_of_a_million_characters_is_stored_and_asked_only_in_part(scene: Scene) -> None:
    bot, chat = scene.bot(), scene.somebody()
    asked = prompt(bot, "telegram", chat, "million " + "m" * 1_000_000)
    assert len(text_of(asked[-1])) <= 12_001 and text_of(asked[-1]).endswith("…")
    assert bot.rows("SELECT length(CAST(text AS BLOB)) FROM inbound WHERE chat = ?", chat) == [(65_536,)]


@row(43)
def directions_and_piles_of_marks_do_not_leave_the_text(scene: Scene) -> None:
    zalgo, evil = "a" + "\u0301" * 500, "\u202egpj\u200b\u2066.exe\x1b[2J"
    assert wrote(scene.bot(), scene.somebody(), json.dumps(zalgo)) == "a" + "\u0301" * 8
    wrote(scene.bot(), chat := scene.somebody(), '"hi"', **{"from": {"id": 9, "is_bot": False, "first_name": evil}})
    assert scene.bot().rows("SELECT name FROM inbound WHERE chat = ?", chat) == [("gpj.exe[2J",)]
    assert clean_name(zalgo) == clean(zalgo) == "a" + "\u0301" * 8


@row(44)
def a_long_answer_is_split_at_safe_places_and_in_order(scene: Scene) -> None:
    bot = scene.bot()
    words = [f"word{number}\U0001f600" for number in range(1500)]
    bot.world.model.reply = lambda messages: " ".join(words)
    for platform in PLATFORMS:  # the fakes refuse what is too long for the platform
        chat = scene.somebody()
        bot.say(platform, chat, "tell me all")
        bot.until(lambda: outcomes(bot, chat) and b'"pending": 0' in bot.get("/healthz")[1], 20, "all parts")
        assert " ".join(bot.world.people[platform].texts(chat)).split() == words


@row(45)
def an_answer_that_is_none_becomes_one_sentence(scene: Scene) -> None:
    bot = scene.bot()
    refusal = {"choices": [{"message": {"role": "assistant", "content": None, "refusal": "no"},
                            "finish_reason": "stop"}]}
    for made, sentence in (("", wording.APOLOGY), (" \n\u200b", wording.APOLOGY), (refusal, wording.REFUSED)):
        bot.world.model.reply = lambda messages: made
        chat = scene.somebody()
        bot.say("messenger", chat, "hello")
        bot.settled()
        assert bot.replies("messenger", chat) == [sentence]


@row(46)
def markup_is_wellformed_and_plain_where_the_platform_refuses_it(scene: Scene) -> None:
    bot, wild = scene.bot(), "_*[x](y <b>bold</i> ```open & `a **b* > <script>"
    bot.world.model.reply = lambda messages: wild
    for platform in PLATFORMS:
        chat = scene.somebody()
        bot.say(platform, chat, "format")
        assert "script" in bot.replies(platform, chat)[0]
    chat = scene.somebody()
    bot.world.telegram.plan("400", body={"ok": False, "error_code": 400,
                                         "description": "Bad Request: can't parse entities: unclosed tag"})
    bot.say("telegram", chat, "format")
    bot.replies("telegram", chat)
    sent = [seen.json() for seen in bot.world.calls("telegram", "sendMessage") if str(seen.json()["chat_id"]) == chat]
    assert [each.get("parse_mode") for each in sent] == ["HTML", None]


# Loops and abuse

@row(47)
def nothing_that_bots_or_we_ourselves_wrote_is_answered(scene: Scene) -> None:
    bot, people = scene.bot(), scene.bot().world.people
    chat = scene.somebody()
    taken(bot, "telegram", [update(bot, chat, **{"from": {"id": 5, "is_bot": True, "first_name": "B"}}),
                            update(bot, chat, via_bot={"id": 6, "is_bot": True, "first_name": "B"})], kept=False)
    for platform in META[1:]:
        for echo in ({"is_echo": True}, {"is_echo": True, "app_id": 1}, {}):
            made = people[platform].event(chat, {"message": {"mid": f"m_{next(NUMBERS)}", "text": "hi", **echo}},
                                          ours=True)
            taken(bot, platform, [made.body], kept=False)
    bot.settled()
    assert not any(each.texts(chat) for each in people.values())


@row(48)
def two_bots_that_talk_to_each_other_fall_silent(scene: Scene) -> None:
    bot, chat = scene.bot(), scene.somebody()
    for number in range(1, 8):
        bot.say("telegram", chat, "Thank you!")
        if outcomes(bot, chat)[-1] != "replied":
            break
        bot.replies("telegram", chat, number)
    assert outcomes(bot, chat)[-1] == "ignored:bot_loop"


@row(49)
def a_group_is_answered_only_when_it_calls_us(scene: Scene) -> None:
    bot, asked = scene.bot(), questions(scene.bot())
    group, people = f"-100{scene.somebody()}", scene.bot().world.telegram
    for number in range(30):
        assert send(bot, people.message(group, text=f"chatter {number}")) == 200
    assert bot.world.model.count == asked and not people.texts(group)
    name = f"@{people.me['username']}"
    for number in range(25):  # and as often as anybody else
        assert send(bot, people.message(group, text=f"{name} question {number}", entities=[
            {"type": "mention", "offset": 0, "length": len(name)}])) == 200
    assert outcomes(bot, group).count("rate_limited") >= 5
    assert people.texts(group).count(wording.TOO_MANY) == 1


@row(50)
def five_hundred_messages_of_one_person_cost_a_few_answers_and_nobody_else_anything(scene: Scene) -> None:
    bot, chat, other = scene.bot(), scene.somebody(), scene.somebody()
    people, asked = bot.world.people["messenger"], questions(bot)
    flood = [request(people.text(chat, f"flood {number}")) for number in range(500)]
    assert posted(bot.port, iter(flood)) == {"200": 500}
    bot.say("messenger", other, "and me?")
    assert bot.replies("messenger", other)
    ended = outcomes(bot, chat)
    assert ended.count("rate_limited") >= 480 and len(ended) == 500
    assert people.texts(chat).count(wording.TOO_MANY) == 1 and bot.world.model.count - asked <= 21


@row(51)
def the_budget_of_all_together_holds_over_a_restart(scene: Scene) -> None:
    bot = scene.bot("poor")  # of 2,000 tokens, of which a call may take some 850
    for number in range(2):
        bot.say("instagram", chat := scene.somebody(), "hello")
        assert outcomes(bot, chat) == ["replied"]
    bot.rows("SELECT 1")
    long = "x" * 4000  # more than is left
    for life in range(2):
        chat, asked = scene.somebody(), questions(bot)
        for _ in range(3):
            bot.say("instagram", chat, long)
            bot.settled()
        assert {*outcomes(bot, chat)} == {"over_budget"} and bot.world.model.count == asked
        assert bot.world.people["instagram"].texts(chat) == [wording.OVER_BUDGET]
        bot.restart() if not life else None


@row(52)
def an_answer_is_bounded_in_tokens_and_in_time(scene: Scene) -> None:
    bot = scene.bot("bare")
    bot.world.people["messenger"].chats[ALLOWED] = bot.world.now()
    bot.world.model.hold()
    bot.say("messenger", ALLOWED, "Repeat for ever!")
    bot.until(lambda: bot.rows("SELECT 1 FROM conversation WHERE error = 'timeout'"), 30, "given up for now")
    bot.world.model.release()
    bot.replies("messenger", ALLOWED, timeout=15)
    assert {body.get("max_completion_tokens") or body["max_tokens"] for body in bot.world.model.bodies} == {800}


@row(53)
def a_picture_that_is_too_large_is_not_loaded_whole(scene: Scene) -> None:
    bot, chat = scene.bot(), scene.somebody()
    made = bot.world.people["messenger"].media(chat, PNG + bytes(21 << 20), "image/png", "What is it?")
    assert send(bot, made) == 200
    bot.replies("messenger", chat, timeout=20)
    asked = next(messages for messages in reversed(bot.world.model.prompts) if "What is it?" in text_of(messages[-1]))
    assert wording.NO_MEDIA in text_of(asked[-1]) and isinstance(asked[-1]["content"], str)


@row(54)
def a_stranger_is_ignored_before_the_model_is_asked(scene: Scene) -> None:
    bot, chat = scene.bot("bare"), scene.somebody()
    asked = questions(bot)
    bot.say("messenger", chat, "hello")
    assert outcomes(bot, chat) == ["ignored:not_allowed"]
    assert bot.world.model.count == asked and not bot.world.people["messenger"].texts(chat)
