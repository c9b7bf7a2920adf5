"""What minibot may send: every call that a test recorded is held against the shapes that the platforms document.

The project's own tables always; where MINIBOT_SHARED names the folder of platform facts, Telegram's machine-readable
API and the schema of Graph's bodies as well. Not here: what the far ends answer (`fakes.py`).

Next: `botprocess.py`, which looks at the calls of every bot when its test ends.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

from minibot.desk.simulator import mismatch
from tests.fakes import FakeWorld, Seen
from tests.meta_cases import OUTGOING, SHARED, faults

KINDS = {"Integer": int, "String": str, "Boolean": bool}


def complies(values: Any, fields: Iterable[Mapping[str, Any]], types: Mapping[str, Any]) -> bool:
    """Are these the fields of a method or type, none unknown, none missing, each of a kind that it may have?"""
    known = {field["name"]: field for field in fields}
    required = {name for name, field in known.items() if field["required"]}
    return isinstance(values, dict) and required <= set(values) <= set(known) and all(
        any(_fits(value, kind, types) for kind in known[name]["types"]) for name, value in values.items())


def _fits(value: Any, kind: str, types: Mapping[str, Any]) -> bool:
    if kind.startswith("Array of "):
        return isinstance(value, list) and all(_fits(item, kind.removeprefix("Array of "), types) for item in value)
    return type(value) is KINDS[kind] if kind in KINDS else complies(value, types[kind].get("fields", []), types)


@cache
def telegram_api() -> dict[str, Any]:
    """Telegram's machine-readable API; raises where MINIBOT_SHARED is not set."""
    assert SHARED is not None
    api: dict[str, Any] = json.loads((SHARED / "telegram-bot-api-10.1.json").read_text("utf-8"))
    return api


@cache
def graph_schemas() -> list[Mapping[str, Any]]:
    """The schemas of Graph's bodies: ours, and those of the facts."""
    theirs = json.loads((SHARED / "graph-outgoing.schema.json").read_text("utf-8"))["$defs"] if SHARED else None
    return [OUTGOING, theirs] if theirs else [OUTGOING]


def _telegram(world: FakeWorld, seen: Seen) -> list[str]:
    method = seen.path.rpartition("/")[2]
    if "/file/" in seen.path or "json" not in seen.headers.get("content-type", ""):
        return []  # a download, or what a test itself asked by hand
    given = seen.json()
    wrong = [] if mismatch(given, world.telegram.methods[method][1]) is None else ["own table"]
    if SHARED and not complies(given, telegram_api()["methods"][method].get("fields", []), telegram_api()["types"]):
        wrong.append("machine-readable API")
    return [f"{method} against the {which}: {given}" for which in wrong]


def _graph(world: FakeWorld, seen: Seen) -> list[str]:
    if seen.method != "POST" or not seen.path.endswith("/messages"):
        return []
    given = seen.json()
    names = ("wa_read" if "status" in given else "wa_text") if "messaging_product" in given else (
        "page_action" if "sender_action" in given else "page_text")
    return [f"{names}: {fault}: {given}" for schema in graph_schemas() for fault in faults(schema[names], given)]


CHECKS: dict[str, Callable[[FakeWorld, Seen], list[str]]] = {
    "telegram": _telegram, "graph": _graph, "instagram": _graph}


def complaints(world: FakeWorld) -> list[str]:
    """What is wrong with the calls that a world has seen. A killed process may leave half a call: that is none."""
    whole = [seen for seen in world.calls() if seen.upstream in CHECKS
             and len(seen.body) == int(seen.headers.get("content-length", 0))
             and re.match(r"/(bot|v\d|instagram/v\d)", seen.path)]
    return [fault for seen in whole for fault in CHECKS[seen.upstream](world, seen)]
