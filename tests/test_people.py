"""What people do on the four platforms, end to end: pictures, voices, groups, quotes, takeovers, regrets.

One bot serves all tests of this file; each test has people of its own. The far ends are fakes, everything else is real.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from minibot.desk.simulator import Webhook
from minibot.flow import wording
from minibot.store import ledger
from tests.botprocess import BotProcess
from tests.fakes import FakeWorld, text_of
from tests.platforms import unsend
from tests.replay import AS_DATA_URL, OGG, PNG, all_called

META = ("whatsapp", "messenger", "instagram")
PAGES = ("messenger", "instagram")
FIRST = {"telegram": 8_150_000_000, "whatsapp": 4_915_900_000_000, "messenger": 25_400_000_000,
         "instagram": 55_500_000_000}
_number = count(1)


class Town:
    """A bot that knows its name, and what the tests ask about it again and again."""

    def __init__(self, bot: BotProcess) -> None:
        self.bot, self.world = bot, bot.world

    def someone(self, platform: str) -> str:
        """A chat that nobody else has."""
        return str(FIRST[platform] + next(_number))

    def group(self, far: str = "-100") -> str:
        """A group that nobody else has."""
        return f"{far}{7_000_000_000 + next(_number)}"

    def post(self, webhook: Webhook) -> None:
        """Deliver something; it must be taken."""
        assert self.bot.post(webhook) == 200

    def ask(self, platform: str, chat: str, text: str, **more: Any) -> str:
        """Ask, and wait for the answer that names the question."""
        self.bot.say(platform, chat, text, **more)
        return self.answer(platform, chat, text)

    def answer(self, platform: str, chat: str, text: str) -> str:
        """The answer to `text`, as soon as it has arrived."""
        def found() -> str:
            return next((shown for shown in self.texts(platform, chat) if text in shown), "")
        return str(self.bot.until(found, 10, f"an answer to {text!r}"))

    def texts(self, platform: str, chat: str) -> list[str]:
        """What a chat was sent."""
        found: list[str] = self.world.people[platform].texts(chat)
        return found

    def prompt(self, text: str) -> list[dict[str, Any]]:
        """The prompt whose last message contains `text`, once the model has got it."""
        def found() -> list[dict[str, Any]]:
            return next((prompt for prompt in self.world.model.prompts[::-1] if text in text_of(prompt[-1])), [])
        return list(self.bot.until(found, 10, f"a prompt about {text!r}"))

    def outcomes(self, chat: str) -> list[str]:
        """How the messages of a chat ended, in order."""
        return [row[0] for row in self.bot.rows("SELECT outcome FROM inbound WHERE chat = ? ORDER BY id", chat)]

    def paused(self, chat: str) -> bool:
        """Whether the bot keeps quiet in a chat."""
        return bool(self.bot.rows("SELECT 1 FROM conversation WHERE chat = ? AND paused_until > 0", chat))

    def sent(self, chat: str) -> list[tuple[Any, ...]]:
        """(state, message id, error, plain) of each part for a chat, in order."""
        return self.bot.rows("SELECT p.state, p.message_id, p.error, p.plain FROM part p JOIN conversation c ON "
                             "c.id = p.conversation WHERE c.chat = ? ORDER BY p.turn, p.place", chat)


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """One bot for the whole file."""
    world = FakeWorld()
    world.drip_every = 0.01
    bot = BotProcess(world, tmp_path_factory.mktemp("people"))
    try:
        bot.until(lambda: world.calls("telegram", "getMe"), what="the bot asks for its name")
        yield Town(bot)
    finally:
        bot.close()
        world.close()


@pytest.fixture(autouse=True)
def answering(town: Town) -> Iterator[None]:
    """Whatever a test did to the model is undone."""
    yield
    town.world.model.release()
    town.world.model.reply = town.world.model.echo
    town.world.model.hear = lambda data: f"spoken words, {len(data)} bytes"
    town.world.reports = True


@pytest.fixture
def chat(town: Town, platform: str) -> str:
    """Somebody on `platform`."""
    return town.someone(platform)


# Pictures and voices

def test_a_picture_is_seen_once_and_remembered_as_a_note(town: Town, platform: str, chat: str) -> None:
    people, question = town.world.people[platform], f"What is on it, {chat}?"
    town.post(people.media(chat, PNG, "image/png", question))
    last = town.prompt(question)[-1]
    assert [part["image_url"]["url"] for part in last["content"] if part["type"] == "image_url"] == [AS_DATA_URL]
    town.answer(platform, chat, question)
    town.ask(platform, chat, f"And its colour, {chat}?")
    history = json.dumps(town.prompt(f"And its colour, {chat}?"))
    assert f"[image]\\n{question}" in history and "base64" not in history
    assert town.outcomes(chat) == ["replied", "replied"]


def test_a_voice_note_is_heard_once_and_remembered_as_its_words(town: Town, platform: str, chat: str) -> None:
    spoken = f"spoken words, {len(OGG) + int(chat) % 1000} bytes"
    town.post(town.world.people[platform].media(chat, OGG + bytes(int(chat) % 1000), "audio/ogg"))
    assert text_of(town.prompt(spoken)[-1]) == spoken
    town.answer(platform, chat, spoken)
    town.ask(platform, chat, f"What did I say, {chat}?")
    assert [text_of(said) for said in town.prompt(f"What did I say, {chat}?")[1:-1:2]] == [spoken]
    assert town.bot.rows("SELECT text FROM inbound WHERE chat = ? ORDER BY id LIMIT 1", chat) == [(spoken,)]


def test_only_the_platforms_own_token_goes_along_with_a_download(town: Town, platform: str, chat: str) -> None:
    """Every request is watched for secrets of somebody else; here it is looked at which were fetched."""
    town.post(town.world.people[platform].media(chat, PNG, "image/png", f"picture of {chat}"))
    town.answer(platform, chat, f"picture of {chat}")
    fetched = [seen for seen in town.world.calls() if seen.method == "GET" and (
        "/file/" in seen.path or "attachments" in seen.path or "cdn" in seen.path)]
    assert fetched and all(seen.headers.get("user-agent") for seen in fetched)
    assert not [seen for seen in fetched if "authorization" in seen.headers and "whatsapp" not in seen.path]
    assert town.world.leaks == []


@pytest.mark.parametrize("name", PAGES)
def test_a_picture_on_a_foreign_host_is_not_fetched_and_the_question_answered_honestly(town: Town, name: str) -> None:
    chat = town.someone(name)
    elsewhere = town.world.url.replace("127.0.0.1", "localhost") + "/elsewhere.png"
    town.post(town.world.people[name].message(chat, {"text": f"See this, {chat}?", "attachments": [
        {"type": "image", "payload": {"url": elsewhere}}]}))
    assert wording.NO_MEDIA in text_of(town.prompt(f"See this, {chat}?")[-1])
    town.answer(name, chat, f"See this, {chat}?")
    assert not town.world.calls(path="/elsewhere.png")


def test_a_picture_whose_address_has_expired_is_asked_for_anew(town: Town) -> None:
    chat = town.someone("whatsapp")
    town.world.people["whatsapp"].plan("404", name="download")
    town.post(town.world.people["whatsapp"].media(chat, PNG, "image/png", f"Seen late, {chat}"))
    assert AS_DATA_URL in json.dumps(town.prompt(f"Seen late, {chat}")[-1])


def test_an_album_is_one_question(town: Town) -> None:
    chat, people, calls = town.someone("telegram"), town.world.telegram, len(town.world.model.prompts)
    for caption in ("", f"Which of these, {chat}?", ""):
        town.post(people.media(chat, PNG, "image/png", caption, media_group_id=f"1357{chat}"))
    assert json.dumps(town.prompt(f"Which of these, {chat}?")[-1]).count(AS_DATA_URL) == 3
    town.answer("telegram", chat, f"Which of these, {chat}?")
    assert len(town.texts("telegram", chat)) == 1
    assert town.outcomes(chat) == ["merged", "merged", "replied"]
    assert len(town.world.model.prompts) == calls + 1, "its pictures are waited for, not asked about one by one"


def test_a_video_in_an_album_is_noted_beside_its_pictures(town: Town) -> None:
    chat, people, album = town.someone("telegram"), town.world.telegram, {"media_group_id": "135799"}
    video = {"file_id": "v", "file_unique_id": "v", "width": 9, "height": 9, "duration": 2}
    town.post(people.message(chat, video=video, **album))
    town.post(people.media(chat, PNG, "image/png", f"My flat, {chat}", **album))
    town.post(people.message(chat, video=video, **album))
    last = town.prompt(f"My flat, {chat}")[-1]
    assert AS_DATA_URL in json.dumps(last) and text_of(last).count("cannot be seen here: video") == 2
    town.answer("telegram", chat, f"My flat, {chat}")
    assert len(town.texts("telegram", chat)) == 1 and town.outcomes(chat) == ["merged", "merged", "replied"]


# Groups

def mention(text: str, name: str = "@minibot_bot") -> dict[str, Any]:
    """A group message that calls the bot."""
    return {"text": f"{name} {text}", "entities": [{"type": "mention", "offset": 0, "length": len(name)}]}


def test_in_a_group_only_what_is_addressed_to_the_bot_is_answered_or_even_kept(town: Town) -> None:
    group, people = town.group(), town.world.telegram
    town.post(people.message(group, text=f"a word among people {group}"))
    town.post(people.message(group, **mention(f"for another bot {group}", "@another_bot")))
    town.post(people.message(group, **mention(f"for you {group}")))
    answer = town.answer("telegram", group, f"for you {group}")
    assert answer.endswith(f"to: Ada: for you {group}"), "the mention is no part of the question, the speaker is"
    quoted = people.shown[group][0]
    town.post(people.text(group, f"a reply to you {group}", quote=quoted.id))
    town.answer("telegram", group, f"a reply to you {group}")
    prompt = town.prompt(f"a reply to you {group}")
    assert "[in reply to this message]" in text_of(prompt[-1])
    town.post(people.text(group, "/help"))
    town.bot.until(lambda: len(town.texts("telegram", group)) == 3)
    assert town.outcomes(group) == ["replied", "replied", "command"]
    assert not town.bot.rows("SELECT 1 FROM inbound WHERE text LIKE ? OR text LIKE ?", f"%among people {group}%",
                             f"%for another bot {group}%")


def test_an_answer_in_a_group_points_at_its_question(town: Town) -> None:
    group, people = town.group(), town.world.telegram
    asked = people.message(group, **mention(f"which one {group}"))
    town.post(asked)
    town.answer("telegram", group, f"which one {group}")
    assert people.shown[group][-1].reply_to == asked.id


def test_the_parts_of_an_answer_are_spaced_in_a_group(town: Town) -> None:
    group, people = town.group(), town.world.telegram
    town.world.model.reply = lambda messages: "word " * 900
    town.post(people.message(group, **mention("tell me more")))
    town.bot.until(lambda: len(town.texts("telegram", group)) == 2)
    first, second = [shown.at for shown in people.shown[group] if shown.kind == "text"]
    assert second - first >= 1000


def test_each_topic_is_a_conversation_of_its_own_and_answered_in_its_place(town: Town) -> None:
    group, people = town.group(), town.world.telegram
    for topic in (7, 9):
        place = {"message_thread_id": topic, "is_topic_message": True}
        town.post(people.message(group, **place, **mention(f"in {topic} {group}")))
        town.answer("telegram", group, f"in {topic} {group}")
        assert len(town.prompt(f"in {topic} {group}")) == 2, "nothing of the other topic"
    threads = [seen.json().get("message_thread_id") for seen in town.world.calls("telegram", "sendMessage")
               if str(seen.json()["chat_id"]) == group]
    assert threads == [7, 9]


def test_pictures_of_an_album_are_seen_in_a_group_though_only_one_names_the_bot(town: Town) -> None:
    group, people = town.group(), town.world.telegram
    words = mention(f"which is best {group}")
    town.post(people.media(group, PNG, "image/png", words["text"], caption_entities=words["entities"],
                           media_group_id=f"1357{group[4:]}"))
    for album in (f"1357{group[4:]}", f"1357{group[4:]}", "13570"):
        town.post(people.media(group, PNG, "image/png", media_group_id=album))
    assert json.dumps(town.prompt(f"which is best {group}")[-1]).count(AS_DATA_URL) == 3
    town.answer("telegram", group, f"which is best {group}")
    assert len(town.texts("telegram", group)) == 1 and len(town.outcomes(group)) == 3


def test_a_group_that_becomes_a_supergroup_keeps_its_history(town: Town) -> None:
    old, new, people = town.group("-"), town.group(), town.world.telegram
    town.post(people.message(old, **mention(f"before the move {old}")))
    town.answer("telegram", old, f"before the move {old}")
    told = people.migrate(old, new)
    for webhook in [*told, *told[::-1]]:  # in any order, any number of times
        town.post(webhook)
    town.post(people.message(new, **mention(f"after the move {new}")))
    town.answer("telegram", new, f"after the move {new}")
    assert f"before the move {old}" in json.dumps(town.prompt(f"after the move {new}")[:-1])


def test_an_answer_on_its_way_follows_the_group_to_its_new_id(town: Town) -> None:
    old, new, people = town.group("-"), town.group(), town.world.telegram
    town.world.model.hold()
    town.post(people.message(old, **mention(f"just before {old}")))
    town.prompt(f"just before {old}")
    people.migrate(old, new)  # its news have not come yet
    town.world.model.release()
    town.answer("telegram", new, f"just before {old}")
    assert town.texts("telegram", old) == []


# Quotes

@pytest.mark.parametrize("name", META)
def test_a_quoted_message_is_looked_up_by_its_id(town: Town, name: str) -> None:
    chat = town.someone(name)
    answer = town.ask(name, chat, f"Open on Sunday, {chat}?")
    ours = town.world.people[name].shown[chat]
    town.bot.say(name, chat, f"Really, {chat}?", quote=next(shown.id for shown in ours if shown.kind == "text"))
    assert text_of(town.prompt(f"Really, {chat}?")[-1]) == f"[in reply to this message]\n> {answer}\n\nReally, {chat}?"
    earlier = town.world.people[name].text(chat, f"My own words, {chat}")
    town.post(earlier)
    town.answer(name, chat, f"My own words, {chat}")
    town.bot.say(name, chat, f"I meant that, {chat}", quote=earlier.id)
    assert f"> My own words, {chat}" in text_of(town.prompt(f"I meant that, {chat}")[-1])


@pytest.mark.parametrize("name", META)
def test_a_quoted_message_of_a_person_of_ours_is_looked_up_too(town: Town, name: str) -> None:
    chat, people = town.someone(name), town.world.people[name]
    town.post(people.text(chat, "Hello?"))
    human = people.human(chat, f"We close at six, {chat}")
    town.post(human)
    town.bot.say(name, chat, "/bot")
    town.bot.until(lambda: wording.BOT in town.texts(name, chat))
    town.bot.say(name, chat, f"Every day, {chat}?", quote=message_ids(human)[0])
    assert f"> We close at six, {chat}" in text_of(town.prompt(f"Every day, {chat}?")[-1])


def message_ids(webhook: Webhook) -> tuple[str, ...]:
    """The ids of the messages in a delivery of Meta's."""
    return tuple(found for found in (*all_called(json.loads(webhook.body), "mid"),
                                     *all_called(json.loads(webhook.body), "id")) if str(found)[:2] in ("m_", "wa"))


