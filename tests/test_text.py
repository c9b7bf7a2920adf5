"""Text is made safe, measured and split without losing anything: case tables, and 2,000 random texts.

Next: `test_markup.py`.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from minibot.text import clean, clean_name, cut, octets, safe_line, utf16, visible

MEASURES = [len, utf16, octets]
FAMILY, FLAG, KEYCAP, SKIN = "👩‍👩‍👧", "🇩🇪", "1️⃣", "👍🏽"
WORDS = ["a", "word", "Straße", "naïve", "ですます。", "日本語", "🙂", FAMILY, FLAG, KEYCAP, SKIN, "e\u0301", "x" * 90, "😀" * 40,
         "e.g.", "Stop!", "(yes.)", "https://example.org/a?b=c", "10.5", "“so.”", "ก็", "\u200f", "،"]
GAPS = [" ", " ", " ", "  ", "\n", "\n\n", "\n\n\n", "\t", "\r\n", " \n ", "\u00a0", ""]


def random_text(seed: int) -> str:
    dice = random.Random(seed)
    return "".join(dice.choice(WORDS) + dice.choice(GAPS) for _ in range(dice.randrange(1, 120)))


def bare(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize(("text", "safe"), [
    ("plain", "plain"), ("", ""), ("a\0b", "a\ufffdb"), ("x\ud800y", "x\ufffdy"), ("\udc00\ud800", "\ufffd\ufffd"),
    ("ok 🙂 " + FAMILY, "ok 🙂 " + FAMILY), ("a\u202eb\u200bc", "a\u202eb\u200bc"),
    ("e" + "\u0301" * 8, "e" + "\u0301" * 8), ("e" + "\u0301" * 20 + "!", "e" + "\u0301" * 8 + "!"),
    ("a" + "\u0301" * 9 + "b" + "\u0489" * 30 + "🙂" * 12, "a" + "\u0301" * 8 + "b" + "\u0489" * 8 + "🙂" * 12)])
def test_clean_text_has_no_nul_no_lone_surrogate_and_no_flood_of_marks(text: str, safe: str) -> None:
    assert clean(text) == safe
    assert clean(safe) == safe


@pytest.mark.parametrize("character", ["a", "é", "語", "🙂"])
def test_clean_text_is_cut_to_the_byte_limit_between_characters(character: str) -> None:
    size = octets(character)
    for limit in range(1, 40):
        assert clean(character * 50, limit) == character * (limit // size)
    assert octets(clean(character * 100_000)) in range(65536 - 3, 65537)


@pytest.mark.parametrize(("name", "safe"), [
    ("Ada Lovelace", "Ada Lovelace"), (" A\n\tB ", "A B"), ("gpj\u202eexe\u200b", "gpjexe"), ("\u200b\u2066", ""),
    ("x\x1b[2J\x07", "x[2J"), ("a\u2028b", "a b"), ("N" * 200, "N" * 80), ("é" * 79 + " b", "é" * 79), ("\0", "�")])
def test_a_name_is_one_short_line_without_invisible_characters(name: str, safe: str) -> None:
    assert clean_name(name) == safe


@pytest.mark.parametrize(("text", "line"), [
    ("fine, é 語 🙂", "fine, é 語 🙂"), ("a\r\nb", "a\\r\\nb"), ("\x1b[2J\x1b]52;c;x\x07", "\\x1b[2J\\x1b]52;c;x\\x07"),
    ("\u2028\u202e", "\\u2028\\u202e"), ("x" * 200, "x" * 200), ("x" * 201, "x" * 199 + "…"),
    ("\n" * 150, "\\n" * 99 + "\\…"), ("\ud800", "\ufffd"), ("y" * 100_000, "y" * 199 + "…")])
def test_a_line_for_the_log_moves_no_cursor_and_stays_short(text: str, line: str) -> None:
    assert safe_line(text) == line
    assert len(line) <= 200
    assert line.isprintable()


@pytest.mark.parametrize(("text", "units", "size"), [("", 0, 0), ("abc", 3, 3), ("é", 1, 2), ("語", 1, 3), ("🙂", 2, 4),
                                                     ("\ud83d", 1, 3), (FLAG, 4, 8)])
def test_lengths_are_those_of_the_platforms(text: str, units: int, size: int) -> None:
    assert (utf16(text), octets(text)) == (units, size)


@pytest.mark.parametrize(("text", "parts"), [
    ("", []), (" \n\t ", []), ("\u200b \u2060", []), ("short", ["short"]), ("  short\n", ["short"]),
    ("one two three four", ["one two", "three four"]),  # word
    ("Ask me. Or her, or him.", ["Ask me.", "Or her, or", "him."]),  # sentence before word
    ("a b c\nd e f g. h i", ["a b c", "d e f g.", "h i"]),  # line before sentence
    ("aaa\nb\n\nccc\nddd", ["aaa\nb", "ccc\nddd"]),  # paragraph before line
    ("abcdefghijklmnop", ["abcdefghij", "klmnop"]),  # where nothing else is left
    ("to abcdefghijklmnop", ["to", "abcdefghij", "klmnop"]),
    ("これは長い。そして短い。", ["これは長い。", "そして短い。"]),  # no spaces needed
    ("「ああ。」いいいいいい", ["「ああ。」", "いいいいいい"]), ("ああ。いい、うううううう", ["ああ。", "いい、うううううう"]),
    ("abcdefgh" + FAMILY, ["abcdefgh", FAMILY]), ("abcdefghi" + FLAG * 2, ["abcdefghi", FLAG * 2]),
    ("a   b\t c d", ["a   b\t c d"]), ("x  \n\n\n  y" + " z" * 9, ["x", "y z z z z", "z z z z z"])])
def test_text_is_split_at_the_best_place_there_is(text: str, parts: list[str]) -> None:
    assert cut(text, 10, len) == parts


def test_a_split_keeps_apart_nothing_that_is_seen_as_one() -> None:
    for cluster in (FAMILY, FLAG, KEYCAP, SKIN, "e\u0301\u0323", "🏴\U000e0067\U000e0062\U000e007f", "ก็"):
        for measure in MEASURES:
            for part in cut(cluster * 60, 64, measure):
                assert not part.replace(cluster, "")


def test_a_cluster_longer_than_the_limit_is_split_all_the_same() -> None:
    parts = cut("a" + "\u0301" * 70 + "b" * 40, 50, len)
    assert [len(part) for part in parts] == [50, 50, 11]


@pytest.mark.parametrize("measure", MEASURES)
def test_no_part_is_too_long_or_empty_and_nothing_is_lost(measure: Callable[[str], int]) -> None:
    for seed in range(400):
        text = random_text(seed)
        limit = random.Random(seed).choice([16, 33, 64, 100, 1000, 4096])
        parts = cut(text, limit, measure)
        assert all(measure(part) <= limit and part == part.strip() and visible(part) for part in parts)
        shown = "".join(c for c in bare("".join(parts)) if c != "\u200f")
        assert shown == "".join(c for c in bare(text) if c != "\u200f")
        assert parts == cut(text, limit, measure)
        at = 0
        for part in parts:  # what stands inside a part stands there as it was written
            assert (at := text.find(part, at) + len(part)) >= len(part)


def test_a_text_within_the_limit_is_one_part() -> None:
    for seed in range(200):
        text = random_text(seed).strip()
        if visible(text):
            assert cut(text, len(text), len) == [text]


def test_parts_are_well_filled() -> None:
    dice = random.Random(7)
    text = "".join(dice.choice(["some ", "words here ", "end. ", "line\n", "x " * 9, "\n\n"]) for _ in range(4000))
    parts = cut(text, 1000, len)
    assert len(parts) <= 2 * len(text) / 1000


def test_a_short_beginning_does_not_become_a_message_of_its_own() -> None:
    assert cut("Sure:\n\n" + "many words here. " * 10, 100, len)[0].startswith("Sure:\n\nmany words")
    assert cut("Sure:\n\n" + "x" * 98, 100, len) == ["Sure:", "x" * 98]


def test_words_are_broken_only_where_no_other_place_is_left() -> None:
    dice = random.Random(11)
    for _ in range(300):
        words = ["".join(dice.choices("abc,.-!", k=dice.randrange(1, 60))) for _ in range(60)]
        assert " ".join(cut(" ".join(words), 64, len)).split() == words


def test_splitting_takes_time_linear_in_the_text() -> None:
    for unit in ("a", " ", "a ", ". ", "\n", "a\n\n", "。", "\u0301", "🇩", "\u200d", "!", FAMILY, "e\u0301 "):
        parts = cut(unit * (60_000 // len(unit)), 1000, octets)  # quadratic time would take minutes
        assert all(octets(part) <= 1000 for part in parts)
