"""The model's Markdown arrives well-formed, whole and within the limits: case tables, then 1,000 random documents.

Telegram's HTML is judged by `telegram_html.py`, a reader with the server's own rules, which is itself proved first.

Next: `test_telegram.py`.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minibot.markup import PLAIN, TELEGRAM, WHATSAPP, Dialect, compose, plain_of
from minibot.text import octets, utf16
from tests.telegram_html import Refused, accept, read, units

DIALECTS: dict[str, tuple[Dialect, Callable[[str], int]]] = {
    "telegram": (TELEGRAM, utf16), "whatsapp": (WHATSAPP, len), "messenger": (PLAIN, len), "instagram": (PLAIN, octets)}

# Telegram's reader: what it makes of a source, or what it says against it.
READ: list[tuple[str, Any]] = [
    ("", ("", [])), ("a &amp;&lt;&gt;&quot; &nbsp; &#65;&#x42", ('a &<>" &nbsp; AB', [])),
    ("<b>é</B>", ("é", [("bold", 0, 1)])), ("🙂<i>🙂x</i>", ("🙂🙂x", [("italic", 2, 3)])),
    ("<b>a<s>b</s></b>c", ("abc", [("bold", 0, 2), ("strikethrough", 1, 1)])),
    ("<pre><code class='language-go'>x</code></pre>", ("x", [("pre", 0, 1)])),
    ("<code class='language-go'>x</code>", ("x", [("code", 0, 1)])),
    ("<a href='https://e.org/?a=1&amp;b'>t</a>", ("t", [("text_link", 0, 1)])), ("<a href='javascript:x'>t</a>", ("t",
                                                                                                                  [])),
    ("<blockquote><pre>x</pre></blockquote>", ("x", [("blockquote", 0, 1), ("pre", 0, 1)])), ("<u></u>x</",
                                                                                              "Unexpected"),
    ("é < b", 'Unsupported start tag "" at byte offset 3'), ("<br>", 'Unsupported start tag "br" at byte offset 0'),
    ("<b>x", 'Can\'t find end tag corresponding to start tag "b"'), ("x</b>", "Unexpected end tag at byte offset 1"),
    ("<b><i>x</b></i>", 'Unmatched end tag at byte offset 7, expected "</i>", found "</b>"'),
    ("<b", "Unclosed start tag at byte offset 0"), ("<a href='x>", "Unclosed start tag at byte offset 0"),
    ("&#xd800;", "Text contains invalid Unicode"), ("<span>x</span>", 'Tag "span" must have class "tg-spoiler"')]


@pytest.mark.parametrize(("source", "made"), READ)
def test_the_reader_that_judges_follows_telegrams_rules(source: str, made: Any) -> None:
    if isinstance(made, str):
        with pytest.raises(Refused, match=re.escape(made)):
            read(source)
    else:
        text, entities = read(source)
        assert (text, [(each["type"], each["offset"], each["length"]) for each in entities]) == made


@pytest.mark.parametrize(("source", "complaint"), [
    ("", "empty"), ("<b> \n</b>", "non-empty"), ("\u200b", "non-empty"), ("x" * 4097, "too long"),
    ("🙂" * 2049, "too long"), ("&amp;" * 6554, "text is too long"), ("\ud800", "UTF-8")])
def test_the_reader_that_judges_holds_telegrams_limits(source: str, complaint: str) -> None:
    with pytest.raises(Refused, match=complaint):
        accept(source)


@pytest.mark.skipif("MINIBOT_SHARED" not in os.environ, reason="MINIBOT_SHARED names no folder with further vectors")
def test_the_reader_that_judges_agrees_with_every_published_vector() -> None:
    path = Path(os.environ["MINIBOT_SHARED"]) / "platforms" / "telegram-html-vectors.json"
    for case in json.loads(path.read_text("utf-8"))["cases"]:
        try:
            text, entities = read(case["input"])
            assert (text, entities) == (case.get("text"), case.get("entities")), case
        except Refused as refusal:
            assert str(refusal) == case.get("error"), case


# Markdown, then what Telegram, WhatsApp and plain text get; None: the same as the Markdown.
CASES: list[tuple[str, str | None, str | None, str | None]] = [
    ("Hello, world.", None, None, None),
    ("  two\n\n\nparagraphs \n", "two\n\nparagraphs", "two\n\nparagraphs", "two\n\nparagraphs"),
    ("a  b", None, None, None), ("a\r\nb\rc\tde\x07", "a\nb c de", "a\nb c de", "a\nb c de"),
    ("# Title", "<b>Title</b>", "*Title*", "Title"),
    ("###### *a* `b` ##", "<b><i>a</i></b> <code>b</code>", "*_a_* `b`", "a b"),
    ("#tag\n####### x", None, None, None), ("## C#", "<b>C#</b>", "*C#*", "C#"), ("# **x**", "<b>x</b>", "*x*", "x"),
    ("**b** __b__", "<b>b b</b>", "*b b*", "b b"), ("*i* x _i_", "<i>i</i> x <i>i</i>", "_i_ x _i_", "i x i"),
    ("~~s~~ ~5", "<s>s</s> ~5", "~s~ ~5", "s ~5"), ("***both***", "<b><i>both</i></b>", "*_both_*", "both"),
    ("**a *b* c**", "<b>a <i>b</i> c</b>", "*a _b_ c*", "a b c"),
    ("**a *b***", "<b>a <i>b</i></b>", "*a _b_*", "a b"), ("*a **b***", "<i>a <b>b</b></i>", "_a *b*_", "a b"),
    ("_a **b** c_", "<i>a <b>b</b> c</i>", "_a *b* c_", "a b c"),
    ("**「重要」**です", "<b>「重要」</b>です", "*「重要」*です", "「重要」です"), ("**a\nb**", "<b>a</b>\n<b>b</b>", "*a*\n*b*", "a\nb"),
    ("**a `**` b**", "<b>a</b> <code>**</code> <b>b</b>", "*a* `**` *b*", "a ** b"),
    ("snake_case_name 2 * 3 * 4 2*3*4 a*b*c 2**3**4", None, None, None),
    ("_x y_z_", "<i>x y_z</i>", "_x y_z_", "x y_z"), ("**open and *open and `open and [open", None, None, None),
    ("** no ** * no * _ no _ **** **", None, None, None),
    ("\\*a\\* \\_b\\_ \\`c\\` \\# \\[d\\](http://e.org) \\\\ \\d", "*a* _b_ `c` # [d](http://e.org) \\ \\d",
     "*a* _b_ `c` # [d](http://e.org) \\ \\d", "*a* _b_ `c` # [d](http://e.org) \\ \\d"),
    ("a\\\nb", "a\nb", "a\nb", "a\nb"), ("`a *b* <c>`", "<code>a *b* &lt;c&gt;</code>", "`a *b* <c>`", "a *b* <c>"),
    ("`` a`b ``", "<code>a`b</code>", "`a`b`", "a`b"),
    ("```one line``` `a ``", "<code>one line</code> `a ``", "`one line` `a ``", "one line `a ``"),
    ("` `", None, None, None),
    ("<b>x</b> &amp; 1 < 2 <br>", "&lt;b&gt;x&lt;/b&gt; &amp;amp; 1 &lt; 2 &lt;br&gt;", None, None),
    ("[t](https://e.org/a_(b)?c&d)", '<a href="https://e.org/a_(b)?c&amp;d">t</a>', "t (https://e.org/a_(b)?c&d)",
     "t (https://e.org/a_(b)?c&d)"),
    ('[**b** c](<http://e.org> "T")', '<a href="http://e.org"><b>b</b> c</a>', "*b* c (http://e.org)",
     "b c (http://e.org)"),
    ("[`f()`](http://e.org)", '<a href="http://e.org">f()</a>', "f() (http://e.org)", "f() (http://e.org)"),
    ("[http://e.org](http://e.org)", '<a href="http://e.org">http://e.org</a>', "http://e.org", "http://e.org"),
    ("[a@b.org](mailto:a@b.org)", '<a href="mailto:a@b.org">a@b.org</a>', "a@b.org", "a@b.org"),
    ("[](http://e.org) ![](http://e.org/i)",
     '<a href="http://e.org">http://e.org</a> <a href="http://e.org/i">http://e.org/i</a>',
     "http://e.org http://e.org/i", "http://e.org http://e.org/i"),
    ("![a cat](https://e.org/c.png)", '<a href="https://e.org/c.png">a cat</a>', "a cat (https://e.org/c.png)",
     "a cat (https://e.org/c.png)"),
    ("<https://e.org/a_b_>", "https://e.org/a_b_", "https://e.org/a_b_", "https://e.org/a_b_"),
    ("[x](javascript:alert(1)) [y](/path) [z](data:,x) [file](file:///etc/passwd) [1] (x)", None, None, None),
    ('[x](http://e.org/"onclick="y)', '<a href="http://e.org/&quot;onclick=&quot;y">x</a>',
     'x (http://e.org/"onclick="y)', 'x (http://e.org/"onclick="y)'),
    ("see https://e.org/_a_b_c*d", None, None, None),
    ("- a\n* b\n+ c", "• a\n• b\n• c", "• a\n• b\n• c", "• a\n• b\n• c"), ("1. a\n2) b\n10. c", None, None, None),
    ("- a\n  - **b**\n    more", "• a\n  • <b>b</b>\n    more", "• a\n  • *b*\n    more", "• a\n  • b\n    more"),
    ("1. [x] a", None, None, None),
    ("x\n- [ ] a\n- [x] b", "x\n☐ a\n☑ b", "x\n☐ a\n☑ b", "x\n☐ a\n☑ b"), ("-x\n-\n1.5", None, None, None),
    ("> a **b**\n> c\n\nd", "<blockquote>a <b>b</b>\nc</blockquote>\n\nd", "> a *b*\n> c\n\nd", "> a b\n> c\n\nd"),
    ("> > a\n>> b", "<blockquote>a\nb</blockquote>", "> a\n> b", "> a\n> b"),
    ("> a\n\n> b", "<blockquote>a</blockquote>\n\n<blockquote>b</blockquote>", "> a\n\n> b", "> a\n\n> b"),
    ("1 > 0", "1 &gt; 0", None, None),
    ("> - a\n> ```\n> x\n> ```", "<blockquote>• a\n<pre>x</pre></blockquote>", "> • a\n> ```\n> x\n> ```",
     "> • a\n> x"),
    ("a\n\n---\n* * *\nb", "a\n\n———\n———\nb", "a\n\n———\n———\nb", "a\n\n———\n———\nb"),
    ("```py\n  if x < 1:\n\n    >>> *y*\n```\nz",
     '<pre><code class="language-py">  if x &lt; 1:\n\n    &gt;&gt;&gt; *y*</code></pre>\nz',
     "```\n  if x < 1:\n\n    >>> *y*\n```\nz", "  if x < 1:\n\n    >>> *y*\nz"),
    ("~~~\n```\n~~~", "<pre>```</pre>", "```\n```\n```", "```"),
    ("````\n```\na\n```\n````", "<pre>```\na\n```</pre>", "```\n```\na\n```\n```", "```\na\n```"),
    ("```\nnever closed", "<pre>never closed</pre>", "```\nnever closed\n```", "never closed"),
    ("```", None, None, None), ("```python", None, None, None),
    ("- a\n  ```\n  x\n    y\n  ```\n- b", "• a\n<pre>x\n  y</pre>\n• b", "• a\n```\nx\n  y\n```\n• b",
     "• a\nx\n  y\n• b"),
    ('```"><b>\nx\n```', '<pre><code class="language-&quot;&gt;&lt;b&gt;">x</code></pre>', "```\nx\n```", "x"),
    ("| A | **B** |\n|:--|--:|\n| 1 | [c](http://e.org) |\n| 2 |\nend",
     "<pre>A | B\n- | ----------------\n1 | c (http://e.org)\n2</pre>\nend", "A | *B*\n1 | c (http://e.org)\n2\nend",
     "A | B\n1 | c (http://e.org)\n2\nend"),
    ("A|B\n-|-\nx \\| y|`z`", "<pre>A     | B\n----- | -\nx | y | z</pre>", "A | B\nx | y | `z`", "A | B\nx | y | z"),
    ("a | b\nc | d", None, None, None), ("🙂 **é**", "🙂 <b>é</b>", "🙂 *é*", "🙂 é"),
    ("a\x00b\ud800", "a�b�", "a�b�", "a�b�")]


@pytest.mark.parametrize("case", CASES, ids=lambda case: ascii(case[0])[:40])
def test_markdown_becomes_each_platforms_dialect(case: tuple[str, str | None, str | None, str | None]) -> None:
    markdown, *wanted = case
    for dialect, want in zip((TELEGRAM, WHATSAPP, PLAIN), wanted):
        made = compose(markdown, dialect, 1000, len)
        assert made == [markdown if want is None else want]
        if dialect is TELEGRAM:
            accept(made[0])


@pytest.mark.parametrize("dialect", [TELEGRAM, WHATSAPP, PLAIN])
@pytest.mark.parametrize("markdown", ["", " ", "\n\n\t ", "\u200b", "\u2060 \u202e", "\u2028", "\x07\x1b", "\u3164",
                                      "\n> \u200b"])
def test_an_answer_that_shows_nothing_is_no_message(markdown: str, dialect: Dialect) -> None:
    assert compose(markdown, dialect, 1000, len) == []


WORDS = ["word", "two words", "é", "日本語。", "🙂", "👩‍👩‍👧", "🇩🇪", "e\u0301", "<b>", "&lt;", "a_b_c", "2*3", "Stop.",
         "x" * 70, "https://e.org/" + "p" * 30, "\\*", "\t"]
WRAPS = ["**{}**", "*{}*", "_{}_", "__{}__", "~~{}~~", "`{}`", "***{}***", "[{}](https://e.org/a?b=1&c=2)",
         "![{}](http://i.org)", "[{}](javascript:x)", "**{}", "{}*", "`{}", "[{}", "{}"]
BLOCKS = ["{}", "{}\n{}", "# {}", "### {} ###", "- {}\n- {}", "1. {}\n   - {}\n     - {}\n2. {}", "> {}\n> {}",
          "> - {}\n>\n> > {}", "```py\n{}\n    {}\n```", "```\n{}\n\n\n{}", "| {} | {} |\n|---|---|\n| {} | {} |",
          "---", "- [ ] {}\n- [x] {}", "- {}\n\n  ```sh\n  {}\n  ```", "***", "{}  \n{}\\\n{}"]
SOUP = ["*", "**", "_", "__", "~~", "`", "```", "\n", "\n\n", "> ", "- ", "# ", "1. ", "[", "]", "](", ")", "|", "|-|",
        "(http://e.org", "\\", "<", ">", "&", "!", " ", "a", "b c", "🙂", "\u0301", "\u200d", "\r", "\0", "~~~", "---",
        "http://", "tel:1", "\t", "\ud83d"]
LONG = r"""# A *long* document
It has **bold, *nested* and `code`**, a [link **in** bold](https://e.org/a_(b)?c=1&d=2 "title"), <https://e.org/auto>,
![a picture](https://e.org/p.png); 2 * 3 < 7 & \*escapes\*, ~~gone~~, ***both***, snake_case and _so_ __on__ 🙂👩‍👩‍👧🇩🇪.

1. first
   - nested **item**
     - [x] done
2. second

> quoted `code`
> > twice
> ```sh
> echo "$x" > y
> ```

| Name | Price |
|:-----|------:|
| Tea  | *2* € |
| Cake | [3](http://e.org/cake) |

```python
def f(x):
    return x < 3 and x > 1  # &amp;

    >>> f(**x)
```
---
Done **unfinished [mark-up](http://e.org/x `and
"""


def random_document(seed: int) -> str:
    """Every third one is soup; every word of the others is numbered."""
    dice, count = random.Random(seed), iter(range(10 ** 6))
    if seed % 3 == 0:
        return "".join(dice.choices(SOUP, k=dice.randrange(1, 300)))

    def text() -> str:
        words = [f"w{next(count)}w" if dice.random() < .7 else dice.choice(WORDS) for _ in range(dice.randrange(1, 12))]
        begin = dice.randrange(len(words))
        middle = dice.choice(WRAPS).replace("{}", " ".join(words[begin:begin + 4]))
        return " ".join([*words[:begin], middle, *words[begin + 4:]])
    chosen = dice.choices(BLOCKS, k=dice.randrange(1, 12))
    return dice.choice(["\n\n", "\n\n", "\n"]).join(re.sub(r"\{\}", lambda _: text(), block) for block in chosen)


def shown(parts: list[str], dialect: Dialect) -> str:
    """What people see of the parts, without white space, joiners and the marks that a split repeats."""
    text = "".join(accept(part)[0] if dialect.html else part for part in parts)
    marks = {True: "", dialect is PLAIN: ">", dialect is WHATSAPP: ">*_~`"}[True]
    return "".join(character for character in text if not character.isspace() and character not in marks + "\u200d")


def check(markdown: str, name: str, limit: int) -> list[str]:
    dialect, measure = DIALECTS[name]
    parts = compose(markdown, dialect, limit, measure)
    for part in parts:
        text, entities = accept(part) if dialect.html else (part, [])
        assert text.strip() and measure(text) <= limit and len(entities) <= 90
        assert dialect is not WHATSAPP or part.count("```") % 2 == 0 or "```" in markdown
    return parts


@pytest.mark.parametrize("name", DIALECTS)
def test_random_documents_are_accepted_whole_within_every_limit(name: str) -> None:
    dialect = DIALECTS[name][0]
    for seed in range(1000 if name == "telegram" else 250):
        markdown = random_document(seed)
        whole, split = check(markdown, name, 4096), check(markdown, name, (64, 100, 333, 1000)[seed % 4])
        everything = shown(whole, dialect)
        assert shown(split, dialect) == everything
        if seed % 3:
            words = re.findall(r"w\d+w", markdown)
            assert re.findall(r"w\d+w", everything) == words
        if seed % 10 == 0:
            assert compose(markdown, *_arguments(name)) == compose(markdown, *_arguments(name))


def _arguments(name: str) -> tuple[Dialect, int, Callable[[str], int]]:
    return DIALECTS[name][0], 100, DIALECTS[name][1]


@pytest.mark.parametrize("name", DIALECTS)
def test_every_prefix_of_a_long_document_is_accepted(name: str) -> None:
    document = f"{LONG}\n\n{LONG}" if name == "telegram" else LONG
    for end in range(len(document)):
        assert check(document[:end], name, 100) or not end


def test_a_split_code_block_is_closed_and_reopened_with_its_language() -> None:
    lines = [f"    line {n} = <{'x' * (n % 30)}>" for n in range(400)]
    markdown = "Look:\n\n```python\n" + "\n".join(lines) + "\n```\n\nDone."
    parts = compose(markdown, TELEGRAM, 4096, utf16)
    code: list[str] = []
    for part in parts:
        text, entities = accept(part)
        assert [(each["type"], each["language"]) for each in entities] == [("pre", "python")]
        begin, length = entities[0]["offset"], entities[0]["length"]
        code += text[begin:begin + length].split("\n")
    assert len(parts) > 2 and code == lines
    parts = compose(markdown, WHATSAPP, 4096, len)
    assert len(parts) > 2 and all(part.count("```") == 2 for part in parts)
    assert all(part.startswith(("Look:\n\n```\n    line", "```\n    line")) for part in parts)


def test_a_code_block_that_fits_into_one_message_is_not_split() -> None:
    markdown = ("Some words.\n\n" * 12) + "```\n" + "code\n\n" * 30 + "```"
    parts = compose(markdown, WHATSAPP, 250, len)
    assert parts[0].count("```") == 0 and parts[1].count("```") == 2 and len(parts) == 2


@pytest.mark.parametrize("name", DIALECTS)
def test_a_link_is_never_broken(name: str) -> None:
    links = [(f"the label {n}", f"https://e.org/{'p' * (n % 40)}?a={n}&b=2") for n in range(200)]
    markdown = " and ".join(f"**see** [{label}]({url})" for label, url in links)
    parts = check(markdown, name, 128)
    if name == "telegram":
        found = []
        for text, entities in map(accept, parts):
            found += [(text[each["offset"]:][:each["length"]], each["url"]) for each in entities if "url" in each]
        assert found == links
    else:
        assert [link for link in links if not any(f"{link[0]} ({link[1]})" in part for part in parts)] == []


def test_a_bullet_stays_with_its_words_and_a_heading_with_what_it_heads() -> None:
    markdown = "\n".join(f"- **item {n}** has words" for n in range(100))
    for limit in range(64, 128):
        for part in compose(markdown, TELEGRAM, limit, len):
            assert all(re.fullmatch(r"• <b>item \d+</b> has words", line) for line in part.split("\n"))
    assert compose("- " + "x" * 130, PLAIN, 128, len)[0].startswith("• xxx")
    markdown = "word. " * 18 + "\n\n## Heading\n\nNext paragraph, which is longer than what is left."
    assert compose(markdown, PLAIN, 128, len)[1].startswith("Heading\n\nNext")


def test_marks_are_closed_and_opened_again_where_a_part_ends() -> None:
    parts = compose("**" + "many bold words " * 20 + "x**", WHATSAPP, 100, len)
    assert len(parts) > 2 and all(re.fullmatch(r"\*[^*\s][^*]*[^*\s]\*", part) for part in parts)
    parts = compose("> " + "quoted words " * 20, PLAIN, 100, len)
    assert len(parts) > 2 and all(re.fullmatch("> (quoted words ?|words )*(quoted)?", part) for part in parts)


@pytest.mark.parametrize("markdown", [
    "**a** b " * 1200, "&<>" * 3000, "`&` " * 2500, "🙂&" * 3000,
    " ".join(f"[a{n}](http://e.org/{n}{'&' * 1900})" for n in range(30)),
    "[x](http://e.org/" + "&" * 8000 + ")", "```" + "&" * 9000 + "\nx\n```",
    "[x](http://e.org/" + "é" * 1980 + ") " * 20, "[" + "label " * 2000 + "](http://e.org)",
    "> **" + "語" * 9000 + "**"])
def test_telegrams_limits_on_bytes_and_entities_are_kept(markdown: str) -> None:
    for part in compose(markdown, TELEGRAM, 4096, utf16):
        text, entities = accept(part)
        assert len(entities) <= 90 and len(part.encode()) <= 32768 and utf16(text) <= 4096


def test_a_table_too_large_for_columns_becomes_lines() -> None:
    wide = compose("a" * 2000 + "|b\n-|-\n" + "1|2\n" * 300, TELEGRAM, 4096, utf16)
    assert "<pre>" in wide[0] and sum(map(len, wide)) < 6000
    long = compose("a|**b**\n-|-\n" + "1|2\n" * 2000, TELEGRAM, 4096, utf16)
    assert long[0].startswith("a | <b>b</b>\n1 | 2") and sum(part.count("1 | 2") for part in long) == 2000


def test_a_very_long_answer_is_not_cut() -> None:
    markdown = "**some** words and " * 5_000
    for name in DIALECTS:
        shows = shown(check(markdown, name, 1000), DIALECTS[name][0])
        assert shows == "somewordsand" * 5_000


def test_formatting_costs_no_message_of_its_own() -> None:
    markdown = "**Some** text with a [link](https://example.org/a/rather/long/path?n=0). " * 44
    assert len(compose(markdown, TELEGRAM, 44 * 26, utf16)) == 1
    assert len(compose("**word** " + "x" * 4091, TELEGRAM, 4096, utf16)) == 1
    assert len(compose("**word** " + "x" * 4092, TELEGRAM, 4096, utf16)) == 2
    assert [len(part) for part in compose("a" * 8000, PLAIN, 2000, len)] == [2000] * 4


@pytest.mark.parametrize("unit", [
    "*", "**", "_", "__", "~~", "`", "` ", "``` ", "[", "![", "](", "[a](", "[a](http://b)", '](http://a "', "<", ">",
    "<http:", "> ", "> a\n", "# ", "- ", "- a\n", "|", "|-|\n", "a|b\n-|-\n", "*a ", "**a ", "_a ", "**`", "a*b_c~~d`",
    "\\", "&", "http://a_", "```\n", "~~~\n", "\n", " ", "a\n", "é", "[x](http://("])
def test_hostile_repetition_takes_linear_time(unit: str) -> None:
    markdown = (unit * 200_000)[:20_000 if len(unit) > 1 else 200_000]  # quadratic time would take minutes
    for part in compose(markdown, TELEGRAM, 4096, utf16):
        assert units(part) <= 32768
    compose("a`b" + unit * 1000 + " " * 100_000 + "c", WHATSAPP, 4096, len)


@pytest.mark.parametrize(("markdown", "plain"), [
    ("**a** < `b & c`", "a < b & c"), ("[t](http://e.org/?a&b)", "t (http://e.org/?a&b)"), ("&amp;lt; '", "&amp;lt; '"),
    ("[http://e.org](http://e.org)", "http://e.org"), ("> q\n\n```py\nx\n```", "q\n\nx"), ("plain", "plain")])
def test_telegrams_html_goes_back_to_plain_text_with_full_urls(markdown: str, plain: str) -> None:
    assert plain_of(compose(markdown, TELEGRAM, 4096, utf16)[0]) == plain


def test_plain_text_of_a_message_always_fits_into_one() -> None:
    for seed in range(300):
        for part in compose(random_document(seed) * 3, TELEGRAM, 4096, utf16):
            assert utf16(plain_of(part)) <= 4096
            if "<a " not in part:
                assert plain_of(part) == accept(part)[0]
    links = "".join(f"[a](http://e.org/{n}) " for n in range(40))
    assert plain_of(compose(links, TELEGRAM, 4096, utf16)[0]).count("http") == 40
    part = compose(links + "x " * 2000, TELEGRAM, 4096, utf16)[0]
    assert utf16(plain_of(part)) <= 4096 and "http" not in plain_of(part)
