"""Text and its limits: made safe, measured, and split into parts that a platform takes.

Not here: Markdown and the platforms' dialects (`markup.py`). The law: the splitter loses nothing but the white
space at a split, breaks at the best place there is, and needs time linear in the text, whatever the text is.
A text is split as a list of pieces (a word, the gap before it, how good a place to split that gap is, the marks
the word wears), so that plain and marked text are split alike.

Next: `markup.py`.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from operator import add, gt
from typing import NamedTuple

Measure = Callable[[str], int]  # a text's length in the platform's unit; every character counts at least 1
PARAGRAPH, LINE, SENTENCE, WORD, GLUE = range(5)  # places to split, best first; GLUE only if all else fails
BROKEN = re.compile("[\0\ud800-\udfff]")  # PostgreSQL refuses NUL; no UTF-8 has surrogates
MANY_MARKS = re.compile(r"[^\w\s\0-\x7f]{9,}")  # a combining mark is no \w: the only places where nine may follow
WORDS = re.compile(r"(\s*+)([^\s。！？；，、：]*+[。！？；，、：]++[”’」』）]*+|\S+)")  # Chinese and Japanese have no spaces
SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’)\]»」』）]*$")
BLANK = "\u115f\u1160\u2800\u3164\uffa0"  # letters by category, white on every screen
FLAGS = "".join(map(chr, range(0x1F1E6, 0x1F200)))  # regional indicators: two make a flag
SEAM = re.compile("\u200d|.[\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]")  # a joiner; before a skin tone or a tag


def clean(text: str, limit: int = 65536) -> str:
    """`text` without NUL and lone surrogates (U+FFFD instead), at most 8 combining marks in a row, `limit` bytes."""
    if not text.isascii() or "\0" in text:
        text = MANY_MARKS.sub(_calm, BROKEN.sub("\ufffd", text))
    return text if len(text) * 4 <= limit else text.encode()[:limit].decode("utf-8", "ignore")


def _calm(run: re.Match[str]) -> str:
    kept, marks = "", 0
    for character in run[0]:
        marks = (marks + 1) * (unicodedata.category(character)[0] == "M")
        kept += character * (marks <= 8)
    return kept


def clean_name(text: str) -> str:
    """A person's name for lists and logs: one line of at most 80 characters, no control or invisible ones."""
    if text.isascii() and text.isprintable() and len(text) <= 80:  # most names; a tenth of the time
        return " ".join(text.split())
    line = " ".join(clean(text, 4096).split())
    return "".join(c for c in line if unicodedata.category(c) not in ("Cc", "Cf"))[:80].strip()


def safe_line(text: str, limit: int = 200) -> str:
    """`text` for a terminal or log: at most `limit` characters, whatever could move the cursor escaped."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in clean(text[:limit + 1]))
    return line if len(line) <= limit else line[:limit - 1] + "…"


def utf16(text: str) -> int:
    """The length in UTF-16 code units, as Telegram counts."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2


def octets(text: str) -> int:
    """The length in UTF-8 bytes, as Instagram counts."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def visible(text: str) -> bool:
    """Does it show anything? Platforms refuse messages of spaces and invisible characters."""
    return any(c not in BLANK and unicodedata.category(c) not in ("Cc", "Cf", "Mn", "Zl", "Zp", "Zs") for c in text)


class Mark(NamedTuple):
    """Something a word wears: "bold", "link" (its URL is `value`), ...; `number` tells neighbours apart."""

    kind: str
    value: str = ""
    number: int = 0


Marks = tuple[Mark, ...]


class Piece(NamedTuple):
    """A word and the gap before it, which is dropped where a part begins."""

    gap: str
    word: str
    level: int  # of the gap as a place to split: PARAGRAPH .. GLUE
    marks: Marks = ()


class Flow:
    """Collects text as pieces, none longer than `room`. `gap` and `level` may be set for the next piece."""

    def __init__(self, room: int, measure: Measure) -> None:
        self.room, self.measure, self.pieces = room, measure, list[Piece]()
        self.gap, self.level = "", PARAGRAPH  # of the next piece: its gap is no better a place than `level`

    def add(self, text: str, marks: Marks = (), words: re.Pattern[str] = WORDS, level: int = PARAGRAPH) -> None:
        """Append `text`, cut into pieces by `words` (gap, word); gaps inside it are no better than `level`."""
        body = text.rstrip()
        for gap, word in words.findall(body):
            last = self.pieces[-1] if self.pieces else Piece("", "", GLUE)
            self.gap += gap
            linked = marks and any(mark.kind == "link" and mark in last.marks for mark in marks)
            self.level = GLUE if linked else max(self.level, _level(self.gap, last.word))
            for chunk in _chunks(word, self.room, self.measure):
                self.pieces.append(Piece(self.gap, chunk, self.level, marks))
                self.gap, self.level = "", GLUE
            self.level = level
        self.gap += text[len(body):]


def _level(gap: str, before: str) -> int:
    if "\n" in gap:
        return PARAGRAPH if gap.count("\n") > 1 else LINE
    if SENTENCE_END.search(before[-8:]) and (gap or before[-1] > "\u2fff"):
        return SENTENCE
    return WORD if gap or before[-1:] > "\u2fff" and before[-1] in "；，、：" else GLUE


def _chunks(word: str, room: int, measure: Measure) -> Iterator[str]:
    while len(word) * 4 > room and measure(word) > room:
        most = word[:room + 1]
        fits = bisect_right(range(len(most)), room, key=lambda count: measure(most[:count])) - 1
        end = next((at for at in range(fits, max(fits - 64, 0), -1) if not _inside(most, at)), max(fits, 1))
        yield word[:end]
        word = word[end:]
    yield word


def _inside(text: str, at: int) -> bool:
    """Is `at` between characters that are seen as one? No word has white space, so CR LF needs no care."""
    flags = text[at] in FLAGS and at - len(text[:at].rstrip(FLAGS))
    return flags % 2 == 1 or unicodedata.category(text[at])[0] == "M" or bool(SEAM.search(text[at - 1:at + 1]))


def pack(pieces: Sequence[Piece], limits: tuple[int, ...],
         cost: Callable[[Piece, Marks | None], tuple[int, ...]]) -> Iterator[Sequence[Piece]]:
    """Pieces -> parts, each within all `limits` (the first is its size), split at the best place there is.

    A part without anything to see is left out. A place that fills less than an eighth of a part is taken only where
    a link or a word would be broken otherwise.
    `cost(piece, marks before it)` is what a piece adds, one number a limit; None for marks: it begins a part.
    """
    start = 0
    while start < len(pieces):
        best, used, end = dict[tuple[bool, bool, int], int](), (0,) * len(limits), len(pieces)
        for at in range(start, end):
            if at > start:
                best[pieces[at].level == GLUE, used[0] < limits[0] // 8, pieces[at].level] = at
            used = tuple(map(add, used, cost(pieces[at], pieces[at - 1].marks if at > start else None)))
            if at > start and any(map(gt, used, limits)):
                end = best[min(best)]
                break
        if any(visible(piece.word) for piece in pieces[start:end]):
            yield pieces[start:end]
        start = end


def cut(text: str, limit: int, measure: Measure) -> list[str]:
    """Plain text -> parts of at most `limit` by `measure`, none without anything to see."""
    flow = Flow(limit, measure)
    flow.add(text)
    parts = pack(flow.pieces, (limit,), lambda piece, before: (measure(piece.gap * (before is not None) + piece.word),))
    return ["".join(piece.gap + piece.word for piece in part)[len(part[0].gap):] for part in parts]
