"""Messenger: what its webhooks say and what it is sent."""

from __future__ import annotations

import json
from typing import Any

import pytest

from minibot.model import Echo, Handover, Inbound
from minibot.text import utf16
from tests.meta_cases import (HERE, SHARED, agrees, channel, conversation, faults, outgoing_schemas, own_cases, part,
                              read, shared_cases, survives_mutation)

REACTIONS: dict[str, tuple[str, ...]] = {
    "answer_text": ("ask",), "answer_choice": ("ask", "start"), "answer_location": ("ask",), "answer_image": ("ask",),
    "transcribe": ("ask",), "cannot_read": ("unsupported",), "ignore": ("Ignored", "Echo"),
    "record_status": ("Receipt",), "pause_human": ("Handover",), "alert_operator": ("Alert",)}
PSID = "5550001112223"


@pytest.mark.parametrize(("file", "wanted"), own_cases("messenger"))
def test_every_payload_is_read_as_its_manifest_says(file: str, wanted: list[dict[str, Any]]) -> None:
    events = read("messenger", (HERE / "messenger" / file).read_bytes())
    assert agrees(events, wanted), events


@pytest.mark.parametrize("entry", shared_cases("messenger"))
def test_every_shared_payload_gets_its_stated_reaction(entry: dict[str, Any]) -> None:
    assert SHARED is not None
    events = read("messenger", (SHARED / "payloads" / entry["file"]).read_bytes(), meta_app_id="1821152484774199")
    kinds = [event.kind if isinstance(event, Inbound) else type(event).__name__ for event in events]
    assert kinds and set(kinds) <= set(REACTIONS[entry["action"]]), events
    for event, told, account in zip(events, entry["events"], entry["account_ids"]):
        if isinstance(event, Inbound):
            assert (event.chat, event.account, event.message_id) == (told["user"], account, told["msg_id"] or "")
            assert told["text"] in (None, event.text)
            assert bool(event.media) is (entry["action"] in ("answer_image", "transcribe"))
        if isinstance(event, Handover):
            assert (event.chat, event.human) == (told["user"], True)
        if isinstance(event, Echo):
            assert (event.chat, event.ours) == (told["user"], True)


def test_odd_fields_never_raise_and_never_cost_the_neighbours() -> None:
    assert survives_mutation("messenger") > 4000


@pytest.mark.parametrize(("app_id", "marks", "ours"), [
    ("", {"app_id": 77}, None), ("", {"app_id": 263902037430900}, False), ("", {"app_id": "1217981644879628"}, False),
    ("", {"metadata": "minibot:1", "app_id": 77}, True), ("", {}, None), ("77", {"app_id": 77}, True),
    ("77", {"app_id": "77"}, True), ("77", {"app_id": 78}, False), ("77", {"metadata": "other:1"}, None),
    ("77", {"metadata": "other:1", "app_id": 78}, False)])
def test_an_echo_is_ours_by_tag_or_app_and_a_persons_by_another_app(app_id: str, marks: dict[str, Any],
                                                                    ours: bool | None) -> None:
    document = json.loads((HERE / "messenger" / "echo_unmarked.json").read_text("utf-8"))
    document["entry"][0]["messaging"][0]["message"] |= marks
    event = read("messenger", json.dumps(document).encode(), meta_app_id=app_id)[0]
    assert isinstance(event, Echo) and event.ours is ours


@pytest.mark.parametrize(("app_id", "control", "human"), [
    ("", {"previous_owner_app_id": "263902037430900", "new_owner_app_id": "77"}, False),
    ("", {"previous_owner_app_id": "77", "new_owner_app_id": "263902037430900"}, True),
    ("", {"new_owner_app_id": "77"}, True), ("77", {"new_owner_app_id": 77}, False),
    ("77", {"new_owner_app_id": 78}, True)])
