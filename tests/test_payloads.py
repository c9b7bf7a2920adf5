"""Every payload through the whole program: one bot, hundreds of deliveries at once, each looked at by itself.

What is posted are the project's own payloads (`payloads/*/manifest.json`) and, where MINIBOT_SHARED names the folder of
platform facts, those of its manifest. What is looked at is what people, the model and the database got of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from minibot.flow import wording
from minibot.model import PLATFORMS
from tests.botprocess import BotProcess
from tests.fakes import FakeWorld, Seen, text_of
from tests.outgoing import complaints
from tests.replay import AS_DATA_URL, OGG, OUR_APP, OUR_NAME, Play, Stage, all_called, own_plays, shared_plays

Want = dict[str, Any]
OWN = [case for platform in PLATFORMS for case in own_plays(platform)]
THEIRS = shared_plays()
SPOKEN = f"spoken words, {len(OGG)} bytes"
COMMANDS = {"start": wording.START, "help": wording.HELP, "reset": wording.RESET, "privacy": "Your messages and my",
            "forget": wording.FORGOTTEN, "human": wording.HUMAN, "bot": wording.BOT}
EARLIER = "something private that was said before"


# What a line of the other manifest means, in the words of our own.

def event_of(entry: Want, document: Any) -> list[Want]:
    """The wanted events of an entry: its action says what kind, the payload itself what of."""
    texts = [{"type": "Inbound", "kind": "ask", "text": event["text"]} for event in entry.get("events", ())
             if event.get("text")]
    message = document.get("message") or {}
    action = next(name for name in THEIR_ACTIONS if entry["action"].startswith(name))
    if "message" in document and "text" in message:
        texts = [{"type": "Inbound", "kind": "ask", "text": message["text"]}]
    wanted = THEIR_ACTIONS[action](entry, document, texts)
    forwarded = True in all_called(document, "forwarded") + all_called(document, "frequently_forwarded") or any(
        name.startswith("forward_") for name in message)
    return [want | {"forwarded": forwarded} if want["type"] in ("Inbound", "Unreadable") else want for want in wanted]


def _pictured(kind: str) -> Callable[..., list[Want]]:
    return lambda entry, document, texts: [{"type": "Inbound", "kind": "ask", "media": [[kind]],
                                            "text": (document.get("message") or {}).get("caption", "")}]


def _commanded(entry: Want, document: Any, texts: list[Want]) -> list[Want]:
    word = re.match(r"/(\w*)", document["message"]["text"])
    known = word and word[1] in COMMANDS and "forward_date" not in document["message"]
    return [{"type": "Inbound", "kind": word[1]}] if word and known else texts


def _chosen(entry: Want, document: Any, texts: list[Want]) -> list[Want]:
    if "get_started" in entry["file"]:
        return [{"type": "Inbound", "kind": "start"}]
    return texts or [{"type": "Inbound", "kind": "ask", "text": all_called(document, "payload")[0]}]


def _ignored(entry: Want, document: Any, texts: list[Want]) -> list[Want]:
    if re.search("unsent|whatsapp/revoke", entry["file"]):
        return [{"type": "Erase", "chat": next(iter(all_called(document, "from")), "Sender-id-1")}]
    return []


def _migrated(entry: Want, document: Any, texts: list[Want]) -> list[Want]:
    message = document["message"]
    old = message.get("migrate_from_chat_id", message["chat"]["id"])
    return [{"type": "Rekey", "old": old, "new": message.get("migrate_to_chat_id", message["chat"]["id"])}]


def _relinked(entry: Want, document: Any, texts: list[Want]) -> list[Want]:
    return [{"type": "Rekey", "old": all_called(document, "from")[0], "new": all_called(document, "wa_id")[0]}]


THEIR_ACTIONS: dict[str, Callable[..., list[Want]]] = {  # the beginning of an action -> what it means
    "answer_text": lambda entry, document, texts: texts, "TEXT": lambda entry, document, texts: texts,
    "answer_choice": _chosen, "answer_image": _pictured("image"), "IMAGE": _pictured("image"),
    "transcribe": _pictured("voice"), "TRANSCRIBE": _pictured("voice"),
    "answer_location": lambda entry, document, texts: [{"type": "Inbound", "kind": "ask", "text": "[location: "}],
    "cannot_read": lambda entry, document, texts: [{"type": "Unreadable"}],
    "CANNOT-READ": lambda entry, document, texts: [{"type": "Unreadable"}],
    "alert_operator": lambda entry, document, texts: [{"type": "Alert"}],
    "pause_human": lambda entry, document, texts: [{"type": "Handover", "human": True}],
    "relink_identity": _relinked, "MIGRATE": _migrated,
    "CALLBACK": lambda entry, document, texts: [{"type": "Acknowledge", "query": document["callback_query"]["id"]}],
    "STATE": lambda entry, document, texts: [
        {"type": "Presence", "chat": document["my_chat_member"]["chat"]["id"], "blocked": True}],
    "COMMAND if it is one of our own": _ignored, "COMMAND": _commanded,
    "record_status": _ignored, "ignore": _ignored, "IGNORE": _ignored, "GROUP, not addressed": _ignored,
}


# The run: everything is posted once, for all tests of this file.

@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A bot to which everything was posted already."""
    world = FakeWorld()
    world.telegram.me["username"] = OUR_NAME
    bot = BotProcess(world, tmp_path_factory.mktemp("payloads"), META_APP_ID=OUR_APP)
    try:
        made = Stage(bot)
        bot.until(lambda: world.calls("telegram", "getMe"), what="the bot knows its name")
        for play, wanted in OWN:
            made.cast(play)
            made.before(play, wanted, EARLIER)
        for play, entry in THEIRS:
            wanted = event_of(entry, play.document)
            made.cast(play)
            made.before(play, wanted, EARLIER)
            play.wanted = wanted
        made.run([play for play, _ in [*OWN, *THEIRS]])
        yield made
    finally:
        bot.close()
        world.close()


