"""The demo: the whole program among simulated platforms, what goes wrong at will, and what it is protected from.

Not here: how the page looks and feels (`test_demo_browser.py`). The law: everything is asked of the real command in a
real process; what a page would be told is read from the same stream.

Next: `test_demo_browser.py`.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from minibot.desk.demo_rehearsal import LESSONS
from minibot.dotenv import surroundings
from minibot.model import PLATFORMS
from tests.botprocess import ROOT
from tests.demostage import Demo
from tests.fakes import SECRETS, FakeWorld

PAGES = ROOT / "minibot" / "desk" / "pages"
LABEL = "[offline demo - no AI connected]"
WAY = ("webhook", "accepted", "claimed", "prompt", "answer", "finished", "call", "reply", "settled")
CANARIES = {
    "TELEGRAM_BOT_TOKEN": "7999999999:AAcanaryRealTokenThatNobodyMayUse01",
    "META_ACCESS_TOKEN": "EAAcanaryRealWhatsApp", "META_PAGE_ACCESS_TOKEN": "EAAcanaryRealPage",
    "META_APP_SECRET": "canaryrealappsecret",
    "META_PHONE_NUMBER_ID": "424242424242", "VERIFY_TOKEN": "canaryrealverify", "DATABASE_URL": "sqlite:///real.db",
    "CRM_WEBHOOK_URL": "https://canary.example.org/crm", "ADMIN_TOKEN": "canaryrealadmin", "HOST": "0.0.0.0"}
linux = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="the environment of a process is not shown")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """A demo for tests that leave it as it was."""
    made = Demo(tmp_path_factory.mktemp("demo"))
    made.until(made.up)
    yield made
    made.close()


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Callable[..., Demo]]:
    """`demo("--lesson", "truncate", KEY="value")`: a demo of one's own, once it serves."""
    demos: list[Demo] = []

    def start(*options: str, **environ: str) -> Demo:
        demos.append(Demo(tmp_path, *options, **environ))
        demos[-1].until(demos[-1].up)
        return demos[-1]

    yield start
    for made in demos:
        made.close()


