"""Telegram's HTML parse mode, as its server reads it: text with tags -> plain text and entities, or a complaint.

Not here: the repairs the server makes to overlapping entities, and the tags that minibot never writes (span, tg-emoji,
tg-time): they are refused. The law: what Telegram refuses is refused; offsets of entities count UTF-16 units,
offsets in complaints UTF-8 bytes. Source: the parser of tdlib/td; this one agrees with the cases of its tests.

Next: `simulator_meta.py`.
"""

from __future__ import annotations

import re
from typing import Any

TAGS = {"b": "bold", "strong": "bold", "i": "italic", "em": "italic", "u": "underline", "ins": "underline",
        "s": "strikethrough", "strike": "strikethrough", "del": "strikethrough", "code": "code", "pre": "pre",
        "a": "text_link", "blockquote": "blockquote", "tg-spoiler": "spoiler"}
ARGUMENTS = {"a href": "url", "code class": "language", "blockquote expandable": "expandable"}
VALUE = r"""(?:"[^"]*+"|'[^']*+'|[A-Za-z0-9.-]*+(?=[\s>]))"""
ATTRIBUTE = r"""\s*+({0}[^\s=>"'/]++)(?:\s*+=\s*+({0}VALUE))?+""".replace("VALUE", VALUE)
TOKEN = re.compile(rf"</(?P<end>[^\s>]*)\s*>|<(?P<tag>[^\s>/][^\s>]*+)(?P<rest>(?:{ATTRIBUTE.format('?:')})*+)\s*>"
                   r"|(?P<text>[^<]+)|(?P<broken><)")
REFERENCE = re.compile(r"&(?:#x([\da-fA-F]{1,6})|#([0-9]{1,7})|(lt|gt|amp|quot)(?![A-Za-z]));?")
LINK = re.compile(r"(?:https?://)?[^\s/?#]+\.[^\s]+|(?:tg|mailto|tel):\S+", re.IGNORECASE)


class HtmlFault(Exception):
    """The complaint that follows `Bad Request: can't parse entities: `."""


def _decoded(match: re.Match[str]) -> str:
    if match[3]:
        return {"lt": "<", "gt": ">", "amp": "&", "quot": '"'}[match[3]]
    code = int(match[1], 16) if match[1] else int(match[2])
    if 0xD800 <= code < 0xE000:
        raise HtmlFault("Text contains invalid Unicode characters after decoding HTML entities")
    return chr(code) if 0 < code < 0x10FFFF else match[0]


def _about(tag: str, attributes: str) -> dict[str, Any]:
    """What a start tag's attributes say of its entity."""
    about = {"type": TAGS[tag]}
    for name, value in re.findall(ATTRIBUTE.format(""), attributes + " "):
        if key := ARGUMENTS.get(f"{tag} {name.lower()}"):
            about[key] = REFERENCE.sub(_decoded, value[1:-1]) if value[:1] in ('"', "'") else value.lower()
    return about if about.pop("expandable", None) is None else {"type": "expandable_blockquote"}


def parse_html(source: str) -> tuple[str, list[dict[str, Any]]]:
    """The text without its mark-up, and its entities in order. Raises HtmlFault."""
    text, units, opened, entities = "", 0, list[tuple[str, dict[str, Any], int]](), list[dict[str, Any]]()
    for token in TOKEN.finditer(source):
        tag, end = (token["tag"] or "").lower(), token["end"]
        if token["text"]:
            plain = REFERENCE.sub(_decoded, token["text"])
            text, units = text + plain, units + len(plain.encode("utf-16-le")) // 2
        elif tag in TAGS:
            opened.append((tag, {**_about(tag, token["rest"]), "offset": units}, len(text)))
        elif tag or token["broken"]:
            what = f'Unsupported start tag "{tag}"' if tag else "Unclosed start tag"
            raise HtmlFault(f"{what} at byte offset {len(source[:token.start()].encode())}")
        elif not opened or end.lower() not in ("", opened[-1][0]):
            raise HtmlFault(f'Unmatched end tag, found "</{end}>"' if opened else "Unexpected end tag")
        else:
            tag, entity, begin = opened.pop()
            entity["length"] = units - entity["offset"]
            link = entity.setdefault("url", text[begin:]) if tag == "a" else "tg:ok"
            entities += [entity] if entity["length"] and LINK.fullmatch(link) else []
    if opened:
        raise HtmlFault(f'Can\'t find end tag corresponding to start tag "{opened[-1][0]}"')
    return text, sorted(_merged(entities), key=lambda each: (each["offset"], -each["length"]))


def _merged(entities: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A code block's language stands on a `code` of exactly its extent; on any other `code` it says nothing."""
    blocks = {(each["offset"], each["length"]): each for each in entities if each["type"] == "pre"}
    for each in entities:
        language = each.pop("language", "").removeprefix("language-") if each["type"] == "code" else ""
        if language and (block := blocks.get((each["offset"], each["length"]))):
            block["language"], each["type"] = language, ""
    return [each for each in entities if each["type"]]
