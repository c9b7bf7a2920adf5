"""`why` explains what became of a hundred messages that met every fate at once, as the far ends saw it.

A scripted crowd writes on all four platforms to one bot; each message carries a token, so that prompts and answers
tell whom they were for. Then every message is asked about by each of its names, and what is printed is held against
the outcome that its story must have, the texts that its person saw, and the calls that its platform got.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from minibot.desk.simulator import Answered, Shown, json_answer
from minibot.desk.simulator_meta import error
from minibot.desk.simulator_telegram import error as telegram_error
from minibot.flow import wording
from minibot.model import PLATFORMS
from minibot.text import safe_line
from tests import platforms
from tests.botprocess import BotProcess
from tests.fakes import FakeWorld, openai_error, text_of
from tests.threats import why

META = PLATFORMS[1:]
NOTHING = json_answer(200, {})
MODEL_SAYS = {  # what the model answers to a message with this word -> the outcome
    "badkey": (openai_error(401, "no", code="invalid_api_key"), "ai_failed:bad_key"),
    "nomodel": (openai_error(404, "no", code="model_not_found"), "ai_failed:unknown_model"),
    "nocredit": (openai_error(429, "no", code="insufficient_quota"), "ai_failed:no_credit"),
    "refused": (openai_error(400, "no", code="content_policy_violation"), "ai_failed:content_refused"),
    "teapot": (openai_error(418, "no"), "ai_failed:http_418")}
PLATFORM_SAYS = {  # to whoever writes to this chat -> the outcome
    "telegram": (telegram_error(403, "bot was blocked by the user"), "send_failed:403"),
    "whatsapp": (error(131026, "Message undeliverable"), "send_failed:131026"),
    "messenger": (error(551, "This person isn't available right now"), "send_failed:551"),
    "instagram": (error(100, "No matching user found", 400, 2534014), "send_failed:100/2534014")}


class Written(NamedTuple):
    """A message and its story's end. `asked`: the model saw it."""

    token: str
    platform: str
    chat: str
    id: str  # the platform's
    outcome: str
    asked: bool
    shown: str = ""  # what the person must have seen of it, where that is no answer with the token


class Line(NamedTuple):
    """One line of what `why` prints."""

    what: str
    id: str
    chat: str
    state: str
    told: str
    text: str


LINE = re.compile(r'\S+  (message in|answer|sent part|export) (\d+)  \w+ (\S+)  (\S+)(?:  ([^"]*?))?(?:  "(.*)")?')


def lines(printed: str) -> list[Line]:
    """The lines, read."""
    found = [LINE.fullmatch(line) for line in printed.splitlines()]
    assert all(found), printed
    return [Line(*(group or "" for group in match.groups())) for match in found if match]


class Stage:
    """The crowd. Every way of writing gives each message a chat of its own, unless one is given."""

    def __init__(self, bot: BotProcess) -> None:
        self.bot, self.world = bot, bot.world
        self.written: list[Written] = []
        self.sends = Counter[tuple[str, str]]()  # (chat, token) -> calls that the platform got
        self.unsure: dict[str, int] = {}  # chat -> how many more replies of the platform are lost
        self.failing: dict[str, int] = {}  # chat -> how many more calls fail before anything is done
        self._number = 0
        self.world.model.reply = self._answer
        for platform, side in (("telegram", self.world.telegram), ("graph", self.world.graph)):
            self._listen_in(side)

    def _answer(self, messages: list[dict[str, Any]]) -> str | Answered:
        text = text_of(messages[-1])
        return next((said for word, (said, _) in MODEL_SAYS.items() if word in text), f"answer to {text}")

    def _listen_in(self, side: Any) -> None:
        answer = side.answer

        def listening(method: str, path: str, query: str, headers: Any, body: bytes, **more: Any) -> Answered:
            sent = re.search(rb'"(?:text|body)": "', body) and path.endswith(("/sendMessage", "/messages"))
            chat = re.search(rb'"(?:chat_id|to|id)": "?\+?(\d+)', body) if sent else None
            if not chat:
                return answer(method, path, query, headers, body, **more)  # type: ignore[no-any-return]
            who = chat[1].decode()
            self.sends.update((who, token.decode()) for token in re.findall(rb"\[\d+\]", body))
            if self.failing.get(who, 0):
                self.failing[who] -= 1
                return telegram_error(500, "restart") if "bot" in path else error(1, "An unknown error occurred", 500)
            answered: Answered = answer(method, path, query, headers, body, **more)
            if self.unsure.get(who, 0):
                self.unsure[who] -= 1
                return answered._replace(trouble="reset_after")
            return answered

        side.answer = listening

    def somebody(self) -> str:
        self._number += 1
        return f"49152{self._number:08d}"

    def write(self, platform: str, outcome: str, text: str = "question", chat: str = "", asked: bool = True,
              shown: str = "", **more: Any) -> Written:
        """A text, taken by the bot."""
        token, chat = f"[{len(self.written) + 1}]", chat or self.somebody()
        made = self.bot.say(platform, chat, f"{text} {token}", **more)
        self.written.append(Written(token, platform, chat, made.id, outcome, asked, shown))
        return self.written[-1]

    def wait(self, condition: Callable[[], Any]) -> None:
        """Until something has become true of the far ends."""
        self.bot.until(condition, 20, "the story goes on")

    def prompted(self, written: Written) -> int:
        """How many calls of the model held this message as the newest."""
        return sum(written.token in text_of(messages[-1]) for messages in self.world.model.prompts)

    def seen(self, written: Written) -> list[Shown]:
        """What the person was shown."""
        return [shown for shown in self.world.people[written.platform].shown[written.chat] if shown.kind == "text"]


