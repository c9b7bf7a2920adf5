"""Instagram direct messages: what their webhooks say and what they are sent."""

from __future__ import annotations

import json
from typing import Any

import pytest

from minibot.model import Echo, Erase, Inbound, Secret
from tests.meta_cases import (HERE, SHARED, agrees, channel, conversation, faults, outgoing_schemas, own_cases, part,
                              read, shared_cases, survives_mutation)

REACTIONS: dict[str, tuple[str, ...]] = {
    "answer_text": ("ask",), "cannot_read": ("unsupported",), "ignore": ("Ignored", "Erase"),
    "record_status": ("Receipt",)}
IGSID = "901000000000077"


@pytest.mark.parametrize(("file", "wanted"), own_cases("instagram"))
def test_every_payload_is_read_as_its_manifest_says(file: str, wanted: list[dict[str, Any]]) -> None:
    events = read("instagram", (HERE / "instagram" / file).read_bytes())
    assert agrees(events, wanted), events


@pytest.mark.parametrize("entry", shared_cases("instagram"))
def test_every_shared_payload_gets_its_stated_reaction(entry: dict[str, Any]) -> None:
    assert SHARED is not None
    events = read("instagram", (SHARED / "payloads" / entry["file"]).read_bytes())
    kinds = [event.kind if isinstance(event, Inbound) else type(event).__name__ for event in events]
    assert kinds and set(kinds) <= set(REACTIONS[entry["action"]]), events
    for event, told in zip(events, entry["events"]):
        if isinstance(event, Inbound):
            assert (event.chat, event.message_id) == (told["user"], told["msg_id"])
            assert [event.account] == entry["account_ids"]
            assert event.text == (told["text"] or "") and not event.media


def test_odd_fields_never_raise_and_never_cost_the_neighbours() -> None:
    assert survives_mutation("instagram") > 2500


def test_an_unsend_is_told_apart_from_the_message_it_takes_back() -> None:
    written = read("instagram", (HERE / "instagram" / "text.json").read_bytes())[0]
    erased = read("instagram", (HERE / "instagram" / "unsent.json").read_bytes())[0]
    assert isinstance(written, Inbound) and isinstance(erased, Erase)
    assert written.message_id == erased.message_id and written.chat == erased.chat


def test_a_bare_echo_leaves_the_decision_to_the_store() -> None:
    event = read("instagram", (HERE / "instagram" / "echo.json").read_bytes(), meta_app_id="")[0]
    assert isinstance(event, Echo) and event.ours is None


@pytest.mark.parametrize("schema", outgoing_schemas())
@pytest.mark.parametrize(("more", "root", "token"), [
    ({}, "https://graph.facebook.com", "EAAP-token"),
    ({"instagram_access_token": Secret("IGAA-token")}, "https://graph.instagram.com", "IGAA-token"),
    ({"instagram_access_token": Secret("IGAA-token"), "meta_page_access_token": Secret("")},
     "https://graph.instagram.com", "IGAA-token")])
def test_a_text_goes_where_the_login_lives(schema: dict[str, Any], more: dict[str, Any], root: str, token: str) -> None:
    subject = channel("instagram", **more)
    thread = conversation("instagram", IGSID)
    for call in (subject.call(thread, part()), *subject.typing(thread, "m")):
        assert call.url == f"{root}/v25.0/me/messages" and call.fields["Authorization"] == f"Bearer {token}"
        content = json.loads(call.body)
        assert faults(schema["page_text" if "message" in content else "page_action"], content) == []
        assert content["recipient"] == {"id": IGSID}
    assert subject.typing_every == 15


def test_answers_are_plain_text_within_a_thousand_bytes() -> None:
    parts = channel("instagram").compose("Ein Satz über Brötchen 🥐 und **Brot**. " * 200)
    assert len(parts) > 1 and all(len(text.encode()) <= 1000 for text in parts) and "*" not in "".join(parts)


def test_media_may_come_from_the_test_addresses_too() -> None:
    subject = channel("instagram", meta_graph_url="http://127.0.0.1:1/g", instagram_graph_url="http://127.0.0.1:2")
    assert subject.media_origins == ("http://127.0.0.1:1", "http://127.0.0.1:2")