def command(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """`run.py` with these arguments, for a command that ends by itself."""
    return subprocess.run([sys.executable, str(ROOT / "run.py"), *arguments], cwd=folder, text=True, timeout=20,
                          capture_output=True, env={**surroundings(), **environ}, stdin=subprocess.DEVNULL)


def environment_of(demo: Demo) -> str:
    """What the serving process was given."""
    pid = next(event["pid"] for event in demo.events if "pid" in event)
    return Path(f"/proc/{pid}/environ").read_text("utf-8")


# A message and its way

@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_message_on_each_phone_is_answered(shared: Demo, platform: str) -> None:
    shared.say(platform, "Do you open on Sunday?")
    assert shared.replies(platform, 1)[0] == f"{LABEL} message 1, 22 characters: Do you open on Sunday?"


def test_every_hop_of_a_message_is_told_in_order(demo: Callable[..., Demo]) -> None:
    stage = demo()
    stage.say("messenger", "Hello")
    stage.until(lambda: stage.hops("messenger", "settled") and stage.hops("messenger", "taken"))
    steps = [hop["step"] for hop in sorted(stage.hops("messenger"), key=lambda hop: float(hop["at"]))]
    assert [step for step in steps if step in WAY] == list(WAY)
    taken = stage.hops("messenger", "taken")[0]
    assert taken["status"] == 200 and 0 < taken["ms"] < 10_000
    assert '"text":"Hello"' in stage.hops("messenger", "webhook")[0]["octets"]
    assert "X-Hub-Signature-256: sha256=" in stage.hops("messenger", "webhook")[0]["octets"]
    assert "POST /v25.0/me/messages HTTP/1.1" in stage.hops("messenger", "call")[0]["octets"]


@linux
def test_no_secret_is_ever_shown(shared: Demo) -> None:
    shared.say("telegram", "Hello")
    shared.say("whatsapp", "Hello")
    shared.until(lambda: shared.hops("telegram", "settled") and shared.hops("whatsapp", "settled"))
    secrets = [value for line in environment_of(shared).split("\0") for name, _, value in [line.partition("=")]
               if re.search("TOKEN|SECRET", name)]
    assert len(secrets) == 7
    assert not [secret for secret in secrets if secret in str(shared.events)]
    assert "bot‹TELEGRAM_BOT_TOKEN›/sendMessage" in str(shared.hops("telegram", "call"))


def test_a_picture_and_a_voice_note_travel_through_the_platforms(shared: Demo) -> None:
    png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    before = len(shared.texts("instagram"))
    assert shared.post("/act", platform="instagram", way="media", shown="", data=png, caption="") == 204
    assert "which I cannot look at" in shared.replies("instagram", before + 1)[-1]
    assert any("ig_messaging_cdn" in hop["name"] for hop in shared.hops("instagram", "call"))


def test_a_button_of_the_platform_is_understood(shared: Demo) -> None:
    before = len(shared.texts("messenger"))
    shared.post("/act", platform="messenger", way="message", shown="Get started", kind="postback",
                content={"title": "Get started", "payload": "GET_STARTED"})
    assert "AI assistant" in shared.replies("messenger", before + 1)[-1]


def test_a_long_answer_comes_in_parts_and_whole(shared: Demo) -> None:
    before, words = len(shared.texts("instagram")), "word " * 197
    shared.say("instagram", f"/echo {words}END")
    parts = shared.replies("instagram", before + 2)[before:]
    assert " ".join(parts).split() == f"{LABEL} {words}END".split()


# Trouble

def test_a_rate_limit_is_waited_for_and_the_answer_comes(demo: Callable[..., Demo]) -> None:
    stage = demo()
    stage.post("/plan", platform="telegram", kind="429")
    stage.say("telegram", "Hello")
    assert len(stage.replies("telegram", 1)) == 1
    stage.until(lambda: len(stage.hops("telegram", "settled")) == 2)
    first, second = [hop["facts"]["fate"] for hop in stage.hops("telegram", "settled")]
    assert (first["state"], first["error"], second["state"]) == ("pending", "429", "sent")
    replies = [hop for hop in stage.hops("telegram", "reply") if hop["name"] == "sendMessage"]
    assert [hop["status"] for hop in replies] == [429, 200] and replies[1]["at"] - replies[0]["at"] >= 3000


@pytest.mark.parametrize("kind", ["500", "reset"])
def test_trouble_with_the_model_delays_the_answer_and_loses_nothing(shared: Demo, kind: str) -> None:
    before = len(shared.texts("whatsapp"))
    shared.post("/plan", platform="model", kind=kind)
    shared.say("whatsapp", f"with {kind}")
    assert f"with {kind}" in shared.replies("whatsapp", before + 1)[-1]


def test_killed_with_a_message_in_hand_it_answers_after_the_restart(demo: Callable[..., Demo]) -> None:
    stage = demo()
    stage.post("/plan", platform="model", kind="slow")
    stage.say("telegram", "Hello")
    stage.until(lambda: stage.hops("telegram", "prompt"))
    stage.kill()
    stage.until(stage.up)
    assert len(stage.replies("telegram", 1)) == 1
    assert len({event["pid"] for event in stage.events if "pid" in event}) == 2


def test_a_message_sent_while_it_is_down_is_delivered_later(demo: Callable[..., Demo]) -> None:
    stage = demo()
    stage.kill()
    stage.say("instagram", "Anybody there?")
    assert "Anybody there?" in stage.replies("instagram", 1)[0]
    assert stage.hops("instagram", "away")


def test_delivered_five_times_it_is_answered_once(shared: Demo) -> None:
    before = len(shared.texts("messenger")), len(shared.hops("messenger", "accepted"))
    shared.say("messenger", "five", times=5)
    shared.until(lambda: len(shared.hops("messenger", "accepted")) == before[1] + 5)
    news = [hop["facts"]["new"] for hop in shared.hops("messenger", "accepted")[before[1]:]]
    assert news == [1, 0, 0, 0, 0] and len(shared.replies("messenger", before[0] + 1)) == before[0] + 1


def test_a_forged_message_is_refused(demo: Callable[..., Demo]) -> None:
    stage = demo()
    for platform in PLATFORMS:
        stage.say(platform, "I am somebody else", forged=True)
        stage.until(lambda: stage.hops(platform, "taken"))  # noqa: B023  waited for at once
        assert [hop["status"] for hop in stage.hops(platform, "taken")] == [401]
        assert not stage.hops(platform, "accepted") and not stage.texts(platform)


def test_a_message_that_is_overtaken_is_answered_too(shared: Demo) -> None:
    before = len(shared.texts("telegram"))
    shared.say("telegram", "first", late=1.5)
    shared.say("telegram", "second")
    first, second = shared.replies("telegram", before + 2)[-2:]
    assert "second" in first and "first" in second


def test_outside_the_window_the_platform_takes_nothing(demo: Callable[..., Demo]) -> None:
    stage = demo()
    stage.say("instagram", "Hello", day=True)
    stage.until(lambda: stage.hops("instagram", "settled"))
    assert stage.hops("instagram", "settled")[0]["facts"]["fate"]["outcome"] == "window_closed"
    assert not stage.texts("instagram")


def test_a_person_who_takes_over_silences_the_bot(demo: Callable[..., Demo]) -> None:
    stage = demo()
    stage.say("whatsapp", "Hello")
    stage.replies("whatsapp", 1)
    assert stage.post("/act", platform="whatsapp", way="human", shown="Eva here", text="Eva here") == 204
    stage.until(lambda: [hop for hop in stage.hops("whatsapp", "taken") if hop["message"].startswith("wamid.H")])
    stage.say("whatsapp", "Thank you, Eva")
    stage.say("whatsapp", "/bot")
    assert stage.replies("whatsapp", 2)[1].startswith("I am back")


# Lessons: each shows what its protection is for

def test_without_deduplication_it_answers_again_and_again(demo: Callable[..., Demo]) -> None:
    stage = demo("--lesson", "no-dedup")
    stage.say("whatsapp", "Hello", times=5)
    assert len(stage.replies("whatsapp", 3)) >= 3


def test_without_order_the_second_answer_comes_first(demo: Callable[..., Demo]) -> None:
    stage = demo("--lesson", "no-order")
    stage.post("/plan", platform="model", kind="slow")
    stage.say("telegram", "first")
    stage.until(lambda: stage.hops("telegram", "prompt") and stage.planned("model") == [])  # the first question met it
    stage.say("telegram", "second")
    assert [text.split()[-1] for text in stage.replies("telegram", 2)] == ["second", "first"]


def test_with_order_one_answer_covers_both(demo: Callable[..., Demo]) -> None:
    stage = demo()
    stage.post("/plan", platform="model", kind="slow")
    stage.say("telegram", "first")
    stage.until(lambda: stage.hops("telegram", "prompt"))
    stage.say("telegram", "second")
    stage.until(lambda: stage.hops("telegram", "settled"))
    outcomes = stage.hops("telegram", "finished")[0]["facts"]["outcomes"]
    assert sorted(outcomes.values()) == ["merged", "replied"] and len(stage.texts("telegram")) == 1


def test_acknowledged_first_and_killed_it_loses_the_message(demo: Callable[..., Demo]) -> None:
    stage = demo("--lesson", "ack-first")
    stage.say("whatsapp", "Hello")
    stage.until(lambda: stage.told("delivered"))
    stage.kill()
    stage.until(stage.up)
    stage.say("messenger", "Still there?")
    assert stage.replies("messenger", 1) and not stage.texts("whatsapp")


def test_without_signatures_it_answers_a_forger(demo: Callable[..., Demo]) -> None:
    stage = demo("--lesson", "no-signature")
    stage.say("messenger", "I am somebody else", forged=True)
    assert len(stage.replies("messenger", 1)) == 1


def test_cut_at_the_limit_the_end_is_missing(demo: Callable[..., Demo]) -> None:
    stage = demo("--lesson", "truncate")
    stage.say("instagram", "/echo " + "word " * 197 + "END")
    stage.until(lambda: stage.hops("instagram", "settled"))
    assert len(stage.texts("instagram")) == 1 and "END" not in stage.texts("instagram")[0]


@pytest.mark.parametrize("where", ["environment", ".env"])
def test_a_lesson_does_not_start_beside_real_credentials(tmp_path: Path, where: str) -> None:
    canaries = {"TELEGRAM_BOT_TOKEN": CANARIES["TELEGRAM_BOT_TOKEN"]}
    if where == ".env":
        (tmp_path / ".env").write_text(f"TELEGRAM_BOT_TOKEN={canaries.pop('TELEGRAM_BOT_TOKEN')}\n")
    ended = command(tmp_path, "demo", "--no-browser", "--lesson", "no-signature", **canaries)
    assert ended.returncode == 2 and "--lesson" in ended.stderr and not ended.stdout


@pytest.mark.parametrize("lesson", LESSONS)
def test_no_setting_brings_a_lesson_to_real_platforms(tmp_path: Path, lesson: str) -> None:
    ended = command(tmp_path, AI_API_KEY="sk-test", MINIBOT_DEMO="1", MINIBOT_LESSON=lesson, MINIBOT_OFFLINE="1",
                    TELEGRAM_BOT_TOKEN=CANARIES["TELEGRAM_BOT_TOKEN"])
    assert ended.returncode == 2 and "remove them" in ended.stderr and ended.stderr.count("\n") == 1


# Alone on its machine

def test_it_needs_no_package_at_all(tmp_path: Path) -> None:
    bare = getattr(sys, "_base_executable", sys.executable)
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('openai') is not None)"
    if subprocess.run([bare, "-c", code], check=False).returncode:
        pytest.skip("every Python here has the openai package")
    stage = Demo(tmp_path, python=bare)
    try:
        stage.say("telegram", "Hello")
        assert LABEL in stage.replies("telegram", 1)[0]
    finally:
        stage.close()


