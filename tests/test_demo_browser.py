"""The demo's page in a real browser: what a person types, sees, opens and breaks.

Not here: what the demo tells the page (`test_demo.py`). The law: the page is used as a person uses it, by mouse and
keyboard; at the end there was no line on the console and no request to anybody else.

Next: `browser.py`.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path

import pytest

from minibot.model import PLATFORMS
from tests.browser import ABSENT, Browser
from tests.demostage import Demo

pytestmark = pytest.mark.skipif(bool(ABSENT), reason=ABSENT or "")
ENTER, TAB, SPACE = "\ue007", "\ue004", " "
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
SCREENS = [(1440, 900), (1024, 768), (390, 844)]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """The demo that all of these look at."""
    made = Demo(tmp_path_factory.mktemp("demo"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all."""
    made = Browser(tmp_path_factory.mktemp("browser"))
    yield made
    made.close()


@pytest.fixture
def page(demo: Demo, browser: Browser) -> Iterator[Browser]:
    """The page on a large screen; afterwards nothing may have gone wrong in it."""
    browser.screen(1440, 900)
    if browser.run("return location.origin") != demo.url:
        browser.forget_logs()
        browser.open(demo.url)
    browser.see("#serving", "serving, pid")
    yield browser
    browser.look_at_logs()
    assert browser.console == []
    assert browser.hosts() <= {f"127.0.0.1:{demo.port}"}


def phone(platform: str, css: str) -> str:
    """A selector inside one phone."""
    return f".phone[data-platform={platform}] {css}"


@pytest.mark.parametrize("platform", PLATFORMS)
def test_what_is_typed_on_a_phone_is_answered_there(page: Browser, platform: str) -> None:
    page.type(phone(platform, "textarea"), f"Hello {platform}{ENTER}")
    page.see(phone(platform, ".bubble.me"), f"Hello {platform}")
    page.see(phone(platform, ".bubble.bot"), f"Hello {platform}")
    page.until("return document.querySelector(arguments[0])", phone(platform, ".bubble.me.delivered"))


def test_a_hop_opens_to_its_bytes_without_secrets(page: Browser) -> None:
    page.type(phone("telegram", "textarea"), f"What is on the wire?{ENTER}")
    page.see(".journey[open] .badge", "replied")
    page.click(".journey[open] .hop.webhook summary")
    page.see(".journey[open] .hop.webhook .octets", "POST /telegram/webhook HTTP/1.1")
    shown = page.text(".journey[open] .hop.webhook .octets")[0]
    assert '"text": "What is on the wire?"' in shown and "‹TELEGRAM_WEBHOOK_SECRET›" in shown
    page.click(".journey[open] .hop.webhook .raw")
    page.see(".journey[open] .hop.webhook .octets", '"text":"What is on the wire?"')


def test_formatting_looks_as_on_the_platform(page: Browser) -> None:
    for platform in ("telegram", "whatsapp"):
        page.type(phone(platform, "textarea"), f"/echo **bold** and `code` at https://example.org/x{ENTER}")
        page.see(phone(platform, ".bubble.bot b"), "bold")
        page.see(phone(platform, ".bubble.bot code"), "code")
        page.see(phone(platform, ".bubble.bot a"), "https://example.org/x")


def test_markup_of_strangers_stays_text(page: Browser) -> None:
    for platform in PLATFORMS:
        page.type(phone(platform, "textarea"), f"/echo <img src=x onerror=alert(1)><b>not bold</b>{ENTER}")
        page.see(phone(platform, ".bubble.bot"), "<img src=x onerror=alert(1)><b>not bold</b>")
    assert page.run("return document.querySelectorAll('.chat img, .chat .bot b').length - "
                    "[...document.querySelectorAll('.chat .bot b')].filter(x => x.innerText === 'bold').length") == 0


def test_a_long_answer_comes_as_several_bubbles(page: Browser) -> None:
    count = "return document.querySelectorAll(arguments[0]).length"
    before = page.run(count, phone("instagram", ".bubble.bot"))
    page.click(phone("instagram", ".chips button:nth-child(3)"))
    page.until(f"{count} >= arguments[1]", phone("instagram", ".bubble.bot"), before + 2)
    page.see(phone("instagram", ".bubble.bot"), "If you can read this, nothing was lost.")


