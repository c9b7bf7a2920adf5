"""Finished exchanges reach the CRM and the spreadsheet: each once by its event_id, in order, and in nobody's way.

What takes days runs on a clock of its own, over a real store and real sockets (`Rig`); what concerns the process runs
the process.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import hmac
import io
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from minibot import records
from minibot.ai_offline import OfflineModel
from minibot.config import Settings
from minibot.desk.export import main
from minibot.desk.simulator import Answered, json_answer
from minibot.errors import Remedy, SendFailed, SettingsFault
from minibot.flow.commands import react
from minibot.flow.export import Destination, Exporter, destination, echo, judge
from minibot.flow.guard import Purse
from minibot.flow.kit import Kit
from minibot.model import Echo, Erase, Media, Rekey, Reply, Secret
from minibot.records import cell, leads, moment, signing_key
from minibot.store import ledger
from minibot.store.opening import open_reader
from minibot.web.calls import Caller
from minibot.work import Answer, Fate, Finish
from tests.botprocess import ROOT, BotProcess
from tests.fakes import SECRETS, FakeWorld, Seen
from tests.test_store import BACKENDS, DAY, HOUR, MINUTE, NOW, SECOND, Driven, backend

Start = Callable[..., BotProcess]


class Receiver:
    """A CRM or an Apps Script: takes everything, or answers as `refuse` wants, which sees the body."""

    def __init__(self, world: FakeWorld, prefix: str) -> None:
        self.world, self.url, self.asked = world, f"{world.url}{prefix}", list[Seen]()
        self.taken: list[Any] = []
        self.refuse: Callable[[Any], Answered | int | None] = lambda body: None
        world.pages[prefix] = self.answer

    def answer(self, seen: Seen) -> Answered:
        self.asked.append(seen)
        verdict = self.refuse(seen.json() if seen.body else {})
        if verdict is None:
            self.taken.append(seen.json())
            return json_answer(200, {"ok": True})
        return verdict if isinstance(verdict, Answered) else json_answer(verdict, {"error": "planned"})

    def fail(self, status: int) -> None:
        self.refuse = lambda body: status

    def heal(self) -> None:
        self.refuse = lambda body: None

    def messages(self) -> list[str]:
        return [body["message"] for body in self.taken]

    def ids(self) -> list[str]:
        return [body["event_id"] for body in self.taken]


class Rig(Driven):
    """A store and an exporter on a clock that is set by hand; waits are those of the schedule, without chance."""

    def __init__(self, make: Callable[..., Any], folder: Path, **addresses: str) -> None:
        settings = Settings(**{name: Secret(url) for name, url in addresses.items()}, retention_days=0)
        wanted = {name: getattr(settings, name) for name in addresses}
        super().__init__(lambda place, **more: make(place, **wanted | more), folder)
        self.now, self.kit_settings = NOW, settings
        self.caller = Caller(clock=time.monotonic)
        self.restart()

    def restart(self) -> None:
        """A new exporter on the same store, as after a new start of the process."""
        kit = Kit(self.kit_settings, self.store, {}, self.caller, OfflineModel(), lambda: self.now, lambda: 1.0,
                  Purse(self.kit_settings), {}, Counter())
        self.counts, self.exporter = kit.counts, Exporter(kit)

    def round(self) -> int:
        """One round at each destination; ms until the next."""
        waits = [self.loop.run_until_complete(self.exporter.round(to)) for to in self.exporter.destinations]
        return round(min(waits) * 1000)

    def run(self, span: int, step: int = 0) -> None:
        """Let time pass, at most `step` ms between two rounds where something waits."""
        end = self.now + span
        while self.now < end:
            self.now += max(self.round(), step)

    def drain(self) -> None:
        """Rounds without any time passing, until nothing is due."""
        while self.round() == 0:
            pass

    def say(self, text: str, chat: str = "anna", answer: str = "", **more: Any) -> None:
        """A question and its answer, sent."""
        self.exchange(text, answer or f"re: {text}", chat=chat, now=self.now, **more)

    def waiting(self) -> int:
        return sum(len(self.exports(name, self.now + 10 * DAY, 0, 99)) for name in ("crm", "sheets"))


@pytest.fixture
def crm(world: FakeWorld) -> Receiver:
    return Receiver(world, "/crm")


@pytest.fixture
def sheets(world: FakeWorld) -> Receiver:
    return Receiver(world, "/sheets")


@pytest.fixture(params=sorted(BACKENDS))
def rig(request: pytest.FixtureRequest, tmp_path: Path, crm: Receiver) -> Iterator[Rig]:
    made = Rig(backend(request, tmp_path), tmp_path, crm_webhook_url=crm.url)
    yield made
    made.caller.close()
    made.close(NOW)
    made.loop.close()


# --- what is posted, and when ---------------------------------------------------------------------------------------

def test_an_exchange_is_one_post_with_all_that_is_known(rig: Rig, crm: Receiver) -> None:
    rig.hear("Hello,", name="Anna B.", username="anna_b", phone="4915112345678", now=NOW)
    rig.hear("mail me: anna@example.org or +49 (0)151 2345678", name="Anna B.", username="anna_b",
             phone="4915112345678", now=NOW + 1)
    step = rig.step(NOW + 1)
    first, last = [item.id for item in step.waiting]
    step = rig.finish(step.conversation, Finish({first: "merged", last: "replied"}, ("part 1", "part 2"),
                                                Answer("part 1 part 2"), expires_at=NOW + DAY), NOW + 2000)
    rig.sent(rig.sent(step, NOW + 2100, "out-1"), NOW + 2345, "out-2")
    rig.drain()
    body, = crm.taken
    assert body.pop("event_id").startswith("minibot-")
    assert body == {
        "platform": "telegram", "conversation_id": "anna",
        "person": {"id": "anna", "name": "Anna B.", "username": "anna_b", "phone": "4915112345678"},
        "message": "Hello,\nmail me: anna@example.org or +49 (0)151 2345678", "reply": "part 1 part 2",
        "outcome": "replied", "received_at": moment(NOW), "replied_at": moment(NOW + 2345),
        "message_ids": ["in-1", "in-2"], "reply_ids": ["out-1", "out-2"],
        "lead": {"emails": ["anna@example.org"], "phones": ["+491512345678"]}}
    assert moment(NOW) == "2027-01-15T08:00:00.000Z" and moment(0) == ""
    rig.run(HOUR, MINUTE)
    assert len(crm.asked) == 1 and rig.waiting() == 0


def test_the_model_failing_is_an_exchange_and_a_command_is_none(rig: Rig, crm: Receiver) -> None:
    for text, outcome in (("/help", "command"), ("a video", "unsupported"), ("a question", "ai_failed:401")):
        rig.hear(text)
        step = rig.step()
        rig.sent(rig.finish(step.conversation, Finish({step.waiting[0].id: outcome}, ("sorry",)), NOW))
    rig.drain()
    assert [(body["message"], body["reply"], body["outcome"]) for body in crm.taken] == [
        ("a question", "", "ai_failed:401")]


def test_it_waits_until_the_answer_has_met_its_fate(rig: Rig, crm: Receiver) -> None:
    rig.hear("hello")
    step = rig.reply(rig.step(), "hi", expires_at=NOW + HOUR)
    rig.run(MINUTE)
    assert crm.taken == []
    rig.settle(step.conversation, step.part.id, Fate("dead", error="403", outcome="send_failed:403"), rig.now)
    rig.drain()
    assert [(body["outcome"], body["replied_at"]) for body in crm.taken] == [("send_failed:403", "")]


def test_it_waits_no_longer_than_the_window(rig: Rig, crm: Receiver) -> None:
    rig.hear("hello")
    rig.reply(rig.step(), "hi", expires_at=NOW + HOUR)
    rig.run(HOUR - MINUTE, MINUTE)
    assert crm.taken == []
    rig.run(2 * MINUTE, MINUTE)
    assert crm.messages() == ["hello"]


def test_without_an_address_nothing_is_stored(tmp_path: Path) -> None:
    rig = Rig(BACKENDS["sqlite"], tmp_path)
    rig.say("hello")
    rig.close(NOW)
    rig.loop.close()
    with closing(open_reader(rig.known)) as reader:
        assert reader.execute("SELECT COUNT(*) FROM export").fetchone() == (0,)


def test_a_picture_and_an_unsent_text_leave_no_more_than_a_note(rig: Rig, crm: Receiver) -> None:
    crm.fail(503)
    rig.say("look", media=(Media("image", "file-1"),))
    rig.say("a secret that I take back", chat="bert")
    rig.take(Erase("telegram", "1", "bert", "in-2"))
    crm.heal()
    rig.run(MINUTE, SECOND)
    assert sorted(crm.messages()) == ["", "[image]\nlook"]


def test_privacy_tells_of_the_copies_where_there_are_any() -> None:
    def told(settings: Settings) -> str:
        return react("privacy", 1, settings, NOW)[0]

    assert "copied to their records" in told(Settings(sheets_webhook_url=Secret("https://sheet.example/")))
    assert "copied" not in told(Settings())


def test_the_readme_describes_each_field_and_the_script_fits_the_sheet(rig: Rig, crm: Receiver) -> None:
    rig.say("hello")
    export, = rig.exports("crm", NOW, 0, 1)
    text = (ROOT / "README.md").read_text("utf-8")
    rows = re.findall(r"^\| (`.*`) \| (`\w+`|) ?\| [^|]+ \|$", text, re.MULTILINE)
    body = records.crm(export)
    fields = {f"{name}.{part}" for name in body for part in body[name] if isinstance(body[name], dict)}
    fields |= {name for name in body if not isinstance(body[name], dict)}
    assert {name.strip("`") for first, _ in rows for name in first.split(", ")} >= fields
    columns = [column.strip("`") for _, column in rows if column.strip("`") in records.row(export)]
    script = text.split("```js\n")[1].split("   ```")[0].splitlines()
    assert len(script) == 12 and f"1, 1, {len(columns)})" in text and columns == list(records.row(export))


# --- an address that does not take them -----------------------------------------------------------------------------

def test_tries_follow_the_schedule_that_is_promised(rig: Rig, crm: Receiver) -> None:
    crm.fail(500)
    rig.say("hello")
    times: list[int] = []
    while len(times) < 10:
        before = len(crm.asked)
        rig.run(1, SECOND)
        times += [rig.now] * (len(crm.asked) - before)
        if rig.exporter.destinations[0].breaker.failures >= 3:
            rig.now += MINUTE  # hours need not be looked at second by second
    gaps = [(later - earlier) / 1000 for earlier, later in zip(times, times[1:])]
    promised = [5, 30, 300, 1800, 7200, 18000, 36000, 50400, 72000]
    assert all(wait <= gap <= wait + 130 for wait, gap in zip(promised, gaps)), gaps
    assert rig.now - NOW <= 4 * DAY


@pytest.mark.parametrize("news", [True, False])
def test_a_day_of_outage_loses_nothing_and_costs_few_calls(rig: Rig, crm: Receiver, news: bool) -> None:
    crm.fail(503)
    for hour in range(24):
        rig.say(f"question {hour}", chat=f"chat {hour % 5}")
        rig.run(HOUR, MINUTE)
    assert crm.taken == [] and len(crm.asked) < 400
    crm.heal()
    if news:
        rig.say("hello again", chat="another chat")
        rig.run(2 * MINUTE, SECOND)  # nobody waits out the hours once it takes one
    else:
        rig.run(20 * HOUR, MINUTE)
    assert sorted(crm.messages()) == sorted([f"question {hour}" for hour in range(24)] + ["hello again"] * news)
    for chat in range(5):
        mine = [body["message"] for body in crm.taken if body["conversation_id"] == f"chat {chat}"]
        assert mine == [f"question {hour}" for hour in range(chat, 24, 5)]
    assert len(crm.ids()) == len(set(crm.ids())) and rig.waiting() == 0


def test_one_that_is_not_taken_holds_up_its_own_conversation_only(rig: Rig, crm: Receiver) -> None:
    crm.refuse = lambda body: 500 if body["message"] == "poison" else None
    for text, chat in (("before", "anna"), ("poison", "anna"), ("after", "anna"), ("hello", "bert"), ("you", "bert")):
        rig.say(text, chat)
    rig.run(20 * SECOND, SECOND)
    assert sorted(crm.messages()) == ["before", "hello", "you"]
    crm.heal()
    rig.run(MINUTE, SECOND)
    assert crm.messages()[-2:] == ["poison", "after"]


@pytest.mark.parametrize("status", [400, 404, 410])
def test_a_refusal_is_believed_after_five_tries_and_shown_and_can_be_retried(rig: Rig, crm: Receiver, status: int
                                                                             ) -> None:
    crm.refuse = lambda body: status if body["message"] == "refused" else None
    rig.say("refused")
    rig.say("after")
    rig.run(2 * HOUR, 20 * SECOND)
    assert crm.messages() == ["after"]
    assert sum(seen.json()["message"] == "refused" for seen in crm.asked) == 5
    with closing(open_reader(rig.known)) as reader:
        hop, = ledger.dead(reader)
        assert [each for each in ledger.why(reader, "anna") if each.row == "export"] == [hop]
    assert (hop.row, hop.person, hop.state, hop.tries, hop.chat) == ("export", "crm", "parked", 5, "anna")
    assert hop.error.startswith(str(status))
    crm.heal()
    assert rig.retry([hop.id], False, rig.now) == 1
    assert rig.retry([hop.id], False, rig.now) == 0
    rig.drain()
    assert crm.messages() == ["after", "refused"]


def test_retry_without_ids_takes_the_parked_exports_too(rig: Rig, crm: Receiver) -> None:
    crm.fail(404)
    rig.say("hello")
    rig.run(2 * HOUR, 20 * SECOND)
    assert crm.taken == []
    crm.heal()
    assert rig.retry([], False, rig.now) == 1
    rig.drain()
    assert crm.messages() == ["hello"]


def test_after_all_tries_it_is_parked_whatever_the_reason(rig: Rig, crm: Receiver) -> None:
    crm.fail(500)
    rig.say("hello")
    rig.run(4 * DAY, 5 * MINUTE)
    assert len(crm.asked) == 11 and rig.waiting() == 0 and rig.counts["crm", "parked"] == 1


@pytest.mark.parametrize("status", [408, 425, 429, 500, 302])
def test_what_may_pass_is_not_taken_for_a_refusal(rig: Rig, crm: Receiver, status: int) -> None:
    crm.fail(status)
    rig.say("hello")
    rig.run(HOUR, 2 * MINUTE)  # more than five tries
    assert len(crm.asked) >= 5
    crm.heal()
    rig.run(3 * HOUR, 2 * MINUTE)
    assert crm.messages() == ["hello"]


def test_a_pause_that_the_crm_asks_for_is_kept(rig: Rig, crm: Receiver) -> None:
    crm.refuse = lambda body: json_answer(429, {}, {"retry-after": "600"})
    rig.say("hello")
    rig.round()
    crm.heal()
    rig.say("you", chat="bert")
    rig.run(599 * SECOND, SECOND)
    assert crm.taken == []
    rig.run(70 * SECOND, SECOND)
    assert sorted(crm.messages()) == ["hello", "you"]


def test_a_new_start_tries_at_once_for_the_address_may_have_been_mended(rig: Rig, crm: Receiver) -> None:
    crm.fail(500)
    rig.say("hello")
    rig.run(HOUR, MINUTE)
    crm.heal()
    rig.reopen()
    rig.restart()
    rig.drain()
    assert crm.messages() == ["hello"]


def test_one_destination_does_not_wait_for_the_other(tmp_path: Path, crm: Receiver, sheets: Receiver) -> None:
    rig = Rig(BACKENDS["sqlite"], tmp_path, crm_webhook_url=crm.url, sheets_webhook_url=sheets.url)
    crm.fail(500)
    rig.say("hello")
    rig.run(20 * SECOND, SECOND)
    assert (crm.messages(), sheets.messages()) == ([], ["hello"])
    crm.heal()
    rig.run(MINUTE, SECOND)
    assert crm.ids() == sheets.ids()
    rig.caller.close()
    rig.close(NOW)
    rig.loop.close()


# --- erased, moved, old -----------------------------------------------------------------------------------------------

def test_forget_takes_back_what_has_not_left_yet(rig: Rig, crm: Receiver) -> None:
    crm.fail(503)
    rig.say("forget me")
    rig.say("keep me", chat="bert")
    rig.run(2 * SECOND, SECOND)
    rig.forget("anna")
    rig.say("and me", chat="dora")
    rig.hear("/forget", chat="dora", now=rig.now)
    step = rig.step(rig.now)
    rig.finish(step.conversation, Finish({step.waiting[0].id: "command"}, ("done",), forget="everything"), rig.now)
    with closing(open_reader(rig.known)) as reader:
        assert reader.execute("SELECT COUNT(*) FROM export").fetchone() == (1,)
    crm.heal()
    rig.run(MINUTE, SECOND)
    assert crm.messages() == ["keep me"]


def test_a_message_that_was_retried_goes_with_its_new_answer_only(rig: Rig, crm: Receiver) -> None:
    rig.hear("hello")
    step = rig.step()
    rig.sent(rig.finish(step.conversation, Finish({step.waiting[0].id: "ai_failed:401"}, ("sorry",)), NOW))
    assert rig.retry([], False, NOW) == 1
    step = rig.reply(rig.step(), "hi there")
    rig.sent(step)
    rig.run(3 * SECOND)
    assert [(body["reply"], body["outcome"]) for body in crm.taken] == [("hi there", "replied")]


def test_two_conversations_that_become_one_keep_their_exports(rig: Rig, crm: Receiver) -> None:
    rig.say("one", chat="old")
    rig.say("two", chat="new")
    rig.take(Rekey("telegram", "1", "old", "new"))
    rig.drain()
    assert [(body["message"], body["conversation_id"]) for body in crm.taken] == [("one", "new"), ("two", "new")]


# --- the shapes -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"])
def test_no_cell_begins_a_formula(start: str) -> None:
    assert cell(f"{start}1+1") == f"'{start}1+1"


@pytest.mark.parametrize("text", ["", "1+1", "a=b", "'=1", " =1"])
def test_other_cells_are_left_as_they_are(text: str) -> None:
    assert cell(text) == text


LEADS: dict[str, list[str]] = {
    "call 0151/23456789 or +49 151 2345 6789": ["015123456789", "+4915123456789"],
    "06-12-34-56-78": ["0612345678"], "(415) 555-2671, 415-555-2671": ["4155552671"],
    "+1 (415) 555-2671 ext 3": ["+14155552671"], "00 44 20 7946 0958": ["00442079460958"],
    "on 01.02.2026 15 Uhr, 2026-11-22 10:30": [], "order 12345678901 costs 1.234.567,00": [],
    "IBAN DE89 3704 0044 0532 0130 00": [], "ip 192.168.0.1": [], "me@x, @anna, a@b.c": [],
    "Anna.B+x@mail.example.co.uk!": ["Anna.B+x@mail.example.co.uk"], "<a@b.de>; a@b.de": ["a@b.de"],
}


@pytest.mark.parametrize("text", LEADS)
def test_leads_are_found_by_plain_rules(text: str) -> None:
    found = leads(text)
    assert found["emails"] + found["phones"] == LEADS[text]


def test_leads_are_found_in_good_time_in_a_hostile_text() -> None:
    before = time.process_time()
    for text in ("1 " * 50_000, "+1" + "(0)" * 50_000, "a.b-" * 50_000, "a@" + "b." * 50_000, "0" * 100_000):
        leads(text)
    assert time.process_time() - before < 5


def test_a_secret_is_signed_with_as_it_is_or_as_base64() -> None:
    assert signing_key("plain word") == b"plain word"
    assert signing_key("whsec_" + base64.b64encode(b"\x00\xffkey").decode()) == b"\x00\xffkey"
    assert signing_key("whsec_AP8") == b"\x00\xff"
    with pytest.raises(SettingsFault, match="EXPORT_SECRET"):
        signing_key("whsec_!!")


EXEC = "https://script.google.com/macros/s/AKfy/exec"
ANSWERS = "https://script.googleusercontent.com/macros/echo?user_content_key=k"


@pytest.mark.parametrize(("status", "location", "followed"), [
    (302, ANSWERS, ANSWERS), (303, ANSWERS, ANSWERS), (302, "/elsewhere", "https://script.google.com/elsewhere"),
    (302, "http://script.googleusercontent.com/x", ""), (302, "https://script.googleusercontent.com.evil.example/", ""),
    (302, "https://script.googleusercontent.com@evil.example/", ""), (302, "//evil.example/", ""), (200, ANSWERS, ""),
    (302, "https://accounts.google.com/ServiceLogin", ""), (307, ANSWERS, ""), (302, "file:///etc/passwd", ""),
    (302, "https://script.google.com:444/", ""), (302, "https://[bad", "")])
def test_only_apps_scripts_own_answers_are_fetched(status: int, location: str, followed: str) -> None:
    assert echo(EXEC, Reply(status, {"location": location}, b"")) == followed


@pytest.mark.parametrize(("status", "body", "remedy"), [
    (200, b'{"ok": true}', None), (200, b'{"ok": true, "row": 7}', None), (200, b'{"ok": 1}', Remedy.RETRY),
    (200, b"<html>Error</html>", Remedy.RETRY), (200, b"[]", Remedy.RETRY), (200, b"[" * 100_000, Remedy.RETRY),
    (404, b"", Remedy.REFUSED), (302, b"", Remedy.RETRY)])
def test_a_script_has_it_only_when_it_says_so(status: int, body: bytes, remedy: Remedy | None) -> None:
    if remedy is None:
        judge(Reply(status, {}, body), confirmed=True)
        return
    with pytest.raises(SendFailed) as refused:
        judge(Reply(status, {}, body), confirmed=True)
    assert refused.value.remedy is remedy


def named(url: str, **more: Any) -> Destination:
    return destination("crm", Settings(crm_webhook_url=Secret(url), **more))


def test_user_and_password_move_from_the_address_to_a_field() -> None:
    to = named("https://ann%40x:p%3Aw@crm.example:8443/in?key=1")
    assert to.url == "https://crm.example:8443/in?key=1"
    assert to.fields == {"Authorization": "Basic " + base64.b64encode(b"ann@x:p:w").decode()}
    assert named("https://token@crm.example/").fields == {
        "Authorization": "Basic " + base64.b64encode(b"token:").decode()}
    assert "crm.example" not in repr(to) and "Basic" not in repr(to)


def test_plain_http_to_another_machine_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    named("http://127.0.0.1:9/"), named("https://crm.example/")
    assert caplog.text == ""
    named("http://u:secret@crm.example/hook")
    assert "CRM_WEBHOOK_URL" in caplog.text and "secret" not in caplog.text and "hook" not in caplog.text


# --- the process ------------------------------------------------------------------------------------------------------

def test_every_exchange_arrives_once_and_in_order_through_refusals_and_kill_9(start_bot: Start, crm: Receiver) -> None:
    crm.fail(503)
    bot = start_bot(CRM_WEBHOOK_URL=crm.url)
    for number in range(4):
        for chat in range(101, 106):
            bot.say("telegram", str(chat), f"question {number}")
        for chat in range(101, 106):
            bot.replies("telegram", str(chat), number + 1)
    bot.until(lambda: len(crm.asked) >= 3, 30, "the CRM has refused some")
    bot.kill()
    crm.refuse = lambda body: Answered(200, {}, b"", trouble="hang")  # it has them, but the bot dies before it knows
    before = len(crm.asked)
    bot.start()
    bot.until(lambda: len(crm.asked) > before, 30, "a post is on its way")
    bot.kill()
    crm.heal()
    bot.start()
    bot.until(lambda: len(set(crm.ids())) == 20, 15, "all have arrived")
    bot.until(lambda: bot.rows("SELECT COUNT(*) FROM export") == [(0,)], 30, "nothing waits any more")
    assert len(crm.ids()) == 20
    for chat in range(101, 106):
        mine = [body["message"] for body in crm.taken if body["conversation_id"] == str(chat)]
        assert mine == [f"question {number}" for number in range(4)]


def test_a_destination_that_hangs_delays_neither_answers_nor_the_other(start_bot: Start, crm: Receiver, sheets: Receiver
                                                                       ) -> None:
    crm.refuse = lambda body: Answered(200, {}, b"", trouble="hang")
    bot = start_bot(CRM_WEBHOOK_URL=crm.url, SHEETS_WEBHOOK_URL=sheets.url)
    bot.say("telegram", "77", "first")
    bot.until(lambda: crm.asked, 30, "the CRM hangs")
    for chat in range(101, 131):
        bot.say("telegram", str(chat), "hello")
    for chat in range(101, 131):
        bot.replies("telegram", str(chat))
    bot.until(lambda: len(set(sheets.ids())) == 31, 30, "the spreadsheet has them all")
    assert len(crm.asked) <= 2  # still hanging, and nothing piles up behind


def test_the_crm_is_signed_and_the_sheet_gets_text_by_apps_scripts_detour(start_bot: Start, crm: Receiver,
                                                                          sheets: Receiver) -> None:
    rows: list[Any] = []

    def script(body: Any) -> Answered:
        if not body:
            return json_answer(200, {"ok": True})  # the GET that fetches the answer
        rows.append(body)
        return Answered(302, {"location": f"{sheets.url}/echo?key=1"}, b"")

    sheets.refuse = script
    address = crm.url.replace("://", "://user:pass%20word@") + "?token=hidden"
    bot = start_bot(CRM_WEBHOOK_URL=address, SHEETS_WEBHOOK_URL=sheets.url, LOG_LEVEL="debug")
    bot.say("telegram", "101", '=IMPORTXML("http://evil.example/")')
    bot.until(lambda: crm.taken and len(sheets.asked) == 2, 30, "both have it")
    seen = crm.asked[0]
    assert seen.headers["authorization"] == "Basic " + base64.b64encode(b"user:pass word").decode()
    assert seen.headers["idempotency-key"] == seen.headers["webhook-id"] == crm.taken[0]["event_id"]
    signing = f"{seen.headers['webhook-id']}.{seen.headers['webhook-timestamp']}.".encode() + seen.body
    digest = hmac.new(SECRETS["EXPORT_SECRET"].encode(), signing, hashlib.sha256).digest()
    assert seen.headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()
    assert abs(int(seen.headers["webhook-timestamp"]) - time.time()) < 60
    row, = rows
    assert row["message"] == '\'=IMPORTXML("http://evil.example/")'
    assert list(row) == ["event_id", "received_at", "platform", "conversation_id", "person_id", "name", "username",
                         "phone", "message", "reply", "outcome", "replied_at", "message_ids", "reply_ids"]
    assert all(isinstance(text, str) for text in row.values()) and row["conversation_id"] == "101"
    posted, fetched = sheets.asked
    assert (posted.method, fetched.method, fetched.body) == ("POST", "GET", b"")
    assert not any(name.startswith("webhook-") for name in (*posted.headers, *fetched.headers))
    bot.until(lambda: bot.rows("SELECT COUNT(*) FROM export") == [(0,)], 30, "nothing waits any more")
    assert "hidden" not in bot.log and "pass%20word" not in bot.log and "Traceback" not in bot.log


def test_a_redirect_to_another_host_is_not_followed_and_pasted_tokens_are_masked(start_bot: Start, crm: Receiver
                                                                                 ) -> None:
    crm.refuse = lambda body: Answered(302, {}, b"", trouble="redirect")  # to another host name
    bot = start_bot(CRM_WEBHOOK_URL=crm.url)
    bot.say("telegram", "101", "my token is 7123456780:AAzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz and sk-abcdefghijklmnopqrst")
    bot.until(lambda: "it redirects elsewhere" in bot.log, 30, "the log says what is wrong")
    assert bot.world.calls("elsewhere") == []
    body = crm.asked[0].json()
    assert body["message"] == "my token is [secret] and [secret]" and "AAzzz" not in body["reply"]


@pytest.mark.parametrize("secret", ["whsec_" + base64.b64encode(b"a key of bytes \x00\xff").decode(), "a-plain-word"])
def test_the_signature_verifies_with_the_library_of_standard_webhooks(crm: Receiver, secret: str, tmp_path: Path
                                                                      ) -> None:
    library = pytest.importorskip("standardwebhooks", reason="standardwebhooks is not installed")
    rig = Rig(BACKENDS["sqlite"], tmp_path, crm_webhook_url=crm.url, export_secret=secret)
    rig.now = time.time_ns() // 1_000_000
    rig.say("grüße 🙂")
    rig.drain()
    verifier = library.Webhook(secret if secret.startswith("whsec_") else secret.encode())
    assert verifier.verify(crm.asked[0].body, dict(crm.asked[0].headers))["message"] == "grüße 🙂"
    with pytest.raises(library.WebhookVerificationError):
        verifier.verify(crm.asked[0].body + b" ", dict(crm.asked[0].headers))
    rig.caller.close()
    rig.close(NOW)
    rig.loop.close()


def test_a_broken_export_secret_is_told_in_one_line(tmp_path: Path, world: FakeWorld) -> None:
    given = {**world.settings(), "CRM_WEBHOOK_URL": world.url, "EXPORT_SECRET": "whsec_***", "PORT": "0"}
    done = subprocess.run([sys.executable, str(ROOT / "run.py")], cwd=tmp_path, env=given, timeout=30,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("EXPORT_SECRET: ") and done.stderr.count("\n") == 1


# --- python run.py export ---------------------------------------------------------------------------------------------

@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Path]:
    rig = Rig(BACKENDS["sqlite"], tmp_path)
    rig.say('=HYPERLINK("http://evil.example")', phone="4915112345678", name="Größe; Anna")
    rig.now += DAY
    rig.say("token sk-abcdefghijklmnopqrst\nsecond line", chat="12345678901234567")
    rig.take(Echo("telegram", "1", "anna", "mid-h", "a person answers", at=rig.now), now=rig.now)
    rig.close(NOW)
    rig.loop.close()
    yield tmp_path


def export(folder: Path, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    given = {"DATABASE_URL": "sqlite:///minibot.db", "PATH": os.environ["PATH"]}
    return subprocess.run([sys.executable, str(ROOT / "run.py"), "export", *arguments], cwd=folder, env=given,
                          timeout=30, stdin=subprocess.DEVNULL, encoding="utf-8",
                          **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more})


def test_export_writes_every_message_as_json(archive: Path) -> None:
    done = export(archive, "--json", "out.json")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "export: 3 messages in out.json\n")
    first, second, third = json.loads((archive / "out.json").read_text("utf-8"))
    assert (first["message"], first["reply"]) == ('=HYPERLINK("http://evil.example")',
                                                  're: =HYPERLINK("http://evil.example")')
    assert (first["name"], first["outcome"], first["received_at"]) == ("Größe; Anna", "replied", moment(NOW))
    assert (second["message"], second["conversation_id"]) == ("token [secret]\nsecond line", "12345678901234567")
    assert (third["message"], third["reply"], third["outcome"]) == ("", "a person answers", "human")
    assert not list(archive.glob("*.part"))
    if os.name == "posix":
        assert (archive / "out.json").stat().st_mode & 0o777 == 0o600


def test_export_writes_a_table_without_formulas(archive: Path) -> None:
    assert export(archive, "--csv=out.csv").returncode == 0
    text = (archive / "out.csv").read_text("utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert rows[0]["message"] == '\'=HYPERLINK("http://evil.example")' and rows[0]["name"] == "Größe; Anna"
    assert rows[1]["message"] == "token [secret]\nsecond line" and len(rows) == 3
    assert text.splitlines()[0].startswith('"id","received_at","platform"')


def test_export_chooses_by_day_and_platform_and_prints_without_a_file(archive: Path) -> None:
    assert [row["message"][:5] for row in json.loads(export(archive, "--since", "2027-01-16").stdout)] == ["token", ""]
    assert json.loads(export(archive, "--platform", "whatsapp").stdout) == []
    assert len(json.loads(export(archive, "--platform=telegram").stdout)) == 3


@pytest.mark.parametrize("wrong", [["--since", "soon"], ["--platform", "icq"], ["--json"], ["out.json"], ["--csv", ""],
                                   ["--json", "a", "--csv", "b"], ["--frm", "x"]])
def test_wrong_arguments_of_export_are_told_in_one_line(capsys: pytest.CaptureFixture[str], wrong: list[str]) -> None:
    assert main(wrong, Settings) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "--" in told


def test_what_cannot_be_written_or_read_is_told_in_one_line(archive: Path, tmp_path_factory: pytest.TempPathFactory
                                                            ) -> None:
    for done in (export(archive, "--json", "no/such/folder.json"), export(tmp_path_factory.mktemp("empty"))):
        assert done.returncode not in (0, 2) and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
def test_export_shows_how_far_it_is_to_who_looks_on(archive: Path) -> None:
    seen, terminal = os.openpty()
    done = export(archive, "--json", "out.json", stderr=terminal)
    os.close(terminal)
    told = os.read(seen, 4096).decode()
    os.close(seen)
    assert done.returncode == 0 and "\rexport: 1 messages, up to 2027-01-15" in told
