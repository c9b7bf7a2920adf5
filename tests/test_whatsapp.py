"""WhatsApp: what its webhooks say, what it is sent, what its media need."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest

from minibot.errors import Remedy, SendFailed
from minibot.model import Event, Ignored, Inbound, Me, Media, Reply, Secret
from minibot.text import utf16
from tests.meta_cases import (HERE, NUMBER, SHARED, agrees, cases, channel, conversation, faults, outgoing_schemas,
                              own_cases, part, read, seen, shared_cases, survives_mutation)

BSUID = "DE.20481632641282565120"
REACTIONS: dict[str, tuple[str, ...]] = {  # the sheet's actions -> the events that carry them out
    "answer_text": ("ask",), "answer_choice": ("ask",), "answer_location": ("ask",), "answer_image": ("ask",),
    "transcribe": ("ask",), "cannot_read": ("unsupported", "ask"), "ignore": ("Ignored", "Erase"),
    "record_status": ("Receipt",), "relink_identity": ("Rekey",), "pause_human": ("Echo",),
    "alert_operator": ("Alert",)}


@pytest.mark.parametrize(("file", "wanted"), own_cases("whatsapp"))
def test_every_payload_is_read_as_its_manifest_says(file: str, wanted: list[dict[str, Any]]) -> None:
    events = read("whatsapp", (HERE / "whatsapp" / file).read_bytes())
    assert agrees(events, wanted), events


@pytest.mark.parametrize("entry", shared_cases("whatsapp"))
def test_every_shared_payload_gets_its_stated_reaction(entry: dict[str, Any]) -> None:
    assert SHARED is not None
    body = (SHARED / "payloads" / entry["file"]).read_bytes()
    events = read("whatsapp", body, meta_phone_number_id=(entry["account_ids"] or [NUMBER])[0])
    kinds = [event.kind if isinstance(event, Inbound) else type(event).__name__ for event in events]
    assert kinds and set(kinds) <= set(REACTIONS[entry["action"]]), events
    for event, told in zip(events, entry["events"]):
        if isinstance(event, Inbound):
            assert (event.chat, event.message_id) == (told["user"], told["msg_id"])
            assert event.text.startswith(told["text"] or "")
            assert [media.ref for media in event.media] == ([told["media_id"]] if event.media else [])
            assert bool(event.media) is (entry["action"] in ("answer_image", "transcribe"))


def test_odd_fields_never_raise_and_never_cost_the_neighbours() -> None:
    assert survives_mutation("whatsapp") > 5000


def test_one_broken_message_of_a_thousand_costs_only_itself() -> None:
    document = json.loads((HERE / "whatsapp" / "text.json").read_text("utf-8"))
    value = document["entry"][0]["changes"][0]["value"]
    value["messages"] = [value["messages"][0] | {"id": f"wamid.{n}"} for n in range(1000)]
    value["messages"][500] = {"type": "text", "text": None}
    events = read("whatsapp", json.dumps(document).encode())
    kinds = [type(event).__name__ for event in events]
    assert (kinds.count("Inbound"), kinds.count("Odd"), kinds[500]) == (999, 1, "Odd")


def test_an_odd_item_is_kept_with_a_stable_digest() -> None:
    entry = {"id": "1", "changes": [{"field": True}]}
    body = json.dumps({"object": "whatsapp_business_account", "entry": [entry]}).encode()
    first, second = read("whatsapp", body), read("whatsapp", body)
    assert first == second
    odd = seen(first[0])
    assert (odd["type"], odd["why"], odd["body"]) == ("Odd", "no field", '{"field": true}') and len(odd["event"]) == 36


def test_the_same_message_has_the_same_key_and_a_message_without_id_gets_one() -> None:
    document = json.loads((HERE / "whatsapp" / "text.json").read_text("utf-8"))
    message = document["entry"][0]["changes"][0]["value"]["messages"][0]
    del message["id"]

    def key() -> str:
        event = read("whatsapp", json.dumps(document).encode())[0]
        assert isinstance(event, Inbound)
        return event.event

    first = key()
    assert first == key() and first.startswith("message:")
    message["text"]["body"] += "!"
    assert key() != first


def test_a_stranger_in_the_contacts_lends_nobody_an_identity() -> None:
    document = json.loads((HERE / "whatsapp" / "text.json").read_text("utf-8"))
    value = document["entry"][0]["changes"][0]["value"]
    del value["messages"][0]["from"]
    value["contacts"] = [{"user_id": "US.1"}, {"wa_id": "491555"}]
    assert [type(event).__name__ for event in read("whatsapp", json.dumps(document).encode())] == ["Odd"]


@pytest.mark.parametrize("schema", outgoing_schemas())
@pytest.mark.parametrize(("chat", "key", "address"), [
    ("4915550001111", "to", "+4915550001111"), (BSUID, "recipient", BSUID)])
def test_a_text_goes_to_the_number_or_to_the_user_id(schema: dict[str, Any], chat: str, key: str, address: str) -> None:
    call = channel("whatsapp").call(conversation("whatsapp", chat), part("Grüße 🥐"))
    content = json.loads(call.body)
    assert faults(schema["wa_text"], content) == []
    assert content == {"messaging_product": "whatsapp", "recipient_type": "individual", key: address, "type": "text",
                       "text": {"body": "Grüße 🥐", "preview_url": False}, "biz_opaque_callback_data": "minibot:5"}
    assert (call.method, call.url) == ("POST", f"https://graph.facebook.com/v25.0/{NUMBER}/messages")
    assert call.fields["Authorization"] == "Bearer EAAW-token" and call.fields["Content-Type"] == "application/json"
    assert "EAAW" not in call.url + repr(call) + call.name
    untagged = channel("whatsapp").call(conversation("whatsapp", chat), part(tag=""))
    assert "biz_opaque_callback_data" not in json.loads(untagged.body)


@pytest.mark.parametrize("schema", outgoing_schemas())
def test_typing_marks_the_message_read_in_the_same_call(schema: dict[str, Any]) -> None:
    subject = channel("whatsapp")
    (call,) = subject.typing(conversation("whatsapp", "4915550001111"), "wamid.T1")
    content = json.loads(call.body)
    assert faults(schema["wa_read"], content) == []
    assert (content["message_id"], content["typing_indicator"]) == ("wamid.T1", {"type": "text"})
    assert call.url.endswith(f"/{NUMBER}/messages") and call.timeout <= 10 and subject.typing_every == 20
    assert subject.typing(conversation("whatsapp", "4915550001111"), "") == ()


def test_media_are_found_by_id_and_fetched_with_the_token_from_metas_own_path_only() -> None:
    subject = channel("whatsapp")
    assert subject.media is not None and subject.located is not None
    where = subject.media(Media("image", "98/76?x=#"))
    assert (where.method, where.url) == ("GET", "https://graph.facebook.com/v25.0/98%2F76%3Fx%3D%23")
    assert where.fields["Authorization"] == "Bearer EAAW-token" and where.body == b""
    url = "https://lookaside.fbsbx.com/whatsapp_business/attachments/?mid=1"
    assert subject.located(Reply(200, {}, json.dumps({"url": url, "mime_type": "image/jpeg"}).encode())) == url
    for status, body, remedy in ((404, b"", Remedy.REFUSED), (200, b"{}", Remedy.UNSURE), (401, b"", Remedy.STOP)):
        with pytest.raises(SendFailed) as failed:
            subject.located(Reply(status, {}, body))
        assert failed.value.remedy is remedy
    assert subject.download(url).fields["Authorization"] == "Bearer EAAW-token"
    for foreign in (
            "https://lookaside.fbsbx.com/ig_messaging_cdn/?a=1", "https://scontent.xx.fbcdn.net/x.jpg",
            "https://lookaside.fbsbx.com.evil.example/whatsapp_business/", "https://evil.example/",
            "http://lookaside.fbsbx.com/whatsapp_business/", "https://graph.facebook.com.evil.example/x",
            "https://lookaside.fbsbx.com@evil.example/whatsapp_business/"):
        call = subject.download(foreign)
        assert "Authorization" not in call.fields and call.fields["User-Agent"] and call.url == foreign


def test_another_graph_address_serves_calls_and_media() -> None:
    subject = channel("whatsapp", meta_graph_url="http://127.0.0.1:8085/graph")
    assert subject.media_origins[0] == "http://127.0.0.1:8085"
    assert subject.call(conversation("whatsapp", "491"), part()).url.startswith("http://127.0.0.1:8085/graph/v25.0/")
    assert "Authorization" in subject.download("http://127.0.0.1:8085/media/1").fields
    assert "Authorization" not in subject.download("http://127.0.0.1:80850/media/1").fields


def test_answers_are_written_in_whatsapps_marks_within_its_limit() -> None:
    subject = channel("whatsapp")
    assert subject.compose("**fresh** [bread](https://example.org/b)") == ["*fresh* bread (https://example.org/b)"]
    parts = subject.compose("A sentence with 🥐 in it. " * 600)
    assert len(parts) > 1 and all(utf16(text) <= 4096 for text in parts)
    assert subject.plain(parts[0]) == parts[0]


def test_every_kind_of_event_is_made_by_some_payload() -> None:
    bodies = [(HERE / "whatsapp" / file).read_bytes() for file, _ in cases("whatsapp")]
    made = {type(event) for body in bodies for event in read("whatsapp", body)}
    named = {kind.__name__ for kind in get_args(Event)} - {"Aside", "Handover", "Presence", "Acknowledge"}
    assert {kind.__name__ for kind in made} == named


def test_the_channel_needs_no_settings_to_be_made_and_never_shows_its_token() -> None:
    bare = channel("whatsapp", meta_access_token=Secret(""), meta_phone_number_id="")
    (event,) = bare.parse((HERE / "whatsapp" / "text.json").read_bytes(), Me())
    assert event == Ignored("whatsapp", "other number")
    assert "EAAW" not in repr(channel("whatsapp"))