def plain_stories(stage: Stage) -> None:
    """Questions, some delivered several times; commands; what nobody can read; messages of two days ago."""
    for number in range(28):
        platform = PLATFORMS[number % 4]
        chat = stage.written[-4].chat if number % 8 > 3 and number > 8 else ""  # every second person writes twice
        stage.write(platform, "replied", chat=chat)
        stage.wait(lambda: stage.seen(stage.written[-1]))
    for platform in PLATFORMS:
        for word, said in (("/help", wording.HELP), ("/start", wording.START)):
            stage.write(platform, "command", word, asked=False, shown=said)
    for number in range(4):
        chat, people = stage.somebody(), stage.world.people["whatsapp"]
        made = people.message(chat, "sticker", {"id": "1"})
        assert stage.bot.post(made) == stage.bot.post(made) == 200
        said = wording.NOTICES["sticker"]
        stage.written.append(Written("", "whatsapp", chat, made.id, "unsupported", False, said))
    stage.world.clock_ahead = -2 * 86_400_000
    for platform in PLATFORMS:
        stage.write(platform, "window_closed", asked=False)
    stage.world.clock_ahead = 0


def failing_stories(stage: Stage) -> None:
    """The model and the platforms say no, in several ways; some calls are lost on the way."""
    for number, (word, (_, outcome)) in enumerate([*MODEL_SAYS.items()] * 2):
        said = wording.REFUSED if word == "refused" else wording.APOLOGY
        stage.write(PLATFORMS[number % 4], outcome, f"question {word}", shown=said)
    for platform, (refusal, outcome) in PLATFORM_SAYS.items():
        for _ in range(2):
            chat = stage.somebody()
            stage.world.people[platform].refusing[chat] = refusal
            stage.write(platform, outcome, chat=chat)
    for platform in PLATFORMS:
        for unsure, failing in ((1, 0), (0, 1)):
            chat = stage.somebody()
            stage.unsure[chat], stage.failing[chat] = unsure, failing
            stage.write(platform, "replied", chat=chat)
    stage.unsure[chat := stage.somebody()] = 2
    stage.write("telegram", "replied", chat=chat)  # both replies are lost: it may have arrived twice


def guarded_stories(stage: Stage) -> None:
    """Too many, too expensive, and a person of the team has taken over."""
    for platform in PLATFORMS:
        stage.write(platform, "over_budget", "long " * 2000, asked=False, shown=wording.OVER_BUDGET)
        first = stage.write(platform, "replied")
        stage.wait(lambda: stage.seen(first))
        if platform != "telegram":
            assert stage.bot.post(stage.world.people[platform].human(first.chat, "A person here.")) == 200
            for _ in range(2):
                stage.write(platform, "paused", chat=first.chat, asked=False)
    stage.world.model.hold()  # three follow-ups join, then the call goes on; six messages a minute are allowed
    chat = stage.somebody()
    for number, outcome in enumerate(["merged"] * 3 + ["replied", "merged", "replied"] + ["rate_limited"] * 3):
        stage.write("telegram", outcome, f"flood {number}", chat=chat, asked=outcome != "rate_limited")
        stage.wait(lambda: number > 3 or stage.prompted(stage.written[-1]))
    stage.world.model.release()


def joined_stories(stage: Stage) -> None:
    """A follow-up joins; a message is taken back while it is being answered."""
    stage.world.model.hold()
    firsts = [stage.write(platform, "merged") for platform in PLATFORMS for _ in range(2)]
    gone = [stage.write(platform, "ignored:unsent") for platform in META]
    stage.wait(lambda: all(map(stage.prompted, firsts + gone)))
    for first in firsts:
        stage.write(first.platform, "replied", chat=first.chat)
    for each in gone:
        assert stage.bot.post(platforms.unsend(stage.world.people[each.platform], each.chat, each.id)) == 200
    seconds = stage.written[-len(firsts):]
    stage.wait(lambda: all(map(stage.prompted, seconds)))
    stage.world.model.release()


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """All stories, told to their ends."""
    world = FakeWorld()
    bot = BotProcess(world, tmp_path_factory.mktemp("why"), MESSAGES_PER_MINUTE="6", DAILY_TOKENS_PER_USER="3500")
    made = Stage(bot)
    for stories in (plain_stories, failing_stories, guarded_stories, joined_stories):
        stories(made)
        bot.settled(30)
    yield made
    bot.close()
    world.close()