# Who is who

def test_a_person_without_and_with_a_phone_number_has_one_history(town: Town) -> None:
    phone, whatsapp = town.someone("whatsapp"), town.world.people["whatsapp"]
    bsuid = f"DE.{phone}77"
    town.ask("whatsapp", bsuid, f"No number yet, {phone}")
    assert town.world.calls("graph", "/messages")[-1].json().get("recipient") == bsuid
    both = json.loads(whatsapp.text(phone, f"Now with one, {phone}").body)
    both["entry"][0]["changes"][0]["value"]["contacts"] = [{"wa_id": phone, "user_id": bsuid}]
    town.post(whatsapp.sign(both))
    town.answer("whatsapp", phone, f"Now with one, {phone}")
    assert f"No number yet, {phone}" in json.dumps(town.prompt(f"Now with one, {phone}")[:-1])
    town.bot.say("whatsapp", bsuid, f"And without again, {phone}")
    town.answer("whatsapp", phone, f"And without again, {phone}")
    assert f"Now with one, {phone}" in json.dumps(town.prompt(f"And without again, {phone}")[:-1])


def test_a_changed_number_takes_its_history_along(town: Town) -> None:
    old, new, whatsapp = town.someone("whatsapp"), town.someone("whatsapp"), town.world.people["whatsapp"]
    town.ask("whatsapp", old, f"From the old number {old}")
    news = whatsapp.message(old, "system", {"type": "user_changed_number", "wa_id": new, "body": "changed"})
    town.post(news)
    town.ask("whatsapp", new, f"From the new number {new}")
    assert f"From the old number {old}" in json.dumps(town.prompt(f"From the new number {new}")[:-1])
    assert len(town.texts("whatsapp", old)) == 1, "such news are not answered"


