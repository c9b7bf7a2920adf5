"""The whole program from the outside: a message in, one right answer out, on all four platforms; nothing lost.

Real process, real sockets, real SQLite file; only the far ends are fakes. See `botprocess.py`.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.botprocess import ROOT, BotProcess
from tests.fakes import SECRETS, FakeWorld, text_of
from tests.platforms import batch, forged

Start = Callable[..., BotProcess]
CHATS = itertools.count(4915110000001)  # everybody writes once only, so that tests may share a bot


@pytest.fixture(scope="module")
def shared_bot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BotProcess]:
    """One bot for all tests that leave it running and as they found it."""
    world = FakeWorld()
    made = BotProcess(world, tmp_path_factory.mktemp("shared"))
    yield made
    made.close()
    world.close()


@pytest.fixture
def shared(shared_bot: BotProcess) -> Iterator[BotProcess]:
    """The shared bot, its model as it was."""
    yield shared_bot
    shared_bot.world.model.release()
    shared_bot.world.model.reply = shared_bot.world.model.echo


@pytest.fixture
def chat() -> str:
    """Somebody who has not written before."""
    return str(next(CHATS))


def test_a_message_is_answered_on_every_platform(shared: BotProcess, platform: str, chat: str) -> None:
    shared.say(platform, chat, "Do you open on Sunday?")
    shared.replies(platform, chat)
    shared.settled()
    answer, = shared.world.people[platform].texts(chat)
    assert answer.endswith("to: Do you open on Sunday?")


def test_the_second_question_shows_the_model_the_first_exchange(shared: BotProcess, platform: str, chat: str) -> None:
    shared.say(platform, chat, "My name is Anna.")
    answer, = shared.replies(platform, chat)
    shared.settled()
    shared.say(platform, chat, "What is my name?")
    shared.replies(platform, chat, 2)
    said = [(message["role"], text_of(message)) for message in shared.world.model.prompts[-1]]
    assert said[0][0] == "system"
    assert said[1:] == [("user", "My name is Anna."), ("assistant", answer),
                        ("user", "What is my name?")]


def test_a_redelivered_message_is_answered_once(shared: BotProcess, platform: str, chat: str) -> None:
    before = len(shared.world.model.prompts)
    webhook = shared.say(platform, chat, "Once, please.")
    shared.replies(platform, chat)
    for _ in range(3):
        assert shared.post(webhook) == 200
    shared.restart()
    assert shared.post(webhook) == 200
    shared.settled()
    assert len(shared.world.people[platform].texts(chat)) == 1
    assert len(shared.world.model.prompts) == before + 1


def test_concurrent_redeliveries_of_one_message_are_answered_once(shared: BotProcess, platform: str, chat: str) -> None:
    webhook = shared.world.people[platform].text(chat, "All at once.")
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(lambda _: shared.post(webhook), range(50)))
    assert statuses == [200] * 50
    shared.replies(platform, chat)
    shared.settled()
    assert len(shared.world.people[platform].texts(chat)) == 1


@pytest.mark.parametrize("name", ["whatsapp", "messenger", "instagram"])
def test_every_message_of_a_batch_is_taken(shared: BotProcess, name: str) -> None:
    people = shared.world.people[name]
    chats = [str(next(CHATS)) for _ in range(20)]
    webhook = batch(people, [people.text(chat, f"I am {chat}") for chat in chats])
    assert shared.post(webhook) == 200
    for chat in chats:
        assert shared.replies(name, chat)[0].endswith(f"to: I am {chat}")


def test_a_forged_message_is_refused_and_not_stored(shared: BotProcess, platform: str, chat: str) -> None:
    webhook = forged(shared.world.people[platform].text(chat, "I am not who I say."))
    status, body = shared.world.post(webhook)
    assert status == 401 and body in (b"", b"unauthorized\n")
    assert shared.rows("SELECT count(*) FROM inbound WHERE chat = ?", chat) == [(0,)]


def test_a_webhook_without_the_secret_says_how_to_register_it(shared: BotProcess) -> None:
    webhook = shared.world.people["telegram"].text("77", "hello")
    fields = {name: "" for name in webhook.headers if "secret" in name.lower()}
    for _ in range(5):
        assert shared.world.post(webhook, **fields)[0] == 401
    assert shared.log.count("python run.py connect telegram") == 1


@pytest.mark.parametrize("name", ["whatsapp", "messenger", "instagram"])
def test_metas_handshake_returns_the_challenge_for_the_right_token_only(shared: BotProcess, name: str) -> None:
    path = f"/{name}/webhook?hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token="
    status, headers, body = shared.world.request("GET", path + SECRETS["VERIFY_TOKEN"])
    assert (status, body) == (200, b"1158201444")
    assert headers["Content-Type"].startswith("text/plain") and headers["X-Content-Type-Options"] == "nosniff"
    assert shared.get(path + "wrong")[0] == 403
    assert shared.get(path)[0] == 403


def test_an_unset_verify_token_never_verifies(start_bot: Start) -> None:
    bot = start_bot(VERIFY_TOKEN=None)
    for token in ("", "&hub.verify_token=", f"&hub.verify_token={SECRETS['VERIFY_TOKEN']}"):
        assert bot.get(f"/whatsapp/webhook?hub.mode=subscribe&hub.challenge=1{token}")[0] == 403


def test_without_the_app_secret_metas_messages_are_refused_and_the_start_says_so(start_bot: Start) -> None:
    bot = start_bot(META_APP_SECRET=None)
    assert "META_APP_SECRET" in bot.log
    assert bot.post(bot.world.people["whatsapp"].text("4915112345678", "hello")) == 401


def test_unsigned_webhooks_can_be_allowed_and_the_start_warns(start_bot: Start, platform: str, chat: str) -> None:
    bot = start_bot(ALLOW_UNSIGNED_WEBHOOKS="1", META_APP_SECRET=None)
    assert "unsigned" in bot.log
    webhook = bot.world.people[platform].text(chat, "by hand")
    assert bot.world.post(webhook._replace(headers={"Content-Type": "application/json"}))[0] == 200
    assert bot.replies(platform, chat) == ["answer 1 to: by hand"]


def test_a_signed_but_unreadable_body_is_taken_and_kept(bot: BotProcess) -> None:
    webhook = bot.world.people["telegram"].text("77", "hello")
    assert bot.world.post(webhook._replace(body=b"[not json"))[0] == 200
    assert bot.rows("SELECT outcome FROM inbound") == [("ignored:unreadable",)]


def test_a_follow_up_joins_the_answer_being_made(shared: BotProcess, platform: str, chat: str) -> None:
    shared.settled()
    before = len(shared.world.calls("model"))
    shared.world.model.hold()
    shared.say(platform, chat, "Do you have")
    shared.until(lambda: len(shared.world.calls("model")) > before, 30, "the model is asked")
    shared.say(platform, chat, "red shoes?")
    shared.until(lambda: len(shared.world.calls("model")) >= before + 2, 30, "the model is asked anew")
    shared.world.model.release()
    answer = shared.replies(platform, chat)
    shared.settled()
    assert len(shared.world.people[platform].texts(chat)) == 1, answer
    last = [text_of(message) for message in shared.world.model.prompts[-1] if message["role"] == "user"]
    assert "Do you have" in "\n".join(last) and "red shoes?" in "\n".join(last)
    outcomes = shared.rows("SELECT outcome FROM inbound WHERE chat = ? ORDER BY id", chat)
    assert outcomes == [("merged",), ("replied",)]


def test_one_conversation_is_answered_in_order_while_others_go_on(shared: BotProcess) -> None:
    people = shared.world.people["telegram"]
    for number in range(5):
        for chat in range(1001, 1011):
            shared.say("telegram", str(chat), f"question {number}")
        for chat in range(1001, 1011):
            shared.replies("telegram", str(chat), number + 1)
    for chat in range(1001, 1011):
        assert [text.rpartition(" ")[2] for text in people.texts(str(chat))] == list("01234")


def test_a_hundred_conversations_are_answered_at_once(shared: BotProcess) -> None:
    shared.settled()
    before = len(shared.world.calls("model"))
    shared.world.model.hold()
    for chat in range(2001, 2101):
        shared.say("telegram", str(chat), "hello")
    shared.until(lambda: len(shared.world.calls("model")) >= before + 100, 20, "a hundred calls in flight")
    shared.world.model.release()
    for chat in range(2001, 2101):
        shared.replies("telegram", str(chat))


def test_a_long_answer_is_split_and_never_cut(shared: BotProcess, platform: str, chat: str) -> None:
    words = " ".join(f"word{number}" for number in range(1500))
    shared.world.model.reply = lambda messages: words
    shared.say(platform, chat, "Tell me everything.")
    shared.until(lambda: "word1499" in "".join(shared.world.people[platform].texts(chat)), 20, "the last word arrives")
    assert " ".join(shared.world.people[platform].texts(chat)).split() == words.split()


def test_a_killed_process_goes_on_where_it_was(shared: BotProcess, platform: str, chat: str) -> None:
    before = len(shared.world.calls("model"))
    shared.world.model.hold()
    shared.say(platform, chat, "Are you still there?")
    shared.until(lambda: len(shared.world.calls("model")) > before, 30, "the model is asked")
    shared.kill()
    shared.world.model.release()
    shared.restart()
    assert shared.replies(platform, chat)[0].endswith("Are you still there?")


def test_a_permanent_fault_of_the_model_gets_one_apology(bot: BotProcess) -> None:
    bot.world.model.plan("401", times=9)
    bot.say("telegram", "77", "hello")
    assert bot.replies("telegram", "77")[0].startswith("Sorry")
    bot.settled()
    assert bot.rows("SELECT outcome FROM inbound")[0][0].startswith("ai_failed:")
    assert "AI_API_KEY" in bot.log
    assert len(bot.world.people["telegram"].texts("77")) == 1


def test_an_outage_of_the_model_uses_up_nobodys_message(bot: BotProcess) -> None:
    bot.world.model.plan("500", times=2)
    bot.say("telegram", "77", "hello")
    assert bot.replies("telegram", "77", timeout=20)[0].endswith("to: hello")


def test_a_platform_that_asks_for_a_pause_gets_it_and_then_the_answer(shared: BotProcess, platform: str,
                                                                      chat: str) -> None:
    shared.world.people[platform].plan("429", retry_after=1)
    shared.say(platform, chat, "hello")
    answer, = shared.replies(platform, chat, timeout=25)
    assert answer.endswith("to: hello")


def test_healthz_tells_what_waits(bot: BotProcess) -> None:
    bot.world.model.hold()
    bot.say("telegram", "77", "hello")
    waiting = bot.until(lambda: json.loads(bot.get("/healthz")[1])["pending"] and bot.get("/healthz")[1], 30)
    facts = json.loads(waiting)
    assert facts["status"] == "ok" and facts["pending"] == 1 and facts["dead"] == 0
    assert facts["oldest_pending_seconds"] >= 0
    bot.world.model.release()
    bot.settled()


def test_unknown_paths_and_methods_are_refused(shared: BotProcess) -> None:
    assert shared.get("/")[0] == 404
    assert shared.get("/.env")[0] == 404
    status, headers, _ = shared.world.request("PUT", "/healthz")
    assert status == 405 and "GET" in headers["Allow"]
    assert shared.get("/telegram/webhook")[0] == 405


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly_and_what_was_taken_is_answered_later(bot: BotProcess, how: signal.Signals) -> None:
    bot.world.model.hold()
    bot.say("telegram", "77", "before the stop")
    bot.until(lambda: bot.world.calls("model"), 30, "the model is asked")
    assert bot.process
    bot.process.send_signal(how)
    assert bot.wait(12) == 0
    bot.world.model.release()
    bot.start()
    assert bot.replies("telegram", "77")[0].endswith("before the stop")
    assert "Traceback" not in bot.log


def run(folder: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(ROOT / "run.py"), *arguments], cwd=folder, env=environ, timeout=30,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_a_stop_finishes_what_is_in_hand_and_begins_nothing_further(bot: BotProcess) -> None:
    bot.world.delay = 0.5  # of each call to a platform, before and after it is carried out
    bot.say("telegram", "77", "first")
    bot.until(lambda: bot.world.calls("telegram", "sendMessage"), what="the answer is on its way")
    bot.say("telegram", "77", "second")
    assert bot.term() == 0 and bot.world.model.count == 1
    bot.world.delay = 0.0
    bot.start()
    assert [text.rpartition(" ")[2] for text in bot.replies("telegram", "77", 2)] == ["first", "second"]
    bot.settled()
    assert len(bot.world.telegram.texts("77")) == 2


def test_without_any_setting_it_says_how_to_go_on(tmp_path: object) -> None:
    done = run(str(tmp_path))
    assert done.returncode == 2
    assert ".env.example" in done.stderr and "run.py demo" in done.stderr and "Traceback" not in done.stderr


def test_all_faults_of_the_settings_are_told_together(tmp_path: object, world: FakeWorld) -> None:
    wrong = {"PORT": "ninety", "META_PHONE_NUMBER_ID": "+4915", "DAILY_TOKENS": "x"}
    done = run(str(tmp_path), **{**world.settings(), **wrong})
    assert done.returncode == 2
    for key in ("PORT", "META_PHONE_NUMBER_ID", "DAILY_TOKENS"):
        assert key in done.stderr
    assert not any(secret in done.stderr + done.stdout for secret in SECRETS.values())


def test_a_port_that_is_taken_is_told_in_one_line(tmp_path: object, world: FakeWorld) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        done = run(str(tmp_path), **{**world.settings(), "PORT": str(other.getsockname()[1])})
    assert done.returncode == 1
    assert "PORT" in done.stderr and "taken" in done.stderr and "Traceback" not in done.stderr


def test_a_second_start_on_the_same_database_says_who_holds_it(bot: BotProcess) -> None:
    done = run(str(bot.folder), **{**bot.settings, "PORT": "0"})
    assert done.returncode == 1 and bot.process
    assert str(bot.process.pid) in done.stderr and "Traceback" not in done.stderr


def test_an_unknown_command_is_told_in_one_line(tmp_path: object) -> None:
    done = run(str(tmp_path), "conect")
    assert done.returncode == 2 and done.stderr.count("\n") == 1


def test_a_message_that_the_process_died_on_twice_is_worked_alone_and_starves_nobody(bot: BotProcess) -> None:
    for life in range(1, 4):
        bot.world.model.hold()
        if life == 1:
            bot.say("telegram", "77", "Dangerous?")
        bot.until(lambda: len(bot.world.calls("model")) >= life, 10, f"the model is asked in life {life}")
        if life < 3:
            bot.kill()
            bot.world.model.release()
            bot.start()
    bot.say("telegram", "78", "And I?")
    assert bot.get("/healthz")[0] == 200
    bot.world.model.release()
    assert bot.replies("telegram", "77")[0].endswith("Dangerous?")
    assert bot.replies("telegram", "78")[0].endswith("And I?")
