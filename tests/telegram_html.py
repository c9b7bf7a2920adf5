"""A reader of Telegram's HTML parse mode with the server's own rules: text and entities, or the server's complaint.

Not here: Markdown modes, the repair of overlapping entities, any network. The law: what Telegram refuses is refused
with the same words; offsets of entities count UTF-16 units, offsets in complaints UTF-8 bytes. `read` is the parser
alone; `accept` adds the limits of sendMessage and its trimming. `test_markup.py` proves it with the vectors below.

Next: `test_markup.py`.
"""

from __future__ import annotations

import re
import string
from typing import Any, NamedTuple

NAMES = {"b": "bold", "strong": "bold", "i": "italic", "em": "italic", "u": "underline", "ins": "underline",
         "s": "strikethrough", "strike": "strikethrough", "del": "strikethrough", "code": "code", "pre": "pre",
         "a": "text_link", "blockquote": "blockquote", "tg-spoiler": "spoiler", "span": "spoiler",
         "tg-emoji": "custom_emoji", "tg-time": "date_time"}
USED = {"a": ("href",), "code": ("class",), "span": ("class",), "tg-emoji": ("emoji-id",),
        "blockquote": ("expandable",), "tg-time": ("unix", "format")}
ORDER = ("blockquote", "expandable_blockquote", "pre", "code", "text_link", "text_mention", "bold", "italic",
         "underline", "strikethrough", "spoiler", "custom_emoji", "date_time")
TIMES = {"t": 2, "T": 4, "d": 8, "D": 16, "w": 32, "W": 32}
TOKEN = string.ascii_letters + string.digits + ".-"
SPACE = " \t\r\n\0\v"
REFERENCE = re.compile(r"&(?:(lt|gt|amp|quot)|#x([0-9a-fA-F]{1,6})|#([0-9]{1,7}));?")


class Refused(Exception):
    """What follows `Bad Request: can't parse entities: ` in the server's answer; from `accept` a limit's text."""


class Tag(NamedTuple):
    """An open tag, where it stood in the text (characters and units) and in the source (bytes)."""

    name: str
    attributes: dict[str, str]
    begin: int
    offset: int
    byte: int


