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
from itertools import zip_longest

from minibot.text import GLUE, SENTENCE, WORD, Flow, Mark, Marks, Measure, Piece, clean, octets, pack, utf16, visible

LIMIT = 4096  # Telegram's, in UTF-16 units
WEIGHT, ENTITY = 12000, 130  # at most 12,000 bytes of tags (of 32,768 in all) or 90 entities (of about 100) a message
FRAME = 16  # the longest marks that may surround one word where marks are counted
SPECIAL = re.compile(r"[\\`*_~\[\]<>&#|\n]|^[-+•]")  # a text without these has no mark-up
CONTROL = re.compile(r"[\x01-\x08\x0b-\x1f\x7f]")
END = r"(?=\n|\Z)"
BULLET = r"(?:[-*+•]|\d{1,9}[.)])[ ]+"
RULE = r"[ ]{0,3}(?:-(?:[ ]*-){2,}|\*(?:[ ]*\*){2,}|_(?:[ ]*_){2,})" + END
ROW = r"(?=[^\n|]*\|).*"  # a line with a | in it
TABLE = ROW + r"\n(?=[^\n|]*\|)[ |:]*-[ |:-]*+" + END
FENCE = r"[ ]*(?:`{3,}+[^`\n]*|~{3,}+.*)" + END
START = rf"[ ]*{BULLET}\S|[ ]{{0,3}}(?:\#{{1,6}}[ ]|>)|{FENCE}|{RULE}|{TABLE}"
MORE = rf"(?:\n(?!{START}).+)*+"  # the lines with which a paragraph or an item goes on
BLOCK = re.compile(rf"""(?P<gap>\n++)(?:
    (?={FENCE})(?P<margin>[ ]*)(?P<fence>`+|~+)[ ]*(?P<language>\S*).*
        (?P<code>(?s:.*?))(?:\n[ ]*(?P=fence)[`~]*{END}|\Z)
    |(?P<rule>{RULE})
    |[ ]{{0,3}}\#{{1,6}}[ ]+(?P<heading>.+)
    |(?P<bullet>[ ]*{BULLET})(?:\[(?P<task>[ xX])\][ ]+)?(?P<item>\S.*{MORE})
    |(?P<table>{TABLE}(?:\n{ROW})*+)
    |(?P<quote>[ ]{{0,3}}>.*(?:\n[ ]{{0,3}}>.*)*+)
    |(?P<text>.+{MORE}))""", re.VERBOSE)
QUOTED = re.compile(r"^(?: {0,3}> ?)+", re.MULTILINE)

ATOM = r"\\.|`+[^`]*+`+|\]\([^\s()]*+\)"  # where no mark is looked for: escaped, in code, in a URL
URL = r"(?i:https?://|tg://|mailto:|tel:)"
INLINE = re.compile(rf"""
    \\(?P<escape>[!-/:-@\[-`{{-~\n])
    |(?<!`)(?P<ticks>`{{1,3}}+)(?!`)(?=\s*+[^\s`])(?P<code>(?s:.+?))(?<!`)(?P=ticks)(?!`)
    |!?\[(?P<label>(?:\\.|[^\[\]\\])*+)\]\(\s*+<?(?P<url>{URL}(?:[^\s<>()]|\([^\s<>()]*+\)){{1,2000}}+)>?
        (?:\s++(?:"[^"]*+"|'[^']*+'))?\s*+\)
    |<(?P<auto>{URL}[^\s<>]{{1,2000}}+)>
    |(?P<bare>https?://[^\s<>*`\[\]]*[^\s<>*`\[\]_~])
    |\*{{3}}(?!\s)(?P<both>[^*]++)(?<!\s)\*{{3}}
    |(?:(?<!\d)|(?!\*\*\d))\*\*(?!\s)(?P<bold>(?:{ATOM}|[^*]|(?<!\*)\*(?=[^*]|\*\*(?!\*)))++)(?<!\s)\*\*
    |(?<!\w)__(?!\s)(?P<strong>(?:{ATOM}|[^_]|(?<!_)_(?!_))++)(?<!\s)__(?!\w)
    |(?<![0-9A-Za-z*])\*(?![\s*])(?P<italic>(?:{ATOM}|[^*]|\*\*)++)(?<!\s)\*(?!\*)
    |(?<!\w)_(?![\s_])(?P<stress>(?:{ATOM}|[^_]|__|(?<=\w)_(?=\w))++)(?<!\s)_(?!\w)
    |~~(?!\s)(?P<strike>(?:{ATOM}|[^~]|~(?!~))++)(?<!\s)~~""", re.VERBOSE)