def test_every_fate_has_been_met(stage: Stage) -> None:
    fates = Counter(written.outcome.partition(":")[0] for written in stage.written)
    assert len(stage.written) >= 100 and {written.platform for written in stage.written} == {*PLATFORMS}
    assert fates.keys() == {"replied", "merged", "unsupported", "command", "ignored", "paused", "rate_limited",
                            "over_budget", "window_closed", "ai_failed", "send_failed"}
    (maybe,), = stage.bot.rows("SELECT count(*) FROM part WHERE state = 'maybe'")
    assert maybe == 1 and stage.bot.rows("SELECT count(*) FROM inbound WHERE outcome IS NULL") == [(0,)]


def test_why_tells_of_each_message_by_each_of_its_names_what_the_far_ends_saw(stage: Stage) -> None:
    wrong = [f"{written}, asked {name}: {complaint}" for written in stage.written for name in names(stage, written)
             for complaint in complaints(stage, written, lines(why(stage.bot, name)))]
    assert not wrong, "\n".join(wrong[:10])


def test_why_finds_the_question_from_the_answer(stage: Stage) -> None:
    lost = 0  # answers whose reply was lost on the way, so that the bot never learned their names
    for written in stage.written:
        for shown in stage.seen(written) if written.outcome in ("replied", "merged") else ():
            if not stage.bot.rows("SELECT 1 FROM part WHERE message_id = ?", shown.id):
                lost += 1
            elif written.token in shown.text:
                told = lines(why(stage.bot, shown.id))
                assert any(line.state == written.outcome and line.chat == written.chat for line in told), written
    assert lost == 3  # Telegram's; the others tell it in a status or an echo


def names(stage: Stage, written: Written) -> list[str]:
    """Our number of it, the platform's, the chat, and the phone number as people write it."""
    number = [id for id, in stage.bot.rows("SELECT id FROM inbound WHERE chat = ? AND event LIKE ?", written.chat,
                                           f"{written.platform}:%") if written.outcome]
    phone = [f"+{written.chat}"] if written.platform == "whatsapp" else []
    rows = stage.bot.rows("SELECT id, message_id FROM inbound WHERE id IN (%s)" % ", ".join(map(str, number)))
    ours = next((str(id) for id, name in rows if name == written.id), "")
    assert ours, f"{written} is not stored"
    return [ours, written.id, written.chat, *phone]


def complaints(stage: Stage, written: Written, told: list[Line]) -> Iterator[str]:
    """What is wrong with the explanation of one message."""
    here = [line for line in told if line.chat == written.chat]
    own = [line for line in here if line.what == "message in" and f"platform id {written.id}" in line.told.split(", ")]
    if [line.state for line in own] != [written.outcome]:
        yield f"{[line.state for line in own]} instead of {written.outcome}: {told}"
    if (stage.prompted(written) > 0) != written.asked and written.token:
        yield f"the model saw it {stage.prompted(written)} times"
    parts = [line for line in here if line.what == "sent part"]
    mine = [shown for shown in stage.seen(written) if (written.shown or written.token) in shown.text
            and (written.shown or written.token)]
    if not mine and (written.shown or written.outcome in ("replied", "merged")):
        yield "the person saw nothing"
    for shown in mine:
        same = [line for line in parts if line.text == safe_line(shown.text, 80)]
        if not any(line.state in ("sent", "maybe") for line in same):
            yield f"{shown.text[:40]!r} was seen, {same} is told"
        if not any(f"platform id {shown.id}" in line.told or "unsure" in line.told for line in same):
            yield f"the platform calls it {shown.id}, {same} is told"
    if written.outcome.startswith("send_failed"):
        dead = [line for line in parts if line.state == "dead" and f"error {written.outcome[12:]}" in line.told]
        if stage.seen(written) or not dead:
            yield f"nobody saw anything, {parts} is told"
    calls = stage.sends[written.chat, written.token]
    answers = [line for line in parts if written.token and written.token in line.text]
    tries = sum(int(found[1]) if (found := re.search(r"(\d+) tries", line.told)) else 1 for line in answers)
    if answers and calls != tries:
        yield f"{calls} calls, {tries} tries are told: {answers}"
