"""What `ai.py` promises about the model, against real servers that answer like OpenAI, llama.cpp, or not at all.

The law: the SDK is real, its transport is real; only the far end is ours.
"""

from __future__ import annotations

import asyncio
import gzip
import importlib.util
import os
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any

import pytest

from minibot.ai import Model, OpenAiModel, estimate, fit, retires
from minibot.ai_offline import LABEL, OfflineModel
from minibot.config import Settings
from minibot.errors import AiFailed, AiRemedy, retry_after
from minibot.model import Secret
from minibot.web.calls import Caller
from minibot.work import Answer, Said
from tests.servers import FaultServer, Plan, drip, raw, reply

KEY = "sk-canary-0123456789-must-not-show"
BOMB = gzip.compress(b'{"choices": [{"message": {"content": "No!"}}]}' + b" " * (8 << 20))
PIXEL = b"\x89PNG\r\n\x1a\npixel"
needs_sdk = pytest.mark.skipif(importlib.util.find_spec("openai") is None, reason="the openai package is missing")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("OPENAI_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def settings(url: str = "", **more: Any) -> Settings:
    chosen: dict[str, Any] = {"ai_timeout_seconds": 5.0, "system_prompt": "Be brief.", **more}
    return Settings(ai_api_key=Secret(KEY), openai_base_url=url and f"{url}/v1", **chosen)


def completion(content: Any = "Yes, from ten to four.", finish: str = "stop", **more: Any) -> Plan:
    message = {"role": "assistant", "content": content, **more.pop("message", {})}
    return reply(200, {"id": "x", "object": "chat.completion", "model": "m", "created": 1,
                       "choices": [{"index": 0, "message": message, "finish_reason": finish}],
                       "usage": {"prompt_tokens": 21, "completion_tokens": 8, "total_tokens": 29}, **more})


def refusal(status: int, code: str | None = None, kind: str = "invalid_request_error", param: str | None = None,
            message: str = "Something is wrong", **fields: str) -> Plan:
    return reply(status, {"error": {"message": message, "type": kind, "param": param, "code": code}}, **fields)


def official(model: OpenAiModel) -> OpenAiModel:
    """The dialect of api.openai.com, spoken to the test's server."""
    model._official = True
    return model


def ask(model: Model, *said: Said, person: str = "telegram:4711") -> Answer:
    async def once() -> Answer:
        async with asyncio.timeout(20):
            return await model.answer(said or (Said("user", "Do you open on Sunday?"),), person)
    return asyncio.run(once())


CALLERS: list[Caller] = []


@pytest.fixture(autouse=True)
def hang_up() -> Iterator[None]:
    yield
    while CALLERS:
        CALLERS.pop().close()


def model_of(settings: Settings) -> OpenAiModel:
    CALLERS.append(Caller(clock=time.monotonic))
    return OpenAiModel(settings, clock=time.monotonic, perform=CALLERS[-1].perform)


def made(server: FaultServer, **more: Any) -> OpenAiModel:
    return model_of(settings(server.url, **more))


def failed(server: FaultServer, *said: Said, **more: Any) -> AiFailed:
    with pytest.raises(AiFailed) as caught:
        ask(made(server, **more), *said)
    assert_silent(caught.value)
    return caught.value


def assert_silent(error: BaseException) -> None:
    seen: BaseException | None = error
    while seen is not None:
        assert KEY not in f"{seen!s} {seen!r} {vars(seen)}"
        assert KEY not in "".join(traceback.format_exception(seen))
        seen = seen.__context__


# --- what is asked, what is answered -------------------------------------------------------------------------------


@needs_sdk
def test_the_conversation_goes_to_the_model_and_its_words_come_back() -> None:
    with FaultServer(completion()) as server:
        answer = ask(made(server, max_output_tokens=300), Said("user", "Hi"), Said("assistant", "Hello!"),
                     Said("user", "Do you open on Sunday?"))
        [visit] = server.visits
    assert (visit.method, visit.target) == ("POST", "/v1/chat/completions")
    assert visit.fields["authorization"] == f"Bearer {KEY}"
    assert visit.json == {"model": "gpt-4o-mini", "max_tokens": 300, "messages": [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"}, {"role": "user", "content": "Do you open on Sunday?"}]}
    assert (answer.text, answer.model, answer.tokens_in, answer.tokens_out) == (
        "Yes, from ten to four.", "gpt-4o-mini", 21, 8)
    assert answer.milliseconds >= 0


@needs_sdk
def test_openai_itself_is_asked_to_keep_nothing_and_told_an_opaque_person() -> None:
    with FaultServer(completion()) as server:
        for person in ("telegram:4711", "telegram:4711", "telegram:4712"):
            ask(official(made(server)), person=person)
        bodies = [visit.json for visit in server.visits]
    assert all(body["store"] is False and body["max_completion_tokens"] == 800 for body in bodies)
    assert all("max_tokens" not in body for body in bodies)
    marks = [body["safety_identifier"] for body in bodies]
    assert marks[0] == marks[1] != marks[2] and all(re.fullmatch("[0-9a-f]{32}", mark) for mark in marks)


def test_only_openais_own_address_gets_openais_dialect() -> None:
    for url, own in (("", True), ("https://api.openai.com/v1", True), ("http://localhost:11434/v1", False),
                     ("https://api.openai.com.evil.example/v1", False)):
        model = model_of(Settings(openai_base_url=url))
        assert ("store" in model._body([], "p")) is own


@needs_sdk
def test_a_local_server_needs_no_key() -> None:
    with FaultServer(completion()) as server:
        ask(model_of(Settings(openai_base_url=f"{server.url}/v1")))
        assert server.visits[0].fields["authorization"] == "Bearer none"


@needs_sdk
def test_calls_share_a_connection_and_wait_for_the_same_loading() -> None:
    async def many(model: OpenAiModel) -> None:
        await asyncio.gather(*(model.answer([Said("user", "Hi")], "p") for _ in range(3)))
        await model.answer([Said("user", "Hi")], "p")
        await model.answer([Said("user", "Hi")], "p")

    with FaultServer(completion()) as server:
        asyncio.run(many(made(server)))
        assert len(server.visits) == 5 and server.connections <= 3


@needs_sdk
def test_pictures_travel_as_data_urls_of_low_detail() -> None:
    with FaultServer(completion("A pixel.")) as server:
        ask(made(server), Said("user", "What is it?", (("image/png", PIXEL),)))
        content = server.visits[0].json["messages"][1]["content"]
    assert content[0] == {"type": "text", "text": "What is it?"}
    assert content[1] == {"type": "image_url", "image_url": {
        "url": "data:image/png;base64,iVBORw0KGgpwaXhlbA==", "detail": "low"}}


@needs_sdk
@pytest.mark.parametrize("dialect", [False, True])
def test_a_server_that_cannot_see_is_asked_once_more_without_pictures(dialect: bool) -> None:
    blind = (400, 422) if dialect else (400, 415, 422, 500, 501)
    for status in blind:
        with FaultServer(refusal(status, message="image_url is not supported"), completion()) as server:
            model = official(made(server)) if dialect else made(server)
            assert ask(model, Said("user", "And this?", (("image/png", PIXEL),))).text
            assert "cannot see" in server.visits[1].json["messages"][1]["content"]
            assert len(server.visits) == 2


@needs_sdk
@pytest.mark.parametrize("content, finish, text", [
    ("  Yes.\n", "stop", "Yes."),
    ("Once upon a", "length", "Once upon a …"),
    ([{"type": "text", "text": "Ye"}, {"type": "text", "text": "s."}, {"type": "odd"}, "odd"], "stop", "Yes."),
    ("<think>The person asks\nsomething</think>\n\nYes.", "stop", "Yes."),
    ("half a sentence", "content_filter", "half a sentence"),
    ("Yes.", "tool_calls", "Yes."),
])
def test_every_shape_of_an_answer_is_read(content: Any, finish: str, text: str) -> None:
    with FaultServer(completion(content, finish)) as server:
        assert ask(made(server)).text == text


@needs_sdk
def test_half_a_character_at_the_end_of_an_answer_becomes_one_that_every_database_takes() -> None:
    with FaultServer(completion("Yes \ud83d")) as server:
        assert ask(made(server)).text == "Yes \ufffd"


@needs_sdk
@pytest.mark.parametrize("usage", [None, {}, [], "7", {"prompt_tokens": None}, {"prompt_tokens": "7"},
                                   {"prompt_tokens": 10**30}, {"prompt_tokens": -1}])
def test_tokens_that_nobody_tells_are_estimated(usage: Any) -> None:
    with FaultServer(completion("Yes.", usage=usage)) as server:
        answer = ask(made(server), Said("user", "x" * 300))
    assert (answer.tokens_in, answer.tokens_out) == (104, 5)


# --- what is refused -----------------------------------------------------------------------------------------------

WAIT, GIVE_UP, REFUSED = AiRemedy.WAIT, AiRemedy.GIVE_UP, AiRemedy.REFUSED
ANSWERS: dict[str, tuple[Plan, AiRemedy, str]] = {
    "a key": (refusal(401, "invalid_api_key", message=f"Incorrect API key provided: {KEY}"), GIVE_UP, "bad_key"),
    "an address": (refusal(401, "ip_not_authorized"), GIVE_UP, "bad_key"),
    "a country": (refusal(403, "unsupported_country_region_territory"), GIVE_UP, "forbidden"),
    "a model": (refusal(404, "model_not_found"), GIVE_UP, "unknown_model"),
    "a model of Ollama": (reply(404, {"error": {"message": "model 'x' not found"}}), GIVE_UP, "unknown_model"),
    "a model id": (refusal(400, param="model", message="invalid model ID"), GIVE_UP, "unknown_model"),
    "no such path": (reply(404, b"<h1>Not Found</h1>", content_type="text/html"), GIVE_UP, "unknown_model"),
    "no credit": (refusal(429, "insufficient_quota", "insufficient_quota"), GIVE_UP, "no_credit"),
    "credit, by type": (refusal(429, "new_word", "insufficient_quota"), GIVE_UP, "no_credit"),
    "credit balance": (refusal(429, "credit_balance_exhausted"), GIVE_UP, "no_credit"),
    "spend limit": (refusal(429, "project_spend_limit_exceeded"), GIVE_UP, "no_credit"),
    "hard limit": (refusal(400, "billing_hard_limit_reached"), GIVE_UP, "no_credit"),
    "payment": (reply(402, {"error": {"message": "Insufficient Balance"}}), GIVE_UP, "no_credit"),
    "rate": (refusal(429, "rate_limit_exceeded", "tokens"), WAIT, "rate_limited"),
    "slow down": (refusal(429, "slow_down"), WAIT, "rate_limited"),
    "bare 429": (reply(429), WAIT, "rate_limited"),
    "408": (reply(408), WAIT, "http_408"),
    "409": (reply(409), WAIT, "http_409"),
    "500": (refusal(500, kind="server_error"), WAIT, "http_500"),
    "502 in HTML": (reply(502, b"<html>Bad gateway", content_type="text/html"), WAIT, "http_502"),
    "503": (reply(503), WAIT, "http_503"),
    "policy": (refusal(400, "content_policy_violation"), REFUSED, "content_refused"),
    "prompt": (refusal(400, "invalid_prompt"), REFUSED, "content_refused"),
    "filter": (refusal(400, "content_filter"), REFUSED, "content_refused"),
    "context": (refusal(400, "context_length_exceeded", param="messages"), GIVE_UP, "too_long"),
    "context of llama.cpp": (refusal(400, kind="exceed_context_size_error"), GIVE_UP, "too_long"),
    "context in words": (refusal(400, message="This model's maximum context length is 512"), GIVE_UP, "too_long"),
    "413": (reply(413), GIVE_UP, "too_long"),
    "another 400": (refusal(400, "invalid_value", param="messages[0].role"), GIVE_UP, "http_400"),
    "422": (refusal(422, message="unprocessable"), GIVE_UP, "http_422"),
    "400 without a word": (reply(400), GIVE_UP, "http_400"),
    "an error that is a string": (reply(400, {"error": "nope"}), GIVE_UP, "http_400"),
    "an error that is a list": (reply(400, ["nope"]), GIVE_UP, "http_400"),
    "odd members": (reply(400, {"error": {"code": {"a": 1}, "type": [], "param": 7, "message": None}}),
                    GIVE_UP, "http_400"),
    "HTML": (reply(200, b"<html>Log in</html>", content_type="text/html"), WAIT, "not_json"),
    "half JSON": (reply(200, b'{"choices": [{"mess'), WAIT, "not_json"),
    "no JSON": (reply(200, b"\xff\xfe\x00"), WAIT, "not_json"),
    "a JSON string": (reply(200, b'"hello"'), WAIT, "not_json"),
    "a JSON list": (reply(200, b"[1]"), WAIT, "not_json"),
    "null": (reply(200, b"null"), WAIT, "not_json"),
    "nothing": (reply(200, b""), WAIT, "not_json"),
    "no choices": (reply(200, {"choices": []}), WAIT, "not_json"),
    "choices null": (reply(200, {"choices": None}), WAIT, "not_json"),
    "odd choice": (reply(200, {"choices": ["x"]}), WAIT, "not_json"),
    "odd message": (reply(200, {"choices": [{"message": "x"}]}), WAIT, "not_json"),
    "an error in a 200": (reply(200, {"error": {"message": "upstream", "code": 503}}), WAIT, "http_503"),
    "credit in a 200": (reply(200, {"choices": None, "error": {"code": "insufficient_quota"}}), GIVE_UP, "no_credit"),
    "content null": (completion(None), GIVE_UP, "empty_answer"),
    "content empty": (completion(" \n"), GIVE_UP, "empty_answer"),
    "content a number": (completion({"a": 1}), GIVE_UP, "empty_answer"),
    "only thoughts": (completion("<think>so much to", "length"), GIVE_UP, "empty_answer"),
    "tools unasked": (completion(None, "tool_calls", message={"tool_calls": [{}]}), GIVE_UP, "empty_answer"),
    "refusal": (completion(None, message={"refusal": "I cannot help with that"}), REFUSED, "content_refused"),
    "filtered": (completion("", "content_filter"), REFUSED, "content_refused"),
    "closed": (raw(b""), WAIT, "unreachable"),
    "reset": (raw(b"", then="reset"), WAIT, "unreachable"),
    "half a body": (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{"), WAIT, "unreachable"),
    "garbage": (raw(b"\x00\x01\x02\r\n\r\n"), WAIT, "unreachable"),
    "a redirect": (reply(307, Location="https://elsewhere.invalid/v1/chat/completions"), GIVE_UP, "http_307"),
    "a bomb": (reply(200, BOMB, Content_Encoding="gzip"), WAIT, "not_json"),
    "an answer without end": (reply(200, b'"' + b"x" * (5 << 20) + b'"'), WAIT, "unreachable"),
}


@needs_sdk
@pytest.mark.parametrize("name", ANSWERS)
def test_every_answer_that_is_none_says_what_to_do(name: str) -> None:
    plan, remedy, code = ANSWERS[name]
    with FaultServer(plan) as server:
        fault = failed(server)
        assert (fault.remedy, fault.code) == (remedy, code)
        assert "\n" not in str(fault) and fault.help
        assert len(server.visits) == 1


@needs_sdk
@pytest.mark.parametrize("plan", [lambda visit: visit.hang(), drip(b"HTTP/1.1 200 OK\r\n\r\n", again=b" ")],
                         ids=["silence", "a byte now and then"])
def test_one_deadline_bounds_the_whole_call(plan: Plan) -> None:
    with FaultServer(completion(), plan) as server:
        model = made(server, ai_timeout_seconds=0.4)

        async def twice() -> None:
            await model.warm()
            async with asyncio.timeout(20):
                await model.answer([Said("user", "Hi")], "p")
                await model.answer([Said("user", "Hi")], "p")

        with pytest.raises(AiFailed) as caught:
            asyncio.run(twice())
        assert (caught.value.remedy, caught.value.code) == (WAIT, "timeout")


@needs_sdk
def test_a_server_that_is_not_there_is_an_outage() -> None:
    for url in ("http://127.0.0.1:1", "http://nowhere.invalid"):
        with pytest.raises(AiFailed) as caught:
            ask(model_of(settings(url)))
        assert caught.value.remedy is WAIT
        assert_silent(caught.value)


@needs_sdk
def test_operators_learn_which_setting_is_at_fault() -> None:
    for plan, words in ((refusal(401), "AI_API_KEY"), (refusal(404), "OPENAI_MODEL"), (refusal(404), "gpt-4o-mini"),
                        (refusal(429, "insufficient_quota"), "CREDIT"), (completion(""), "MAX_OUTPUT_TOKENS")):
        with FaultServer(plan) as server:
            assert words in failed(server).help


@needs_sdk
@pytest.mark.parametrize("fields, seconds", [
    ({"Retry_After": "7"}, 7.0), ({"Retry_After": "0.2"}, 0.5), ({"Retry_After": "99999"}, 3600.0),
    ({"Retry_After_Ms": "1500", "Retry_After": "9"}, 1.5),
    ({"Date": "Sun, 22 Nov 2026 10:00:00 GMT", "Retry_After": "Sun, 22 Nov 2026 10:00:20 GMT"}, 20.0),
    ({"Date": "Sun, 22 Nov 2026 10:00:00 GMT", "Retry_After": "Sun, 22 Nov 2026 09:00:00 GMT"}, 0.5), ({}, None),
])
def test_the_wait_the_server_asks_for_is_passed_on(fields: dict[str, str], seconds: float | None) -> None:
    with FaultServer(refusal(429, "rate_limit_exceeded", **fields)) as server:
        assert failed(server).retry_after == seconds
        assert len(server.visits) == 1


@pytest.mark.parametrize("given", ["nan", "inf", "-1", "1_0", "\u0667", "1e3", " 7", "+7", "", "soon", "Sun, 99 Nov",
                                   "Sun, 22 Nov 2026 10:00:20 GMT", "9" * 400])
def test_a_wait_that_is_no_number_is_ignored(given: str) -> None:
    assert retry_after({"retry-after": given}) is None
    assert retry_after({"retry-after-ms": given}) is None


# --- adapting ------------------------------------------------------------------------------------------------------


@needs_sdk
@pytest.mark.parametrize("param, message", [
    ("max_tokens", "Unsupported parameter"),
    (None, "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'."),
    (None, "property 'max_tokens' is unsupported"),
    (None, "Unrecognized request argument supplied: max_tokens"),
])
def test_a_limit_by_the_wrong_name_gets_the_other_name_from_then_on(param: str | None, message: str) -> None:
    with FaultServer(refusal(400, "unsupported_parameter", param=param, message=message), completion()) as server:
        model = made(server)
        ask(model)
        ask(model)
        limits = [{"max_tokens", "max_completion_tokens"} & visit.json.keys() for visit in server.visits]
    assert limits == [{"max_tokens"}, {"max_completion_tokens"}, {"max_completion_tokens"}]


@needs_sdk
def test_parameters_are_dropped_one_after_the_other_until_the_server_is_content() -> None:
    with FaultServer(refusal(400, param="store"), refusal(400, message="property 'safety_identifier' is unsupported"),
                     completion()) as server:
        ask(official(made(server)))
        assert server.visits[2].json.keys() == {"model", "messages", "max_completion_tokens"}


@needs_sdk
def test_a_server_that_keeps_complaining_ends_the_adapting() -> None:
    with FaultServer(refusal(400, message="'max_tokens' 'max_completion_tokens' 'model' 'messages'")) as server:
        assert failed(server, Said("user", "x", (("image/png", PIXEL),))).code == "http_400"
        assert len(server.visits) == 4


@needs_sdk
def test_a_conversation_too_long_for_the_model_loses_its_older_half() -> None:
    said = [Said("user" if turn % 2 == 0 else "assistant", f"turn {turn}") for turn in range(7)]
    with FaultServer(refusal(400, "context_length_exceeded"), completion()) as server:
        ask(made(server), *said)
        texts = [message["content"] for message in server.visits[1].json["messages"]]
    assert texts == ["Be brief.", "turn 4", "turn 5", "turn 6"]


@needs_sdk
def test_halving_ends_with_the_last_message_alone() -> None:
    said = [Said("user" if turn % 2 == 0 else "assistant", f"turn {turn}") for turn in range(21)]
    with FaultServer(refusal(400, "context_length_exceeded")) as server:
        assert failed(server, *said).code == "too_long"
        sizes = [len(visit.json["messages"]) - 1 for visit in server.visits]
        assert sizes == [21, 11, 5, 3, 1]
        assert server.visits[-1].json["messages"][1]["content"] == "turn 20"


# --- voice ---------------------------------------------------------------------------------------------------------


@needs_sdk
def test_a_voice_note_is_sent_as_a_file_its_format_can_be_told_from() -> None:
    async def hear(model: OpenAiModel, mime: str) -> str:
        return await model.transcribe(b"OggS....", mime)

    for mime, name in (("audio/ogg", "voice.ogg"), ("audio/mp4", "voice.m4a"), ("audio/mpeg", "voice.mp3"),
                       ("video/mp4", "voice.mp4")):
        with FaultServer(reply(200, {"text": " Do you open? "})) as server:
            assert asyncio.run(hear(made(server), mime)) == "Do you open?"
            [visit] = server.visits
        assert visit.target == "/v1/audio/transcriptions"
        assert visit.fields["content-type"].startswith("multipart/form-data; boundary=")
        assert b'name="model"\r\n\r\ngpt-transcribe\r\n' in visit.body
        assert f'filename="{name}"\r\nContent-Type: {mime}\r\n\r\nOggS....\r\n'.encode() in visit.body

    for plan, code in ((reply(404), "unknown_model"), (reply(200, {"words": 1}), "not_json"), (reply(503), "http_503"),
                       (reply(200, b"plain", content_type="text/plain"), "not_json")):
        with FaultServer(plan) as server, pytest.raises(AiFailed) as caught:
            asyncio.run(hear(made(server), "audio/ogg"))
        assert caught.value.code == code
        assert code != "unknown_model" or "OPENAI_TRANSCRIBE_MODEL" in caught.value.help


# --- starting, environment, secrets --------------------------------------------------------------------------------


def test_importing_the_model_does_not_load_the_sdk() -> None:
    code = ("import sys, minibot.ai, minibot.ai_offline; "
            "assert not {'openai', 'httpx2', 'pydantic', 'urllib.request'} & set(sys.modules)")
    subprocess.run([sys.executable, "-c", code], check=True)


@needs_sdk
def test_what_a_forgotten_environment_says_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("OPENAI_API_KEY", "sk-stale"), ("OPENAI_ADMIN_KEY", "sk-admin"),
                        ("OPENAI_ORG_ID", "org-stale"), ("OPENAI_PROJECT_ID", "proj-stale"),
                        ("OPENAI_BASE_URL", "http://127.0.0.1:1/stale"),
                        ("OPENAI_CUSTOM_HEADERS", "X-Stale: stale\nAuthorization: Bearer sk-stale")):
        monkeypatch.setenv(name, value)
    with FaultServer(completion()) as server:
        ask(made(server))
        [visit] = server.visits
    assert visit.fields["authorization"] == f"Bearer {KEY}"
    assert not re.search("stale|sk-admin", f"{visit.fields} {visit.body!r}")


@needs_sdk
@pytest.mark.parametrize("proxy", ["socks5://user:pa55@127.0.0.1:1", "odd://user:pa55@x", "http://u:pa55@127.0.0.1:1"])
def test_a_proxy_that_does_not_work_is_one_clear_line_without_its_password(
        monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(AiFailed) as caught:
        ask(model_of(settings()))
    assert (caught.value.remedy, caught.value.code) == (WAIT, "unreachable")
    assert "PROXY" in caught.value.help and "pa55" not in "".join(traceback.format_exception(caught.value))


def test_a_missing_package_is_one_clear_line() -> None:
    code = """
import asyncio, sys, time
sys.modules["openai"] = None
from minibot.ai import OpenAiModel
from minibot.config import Settings
from minibot.errors import AiFailed
from minibot.web.calls import Caller
from minibot.work import Said
model = OpenAiModel(Settings(openai_base_url="http://127.0.0.1:1/v1"), clock=time.monotonic,
                    perform=Caller(clock=time.monotonic).perform)
async def both():
    await model.warm()
    try:
        await model.answer([Said("user", "Hi")], "p")
    except AiFailed as fault:
        print(fault.remedy, fault)
asyncio.run(both())
"""
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "give_up no_sdk" in found.stdout and "pip install openai" in found.stdout
    assert "pip install openai" in found.stderr and "Traceback" not in found.stderr


@needs_sdk
def test_no_key_is_shown_by_any_log_at_any_level() -> None:
    for key in (KEY, f"{KEY}\n"):
        code = f"""
import asyncio, logging, os, sys, time
logging.basicConfig(level=logging.DEBUG)
os.environ["OPENAI_LOG"] = "debug"
from minibot.ai import OpenAiModel
from minibot.config import Settings
from minibot.errors import AiFailed
from minibot.model import Secret
from minibot.web.calls import Caller
from minibot.work import Said
async def ask():
    model = OpenAiModel(Settings(ai_api_key=Secret({key!r}), openai_base_url=sys.argv[1]), clock=time.monotonic,
                        perform=Caller(clock=time.monotonic).perform)
    try:
        await model.answer([Said("user", "my private words")], "p")
    except AiFailed as fault:
        logging.exception("failed")
asyncio.run(ask())
"""
        with FaultServer(refusal(401, message=f"Incorrect API key provided: {KEY}")) as server:
            done = subprocess.run([sys.executable, "-c", code, f"{server.url}/v1"], capture_output=True, text=True)
        assert "failed" in done.stderr
        assert KEY not in done.stderr + done.stdout and "private" not in done.stderr + done.stdout


@needs_sdk
def test_a_cancelled_call_closes_its_connection_and_the_next_one_works() -> None:
    async def cancel(model: OpenAiModel, server: FaultServer) -> str:
        asking = asyncio.ensure_future(model.answer([Said("user", "Hi")], "p"))
        while not server.visits:
            await asyncio.sleep(0.01)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        async with asyncio.timeout(5):
            while not ended:
                await asyncio.sleep(0.01)
        return (await model.answer([Said("user", "Hi")], "p")).text

    ended: list[bytes] = []
    with FaultServer(lambda visit: ended.append(visit.sock.recv(1)), completion()) as server:
        assert asyncio.run(cancel(made(server), server)) == "Yes, from ten to four."
        assert ended == [b""]


# --- pure parts ----------------------------------------------------------------------------------------------------


def turns(*texts: str) -> list[Said]:
    return [Said("user" if number % 2 == 0 else "assistant", text) for number, text in enumerate(texts)]


def texts(said: list[Said]) -> list[str]:
    return [item.text for item in said]


def test_the_newest_turns_that_fit_are_kept_in_order() -> None:
    said = turns("a" * 50, "b" * 50, "c" * 50, "d" * 50, "e" * 50)
    assert texts(fit(said, Settings(history_chars=250))) == texts(said)
    assert texts(fit(said, Settings(history_chars=249))) == texts(said[2:])  # never beginning with the bot
    assert texts(fit(said, Settings(history_chars=150))) == texts(said[2:])
    assert texts(fit(said, Settings(history_chars=100))) == texts(said[4:])
    assert fit([], Settings()) == []


def test_the_newest_message_always_stays_cut_if_need_be() -> None:
    assert texts(fit(turns("old", "older", "x" * 500), Settings(history_chars=100))) == ["x" * 100 + "…"]


def test_neighbours_of_one_role_become_one_turn_with_all_pictures() -> None:
    one, two = ("image/png", b"1"), ("image/png", b"2")
    said = [Said("user", "a"), Said("user", "b", (one,)), Said("assistant", "c"), Said("user", "d", (two,)),
            Said("user", "e", (one,))]
    assert fit(said, Settings()) == [Said("user", "a\nb", (one,)), Said("assistant", "c"),
                                     Said("user", "d\ne", (two, one))]


def test_the_estimate_counts_bytes_and_pictures() -> None:
    assert estimate([Said("user", "x" * 300)]) == 104
    assert estimate([Said("user", "你" * 100), Said("user", "", (("image/png", b"1"),) * 2)]) == 104 + 2004


def test_models_that_will_be_switched_off_are_known() -> None:
    assert retires("gpt-4o-mini") == ("2027-01-14", "gpt-6-luna")
    assert retires("gpt-4o-mini-2024-07-18") == ("2027-01-14", "gpt-6-luna")
    assert retires("whisper-1") == ("2027-02-26", "gpt-transcribe")
    assert retires("gpt-6-luna") is None and retires("qwen2.5:0.5b") is None


# --- the demo's responder ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text, images, words", [
    ("Do you open on Sunday?", 0, "22 characters"), ("x" * 500, 0, "500 characters"), ("", 0, "0 characters"),
    ("/ping", 0, "pong"), ("/echo a b", 0, "a b"), ("/whoami", 0, "telegram:4711"), ("/help", 0, "no model answers"),
    ("/start now", 0, "nobody reads this"), ("Look!", 2, "cannot look"), ("你好", 0, "你好"),
])
def test_every_offline_reply_says_that_no_ai_is_connected(text: str, images: int, words: str) -> None:
    answer = ask(OfflineModel(), Said("user", text, (("image/png", PIXEL),) * images))
    assert answer.text.startswith("[offline demo - no AI connected] ") and words in answer.text
    assert answer.text.startswith(LABEL) and len(answer.text) < 300
    assert (answer.model, answer.tokens_in, answer.tokens_out) == ("offline-demo", 0, 0)


def test_offline_replies_are_numbered_and_voice_is_not_pretended_to_be_heard() -> None:
    assert "message 2" in ask(OfflineModel(), *turns("one", "said", "two")).text
    assert "nobody listened" in asyncio.run(OfflineModel().transcribe(b"OggS", "audio/ogg"))