# A person took over

@pytest.mark.parametrize("platform", META)
def test_a_human_answer_pauses_the_bot_until_it_is_asked_back(town: Town, platform: str) -> None:
    chat = town.someone(platform)
    town.ask(platform, chat, f"Before, {chat}")
    town.bot.settled()
    assert not town.paused(chat), "our own echoes are not a person's"
    town.post(town.world.people[platform].human(chat, f"Hello, this is Eve, {chat}"))
    town.bot.say(platform, chat, f"Thanks, Eve! {chat}")
    town.bot.say(platform, chat, "/bot")
    town.bot.until(lambda: len(town.texts(platform, chat)) == 2, what="/bot is obeyed")
    town.ask(platform, chat, f"What did Eve say, {chat}?")
    prompt = town.prompt(f"What did Eve say, {chat}?")
    assert f"Hello, this is Eve, {chat}" in text_of(prompt[2]) and prompt[2]["role"] == "assistant"
    assert text_of(prompt[3]).startswith(f"Thanks, Eve! {chat}") and prompt[3]["role"] == "user"
    assert town.outcomes(chat) == ["replied", "paused", "command", "replied"]


def test_asking_for_a_human_pauses_and_bot_ends_it(town: Town, platform: str, chat: str) -> None:
    town.bot.say(platform, chat, "/human")
    town.bot.until(lambda: wording.HUMAN in town.texts(platform, chat))
    town.bot.say(platform, chat, f"Is anybody there? {chat}")
    town.bot.say(platform, chat, "/bot")
    town.bot.until(lambda: wording.BOT in town.texts(platform, chat))
    town.ask(platform, chat, f"Hello again, {chat}")
    assert town.outcomes(chat) == ["command", "paused", "command", "replied"]


