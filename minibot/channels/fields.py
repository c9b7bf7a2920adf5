"""What strangers send as JSON, read field by field: each reader gives a value of one kind, or nothing.

Not here: what any field means (each platform's own file). The law: a missing field, null and a wrong type are the same,
and nothing here raises but `Unreadable`.

Next: `meta.py`, what three of the four share; then any one channel.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from minibot.errors import Unreadable
from minibot.text import clean

Item = dict[str, Any]
IDENT = re.compile(r"[!-~]{1,512}")  # the longest ids seen are Instagram's, some 180 characters


def read_json(body: bytes) -> Item:
    """A webhook's body as an object: strict UTF-8 (a BOM is dropped), no NaN, bounded depth and digits.

    Raises Unreadable for everything else, and only that.
    """
    try:
        text = body.removeprefix(b"\xef\xbb\xbf").decode().strip(" \t\r\n")
        value, end = _STRICT.raw_decode(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"not JSON ({type(error).__name__})") from None
    if end != len(text):
        raise Unreadable("not JSON (something follows it)")
    if not isinstance(value, dict):
        raise Unreadable("JSON, but not an object")
    return value


def read_reply(body: bytes) -> Item:
    """A reply's object, {} for whatever is none."""
    try:
        return read_json(body)
    except Unreadable:
        return {}


def _refuse_constant(name: str) -> float:
    raise ValueError(name)


_STRICT = json.JSONDecoder(parse_constant=_refuse_constant)  # made once: `json.loads` would make one for each body


def block(value: object) -> Item:
    """The object, or an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def blocks(value: object) -> list[Item]:
    """The objects of a list; none for anything else."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def ident(value: object) -> str:
    """An opaque id (numbers are sometimes sent for strings), or "" for what cannot be one."""
    value = str(value) if type(value) is int and 0 < value < 10**30 else value
    return value if isinstance(value, str) and IDENT.fullmatch(value) else ""


def need(value: object, what: str, read: Callable[[object], str] = ident) -> str:
    """An id without which the rest means nothing. Raises Unreadable."""
    if not (found := read(value)):
        raise Unreadable(f"no {what}")
    return found


def place(names: tuple[object, ...], spot: Item, latitude: str, longitude: str) -> str:
    """A location as text for the model; "" if there is nothing of it."""
    numbers = [f"{spot[key]:.10g}" for key in (latitude, longitude) if type(spot.get(key)) in (int, float)]
    known = [clean(name) for name in names if isinstance(name, str) and name]
    known += [", ".join(numbers)] if len(numbers) == 2 else []
    return f"[location: {', '.join(known)}]" if known else ""
