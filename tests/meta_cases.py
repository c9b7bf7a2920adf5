"""What the tests of the three Meta channels share: payload tables, mutations, sound events, a JSON schema reader.

Not here: any expectation; those stand in `payloads/*/manifest.json` and in the tests. Next: `test_meta.py`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from minibot.channels import instagram, messenger, whatsapp
from minibot.channels.contract import Channel
from minibot.config import Settings
from minibot.model import Event, Inbound, Me, Secret
from minibot.work import Conversation, Part

HERE = Path(__file__).parent / "payloads"
SHARED = Path(os.environ["MINIBOT_SHARED"]) / "platforms" if os.environ.get("MINIBOT_SHARED") else None
needs_shared = pytest.mark.skipif(SHARED is None, reason="MINIBOT_SHARED names no folder with platform samples")
MODULES: Mapping[str, ModuleType] = {"whatsapp": whatsapp, "messenger": messenger, "instagram": instagram}
NUMBER, APP = "200300400500600", "424242424242"
TOKENS = {"whatsapp": "EAAW-token", "messenger": "EAAP-token", "instagram": "EAAP-token"}


def channel(platform: str, **more: Any) -> Channel:
    """The channel with settings as a running bot has them."""
    settings: dict[str, Any] = {
        "meta_access_token": Secret("EAAW-token"), "meta_page_access_token": Secret("EAAP-token"),
        "meta_phone_number_id": NUMBER, "meta_app_id": APP, "verify_token": Secret("a-verify-token"),
        "meta_app_secrets": (Secret("first-app-secret"), Secret("second-app-secret"))}
    return MODULES[platform].channel(Settings(**settings | more))  # type: ignore[no-any-return]


def cases(platform: str) -> list[tuple[str, list[dict[str, Any]]]]:
    """(file name, wanted events) of the project's own payloads."""
    manifest = json.loads((HERE / platform / "manifest.json").read_text("utf-8"))
    return [(entry["file"], entry["events"]) for entry in manifest]


def read(platform: str, body: bytes, **more: Any) -> list[Event]:
    """What the channel makes of a delivery."""
    return channel(platform, **more).parse(body, Me())


def own_cases(platform: str) -> list[Any]:
    """The project's own payloads, named by their files."""
    return [pytest.param(file, wanted, id=file) for file, wanted in cases(platform)]


def shared_cases(platform: str) -> list[Any]:
    """The manifest's entries of one platform, from the folder that MINIBOT_SHARED names."""
    if SHARED is None:
        return [pytest.param({}, marks=needs_shared, id="no-shared-folder")]
    entries = json.loads((SHARED / "payloads" / "manifest.json").read_text("utf-8"))
    return [pytest.param(entry, id=entry["file"]) for entry in entries if entry["platform"] == platform]


def seen(event: Event) -> dict[str, Any]:
    """An event as the manifests write it."""
    names = event._fields if isinstance(event, Inbound) else [field.name for field in fields(event)]
    values = {name: getattr(event, name) for name in names}
    if isinstance(event, Inbound):
        values["media"] = [[media.kind, media.ref, media.url] for media in event.media]
    return {"type": type(event).__name__, **values}


def agrees(events: list[Event], wanted: list[dict[str, Any]]) -> bool:
    """Do the events have, in order, every field that is wanted of them?"""
    found = [{name: seen(event).get(name) for name in want} for event, want in zip(events, wanted)]
    return len(events) == len(wanted) and found == wanted


def is_sound(event: Event) -> bool:
    """Could it be stored? Text that UTF-8 and PostgreSQL take, numbers of 64 bits, nothing else."""
    for name, value in seen(event).items():
        if isinstance(value, str):
            value.encode()
            assert "\0" not in value, name
        assert isinstance(value, (str, bool, list)) or value is None or abs(value) < 2**63, (name, value)
    whole = isinstance(event, Inbound) and event.chat and event.event and (event.text or event.media)
    return bool(whole) or not isinstance(event, Inbound) or event.kind == "unsupported"


ODD_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 1e308, "", " ", [], {}, [[]], [{}], "x" * 3000, "\ud800\0", 2**70)


def mutated(holder: Any) -> Iterator[None]:
    """Every field inside `holder` in turn replaced by every odd value, then removed; in place, one at a time."""
    keys = list(holder) if isinstance(holder, dict) else list(range(len(holder))) if isinstance(holder, list) else []
    for key in keys:
        kept = holder[key]
        yield from mutated(kept)
        for odd in ODD_VALUES:
            holder[key] = odd
            yield
        holder[key] = kept
        if isinstance(holder, dict):
            del holder[key]
            yield
            holder[key] = kept