@pytest.mark.parametrize("name", PAGES)
def test_a_thread_that_is_taken_and_handed_back_pauses_and_resumes(town: Town, name: str) -> None:
    chat, people = town.someone(name), town.world.people[name]
    town.ask(name, chat, f"First, {chat}")
    town.post(people.event(chat, {"take_thread_control": {"new_owner_app_id": "263902037430900"}}))
    town.bot.say(name, chat, f"Second, {chat}")
    town.post(people.event(chat, {"pass_thread_control": {
        "previous_owner_app_id": "263902037430900", "new_owner_app_id": people.account.app_id}}))
    town.ask(name, chat, f"Third, {chat}")
    assert town.outcomes(chat) == ["replied", "paused", "replied"]


@pytest.mark.parametrize("name", META)
def test_a_person_who_answers_while_the_model_thinks_is_not_talked_over(town: Town, name: str) -> None:
    chat = town.someone(name)
    town.world.model.hold()
    town.bot.say(name, chat, f"A hard question, {chat}")
    town.prompt(f"A hard question, {chat}")
    town.post(town.world.people[name].human(chat, f"I know this one, {chat}"))
    town.bot.until(lambda: town.outcomes(chat) == ["paused"], what="the question is left to the person")
    town.world.model.release()
    town.bot.settled()
    assert town.texts(name, chat) == []