def test_a_picture_is_sent_and_shown(page: Browser, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    picture.write_bytes(b64decode(PNG))
    page.type(phone("whatsapp", ".file"), str(picture))
    page.until("const image = document.querySelector(arguments[0]); return image && image.naturalWidth > 0",
               phone("whatsapp", ".bubble.me img"))
    page.click(phone("telegram", ".voice"))
    page.see(phone("telegram", ".bubble.bot"), "that nobody listened to")


def test_a_rate_limit_is_shown_and_overcome(page: Browser) -> None:
    page.click("#targets [data-target=telegram]")
    page.click("#call-keys [data-kind='429']")
    page.until("return document.querySelector(arguments[0])", "#call-keys [data-kind='429'].armed")
    page.type(phone("telegram", "textarea"), f"in spite of 429{ENTER}")
    page.see(".journey[open] .hop.wrong", "Telegram replies 429")
    page.see(".journey[open] .badge", "again in")
    page.see(phone("telegram", ".bubble.bot"), "in spite of 429")
    page.see(".journey[open] .badge", "replied")


def test_killed_in_the_middle_it_comes_back_and_answers(page: Browser) -> None:
    page.click("#targets [data-target=model]")
    page.click("#call-keys [data-kind=slow]")
    page.type(phone("messenger", "textarea"), f"survive this{ENTER}")
    page.see(".journey[open] .hop", "the model is asked")
    page.click("#kill")
    page.see("#serving", "down")
    page.see(".journey[open] .hop.wrong", "killed with kill -9")
    page.see("#serving", "serving, pid")
    page.see(phone("messenger", ".bubble.bot"), "survive this")


def test_typing_is_shown_while_the_model_thinks(page: Browser) -> None:
    page.click("#targets [data-target=model]")
    page.click("#call-keys [data-kind=slow]")
    page.type(phone("whatsapp", "textarea"), f"take your time{ENTER}")
    page.see(phone("whatsapp", ".who"), "typing…")
    page.until("return document.querySelector(arguments[0])", phone("whatsapp", ".bubble.me.read"))
    page.see(phone("whatsapp", ".bubble.bot"), "take your time")
    page.see(phone("whatsapp", ".who"), "online")


def test_delivery_trouble_goes_with_the_next_message_only(page: Browser) -> None:
    page.click("#targets [data-target=instagram]")
    page.click("#message-keys [data-kind=forged]")
    page.type(phone("instagram", "textarea"), f"a stranger{ENTER}")
    page.see(phone("instagram", ".bubble.forged"), "a stranger")
    page.see(".journey[open] .badge", "refused")
    page.type(phone("instagram", "textarea"), f"it is me{ENTER}")
    page.see(phone("instagram", ".bubble.bot"), "it is me")


def test_a_day_later_the_window_is_closed(page: Browser) -> None:
    page.click("#targets [data-target=messenger]")
    page.click("#message-keys [data-kind=day]")
    page.type(phone("messenger", "textarea"), f"too late{ENTER}")
    page.see(phone("messenger", ".window"), "closed")
    page.see(".journey[open] .badge", "window closed")


def test_a_person_takes_over_and_the_bot_falls_silent(page: Browser) -> None:
    page.click(phone("whatsapp", ".person-key"))
    page.see(phone("whatsapp", ".bubble.person"), "Eva")
    page.type(phone("whatsapp", "textarea"), f"Thank you{ENTER}")
    page.see(".journey[open] .badge", "paused")
    page.click(phone("whatsapp", ".person-key"))
    page.see(phone("whatsapp", ".bubble.bot"), "I am back")


def test_everything_works_by_keyboard(page: Browser) -> None:
    page.run("document.querySelector(arguments[0]).focus()", phone("telegram", ".chips button"))
    page.type(phone("telegram", ".chips button"), ENTER)
    page.see(phone("telegram", ".bubble.bot"), "Do you open on Sunday?")
    page.see(".journey[open] .badge", "replied")
    page.type(".journey[open] .hop.call summary", SPACE)
    page.see(".journey[open] .hop.call .octets", "/sendMessage HTTP/1.1")
    reached = page.run("return [...document.querySelectorAll('button, textarea, summary')].every(x => x.tabIndex >= 0)")
    assert reached


def test_whoever_reloads_sees_everything_again(page: Browser, demo: Demo) -> None:
    page.type(phone("instagram", "textarea"), f"remember me{ENTER}")
    page.see(phone("instagram", ".bubble.bot"), "remember me")
    page.open(demo.url)
    page.see(phone("instagram", ".bubble.bot"), "remember me")
    page.see(".journey .said", "remember me")


def test_the_page_fits_every_screen_by_day_and_by_night(page: Browser) -> None:
    for width, height, scheme in [(*size, scheme) for size in SCREENS for scheme in ("light", "dark")]:
        page.screen(width, height, scheme)
        assert page.run("return document.documentElement.scrollWidth") == width
        box = page.run("const box = document.querySelector('.phone .frame').getBoundingClientRect(); "
                       "return [box.top, box.bottom, box.width]")
        assert 0 < box[0] and box[1] <= height and box[2] >= 200, (width, height)
        paper = page.run("return getComputedStyle(document.body).backgroundColor")
        assert (int(paper.split("(")[1].split(",")[0]) < 128) == (scheme == "dark")


def test_on_a_narrow_screen_the_phones_are_leafed_through(page: Browser) -> None:
    page.screen(390, 844)
    snap = page.run("return getComputedStyle(document.querySelector('#phones')).scrollSnapType")
    assert "mandatory" in snap
    page.run("document.querySelector(arguments[0]).scrollIntoView({inline: 'center', behavior: 'instant'})",
             phone("whatsapp", ".frame"))
    page.until("const box = document.querySelector(arguments[0]).getBoundingClientRect();"
               "return box.left >= 0 && box.right <= 390", phone("whatsapp", ".frame"))


def test_a_lesson_says_what_to_try(browser: Browser, tmp_path: Path) -> None:
    taught = Demo(tmp_path, "--lesson", "no-dedup")
    try:
        browser.open(taught.url)
        browser.see("#lesson", "without deduplication")
        assert browser.text("#lesson-text")[0].count(". ") == 2
    finally:
        taught.close()