BOLD, ITALIC, STRIKE, CODE = Mark("bold"), Mark("italic"), Mark("strike"), Mark("code")
WORN = {"both": (BOLD, ITALIC), "bold": (BOLD,), "strong": (BOLD,), "italic": (ITALIC,), "stress": (ITALIC,),
        "strike": (STRIKE,)}
VERBATIM = re.compile(r"((?:[^\S\n]*\n)*)([^\S\n]*\S+)")  # (line breaks, word with its indentation)
LASTING = ("quote", "pre", "source", "link")  # marks that go on in the next line: WhatsApp's others do not

Run = tuple[str, Marks]


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a platform writes marks: kind -> (before, after). `line` begins every line of a quotation.

    `html`: mark-up is not counted, text is escaped, links are marks and tables are aligned.
    """

    marks: Mapping[str, tuple[str, str]]
    html: bool = False
    line: str = ""

    def around(self, marks: Marks) -> tuple[str, str]:
        """What stands before and after text that wears `marks`, outermost first."""
        if not marks:  # the usual case, three times a word
            return "", ""
        pairs = [(*self.marks.get(mark.kind, ("", "")), escape(mark.value)) for mark in marks]
        return "".join(pair[0].replace("{}", pair[2]) for pair in pairs), "".join(pair[1] for pair in reversed(pairs))

    def lines(self, text: str, marks: Marks) -> str:
        """`text` with the quotation's sign in each new line."""
        return text.replace("\n", "\n" + self.line) if marks and marks[0].kind == "quote" else text

    def cost(self, piece: Piece, before: Marks | None, measure: Measure) -> tuple[int, int]:
        """What a piece adds to a part, as (size, weight of its tags); a mark pays for its end when it begins."""
        gap, kept = ("", 0) if before is None else (piece.gap, _kept(before, piece))
        tags = "".join(self.around(piece.marks[kept:]))
        if self.html:
            return measure(gap + piece.word), octets(tags) + ENTITY * (len(piece.marks) - kept)
        return measure(self.lines(gap, piece.marks[:kept]) + self.lines(tags, piece.marks) + piece.word), 0

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
    if before == piece.marks and "\n" not in piece.gap:
        return len(before)
    same = [old == new and ("\n" not in piece.gap or old.kind in LASTING) for old, new in zip(before, piece.marks)]
    return [*same, False].index(False)


PLAIN = Dialect({"quote": ("> ", "")}, line="> ")
WHATSAPP = Dialect({
    **PLAIN.marks, "bold": ("*", "*"), "italic": ("_", "_"), "strike": ("~", "~"), "code": ("`", "`"),
    "pre": ("```\n", "\n```"), "source": ("```\n", "\n```")}, line="> ")
TELEGRAM = Dialect({
    "quote": ("<blockquote>", "</blockquote>"), "bold": ("<b>", "</b>"), "italic": ("<i>", "</i>"),
    "strike": ("<s>", "</s>"), "code": ("<code>", "</code>"), "link": ('<a href="{}">', "</a>"),
    "pre": ("<pre>", "</pre>"), "source": ('<pre><code class="language-{}">', "</code></pre>")}, html=True)


def _runs(text: str, html: bool, marks: Marks = (), number: int = 0) -> Iterator[Run]:
    """A block's text in runs that wear the same marks; without `html`, each link's URL behind its text."""
    at = 0
    for found in INLINE.finditer(text):
        yield text[at:found.start()], marks
        at, kind = found.end(), found.lastgroup or ""
        if kind == "code":  # wears nothing else, save a link, which Telegram would lose to it
            yield found[kind].strip(), marks if any(mark.kind == "link" for mark in marks) else (CODE,)
        elif kind == "url":
            linked = *marks, Mark("link", found[kind], number)
            label = [*_runs(found["label"].strip() or found[kind], html, linked)]
            yield from label
            if not html and "".join(run for run, _ in label) not in (found[kind], found[kind].partition(":")[2]):
                yield f" ({found[kind]})", linked
        else:
            more = [mark for mark in WORN.get(kind, ()) if mark not in marks]
            yield from _runs(found[kind], html, (*marks, *more), number) if kind in WORN else [(found[kind], marks)]
    yield text[at:], marks