def test_an_answer_that_still_waits_to_be_sent_is_dropped_when_a_person_takes_over(town: Town) -> None:
    chat, whatsapp = town.someone("whatsapp"), town.world.people["whatsapp"]
    with town.world.changed:
        whatsapp.plan("400", body={"error": {"message": "(#131056) pair rate limit hit", "code": 131056}})
    town.bot.say("whatsapp", chat, f"Slowly, {chat}")
    town.bot.until(lambda: town.sent(chat) and town.sent(chat)[0][2] == "131056")
    town.post(whatsapp.human(chat, "I am here."))
    town.bot.settled()
    assert town.texts("whatsapp", chat) == [] and town.outcomes(chat) == ["paused"]


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("name", PAGES)
def test_an_echo_that_overtakes_the_reply_to_our_own_send_is_ours(town: Town, name: str, marked: bool) -> None:
    chat, people = town.someone(name), town.world.people[name]
    town.world.reports = marked
    with town.world.changed:
        people.plan("drip")
    town.bot.say(name, chat, f"Quick, {chat}")
    text = town.answer(name, chat, f"Quick, {chat}")
    if not marked:  # an echo that says nothing about who wrote it
        mid = people.shown[chat][-1].id
        town.post(people.event(chat, {"message": {"mid": mid, "text": text, "is_echo": True}}, mid, ours=True))
    town.bot.settled()
    assert not town.paused(chat) and town.texts(name, chat) == [text]
    assert [(part[0], part[1]) for part in town.sent(chat)] == [("sent", people.shown[chat][-1].id)]
    assert town.outcomes(chat) == ["replied"]