# What must be seen of each wanted event.

class Outcome:
    """What one payload brought about, consumed bit by bit by the checks."""

    def __init__(self, stage: Stage, play: Play) -> None:
        self.stage, self.play = stage, play
        self.rows = [row for row in stage.stored(play) if EARLIER not in row["text"]]
        self.texts = {chat: [text for text in texts if EARLIER not in str(stage.asked(text))]
                      for chat, texts in stage.shown(play).items()}

    def check(self, want: Want) -> None:
        getattr(self, "_" + want["type"].lower())(want)

    def nothing_else(self) -> None:
        assert not self.rows and not any(self.texts.values())

    def _inbound(self, want: Want) -> None:
        row = self.rows.pop(0)
        kind = want.get("kind", "ask")
        assert row["kind"] == kind
        if "chat" in want:
            assert row["chat"] == self.stage.renamed(self.play, want["chat"])
        check = {"ask": self._answered, "unsupported": self._declined}.get(kind, self._obeyed)
        check(row, want)

    def _text(self, row: Want, fits: Callable[[str], Any]) -> str:
        """The first text in the row's chat that fits; it stays for the row that it answers as well."""
        texts = self.texts[row["chat"].split("/")[0]]
        text = next(text for text in texts if fits(text))
        if row["outcome"] != "merged":
            texts.remove(text)
        return text

    def _answered(self, row: Want, want: Want) -> None:
        assert row["outcome"] in ("replied", "merged")
        assert self.stage.conversations(self.play)[row["chat"]] == (0, 0), "our own echo is no person's"
        lines = str(want.get("text", "")).splitlines()
        text = self._text(row, lambda text: (asked := self.stage.asked(text)) and all(
            line in text_of(asked) for line in lines))
        prompt = self.stage.asked(text) or {}
        said, media = text_of(prompt), [kind for kind, *_ in want.get("media", ())]
        pictures = [part["image_url"]["url"] for part in prompt["content"]
                    if part["type"] == "image_url"] if isinstance(prompt["content"], list) else []
        assert pictures == [AS_DATA_URL] * media.count("image")
        if "voice" in media:
            assert SPOKEN in said and SPOKEN in row["text"], "a transcript is what history keeps"
        assert ("[forwarded, not the writer's own words]" in said) is want.get("forwarded", False)
        if want.get("quoted"):
            assert f"[in reply to this message]\n> {want['quoted'].splitlines()[0]}" in said
        person = self.stage.renamed(self.play, want.get("person", ""))
        if person not in ("", row["chat"]) and "/" not in row["chat"] and want.get("name"):
            assert said.startswith(f"{want['name']}: ")

    def _declined(self, row: Want, want: Want) -> None:
        assert row["outcome"] == "unsupported"
        assert self._text(row, lambda text: text == wording.NOTICES.get(row["notice"], wording.UNREADABLE))
        assert row["notice"] == want.get("notice", row["notice"])

    def _obeyed(self, row: Want, want: Want) -> None:
        assert row["outcome"] == "command"
        assert self._text(row, lambda text: text.startswith(COMMANDS[row["kind"]][:20]))

    def _unreadable(self, want: Want) -> None:
        """Declined; but a caption or a place is a question all the same."""
        row = self.rows.pop(0)
        if row["kind"] == "unsupported":
            self._declined(row, {})
        else:
            assert "cannot be seen here" in row["text"] or "[location:" in row["text"]
            self._answered(row, {"text": row["text"], "forwarded": want.get("forwarded", False)})

    def _ignored(self, want: Want) -> None:
        pass  # nothing is stored and nothing is said: `nothing_else`

    _receipt = _ignored

    def _odd(self, want: Want) -> None:
        self.stage.unreadable.remove(want.get("why", self.stage.unreadable[0]))

    def _alert(self, want: Want) -> None:
        assert re.search(rf" error +{self.play.platform}: (Meta changed|policy enforcement)", self.stage.bot.log)

    def _acknowledge(self, want: Want) -> None:
        answered = [seen.json() for seen in self.stage.world.calls("telegram", "answerCallbackQuery")]
        assert {"callback_query_id": want["query"]} in answered

    def _echo(self, want: Want) -> None:
        paused = [until for until, _ in self.stage.conversations(self.play).values()]
        assert paused == ([] if want["ours"] else paused) and all(paused)
        assert want["ours"] or len(paused) == 1

    def _handover(self, want: Want) -> None:
        ((until, _),) = self.stage.conversations(self.play).values()
        assert bool(until) is want["human"]

    def _erase(self, want: Want) -> None:
        rows = self.stage.stored(self.play)
        assert EARLIER not in str(rows) and len(rows) == 1 and rows[0]["text"] == ""
        self.rows.clear()

    def _rekey(self, want: Want) -> None:
        old, new = (self.stage.renamed(self.play, want[key]) for key in ("old", "new"))
        chats = self.stage.conversations(self.play)
        assert new in chats and old not in chats
        (row,) = self.stage.bot.rows("SELECT i.text FROM history h JOIN inbound i ON i.id = h.id JOIN conversation c "
                                     "ON c.id = h.conversation WHERE c.chat = ?", new)
        assert EARLIER in row[0]

    def _presence(self, want: Want) -> None:
        ((_, blocked),) = self.stage.conversations(self.play).values()
        assert bool(blocked) is want["blocked"]