def units(text: str) -> int:
    """Length in UTF-16 code units."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def decode(text: str) -> str:
    """Resolve the few references that Telegram knows; others stay as they are."""
    def one(found: re.Match[str]) -> str:
        if found[1]:
            return {"lt": "<", "gt": ">", "amp": "&", "quot": '"'}[found[1]]
        code = int(found[2], 16) if found[2] else int(found[3])
        return chr(code) if 0 < code < 0x10FFFF else found[0]
    return REFERENCE.sub(one, text)


class Reader:
    """One pass over the source."""

    def __init__(self, source: str) -> None:
        self.source, self.at = source, 0
        self.text: list[str] = []
        self.offset = 0
        self.open: list[Tag] = []
        self.entities: list[dict[str, Any]] = []

    def byte(self, at: int) -> int:
        return len(self.source[:at].encode("utf-8", "surrogatepass"))

    def look(self) -> str:
        return self.source[self.at:self.at + 1]

    def span(self, stop: str) -> str:
        """Everything up to a character of `stop`, or to the end."""
        begin = self.at
        while self.at < len(self.source) and self.source[self.at] not in stop:
            self.at += 1
        return self.source[begin:self.at]

    def skip(self) -> None:
        while self.look() and self.look() in SPACE:
            self.at += 1

    def read(self) -> tuple[str, list[dict[str, Any]]]:
        while self.at < len(self.source):
            if self.look() == "<":
                self.end() if self.source[self.at + 1:self.at + 2] == "/" else self.start()
            else:
                plain = decode(self.span("<"))
                self.text.append(plain)
                self.offset += units(plain)
        if self.open:
            raise Refused(f'Can\'t find end tag corresponding to start tag "{self.open[-1].name}"')
        text = "".join(self.text)
        if re.search("[\ud800-\udfff]", text):
            raise Refused("Text contains invalid Unicode characters after decoding HTML entities, "
                          "check for unmatched surrogate code units")
        return text, self.ordered()

    def start(self) -> None:
        byte = self.byte(self.at)
        self.at += 1
        name = self.span(SPACE + ">").lower()
        if not self.look():
            raise Refused(f"Unclosed start tag at byte offset {byte}")
        if name not in NAMES:
            raise Refused(f'Unsupported start tag "{name}" at byte offset {byte}')
        attributes: dict[str, str] = {}
        while self.attribute(name, byte, attributes):
            pass
        if name == "span" and attributes.get("class") != "tg-spoiler":
            raise Refused(f'Tag "span" must have class "tg-spoiler" at byte offset {byte}')
        self.open.append(Tag(name, attributes, sum(map(len, self.text)), self.offset, byte))

    def attribute(self, tag: str, byte: int, found: dict[str, str]) -> bool:
        """Read one attribute; False where the tag ends."""
        self.skip()
        if self.look() == ">":
            self.at += 1
            return False
        name = self.span(SPACE + "=>").lower()
        if not self.look():
            raise Refused(f'Unclosed start tag "{tag}" at byte offset {byte}')
        if not name:
            raise Refused(f'Empty attribute name in the tag "{tag}" at byte offset {byte}')
        self.skip()
        value = ""
        if self.look() == "=":
            self.at += 1
            self.skip()
            if not self.look():
                raise Refused(f'Unclosed start tag "{tag}" at byte offset {byte}')
            value = self.value(byte)
        if name in USED.get(tag, ()):
            found[name] = value
        return True

    def value(self, byte: int) -> str:
        quote = self.look()
        if quote not in "\"'":
            begin = self.at
            while self.look() and self.look() in TOKEN:
                self.at += 1
            if not self.look() or self.look() not in SPACE + ">":
                raise Refused(f"Unexpected end of name token at byte offset {self.byte(begin)}")
            return self.source[begin:self.at].lower()
        self.at += 1
        value = self.span(quote)
        if not self.look():
            raise Refused(f"Unclosed start tag at byte offset {byte}")
        self.at += 1
        return decode(value)

    def end(self) -> None:
        begin, byte = self.at, self.byte(self.at)
        self.at += 2
        name = self.span(SPACE + ">").lower()
        if not self.open:
            raise Refused(f"Unexpected end tag at byte offset {byte}")
        self.skip()
        if self.look() != ">":
            raise Refused(f"Unclosed end tag at byte offset {byte}")
        self.at += 1
        tag = self.open.pop()
        if name and name != tag.name:
            raise Refused(f'Unmatched end tag at byte offset {self.byte(begin)}, expected "</{tag.name}>", '
                          f'found "</{name}>"')
        self.entity(tag)

    def entity(self, tag: Tag) -> None:
        kind, inside = NAMES[tag.name], "".join(self.text)[tag.begin:]
        found: dict[str, Any] = {"type": kind, "offset": tag.offset, "length": self.offset - tag.offset}
        if tag.name == "a":
            url = link(tag.attributes.get("href") or inside)
            found["url"] = url
            if not url:
                return
        elif tag.name == "tg-emoji":
            found["custom_emoji_id"] = tag.attributes.get("emoji-id", "")
        elif tag.name == "tg-time":
            found["unix_time"] = int(tag.attributes.get("unix", "0"))
            found["tdlib_date_flags"] = flags(tag.attributes.get("format", ""))
        elif tag.name == "blockquote" and "expandable" in tag.attributes:
            found["type"] = "expandable_blockquote"
        elif tag.name == "code":
            found["class"] = tag.attributes.get("class", "")
        if found["length"]:
            self.entities.append(found)

    def ordered(self) -> list[dict[str, Any]]:
        """Entities by place; a `code` of exactly a `pre`'s extent only gives that its language."""
        blocks = {(each["offset"], each["length"]): each for each in self.entities if each["type"] == "pre"}
        kept = []
        for each in self.entities:
            language = re.match("language-(.+)", each.pop("class", ""))
            block = blocks.get((each["offset"], each["length"]))
            if language and block:
                block["language"] = language[1]
            else:
                kept.append(each)
        return sorted(kept, key=lambda each: (each["offset"], -each["length"], ORDER.index(each["type"])))


def link(url: str) -> str:
    """The URL as Telegram would keep it, "" for one it drops."""
    if re.fullmatch(r"(?i:tg://|mailto:|tel:|ton://)\S+", url):
        return url
    found = re.fullmatch(r"(?i:(https?)://)?([^\s/?#<>\"]+\.[^\s/?#<>\".]+|localhost)(:\d+)?([/?#].*)?", url)
    if not found or re.search(r"\s", url):
        return ""
    path = found[4] if (found[4] or "").startswith("/") else "/" + (found[4] or "")
    return f"{(found[1] or 'http').lower()}://{found[2].lower()}{found[3] or ''}{path}"


def flags(form: str) -> int:
    """A date's format as TDLib's bits."""
    if form == "r":
        return 1
    if set(form) - set(TIMES):
        raise Refused("Invalid date format used")
    bits = 0
    for letter in form:
        bits |= TIMES[letter]
    return bits


def read(source: str) -> tuple[str, list[dict[str, Any]]]:
    """The parser alone: (text, entities). Raises Refused."""
    return Reader(source).read()


def accept(source: str) -> tuple[str, list[dict[str, Any]]]:
    """What sendMessage does with `source`: all its limits, then the parser. Raises Refused."""
    try:
        size = len(source.encode())
    except UnicodeEncodeError:
        raise Refused("strings must be encoded in UTF-8") from None
    if size > 1 << 15:
        raise Refused("text is too long")
    if not source:
        raise Refused("message text is empty")
    text, entities = read(source)
    shown = re.sub("[\u2028-\u202e\r]", "", text).strip(" \n")
    if not shown.strip("".join(map(chr, [*range(33), 0xA0, 0xAD, *range(0x2000, 0x2010), 0x2060, 0x2800, 0x3000,
                                         0x3164, 0xFEFF]))):
        raise Refused("text must be non-empty")
    if units(shown) > 4096:  # the source counts code points; the documentation's readers count units: hold both
        raise Refused("message is too long")
    return text, entities