# Regrets, and what became of our messages

@pytest.mark.parametrize("name", META)
def test_an_unsent_message_is_erased(town: Town, name: str) -> None:
    chat, people = town.someone(name), town.world.people[name]
    webhook = people.text(chat, f"my PIN is 4711 {chat}")
    town.post(webhook)
    town.answer(name, chat, "4711")
    town.post(unsend(people, chat, webhook.id))
    assert town.bot.rows("SELECT text FROM inbound WHERE chat = ?", chat) == [("",)]
    town.ask(name, chat, f"What was it, {chat}?")
    users = [text_of(said) for said in town.prompt(f"What was it, {chat}?") if said["role"] == "user"]
    assert "4711" not in str(users)
    town.post(webhook)
    town.bot.settled()
    assert town.bot.rows("SELECT text FROM inbound WHERE chat = ? ORDER BY id LIMIT 1", chat) == [("",)]


@pytest.mark.parametrize("name", META)
def test_a_message_unsent_while_the_model_thinks_is_not_answered_and_stays_erased(town: Town, name: str) -> None:
    chat, people = town.someone(name), town.world.people[name]
    spoken = OGG + bytes(500 + int(chat) % 1000)
    webhook = people.media(chat, spoken, "audio/ogg")
    town.world.model.hear = lambda data: town.world.model.hold() or f"a secret in {len(data)} bytes"
    town.post(webhook)
    town.prompt(f"a secret in {len(spoken)} bytes")
    town.post(unsend(people, chat, webhook.id))
    town.world.model.release()
    town.bot.settled()
    assert town.bot.rows("SELECT text, outcome FROM inbound WHERE chat = ?", chat) == [("", "ignored:unsent")]
    assert town.texts(name, chat) == []


def test_whatsapp_tells_after_its_200_that_a_message_failed(town: Town) -> None:
    whatsapp = town.world.people["whatsapp"]
    for code, outcome in ((131026, "send_failed:131026"), (131047, "window_closed")):
        chat = town.someone("whatsapp")
        town.world.reports = False
        town.ask("whatsapp", chat, f"Are you there, {chat}?")
        town.bot.settled()
        (shown,) = [shown for shown in whatsapp.shown[chat] if shown.kind == "text"]
        town.post(whatsapp.status(chat, shown.id, "failed", shown.tag, code))
        assert town.sent(chat) == [("dead", shown.id, str(code), 0)] and town.outcomes(chat) == [outcome]
        with sqlite3.connect(f"{town.bot.database.as_uri()}?mode=ro", uri=True) as reader:
            shows = [(hop.row, hop.state, hop.error) for hop in ledger.why(reader, chat)]
        reader.close()
        assert ("inbound", outcome, "") in shows and ("part", "dead", str(code)) in shows