def judge(stage: Stage, play: Play, wanted: list[Want]) -> None:
    assert play.status == 200
    found = Outcome(stage, play)
    for want in wanted:
        found.check(want)
    found.nothing_else()


def named(cases: list[tuple[Play, Any]]) -> list[Any]:
    return [pytest.param(*case, id=f"{case[0].platform}-{case[0].file.removesuffix('.json')}") for case in cases]


@pytest.mark.parametrize(("play", "wanted"), named(OWN))
def test_every_payload_of_our_own_meets_its_reaction(stage: Stage, play: Play, wanted: list[Want]) -> None:
    judge(stage, play, wanted)


def test_there_are_payloads_of_every_platform() -> None:
    assert len(OWN) >= 80 and {play.platform for play, _ in OWN} == set(PLATFORMS)


def test_a_call_of_another_shape_than_documented_does_not_pass_unnoticed() -> None:
    world = FakeWorld()
    try:
        calls = [("telegram", f"/bot{world.telegram.token}/sendMessage", {"chat_id": 1, "text": "x", "reply_to": 5}),
                 ("graph", "/v25.0/me/messages", {"recipient": {"id": 7}, "message": {"text": "x"}})]
        for upstream, path, body in calls:
            assert complaints(world) == []
            content = json.dumps(body).encode()
            fields = {"content-type": "application/json", "content-length": str(len(content))}
            world.seen = [Seen(0.0, upstream, "POST", path, "", fields, content)]
            assert complaints(world)
            world.seen = []
    finally:
        world.close()


@pytest.mark.shared
@pytest.mark.parametrize(("play", "entry"), named(THEIRS))
def test_every_payload_of_the_facts_meets_its_reaction(stage: Stage, play: Play, entry: Want) -> None:
    judge(stage, play, play.wanted)
