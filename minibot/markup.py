"""The model's Markdown in a platform's dialect: blocks, then inline marks, then parts within the platform's limit.

Not here: splitting itself (`text.py`), any HTML: what looks like HTML is text. The law: every input is valid,
unfinished mark-up stays as it was written, each part is well-formed by itself, and the time is linear in the length:
patterns are possessive, and a mark's inside holds no mark of its own kind, so that nesting ends after five levels.

Next: `channels/telegram.py`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from html import escape, unescape

from minibot.text import GLUE, SENTENCE, WORD, Flow, Mark, Marks, Measure, Piece, clean, cut, octets, pack, utf16

LIMIT, TAGS, ENTITIES = 4096, 12000, 90  # Telegram: units of text, bytes of tags, entities (32,768 bytes, 100 in all)
SPECIAL = re.compile(r"[\\`*_~\[\]<>&#|\n]|^[-+•]")  # a text without these has no mark-up
END = r"(?=\n|\Z)"
BULLET = r"(?:[-*+•]|\d{1,9}[.)])[ ]+"
RULE = r"[ ]{0,3}(?:-(?:[ ]*-){2,}|\*(?:[ ]*\*){2,}|_(?:[ ]*_){2,})" + END
ROW = r"(?=[^\n|]*\|).*"  # a line with a | in it
TABLE = ROW + r"\n(?=[^\n|]*\|)[ |:]*-[ |:-]*+" + END
FENCE = r"[ ]*(?:`{3,}+[^`\n]*|~{3,}+.*)" + END
START = rf"[ ]*{BULLET}\S|[ ]{{0,3}}(?:\#{{1,6}}[ ]|>)|{FENCE}|{RULE}|{TABLE}"
MORE = rf"(?:\n(?!{START}).+)*+"  # the lines with which a paragraph or an item goes on
BLOCK = re.compile(rf"""(?P<gap>\n++)(?:
    (?={FENCE})(?P<margin>[ ]*)(?P<fence>`+|~+)[ ]*(?P<language>\S{{0,40}}).*
        (?P<code>(?s:.*?))(?:\n[ ]*(?P=fence)[`~]*{END}|\Z)
    |(?P<rule>{RULE})
    |[ ]{{0,3}}\#{{1,6}}[ ]+(?P<heading>.+?)(?:[ ]\#+)?{END}
    |(?P<bullet>[ ]*{BULLET})(?:(?<![.)][ ])\[(?P<task>[ xX])\][ ]+)?(?P<item>\S.*{MORE})
    |(?P<table>{TABLE}(?:\n{ROW})*+)
    |(?P<quote>[ ]{{0,3}}>.*(?:\n[ ]{{0,3}}>.*)*+)
    |(?P<text>.+{MORE}))""", re.VERBOSE)

ATOM = r"\\.|`+[^`]*+`+|\]\([^\s()]*+\)"  # where no mark is looked for: escaped, in code, in a URL
URL = r"(?i:https?://|tg://|mailto:|tel:)"
INLINE = re.compile(rf"""
    \\(?P<escape>[!-/:-@\[-`{{-~\n])
    |(?<!`)(?P<ticks>`{{1,3}}+)(?!`)(?=\s*+[^\s`])(?P<code>(?s:.+?))(?<!`)(?P=ticks)(?!`)
    |!?\[(?P<label>(?:\\.|[^\[\]\\])*+)\]\(\s*+<?(?P<url>{URL}(?:[^\s<>()]|\([^\s<>()]*+\)){{1,2000}}+)>?
        (?:\s++(?:"[^"]*+"|'[^']*+'))?\s*+\)
    |<(?P<auto>{URL}[^\s<>]{{1,2000}}+)>
    |(?P<bare>https?://[^\s<>*`\[\]]*[^\s<>*`\[\]_~])
    |(?:(?<!\d)|(?!\*\*\d))\*\*(?!\s)(?P<bold>(?:{ATOM}|[^*]|\*(?=[^*]|\*\*(?!\*)))++)(?<!\s)\*\*
    |(?<!\w)__(?!\s)(?P<bold_>(?:{ATOM}|[^_]|(?<!_)_(?!_))++)(?<!\s)__(?!\w)
    |(?<![0-9A-Za-z*])\*(?![\s*])(?P<italic>(?:{ATOM}|[^*]|\*\*)++)(?<!\s)\*(?!\*)
    |(?<!\w)_(?![\s_])(?P<italic_>(?:{ATOM}|[^_]|__|(?<=\w)_(?=\w))++)(?<!\s)_(?!\w)
    |~~(?!\s)(?P<strike>(?:{ATOM}|[^~]|~(?!~))++)(?<!\s)~~""", re.VERBOSE)
VERBATIM = re.compile(r"((?:[^\S\n]*\n)*)([^\S\n]*\S+)")  # (line breaks, word with its indentation)
LASTING = ("quote", "pre", "source", "link")  # marks that go on in the next line: WhatsApp's others do not


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a platform writes marks: kind -> (before, after).

    `html`: mark-up is not counted, text is escaped, links are marks and tables are aligned.
    """

    marks: Mapping[str, tuple[str, str]]
    html: bool = False

    def around(self, marks: Marks) -> tuple[str, str]:
        """What stands before and after text that wears `marks`, outermost first."""
        if not marks:  # the usual case, three times a word
            return "", ""
        pairs = [(*self.marks.get(mark.kind, ("", "")), escape(mark.value)) for mark in marks]
        return "".join(pair[0].replace("{}", pair[2]) for pair in pairs), "".join(pair[1] for pair in reversed(pairs))

    def lines(self, text: str, marks: Marks) -> str:
        """`text` with the quotation's sign in each new line."""
        return text.replace("\n", "\n> ") if marks and marks[0].kind == "quote" and not self.html else text

    def cost(self, piece: Piece, before: Marks | None, measure: Measure) -> tuple[int, int, int]:
        """What a piece adds to a part: (size, bytes of tags, entities). A mark pays for its end when it begins."""
        gap, kept = ("", 0) if before is None else (piece.gap, _kept(before, piece))
        tags = "".join(self.around(piece.marks[kept:]))
        if self.html:
            return measure(gap + piece.word), octets(tags), len(piece.marks) - kept
        return measure(self.lines(gap, piece.marks[:kept]) + self.lines(tags, piece.marks) + piece.word), 0, 0

    def write(self, part: Iterable[Piece]) -> str:
        """The pieces as text, every mark that begins in it also ended."""
        written, worn = "", Marks()
        for piece in [*part, Piece("", "", GLUE)]:
            kept = _kept(worn, piece)
            written += (self.lines(self.around(worn[kept:])[1], worn)
                        + (self.lines(piece.gap, worn[:kept]) if written else "")
                        + self.lines(self.around(piece.marks[kept:])[0], piece.marks)
                        + (escape(piece.word, quote=False) if self.html else piece.word))
            worn = piece.marks
        return written


def _kept(before: Marks, piece: Piece) -> int:
    """How many marks go on from the word before to this one."""
    same = [old == new and ("\n" not in piece.gap or old.kind in LASTING) for old, new in zip(before, piece.marks)]
    return [*same, False].index(False)


PLAIN = Dialect({"quote": ("> ", "")})
WHATSAPP = Dialect({**PLAIN.marks, "bold": ("*", "*"), "italic": ("_", "_"), "strike": ("~", "~"), "code": ("`", "`"),
                    "pre": ("```\n", "\n```"), "source": ("```\n", "\n```")})
TELEGRAM = Dialect({
    "quote": ("<blockquote>", "</blockquote>"), "bold": ("<b>", "</b>"), "italic": ("<i>", "</i>"),
    "strike": ("<s>", "</s>"), "code": ("<code>", "</code>"), "link": ('<a href="{}">', "</a>"),
    "pre": ("<pre>", "</pre>"), "source": ('<pre><code class="language-{}">', "</code></pre>")}, html=True)


def _runs(text: str, html: bool, marks: Marks = (), number: int = 0) -> Iterator[tuple[str, Marks]]:
    """A block's text in runs that wear the same marks; without `html`, each link's URL behind its text."""
    at = 0
    for found in INLINE.finditer(text):
        yield text[at:found.start()], marks
        at, kind = found.end(), found.lastgroup or ""
        if kind == "code":  # wears nothing else; in a link it is no code, or Telegram would lose the link
            yield found[kind].strip(), marks if any(mark.kind == "link" for mark in marks) else (Mark("code"),)
        elif kind == "url":
            linked = *marks, Mark("link", found[kind], number)
            label = [*_runs(found["label"].strip() or found[kind], html, linked)]
            yield from label
            if not html and "".join(run for run, _ in label) not in (found[kind], found[kind].partition(":")[2]):
                yield f" ({found[kind]})", linked
        elif kind in ("escape", "auto", "bare"):
            yield found[kind], marks
        else:
            yield from _runs(found[kind], html, tuple(dict.fromkeys((*marks, Mark(kind.rstrip("_"))))), number)
    yield text[at:], marks


def _read(flow: Flow, markdown: str, html: bool, quote: Marks = ()) -> None:
    """Put the blocks of `markdown`, which begins with a line break, into `flow`."""
    for number, block in enumerate(BLOCK.finditer(markdown)):
        kind, flow.gap = block.lastgroup or "", block["gap"][:2]
        aligned = html and kind == "table" and len(block[kind]) <= LIMIT  # a longer one becomes lines of text
        text = _table(block[kind], aligned) if kind == "table" else block[kind]
        if kind == "quote" and (inside := re.sub(r"(?m)^(?: {0,3}> ?)+", "", text).rstrip()):
            _read(flow, block["gap"] + inside, html, (Mark("quote", "", number),))
        elif aligned or kind == "code" and text.strip():
            mark = Mark("source" if block["language"] else "pre", block["language"] or "", number)
            text = re.sub(rf"\n {{0,{len(block['margin'] or '')}}}", "\n", text).strip("\n")
            flow.add(text, (*quote, mark), VERBATIM, SENTENCE)
        else:
            if kind == "item":
                sign = {None: "• ", " ": "☐ "}.get(block["task"], "☑ ")
                flow.add(re.sub(r"[-*+•] +$", sign, block["bullet"]), quote, level=GLUE)  # stays with its first word
            text = {"rule": "———", "code": block[0].strip()}.get(kind, text)
            for run, marks in _runs(text, html, (Mark("bold"),) if kind == "heading" else (), number):
                flow.add(run, quote + marks)
            flow.level = WORD if kind == "heading" else flow.level  # a heading stays with what it heads


def _table(source: str, aligned: bool) -> str:
    """A table's rows as lines; `aligned`: as plain text in columns, unless those would be too wide for one message."""
    rows = [[cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", re.sub(r"^ *\||\|$", "", line))]
            for number, line in enumerate(source.split("\n")) if number != 1]
    if aligned:
        rows = [["".join(run for run, _ in _runs(cell, html=False)) for cell in row] for row in rows]
        widths = [max(len(row[n]) for row in rows if n < len(row)) for n in range(max(map(len, rows)))]
        if sum(widths) * len(rows) <= LIMIT:
            rows = [[cell.ljust(width) for cell, width in zip(row, widths)] for row in rows]
            rows.insert(1, ["-" * width for width in widths])
    return "\n".join(" | ".join(row).rstrip() for row in rows)


def compose(markdown: str, dialect: Dialect, limit: int, measure: Measure) -> list[str]:
    """The model's Markdown -> messages in `dialect`, each of at most `limit` (64 or more) by `measure`.

    Of Telegram's HTML only the visible text is measured, and `limit` is at most 4096. White space alone composes to
    no message at all.
    """
    text = re.sub(r"[\x01-\x08\x0b-\x1f\x7f]", " ", clean(markdown, sys.maxsize)).expandtabs(4)
    text = "\n".join([line.rstrip() for line in text.split("\n")]).strip()
    if not SPECIAL.search(text):
        return cut(text, limit, measure)
    flow = Flow(limit - 16, measure)  # no marks around a word are longer than that, where marks are counted
    _read(flow, "\n" + text, dialect.html)
    parts = pack(flow.pieces, (limit, TAGS, ENTITIES), lambda piece, before: dialect.cost(piece, before, measure))
    return [dialect.write(part) for part in parts]


def plain_of(html: str) -> str:
    """A message that `compose` made for Telegram, as plain text with full URLs, or bare if those make it too long."""
    full = re.sub(r'(?s)<a href="([^"]*)">(.*?)</a>', lambda a: a[0] if a[1] in a[2] else f"{a[2]} ({a[1]})", html)
    plain, bare = (unescape(re.sub("<[^>]*>", "", source)) for source in (full, html))
    return plain if utf16(plain) <= LIMIT else bare