def test_a_thread_comes_back_only_to_us(app_id: str, control: dict[str, Any], human: bool) -> None:
    document = json.loads((HERE / "messenger" / "handed_back.json").read_text("utf-8"))
    document["entry"][0]["messaging"][0]["pass_thread_control"] = control
    event = read("messenger", json.dumps(document).encode(), meta_app_id=app_id)[0]
    assert isinstance(event, Handover) and event.human is human


@pytest.mark.parametrize("payload", [
    "GET_STARTED", "__GET_STARTED__", "get-started", "<GET_STARTED_PAYLOAD>", "Get Started"])
def test_get_started_greets_however_it_is_spelled(payload: str) -> None:
    document = json.loads((HERE / "messenger" / "get_started.json").read_text("utf-8"))
    document["entry"][0]["messaging"][0]["postback"]["payload"] = payload
    event = read("messenger", json.dumps(document).encode())[0]
    assert isinstance(event, Inbound) and event.kind == "start"


@pytest.mark.parametrize("url", [
    "/reel/1/", "file:///etc/passwd", "data:image/png;base64,AA", "", 7, "https://a b/", None, ["x"]])
def test_an_address_that_cannot_be_fetched_is_told_as_unseen(url: Any) -> None:
    document = json.loads((HERE / "messenger" / "image.json").read_text("utf-8"))
    document["entry"][0]["messaging"][0]["message"]["attachments"][0]["payload"]["url"] = url
    event = read("messenger", json.dumps(document).encode())[0]
    assert isinstance(event, Inbound) and (event.kind, event.notice, event.media) == ("unsupported", "image", ())


@pytest.mark.parametrize("schema", outgoing_schemas())
def test_a_text_is_a_tagged_response_with_the_token_in_the_header(schema: dict[str, Any]) -> None:
    call = channel("messenger").call(conversation("messenger", PSID), part("Grüße 🥐"))
    content = json.loads(call.body)
    assert faults(schema["page_text"], content) == []
    assert content == {"recipient": {"id": PSID}, "messaging_type": "RESPONSE",
                       "message": {"text": "Grüße 🥐", "metadata": "minibot:5"}}
    assert (call.method, call.url) == ("POST", "https://graph.facebook.com/v25.0/me/messages")
    assert call.fields["Authorization"] == "Bearer EAAP-token" and "EAAP" not in call.url + repr(call)
    untagged = channel("messenger").call(conversation("messenger", PSID), part(tag=""))
    assert json.loads(untagged.body)["message"] == {"text": "Good morning"}


@pytest.mark.parametrize("schema", outgoing_schemas())
def test_typing_is_read_mark_then_dots_in_calls_of_their_own(schema: dict[str, Any]) -> None:
    subject = channel("messenger")
    bodies = [json.loads(call.body) for call in subject.typing(conversation("messenger", PSID), "m_1")]
    assert [body["sender_action"] for body in bodies] == ["mark_seen", "typing_on"] and subject.typing_every == 15
    assert all(faults(schema["page_action"], body) == [] for body in bodies)


def test_media_are_fetched_by_address_without_any_token() -> None:
    subject = channel("messenger")
    assert subject.media is None and subject.located is None
    for url in ("https://scontent.xx.fbcdn.net/a.jpg", "https://graph.facebook.com/x",
                "https://lookaside.fbsbx.com/whatsapp_business/attachments/"):
        assert "Authorization" not in subject.download(url).fields
    assert subject.media_hosts == (".fbsbx.com", ".fbcdn.net", ".cdninstagram.com", "graph.facebook.com")


def test_answers_are_plain_text_within_two_thousand_characters() -> None:
    subject = channel("messenger")
    assert subject.compose("**fresh** [bread](https://example.org/b)") == ["fresh bread (https://example.org/b)"]
    parts = subject.compose("A sentence with 🥐 in it. " * 600)
    assert len(parts) > 1 and all(utf16(text) <= 2000 for text in parts)