class _Writer:
    """Puts a document's blocks into a flow of pieces."""

    def __init__(self, html: bool, flow: Flow) -> None:
        self.html, self.flow = html, flow
        self.quote: Marks = ()
        self.number = 0  # of the block: tells its marks from those of others

    def write(self, markdown: str) -> None:
        """`markdown` begins with a line break and has no white space at the ends of its lines."""
        for block in BLOCK.finditer(markdown):
            self.number += 1
            self.flow.gap = block["gap"][:2]
            BLOCKS[block.lastgroup or ""](self, block)

    def inline(self, text: str, marks: Marks = ()) -> None:
        for run, worn in _runs(text, self.html, marks, self.number):
            self.flow.add(run, self.quote + worn)

    def verbatim(self, text: str, language: str = "") -> None:
        mark = Mark("source" if language else "pre", language, self.number)
        self.flow.add(text.strip("\n"), (*self.quote, mark), VERBATIM, SENTENCE)

    def code(self, block: re.Match[str]) -> None:
        if not block["code"].strip():
            return self.inline(block[0].strip())
        self.verbatim(re.sub(rf"\n {{0,{len(block['margin'])}}}", "\n", block["code"]), block["language"])

    def rule(self, block: re.Match[str]) -> None:
        self.flow.add("———", self.quote)

    def heading(self, block: re.Match[str]) -> None:
        self.inline(re.sub(r"\s#+$", "", block["heading"]), (BOLD,))
        self.flow.level = WORD  # a heading stays with what it heads

    def item(self, block: re.Match[str]) -> None:
        bullet = {" ": "☐ ", "x": "☑ ", "X": "☑ "}.get(block["task"], re.sub(r"[-*+] +", "• ", block["bullet"]))
        self.flow.add(bullet, self.quote)
        self.flow.level = GLUE
        self.inline(block["item"])

    def table(self, block: re.Match[str]) -> None:
        head, _, *body = block["table"].split("\n")
        rows = [[cell.strip().replace(r"\|", "|") for cell in re.split(
            r"(?<!\\)\|", line.strip().removeprefix("|").removesuffix("|"))] for line in (head, *body)]
        if self.html:
            return self.verbatim(_grid(rows))
        for row in rows:
            self.inline(" | ".join(row))
            self.flow.gap = "\n"

    def quotation(self, block: re.Match[str]) -> None:
        inside = QUOTED.sub("", block["quote"]).rstrip()
        if not inside:
            return self.inline(block["quote"])
        self.quote = (Mark("quote", "", self.number),)
        self.write(block["gap"] + inside)
        self.quote = ()

    def text(self, block: re.Match[str]) -> None:
        self.inline(block["text"])


BLOCKS = {"code": _Writer.code, "rule": _Writer.rule, "heading": _Writer.heading, "item": _Writer.item,
          "table": _Writer.table, "quote": _Writer.quotation, "text": _Writer.text}


def _grid(rows: list[list[str]]) -> str:
    """Rows of cells as aligned lines; what is too large for one message is not aligned."""
    texts = [["".join(run for run, _ in _runs(cell, html=False)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip_longest(*texts, fillvalue="")]
    if sum(widths) * len(rows) <= LIMIT:
        texts = [[cell.ljust(width) for cell, width in zip(row, widths)] for row in texts]
        texts.insert(1, ["-" * width for width in widths])
    return "\n".join(" | ".join(row).rstrip() for row in texts)


def compose(markdown: str, dialect: Dialect, limit: int, measure: Measure) -> list[str]:
    """The model's Markdown -> messages in `dialect`, each of at most `limit` (64 or more) by `measure`.

    Of Telegram's HTML only the visible text is measured. White space alone composes to no message at all.
    """
    text = CONTROL.sub(" ", clean(markdown, sys.maxsize)).expandtabs(4)
    text = "\n".join([line.rstrip() for line in text.split("\n")]).strip()
    limit = min(limit, LIMIT) if dialect.html else limit
    if not SPECIAL.search(text) and measure(text) <= limit:
        return [text] if visible(text) else []
    flow = Flow(limit - FRAME, measure)
    _Writer(dialect.html, flow).write("\n" + text)
    parts = pack(flow.pieces, limit, WEIGHT, lambda piece, before: dialect.cost(piece, before, measure))
    return [dialect.write(part) for part in parts if any(visible(piece.word) for piece in part)]


def plain_of(html: str) -> str:
    """A message that `compose` made for Telegram, as plain text with full URLs, or bare if those make it too long."""
    full = re.sub(r'(?s)<a href="([^"]*)">(.*?)</a>', lambda a: a[0] if a[1] in a[2] else f"{a[2]} ({a[1]})", html)
    plain, bare = (unescape(re.sub("<[^>]*>", "", source)) for source in (full, html))
    return plain if utf16(plain) <= LIMIT else bare