@pytest.mark.parametrize("name", META)
def test_delivered_and_read_are_recorded(town: Town, name: str) -> None:
    chat = town.someone(name)
    town.ask(name, chat, f"Got it, {chat}?")
    column = "delivered_at" if name == "whatsapp" else "read_at"
    town.bot.until(lambda: town.bot.rows("SELECT 1 FROM part p JOIN conversation c ON c.id = p.conversation WHERE "
                                         f"c.chat = ? AND {column} > 0", chat), 10, "what became of it")


# Out

REFUSED = {"ok": False, "error_code": 400, "description": "Bad Request: can't parse entities: Unsupported start tag"}


def test_formatting_that_telegram_refuses_goes_once_as_plain_text(town: Town) -> None:
    chat = town.someone("telegram")
    town.world.model.reply = lambda messages: f"**Bold** & `code` for {chat}"
    town.world.telegram.plan("400", body=REFUSED)
    town.bot.say("telegram", chat, f"Formatted, {chat}")
    assert town.answer("telegram", chat, "Bold") == f"Bold & code for {chat}"
    town.bot.settled()
    assert [part[0] for part in town.sent(chat)] == ["sent"] and town.sent(chat)[0][3] == 1
    assert town.world.telegram.shown[chat][-1].entities == () and len(town.texts("telegram", chat)) == 1


def test_typing_begins_after_half_a_second_and_a_quick_answer_needs_none(town: Town) -> None:
    slow = {name: town.someone(name) for name in FIRST}
    town.world.model.hold()
    for name, chat in slow.items():
        town.bot.say(name, chat, f"Slowly, {chat}")
    for name, chat in slow.items():
        town.bot.until(lambda: "typing" in [shown.kind for shown in town.world.people[name].shown[chat]], 10, name)
    town.world.model.release()
    for name, chat in slow.items():
        town.answer(name, chat, f"Slowly, {chat}")
        kinds = [shown.kind for shown in town.world.people[name].shown[chat]]
        assert kinds == [*(["read"] if name != "telegram" else []), "typing", "text"]
        town.ask(name, chat, f"Quickly, {chat}")
        assert [shown.kind for shown in town.world.people[name].shown[chat]] == [*kinds, "text"]


@pytest.mark.parametrize("fault", ["403", "hang"])
def test_typing_that_is_refused_or_hangs_disturbs_nothing(town: Town, fault: str) -> None:
    town.world.model.hold()
    chats = {name: town.someone(name) for name in FIRST}
    for name, chat in chats.items():
        with town.world.changed:
            town.world.people[name].plan(fault, name="action")
        town.bot.say(name, chat, f"{fault} for {chat}")
    town.bot.until(lambda: not any(people.planned for people in town.world.people.values()), 30, "all met")
    town.world.model.release()
    for name, chat in chats.items():
        town.answer(name, chat, f"{fault} for {chat}")


HOURS = 3_600_000


@pytest.mark.parametrize(("hours", "asked"), [(25.0, False), (23.9, False), (23.0, True)])
@pytest.mark.parametrize("name", META)
def test_nothing_is_sent_once_the_window_has_closed(town: Town, name: str, hours: float, asked: bool) -> None:
    chat = town.someone(name)
    town.world.clock_ahead = -round(hours * HOURS)
    try:
        webhook = town.world.people[name].text(chat, f"Written {hours} hours ago, {chat}")
    finally:
        town.world.clock_ahead = 0
    town.world.people[name].chats[chat] = town.world.now()
    town.post(webhook)
    town.bot.until(lambda: town.outcomes(chat)[0], 30)
    town.bot.settled()
    assert town.outcomes(chat) == ["replied" if asked else "window_closed"]
    assert len(town.texts(name, chat)) == asked
    assert any(chat in text_of(prompt[-1]) for prompt in town.world.model.prompts) is asked, "no call is spent on it"
    assert b"HUMAN_AGENT" not in b"".join(seen.body for seen in town.world.calls())


# Commands

WORDS = {"start": wording.START, "help": wording.HELP, "reset": wording.RESET, "forget": wording.FORGOTTEN,
         "privacy": "stored in the database", "human": wording.HUMAN, "bot": wording.BOT}