@linux
def test_real_credentials_never_reach_the_program(tmp_path: Path, demo: Callable[..., Demo]) -> None:
    (tmp_path / ".env").write_text("".join(f"{key}={value}\n" for key, value in CANARIES.items()))
    stage = demo(**{key: CANARIES[key] for key in ("META_ACCESS_TOKEN", "CRM_WEBHOOK_URL")})
    given = environment_of(stage)
    assert not [key for key, value in CANARIES.items() if value in given]
    stage.say("whatsapp", "Hello")
    assert stage.replies("whatsapp", 1) and not (tmp_path / "real.db").exists()
    assert not [value for value in CANARIES.values() if value in str(stage.events)]


def test_with_a_key_the_real_model_answers(world: FakeWorld, demo: Callable[..., Demo]) -> None:
    pytest.importorskip("openai")
    stage = demo(AI_API_KEY=SECRETS["AI_API_KEY"], OPENAI_BASE_URL=f"{world.url}/v1")
    assert stage.told("hello")[0]["offline"] is False
    stage.say("messenger", "Do you open on Sunday?")
    assert stage.replies("messenger", 1) == ["answer 1 to: Do you open on Sunday?"]
    assert SECRETS["AI_API_KEY"] not in str(stage.events)


def test_it_listens_on_this_machine_only(shared: Demo) -> None:
    host = socket.gethostname()
    others = {str(each[4][0]) for each in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    for address in others - {"127.0.0.1", "::1"}:
        with pytest.raises(OSError):
            socket.create_connection((address, shared.port), timeout=2).close()


@pytest.mark.parametrize("fields, status", [
    ({"Host": "evil.example:{port}"}, 421),
    ({"Origin": "http://evil.example"}, 403),
    ({"Origin": "http://127.0.0.1:1"}, 403),
    ({"Origin": "null"}, 403),
    ({"Sec_Fetch_Site": "cross-site"}, 403),
    ({"X_Demo_Token": "guessed"}, 403),
    ({"X_Demo_Token": ""}, 403),
    ({"Origin": "http://localhost:{port}", "Sec_Fetch_Site": "same-origin"}, 204),
])
def test_only_our_own_page_may_act(shared: Demo, fields: dict[str, str], status: int) -> None:
    headers = {"X_Demo_Token": shared.token, **{name: value.format(port=shared.port) for name, value in fields.items()}}
    body = b'{"platform": "telegram", "kind": "500"}'
    assert shared.request("POST", "/plan", body, **headers)[0] == status


@pytest.mark.parametrize("path", ["/", "/events", "/demo.js", "/sim/telegram/bot1:x/getMe"])
def test_a_foreign_host_name_opens_nothing(shared: Demo, path: str) -> None:
    assert shared.request("GET", path, Host="rebound.example")[0] == 421


@pytest.mark.parametrize("given", [
    {"platform": "telegram", "way": "text"}, {"platform": "icq", "way": "text", "shown": "x", "text": "x"},
    {"platform": "telegram", "way": "__init__", "shown": "x"},
    {"platform": "messenger", "way": "text", "shown": "x", "text": "x", "unknown": 1}])
def test_what_is_no_action_is_refused(shared: Demo, given: dict[str, Any]) -> None:
    assert shared.post("/act", **given) == 400


def test_a_taken_port_leads_to_the_next_one(shared: Demo, demo: Callable[..., Demo]) -> None:
    assert shared.port < demo("--port", str(shared.port)).port <= shared.port + 20


def test_ctrl_c_ends_both_processes_and_leaves_nothing(tmp_path: Path, demo: Callable[..., Demo]) -> None:
    stage = demo()
    stage.say("telegram", "Hello")
    stage.replies("telegram", 1)
    pid = next(event["pid"] for event in stage.events if "pid" in event)
    assert list(tmp_path.iterdir())
    assert stage.close() == 0 and stage.rest == ""
    assert not list(tmp_path.iterdir())
    stage.gone(pid)


def test_killed_itself_it_leaves_no_program_behind(demo: Callable[..., Demo]) -> None:
    stage = demo()
    stage.running.kill()
    stage.running.wait(10)
    pid = next(event["pid"] for event in stage.events if "pid" in event)
    stage.gone(pid)


def test_a_database_of_ones_own_is_kept(tmp_path: Path, demo: Callable[..., Demo]) -> None:
    for number in (1, 2):
        stage = demo("--db", "kept.db")
        stage.say("telegram", "Hello", quote="")
        assert f"message {number}," in stage.replies("telegram", 1)[0]
        assert stage.close() == 0
    assert (tmp_path / "kept.db").exists()


@pytest.mark.parametrize("arguments", [["--port", "x"], ["--port", "70000"], ["--lesson", "none"], ["--what"], ["x"]])
def test_bad_arguments_end_it_with_a_hint(tmp_path: Path, arguments: list[str]) -> None:
    ended = command(tmp_path, "demo", *arguments)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr and "demo" in ended.stderr


# The page's files

def test_the_page_stays_within_its_budget_and_holds_nothing_foreign() -> None:
    files = {path.name: path.read_text("utf-8") for path in PAGES.glob("demo.*")}
    assert sum(text.count("\n") for text in files.values()) <= 1200
    assert not re.search(r"<style|style=|\son\w+=|<script(?! src=)", files["demo.html"])
    assert "innerHTML" not in files["demo.js"] and "eval" not in files["demo.js"]
    for name, text in files.items():
        assert set(re.findall(r"https?://([\w.]+)", text)) <= {"www.w3.org", "example.org"}, name


def test_the_page_is_served_with_a_strict_policy(shared: Demo) -> None:
    for path in ("/", "/demo.css", "/demo.js"):
        status, body, fields = shared.get(path)
        assert status == 200 and body and b"{{token}}" not in body
        policy = fields["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; ") and "unsafe" not in policy
        assert fields["X-Content-Type-Options"] == "nosniff"
