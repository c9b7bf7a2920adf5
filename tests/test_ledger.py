"""What `why`, `dead`, the export and the counts read from the store."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from minibot.config import Settings
from minibot.model import Echo, Inbound, Odd
from minibot.store import ledger
from minibot.store.sqlite import SqliteStore
from minibot.store.sqlite_file import open_reader
from minibot.work import Answer, Fate, Finish

NOW = 1_800_000_000_000


def heard(number: int, chat: str = "anna", platform: str = "telegram", **more: Any) -> Inbound:
    return Inbound(platform, "1", chat, f"message:{number}", text=f"question {number}", sent_at=NOW - 5, **{
        "message_id": f"in-{number}", "person": chat, "phone": f"49{chat}", "name": "Name", **more})


async def story(path: Path) -> None:
    """Two merged messages answered in two parts, one answer that could not be sent, one failure of the model."""
    store = SqliteStore(Settings(database_url=f"sqlite:///{path}"), NOW, floor=0)
    await store.accept([heard(1), heard(2)], NOW)
    step, = await store.claim("me", NOW, 1000, 9)
    merged, replied = [item.id for item in step.waiting]
    step = await store.finish(step.conversation, Finish({merged: "merged", replied: "replied"}, ("part a", "part b"),
                                                        Answer("part a part b", "gpt", 30, 4, 500)), NOW + 10)
    assert step.part
    step = await store.settle(step.conversation, step.part.id, Fate("pending", error="429", due_at=NOW + 20), NOW + 11)
    step, = await store.claim("me", NOW + 20, 1000, 9)
    assert step.part
    step = await store.settle(step.conversation, step.part.id, Fate("sent", "out-a"), NOW + 21)
    assert step.part
    await store.settle(step.conversation, step.part.id, Fate("maybe", error="unsure", outcome="send_failed:unsure"),
                       NOW + 22)
    await store.accept([heard(3, "bert", "whatsapp"), Odd("messenger", "odd:x", "not JSON", "{{{")], NOW + 30)
    step, = await store.claim("me", NOW + 30, 1000, 9)
    await store.finish(step.conversation, Finish({step.waiting[0].id: "ai_failed:401"}, ("sorry",)), NOW + 31)
    await store.accept([Echo("telegram", "1", "anna", "mid-h", "a person", at=NOW + 40), heard(4)], NOW + 40)
    await store.close(NOW)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Any]:
    asyncio.run(story(tmp_path / "minibot.db"))
    connection = open_reader(str(tmp_path / "minibot.db"))
    yield connection
    connection.close()


def hops(found: list[ledger.Hop]) -> list[tuple[str, str, str]]:
    return [(hop.row, hop.state, hop.text) for hop in found]


ANSWERED = [("inbound", "send_failed:unsure", "question 1"), ("inbound", "send_failed:unsure", "question 2"),
            ("turn", "answer", "part a part b"), ("part", "sent", "part a"), ("part", "maybe", "part b")]


@pytest.mark.parametrize("query", ["in-2", "out-a", "telegram:1:message:1"])
def test_why_shows_every_hop_of_a_message_by_any_of_its_ids(reader: Any, query: str) -> None:
    found = ledger.why(reader, query)
    assert [hop for hop in hops(found) if hop[2] != "question 1"] == [hop for hop in ANSWERED if hop[2] != "question 1"]
    turn, part = found[-3], found[-2]
    assert (turn.person, turn.note) == ("gpt", "30 + 4 tokens, 500 ms")
    assert (part.tries, part.message_id, part.done_at, found[-1].error) == (2, "out-a", NOW + 21, "unsure")


def test_why_takes_our_own_number_of_a_part(reader: Any) -> None:
    part = ledger.why(reader, "out-a")[-1]
    assert part in ledger.why(reader, str(part.id))


@pytest.mark.parametrize("query", ["anna", "49anna"])
def test_why_shows_a_whole_chat_by_its_id_or_phone_number(reader: Any, query: str) -> None:
    assert hops(ledger.why(reader, query)) == [*ANSWERED, ("turn", "human", "a person"),
                                               ("inbound", "paused", "question 4")]


def test_why_knows_nothing_of_what_is_not_there(reader: Any) -> None:
    for query in "nobody", "0", "-1", "9" * 30, "", "' OR 1 = 1 --":
        assert ledger.why(reader, query) == []


def test_dead_lists_what_was_given_up_on_and_nothing_else(reader: Any) -> None:
    assert hops(ledger.dead(reader)) == [("part", "maybe", "part b"), ("inbound", "ai_failed:401", "question 3"),
                                         ("inbound", "ignored:unreadable", "{{{")]


def test_the_export_has_every_message_with_its_answer_once(reader: Any) -> None:
    rows = list(ledger.exchanges(reader))
    assert [(row.text, row.outcome) for row in rows] == [
        ("question 1", "send_failed:unsure"), ("question 2", "send_failed:unsure"), ("question 3", "ai_failed:401"),
        ("question 4", "paused")]
    assert rows[1].answer == "part a part b" and rows[1].answered_at == NOW + 10 and rows[0].phone == "49anna"
    assert [row.text for row in ledger.exchanges(reader, platform="whatsapp")] == ["question 3"]
    assert [row.text for row in ledger.exchanges(reader, since=NOW + 40)] == ["question 4"]


def test_outcomes_and_tokens_are_counted(reader: Any) -> None:
    assert ledger.outcomes(reader, NOW + 30) == {("whatsapp", "ai_failed:401"): 1, ("telegram", "paused"): 1,
                                                 ("messenger", "ignored:unreadable"): 1}
    assert (ledger.tokens(reader, NOW // 86_400_000), ledger.tokens(reader, 1)) == (34, 0)