def test_every_command_works_and_asks_nobody(town: Town, platform: str, chat: str) -> None:
    town.ask(platform, chat, f"Remember me, {chat}")
    calls = len(town.world.model.prompts)
    for word, says in WORDS.items():
        town.bot.say(platform, chat, f"/{word}")
        town.bot.until(lambda: any(says[:40] in text for text in town.texts(platform, chat)), 10, word)
    town.bot.settled()
    assert len(town.world.model.prompts) == calls
    assert not town.bot.rows("SELECT 1 FROM inbound WHERE text LIKE ?", f"%Remember me, {chat}%"), "/forget forgets"


def test_after_reset_the_model_is_shown_nothing_of_before(town: Town, platform: str, chat: str) -> None:
    town.ask(platform, chat, f"My name is Anna, {chat}")
    town.bot.say(platform, chat, "/reset")
    town.ask(platform, chat, f"What is my name, {chat}?")
    assert len(town.prompt(f"What is my name, {chat}?")) == 2


@pytest.mark.parametrize("name", PAGES)
def test_get_started_greets(town: Town, name: str) -> None:
    chat = town.someone(name)
    town.post(town.world.people[name].message(chat, {"title": "Get Started", "payload": "GET_STARTED"}, "postback"))
    town.bot.until(lambda: town.texts(name, chat) == [wording.START])
    assert town.outcomes(chat) == ["command"]


def test_telegram_gets_the_menu_of_commands(town: Town) -> None:
    town.bot.until(lambda: town.world.telegram.commands, 30, "setMyCommands")
    assert {"reset", "human", "forget"} <= {command["command"] for command in town.world.telegram.commands}


# Who cannot be written to

def test_somebody_who_blocked_the_bot_is_left_alone_until_they_write_again(town: Town) -> None:
    chat, people = town.someone("telegram"), town.world.telegram
    town.world.model.reply = lambda messages: "word " * 3000
    people.chats[chat] = {"id": int(chat), "type": "private"}
    blocked = people.block(chat)
    town.bot.say("telegram", chat, f"Gone, {chat}")
    town.bot.until(lambda: town.outcomes(chat) == ["send_failed:403"])
    assert [part[0] for part in town.sent(chat)] == ["dead"] * len(town.sent(chat)) and len(town.sent(chat)) > 2
    calls = [seen.json() for seen in town.world.calls("telegram", "sendMessage")]
    assert [str(call["chat_id"]) for call in calls].count(chat) == 1, "one refusal is enough"
    town.post(blocked)
    assert town.bot.rows("SELECT blocked FROM conversation WHERE chat = ?", chat) == [(1,)]
    town.world.model.reply = town.world.model.echo
    town.post(people.block(chat, False))
    town.ask("telegram", chat, f"Back again, {chat}")
    assert town.bot.rows("SELECT blocked FROM conversation WHERE chat = ?", chat) == [(0,)]


def test_who_blocks_the_bot_is_gone_from_every_topic_of_the_chat(town: Town) -> None:
    chat, people = town.someone("telegram"), town.world.telegram
    for topic in (3, 4):
        town.post(people.message(chat, text=f"in {topic}, {chat}", message_thread_id=topic, is_topic_message=True))
        town.answer("telegram", chat, f"in {topic}, {chat}")
    town.post(people.block(chat))
    assert town.bot.rows("SELECT blocked FROM conversation WHERE chat LIKE ?", f"{chat}/%") == [(1,), (1,)]


def test_one_person_who_must_wait_does_not_hold_up_others(town: Town) -> None:
    slow, quick, whatsapp = town.someone("whatsapp"), town.someone("whatsapp"), town.world.people["whatsapp"]
    with town.world.changed:
        whatsapp.plan("400", body={"error": {"message": "(#131056) pair rate limit hit", "code": 131056}})
    town.bot.say("whatsapp", slow, f"I must wait, {slow}")
    town.bot.until(lambda: town.sent(slow) and town.sent(slow)[0][2] == "131056")
    town.ask("whatsapp", quick, f"I need not, {quick}")
    assert town.texts("whatsapp", slow) == []
    town.answer("whatsapp", slow, f"I must wait, {slow}")