def survives_mutation(platform: str) -> int:
    """Each payload mutated between two good entries: nothing raises, both neighbours are read. -> how many."""
    subject = channel(platform)
    good = json.loads((HERE / platform / "text.json").read_text("utf-8"))
    expected, count = subject.parse(json.dumps(good).encode(), Me()), 0
    for file, _ in cases(platform):
        document = json.loads((HERE / platform / file).read_text("utf-8"))
        entries = document["entry"]
        document["entry"] = [*good["entry"], *entries, *good["entry"]]
        for entry in entries:
            for _ in mutated(entry):
                events = subject.parse(json.dumps(document).encode(), Me())
                assert events[:1] == expected == events[-1:]
                assert all(map(is_sound, events)), events
                count += 1
    return count


def faults(schema: Mapping[str, Any], value: Any) -> list[str]:
    """What is wrong with `value`, by the few words of JSON Schema that the outgoing bodies need."""
    found = [f"{value!r} is not {schema['const']!r}"] if "const" in schema and value != schema["const"] else []
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{value!r} is none of {schema['enum']}")
    kinds = {"object": dict, "string": str, "boolean": bool}
    if "type" in schema and not isinstance(value, kinds[schema["type"]]):
        return [*found, f"{value!r} is no {schema['type']}"]
    if isinstance(value, str):
        if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 1 << 30):
            found.append(f"length {len(value)}")
        if "pattern" in schema and not re.search(schema["pattern"], value):
            found.append(f"{value!r} does not match {schema['pattern']}")
    if isinstance(value, dict):
        known = schema.get("properties", {})
        found += [f"{key} is missing" for key in schema.get("required", ()) if key not in value]
        strict = schema.get("additionalProperties") is False
        found += [f"{key} is unknown" for key in value if strict and key not in known]
        found += [f"{key}: {fault}" for key in value if key in known for fault in faults(known[key], value[key])]
        if "anyOf" in schema and all(faults(option, value) for option in schema["anyOf"]):
            found.append("none of the alternatives")
    return found


def conversation(platform: str, chat: str) -> Conversation:
    """A claimed conversation."""
    return Conversation(1, platform, "account", chat)


def part(text: str = "Good morning", tag: str = "minibot:5") -> Part:
    """A part to send."""
    return Part(5, text, tag=tag)


OUTGOING: Mapping[str, Mapping[str, Any]] = {  # the bodies minibot sends, in the project's own words
    "wa_text": {"type": "object", "additionalProperties": False, "required": ["messaging_product", "type", "text"],
                "anyOf": [{"required": ["to"]}, {"required": ["recipient"]}], "properties": {
                    "messaging_product": {"const": "whatsapp"}, "recipient_type": {"const": "individual"},
                    "to": {"type": "string", "pattern": r"^\+[0-9]{5,20}$"}, "type": {"const": "text"},
                    "recipient": {"type": "string", "pattern": r"^[A-Z]{2}\.(ENT\.)?[A-Za-z0-9]{1,128}$"},
                    "biz_opaque_callback_data": {"type": "string", "minLength": 1, "maxLength": 512},
                    "text": {"type": "object", "additionalProperties": False, "required": ["body", "preview_url"],
                             "properties": {"body": {"type": "string", "minLength": 1, "maxLength": 4096},
                                            "preview_url": {"const": False}}}}},
    "wa_read": {"type": "object", "additionalProperties": False, "properties": {
        "messaging_product": {"const": "whatsapp"}, "status": {"const": "read"},
        "message_id": {"type": "string", "minLength": 1}, "typing_indicator": {"const": {"type": "text"}}},
        "required": ["messaging_product", "status", "message_id", "typing_indicator"]},
    "page_text": {"type": "object", "additionalProperties": False, "required": ["recipient", "message"], "properties": {
        "recipient": {"type": "object", "required": ["id"], "properties": {"id": {"type": "string"}}},
        "messaging_type": {"const": "RESPONSE"},
        "message": {"type": "object", "additionalProperties": False, "required": ["text"], "properties": {
            "text": {"type": "string", "minLength": 1, "maxLength": 2000},
            "metadata": {"type": "string", "minLength": 1, "maxLength": 1000}}}}},
    "page_action": {"type": "object", "additionalProperties": False, "required": ["recipient", "sender_action"],
                    "properties": {"recipient": {"type": "object", "required": ["id"]},
                                   "sender_action": {"enum": ["typing_on", "mark_seen"]}}},
}


def outgoing_schemas() -> list[Any]:
    """The project's own rules, and those of the folder that MINIBOT_SHARED names."""
    theirs = json.loads((SHARED / "graph-outgoing.schema.json").read_text("utf-8"))["$defs"] if SHARED else {}
    return [pytest.param(OUTGOING, id="own"), pytest.param(theirs, marks=needs_shared, id="shared")]
