"""What every store promises. The tests know the contract only, so a further database is one more line in BACKENDS."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from minibot.config import Settings
from minibot.errors import LeaseLost
from minibot.model import Aside, Echo, Erase, Event, Handover, Inbound, Media, Odd, Presence, Receipt, Rekey
from minibot.store.sqlite import SqliteStore
from minibot.work import Accepted, Answer, Fate, Finish, Said, Step

NOW = 1_800_000_000_000
SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
LEASE = 20_000


def open_sqlite(folder: Path, **settings: Any) -> SqliteStore:
    return SqliteStore(Settings(database_url=f"sqlite:///{folder}/minibot.db", **settings), NOW, floor=0)


def open_postgres(folder: Path, **settings: Any) -> Any:
    from minibot.store.postgres import PostgresStore

    return PostgresStore(Settings(database_url=(folder / "url").read_text(), **settings), NOW)


BACKENDS: dict[str, Callable[..., Any]] = {"sqlite": open_sqlite, "postgres": open_postgres}


def backend(request: pytest.FixtureRequest, folder: Path) -> Callable[..., Any]:
    """What opens the store that a fixture was asked for; on PostgreSQL an empty one for each test."""
    if request.param == "postgres":
        (folder / "url").write_text(request.getfixturevalue("postgres").fresh())
    return BACKENDS[request.param]


class Driven:
    """A store whose verbs are called like plain functions."""

    def __init__(self, make: Callable[..., Any], folder: Path) -> None:
        self.make, self.folder, self.loop = make, folder, asyncio.new_event_loop()
        self.store = make(folder)
        url = folder / "url"
        self.known = Settings(database_url=url.read_text() if url.exists() else f"sqlite:///{folder}/minibot.db")
        self.events = 0

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        async def call(*args: Any, **named: Any) -> Any:
            return await getattr(self.store, verb)(*args, **named)
        return lambda *args, **named: self.loop.run_until_complete(call(*args, **named))

    def reopen(self, **settings: Any) -> None:
        self.close(NOW)
        self.store = self.make(self.folder, **settings)

    # --- a few words for what most tests begin with

    def take(self, *events: Event, now: int = NOW) -> Accepted:
        accepted: Accepted = self.accept(events, now)
        return accepted

    def hear(self, text: str = "hello", chat: str = "anna", now: int = NOW, **more: Any) -> Accepted:
        self.events += 1
        fields: dict[str, Any] = {"sent_at": now, "message_id": f"in-{self.events}", "person": chat} | more
        return self.take(Inbound("telegram", "1", chat, f"message:{self.events}", text=text, **fields), now=now)

    def work(self, now: int = NOW, owner: str = "me", limit: int = 100, alone: bool = False) -> Any:
        steps = self.claim(owner, now, LEASE, limit, alone)
        return steps

    def step(self, now: int = NOW) -> Any:
        step, = self.work(now)
        return step

    def reply(self, step: Step, *parts: str, now: int = NOW, answer: str = "", **more: Any) -> Any:
        outcomes = {item.id: "replied" for item in step.waiting}
        text = answer or " ".join(parts)
        return self.finish(step.conversation, Finish(outcomes, parts, Answer(text, "model", 10, 5), **more), now)

    def sent(self, step: Step, now: int = NOW, message_id: str = "") -> Any:
        assert step.part
        return self.settle(step.conversation, step.part.id, Fate("sent", message_id or f"out-{step.part.id}"), now)

    def exchange(self, text: str, *parts: str, chat: str = "anna", now: int = NOW, **more: Any) -> None:
        self.hear(text, chat, now=now, **more)
        step = self.reply(self.step(now), *parts, now=now)
        while step.part:
            step = self.sent(step, now)


@pytest.fixture(params=sorted(BACKENDS))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Driven]:
    driven = Driven(backend(request, tmp_path), tmp_path)
    yield driven
    driven.close(NOW)
    driven.loop.close()


def texts(step: Step) -> list[str]:
    return [item.inbound.text for item in step.waiting]


def spoken(step: Step) -> list[str]:
    return [f"{line.role}: {line.text}" for line in step.history]


# --- in: at most once -------------------------------------------------------------------------------------------------

def test_a_message_is_stored_once_however_often_it_comes(store: Driven) -> None:
    message = Inbound("telegram", "1", "anna", "message:1", text="hello", sent_at=NOW)
    accepted = store.take(message, message)
    assert (accepted.new, accepted.known) == (1, 1)
    assert accepted.due == (store.step().conversation.id,)
    assert store.take(message) == store.take(message, now=NOW + 6 * DAY) == Accepted(0, 1)


def test_fifty_deliveries_at_the_same_time_make_one_message(store: Driven) -> None:
    message = Inbound("telegram", "1", "anna", "message:1", text="hello", sent_at=NOW)

    async def all_at_once() -> Any:
        return await asyncio.gather(*[store.store.accept([message], NOW) for _ in range(50)])

    results = store.loop.run_until_complete(all_at_once())
    assert sum(result.new for result in results) == 1 and sum(result.known for result in results) == 49
    assert texts(store.step()) == ["hello"]


def test_redelivery_after_a_restart_and_an_answer_is_absorbed(store: Driven) -> None:
    message = Inbound("telegram", "1", "anna", "message:1", text="hello", sent_at=NOW)
    store.take(message)
    store.sent(store.reply(store.step(), "hi"))
    store.reopen()
    assert store.take(message) == Accepted(0, 1) and store.work() == []


def test_the_same_event_id_on_another_account_or_platform_is_another_message(store: Driven) -> None:
    for platform, account in ("telegram", "1"), ("telegram", "2"), ("whatsapp", "1"):
        assert store.take(Inbound(platform, account, "anna", "message:1", text="hello", sent_at=NOW)).new == 1
    assert len(store.work()) == 3


def test_every_webhook_of_a_crowd_gets_its_own_answer(store: Driven) -> None:
    async def crowd() -> Any:
        return await asyncio.gather(*[store.store.accept(
            [Inbound("telegram", "1", f"chat{n % 70}", f"message:{n}.{m}", text="x", sent_at=NOW)
             for m in range(n % 3)], NOW) for n in range(300)])

    results = store.loop.run_until_complete(crowd())
    assert [result.new for result in results] == [n % 3 for n in range(300)]
    steps = store.work()
    assert sum(len(step.waiting) for step in steps) == 300
    names = {number for result in results for number in result.due}
    assert names == {step.conversation.id for step in steps}


def test_a_message_comes_back_from_the_store_as_it_went_in(store: Driven) -> None:
    message = Inbound("telegram", "1", "group", "message:1", "ask", "text \U0001f600\nline", "notice", "anna", "Anna Ä",
                      "", "m1", NOW - 5, (Media("image", "ref", True, "image/png", 7), Media("voice", "r2")), True,
                      "quoted", "q1", "", "4912345", "anna_a")
    store.take(message)
    step = store.step()
    assert step.waiting[0].inbound == message and step.waiting[0].received_at == NOW
    assert step.conversation.last_inbound_at == NOW - 5


def test_the_platforms_time_is_believed_only_near_now(store: Driven) -> None:
    for chat, sent_at, believed in ("a", 0, NOW), ("b", NOW - 7 * DAY - 1, NOW), ("c", NOW + 6 * MINUTE, NOW), \
            ("d", NOW + 4 * MINUTE, NOW + 4 * MINUTE), ("e", NOW - HOUR, NOW - HOUR):
        store.hear(chat, chat, sent_at=sent_at)
        assert store.step().waiting[0].inbound.sent_at == believed


def test_a_message_older_than_a_day_wakes_nobody(store: Driven) -> None:
    assert store.hear(sent_at=NOW - DAY - 1) == Accepted(1, 0)
    assert store.work() == []
    assert store.hear(sent_at=NOW - DAY + 1).due


def test_messages_are_answered_in_the_order_they_were_written(store: Driven) -> None:
    store.hear("second", sent_at=NOW - 1000)
    store.hear("first", sent_at=NOW - 2000)
    store.hear("third", sent_at=NOW - 1000)
    assert texts(store.step()) == ["first", "second", "third"]


def test_pictures_of_an_album_wait_for_each_other(store: Driven) -> None:
    store.hear("one", album="a")
    assert store.work() == []
    assert store.next_due(NOW) == NOW + 1500
    store.hear("two", album="a", now=NOW + 1000)
    assert texts(store.step(NOW + 1500)) == ["one", "two"]


def test_what_nobody_can_read_is_kept_once_and_wakes_nobody(store: Driven) -> None:
    odd = Odd("telegram", "odd:abc", "not JSON", "{" * 100_000)
    assert store.take(odd, odd) == Accepted(1, 1)
    assert store.work() == []


def test_two_identifiers_of_a_chat_lead_to_one_conversation(store: Driven) -> None:
    def write(chat: str, alias: str, event: str) -> None:
        store.take(Inbound("whatsapp", "9", chat, event, text=event, alias=alias, sent_at=NOW))

    write("bsuid", "", "one")
    write("491", "bsuid", "two")
    write("bsuid", "", "three")
    write("491", "", "four")
    step = store.step()
    assert texts(step) == ["one", "two", "three", "four"]
    assert (step.conversation.chat, step.conversation.alias) == ("491", "bsuid")


def test_two_conversations_that_turn_out_to_be_one_are_merged(store: Driven) -> None:
    def write(chat: str, alias: str, event: str) -> None:
        store.take(Inbound("whatsapp", "9", chat, event, text=event, alias=alias, sent_at=NOW))

    write("bsuid", "", "one")
    write("491", "", "two")
    first, second = store.work()
    store.reply(first, "answer one")
    write("491", "bsuid", "three")
    merged, = store.work(NOW + LEASE)
    assert merged.part and merged.part.text == "answer one" and merged.part.state == "sending"
    assert texts(store.sent(merged)) == ["two", "three"]
    with pytest.raises(LeaseLost):
        store.refresh(first.conversation, NOW)


# --- one conversation, one worker -------------------------------------------------------------------------------------

def test_a_conversation_in_hand_is_not_handed_out_again_until_its_lease_passes(store: Driven) -> None:
    store.hear()
    mine = store.step()
    assert store.work(NOW + LEASE - 1, "other") == []
    theirs, = store.work(NOW + LEASE, "other")
    assert theirs.conversation.epoch > mine.conversation.epoch
    for verb, *words in (("refresh", NOW), ("settle", 1, Fate("sent"), NOW), ("finish", Finish({}, ("late",)), NOW),
                         ("postpone", NOW, True, "", NOW)):
        with pytest.raises(LeaseLost):
            getattr(store, str(verb))(mine.conversation, *words)
    assert store.reply(theirs, "mine").part


def test_a_heartbeat_keeps_the_lease(store: Driven) -> None:
    store.hear()
    store.step()
    store.renew("me", NOW + LEASE - 1, LEASE)
    store.renew("other", NOW + LEASE - 1, 10 * LEASE)
    assert store.work(NOW + LEASE + 1, "other") == []
    assert len(store.work(NOW + 2 * LEASE, "other")) == 1


def test_a_verb_after_the_release_is_refused(store: Driven) -> None:
    store.hear()
    step = store.step()
    store.sent(store.reply(step, "hi"))
    with pytest.raises(LeaseLost):
        store.refresh(step.conversation, NOW)


def test_the_longest_waiting_conversation_comes_first(store: Driven) -> None:
    for number, chat in enumerate("cab"):
        store.hear(chat, chat, now=NOW + number)
    assert [step.waiting[0].inbound.text for step in store.work(NOW + 9, limit=2)] == ["c", "a"]
    assert [step.waiting[0].inbound.text for step in store.work(NOW + 9, limit=2)] == ["b"]


def test_a_conversation_that_kills_the_process_is_worked_alone(store: Driven) -> None:
    store.hear("poison", "p")
    for death in range(2):
        assert store.step(NOW + death * LEASE).conversation.crashes == death
    store.hear("good", "g")
    later = NOW + 2 * LEASE
    assert [texts(step) for step in store.work(later)] == [["good"]]
    suspect, = store.work(later, alone=True)
    assert texts(suspect) == ["poison"] and suspect.conversation.crashes == 2
    store.postpone(suspect.conversation, later, False, "", later)
    assert store.step(later).conversation.crashes == 0


def test_a_clean_end_is_no_death(store: Driven) -> None:
    store.hear()
    for _ in range(4):
        assert store.step().conversation.crashes == 0
        store.reopen()


def test_next_due_is_when_somebody_wants_a_worker_that_nobody_has(store: Driven) -> None:
    assert store.next_due(NOW) is None
    store.hear()
    assert store.next_due(NOW) == NOW
    step = store.step()
    assert store.next_due(NOW) is None
    store.postpone(step.conversation, NOW + MINUTE, True, "500", NOW)
    assert store.next_due(NOW) == NOW + MINUTE and store.work(NOW + MINUTE - 1) == []
    assert store.step(NOW + MINUTE).conversation.tries == 1


def test_a_wait_without_a_try_counts_none_and_success_forgets_the_tries(store: Driven) -> None:
    store.hear()
    for counted, tries in (True, 1), (False, 1), (True, 2):
        store.postpone(store.step().conversation, NOW, counted, "x", NOW)
        step = store.step()
        assert step.conversation.tries == tries
        store.postpone(step.conversation, NOW, False, "", NOW)
    assert store.reply(store.step(), "hi").conversation.tries == 0


def test_a_new_message_ends_a_wait(store: Driven) -> None:
    store.hear("one")
    store.postpone(store.step().conversation, NOW + HOUR, True, "x", NOW)
    store.hear("two")
    assert texts(store.step()) == ["one", "two"]


def test_a_follow_up_is_seen_while_the_conversation_is_in_hand(store: Driven) -> None:
    store.hear("one")
    step = store.step()
    assert store.hear("two").due == (step.conversation.id,)
    assert texts(store.refresh(step.conversation, NOW)) == ["one", "two"]


def test_a_follow_up_that_did_not_join_is_the_next_step(store: Driven) -> None:
    store.hear("one")
    step = store.step()
    store.hear("two")
    step = store.sent(store.reply(step, "answer"))
    assert texts(step) == ["two"] and spoken(step) == ["user: one", "assistant: answer"]


# --- out: in order, nothing lost --------------------------------------------------------------------------------------

def test_parts_leave_one_by_one_and_a_later_turn_after_them(store: Driven) -> None:
    store.hear()
    step, seen = store.reply(store.step(), "one", "two", "three"), []
    while step.part:
        seen.append(step.part.text)
        assert step.part.state == "pending" and step.part.tries == 1
        step = store.sent(step)
    assert seen == ["one", "two", "three"] and store.work() == []


def test_a_part_that_must_wait_holds_back_all_behind_it(store: Driven) -> None:
    store.hear()
    step = store.reply(store.step(), "one", "two")
    step = store.settle(step.conversation, step.part.id, Fate("pending", error="429", due_at=NOW + MINUTE), NOW)
    assert step.part is None and not step.waiting
    store.hear("more")
    assert store.work() == [] and store.next_due(NOW) == NOW + MINUTE
    step = store.step(NOW + MINUTE)
    assert step.part and (step.part.text, step.part.tries) == ("one", 2)


def test_a_part_in_flight_at_a_crash_is_handed_out_as_unsure(store: Driven) -> None:
    store.hear()
    part = store.reply(store.step(), "one", "two").part
    again = store.step(NOW + LEASE).part
    assert part and again and (again.id, again.state, again.tries) == (part.id, "sending", 1)
    store.reopen()
    again = store.step().part
    assert again and (again.id, again.state, again.tries) == (part.id, "sending", 1)


def test_an_unsure_part_is_counted_and_tried_again_when_it_is_due(store: Driven) -> None:
    store.hear()
    step = store.reply(store.step(), "one")
    store.settle(step.conversation, step.part.id, Fate("pending", unsure=True, due_at=NOW + 15 * SECOND), NOW)
    part = store.step(NOW + 15 * SECOND).part
    assert part and (part.tries, part.unsure, part.state) == (2, 1, "pending")


def test_a_try_that_was_none_is_taken_back(store: Driven) -> None:
    store.hear()
    step = store.reply(store.step(), "one")
    step = store.settle(step.conversation, step.part.id, Fate("pending", counted=False), NOW)
    assert step.part and step.part.tries == 1


def test_a_part_is_replaced_in_its_place(store: Driven) -> None:
    store.hear()
    step = store.reply(store.step(), "one", "two", "three", reply_to="m", expires_at=NOW + HOUR)
    step = store.sent(step)
    step = store.settle(step.conversation, step.part.id, Fate("pending", error="400", replace=("2a", "2b"), plain=True),
                        NOW)
    seen = []
    while step.part:
        seen.append((step.part.text, step.part.plain, step.part.reply_to, step.part.expires_at, step.part.tries))
        step = store.sent(step)
    assert seen == [("2a", True, "m", NOW + HOUR, 1), ("2b", True, "m", NOW + HOUR, 1),
                    ("three", False, "m", NOW + HOUR, 1)]


def test_a_part_goes_without_its_topic_when_that_is_gone(store: Driven) -> None:
    store.hear()
    step = store.reply(store.step(), "one")
    step = store.settle(step.conversation, step.part.id, Fate("pending", threadless=True), NOW)
    assert step.part and step.part.threadless


def test_the_rest_of_a_turn_dies_with_an_expired_part_but_not_the_next_turn(store: Driven) -> None:
    store.hear("one")
    step = store.step()
    store.hear("two")
    step = store.reply(step, "a", "b")
    step = store.settle(step.conversation, step.part.id, Fate("expired", rest=True, outcome="window_closed"), NOW)
    assert texts(step) == ["two"]


def test_a_person_who_blocked_us_gets_nothing_more_until_they_write(store: Driven) -> None:
    store.hear()
    step = store.reply(store.step(), "a", "b")
    step = store.settle(step.conversation, step.part.id, Fate("dead", error="403", blocked=True), NOW)
    assert step.part is None and step.conversation.blocked
    assert store.health(NOW).dead == 2
    store.hear("back")
    assert store.step().conversation.blocked is False


def test_a_moved_chat_is_answered_at_its_new_address(store: Driven) -> None:
    store.hear(chat="old")
    step = store.reply(store.step(), "a")
    step = store.settle(step.conversation, step.part.id, Fate("pending", chat="new"), NOW)
    assert step.part and step.part.text == "a" and step.conversation.chat == "new"
    store.sent(step)
    store.hear("next", "new")
    assert spoken(store.step()) == ["user: hello", "assistant: a"]


def test_every_part_has_a_tag_of_its_own(store: Driven) -> None:
    store.hear()
    step = store.reply(store.step(), "one", "two")
    first, second = step.part, store.sent(step).part
    assert first and second and first.tag != second.tag and first.tag.startswith("minibot:")


# --- receipts and echoes ----------------------------------------------------------------------------------------------

def unsure(store: Driven) -> Any:
    """A conversation whose first part may have arrived; a second one is behind it."""
    store.hear()
    step = store.reply(store.step(), "one", "two")
    store.settle(step.conversation, step.part.id, Fate("pending", unsure=True, due_at=NOW + HOUR), NOW)
    return step


@pytest.mark.parametrize("word", [
    lambda part: Receipt("telegram", "1", "sent", "wamid", part.tag),
    lambda part: Receipt("telegram", "1", "delivered", "wamid", part.tag),
    lambda part: Echo("telegram", "1", "anna", "mid", "whatever", part.tag),
    lambda part: Echo("telegram", "1", "anna", "mid", "one"),
])
def test_the_platforms_word_resolves_an_unsure_part_at_once(store: Driven, word: Callable[[Any], Event]) -> None:
    step = unsure(store)
    assert store.take(word(step.part)).due == (step.conversation.id,)
    step = store.step()
    assert step.part and step.part.text == "two" and step.conversation.paused_until == 0


def test_an_echo_that_overtakes_our_own_reply_is_ours(store: Driven) -> None:
    store.hear()
    step = store.reply(store.step(), "one", "two")
    store.take(Echo("telegram", "1", "anna", "mid-1", "one"))
    step = store.settle(step.conversation, step.part.id, Fate("pending", unsure=True, due_at=NOW + HOUR), NOW)
    assert step.part and step.part.text == "two" and step.conversation.paused_until == 0


def test_an_echo_of_a_sent_part_is_ours(store: Driven) -> None:
    store.hear()
    store.sent(store.reply(store.step(), "one"), message_id="mid-1")
    store.take(Echo("telegram", "1", "anna", "mid-1", "one"))
    assert store.hear("next").due


def test_a_receipt_for_a_part_given_up_as_maybe_mends_it(store: Driven) -> None:
    store.hear()
    step = store.reply(store.step(), "one")
    store.settle(step.conversation, step.part.id, Fate("maybe", unsure=True, outcome="send_failed:unsure"), NOW)
    assert store.health(NOW).dead == 1
    store.take(Receipt("telegram", "1", "sent", "wamid", step.part.tag))
    assert store.health(NOW).dead == 0


def test_a_late_failure_changes_the_parts_fate(store: Driven) -> None:
    store.hear()
    store.sent(store.reply(store.step(), "one"), message_id="wamid")
    failed = Receipt("telegram", "1", "failed", "wamid", code="131026")
    store.take(failed, failed)
    assert store.health(NOW).dead == 1


def test_a_repeated_word_of_a_failure_does_not_undo_a_retry(store: Driven) -> None:
    store.hear()
    store.sent(store.reply(store.step(), "one"), message_id="wamid")
    failed = Receipt("telegram", "1", "failed", "wamid", code="131026")
    store.take(failed)
    assert store.retry([], False, NOW) == 1
    store.take(failed)
    assert store.step().part.text == "one"


def test_what_was_forgotten_is_not_asked_again(store: Driven) -> None:
    store.hear()
    step = store.step()
    store.finish(step.conversation, Finish({step.waiting[0].id: "ai_failed:400"}), NOW)
    assert store.health(NOW).dead == 1 and store.forget("anna") == 1
    assert store.health(NOW).dead == 0 and store.retry([], True, NOW) == 0 and not store.work()


def test_a_tag_of_another_database_touches_nothing(store: Driven) -> None:
    step = unsure(store)
    number = step.part.tag.rpartition(":")[2]
    store.take(Receipt("telegram", "1", "sent", "wamid", f"minibot:other:{number}"),
               Receipt("telegram", "1", "sent", "wamid", "minibot:x"), Receipt("telegram", "1", "read", "unknown"),
               Echo("telegram", "1", "anna", "m", "one of theirs", "minibot:other:3"))
    assert store.work() == []


# --- people take over -------------------------------------------------------------------------------------------------

def test_a_reply_by_a_person_pauses_the_bot_and_is_remembered(store: Driven) -> None:
    store.exchange("hello", "hi")
    human = Echo("telegram", "1", "anna", "mid-h", "a person here", at=NOW + 1)
    store.take(human, human, now=NOW + 1)
    assert store.hear("thanks", now=NOW + 2) == Accepted(1, 0)
    after = NOW + 1 + 4 * HOUR
    assert store.hear("bot?", now=after).due
    assert spoken(store.step(after)) == ["user: hello", "assistant: hi", "assistant: a person here", "user: thanks"]


def test_commands_are_heard_in_a_pause(store: Driven) -> None:
    store.take(Handover("telegram", "1", "anna", True))
    assert store.hear("hello") == Accepted(1, 0)
    assert store.hear("/bot", kind="bot").due
    step = store.step()
    assert texts(step) == ["/bot"] and step.conversation.paused_until > NOW
    store.finish(step.conversation, Finish({step.waiting[0].id: "command"}, ("here",), pause_until=0), NOW)
    assert store.hear("hello").due


def test_handing_the_conversation_back_ends_the_pause(store: Driven) -> None:
    store.take(Handover("telegram", "1", "anna", True))
    assert not store.hear().due
    store.take(Handover("telegram", "1", "anna", False))
    assert store.hear().due


def test_a_pause_does_not_reach_other_conversations(store: Driven) -> None:
    store.take(Handover("telegram", "1", "anna", True))
    assert store.hear("hello", "bert").due


def test_somebody_who_came_back_is_not_blocked(store: Driven) -> None:
    store.exchange("hello", "hi")
    store.take(Presence("telegram", "1", "anna", True))
    store.hear("again")
    assert store.step().conversation.blocked is False


# --- what a step carries ----------------------------------------------------------------------------------------------

def test_history_is_the_exchanges_before_in_their_order(store: Driven) -> None:
    store.exchange("one", "1")
    store.hear("two", now=NOW + 1)
    store.hear("three", now=NOW + 2)
    step = store.step(NOW + 3)
    store.hear("four", now=NOW + 4)
    store.sent(store.reply(step, "2 and 3", now=NOW + 5))
    assert spoken(store.step(NOW + LEASE + 9)) == ["user: one", "assistant: 1", "user: two", "user: three",
                                                   "assistant: 2 and 3"]


def test_history_is_bounded_by_exchanges(store: Driven) -> None:
    store.reopen(history_turns=2)
    for number in range(5):
        store.exchange(f"question {number}", f"answer {number}")
    store.hear("last")
    assert spoken(store.step()) == ["user: question 3", "assistant: answer 3", "user: question 4",
                                    "assistant: answer 4"]


def test_notices_and_refused_messages_are_not_in_the_history(store: Driven) -> None:
    store.hear("/help", kind="help")
    step = store.step()
    step = store.finish(step.conversation, Finish({step.waiting[0].id: "command"}, ("I can help",)), NOW)
    store.sent(step)
    store.hear("hello")
    assert store.step().history == ()


def test_reset_hides_what_was_before(store: Driven) -> None:
    store.exchange("secret", "noted")
    store.hear("/reset", kind="reset")
    step = store.step()
    done = Finish({step.waiting[0].id: "command"}, ("done",), forget="history")
    store.sent(store.finish(step.conversation, done, NOW))
    store.exchange("new", "begin")
    store.hear("next")
    assert spoken(store.step()) == ["user: new", "assistant: begin"]


def test_history_keeps_the_transcript_of_a_voice_message(store: Driven) -> None:
    store.hear("", media=(Media("voice", "ref"),))
    step = store.step()
    store.sent(store.finish(step.conversation, Finish({step.waiting[0].id: "replied"}, ("hi",), Answer("hi"),
                                                      {step.waiting[0].id: "spoken words"}), NOW))
    store.hear("next")
    assert store.step().history == (Said("user", "spoken words"), Said("assistant", "hi"))


def test_quoted_and_forwarded_words_are_marked_and_speakers_named(store: Driven) -> None:
    store.exchange("x\ny", "1", chat="anna", quoted="old\nwords")
    store.exchange("theirs", "2", chat="anna", forwarded=True)
    store.exchange("in a group", "3", chat="anna", person="bert", name="Bert")
    store.hear("next")
    said = [line.text for line in store.step().history if line.role == "user"]
    assert said == ["[in reply to this message]\n> old\n> words\n\nx\ny",
                    "[forwarded, not the writer's own words]\n> theirs", "Bert: in a group"]


def test_a_quote_by_id_is_looked_up_among_ours_and_theirs(store: Driven) -> None:
    store.hear("their words", message_id="in-a")
    store.sent(store.reply(store.step(), "our words"), message_id="out-b")
    store.hear("?", quotes="in-a")
    store.hear("!", quotes="out-b")
    store.hear(".", quotes="unknown")
    assert [item.inbound.quoted for item in store.step().waiting] == ["their words", "our words", ""]


def test_usage_counts_the_last_minute_the_day_and_the_person(store: Driven) -> None:
    store.exchange("one", "1", chat="anna", now=NOW - 2 * MINUTE)
    store.exchange("two", "2", chat="anna", now=NOW - 1)
    store.exchange("three", "3", chat="bert", now=NOW - 1)
    store.hear("four", "anna")
    usage = store.step().usage
    assert (usage.recent, usage.person_tokens, usage.day_tokens, usage.told) == (2, 30, 45, False)
    store.hear("tomorrow", "bert", now=NOW + DAY)
    steps = [step for step in store.work(NOW + DAY) if texts(step) == ["tomorrow"]]
    assert (steps[0].usage.person_tokens, steps[0].usage.day_tokens) == (0, 0)


def test_the_polite_sentence_is_remembered_for_the_day(store: Driven) -> None:
    store.hear()
    step = store.step()
    refusal = Finish({step.waiting[0].id: "rate_limited"}, ("slowly",), told=True)
    store.sent(store.finish(step.conversation, refusal, NOW))
    store.hear()
    assert store.step().usage.told


def test_two_machines_that_answer_each_other_are_noticed(store: Driven) -> None:
    for number in range(4):
        store.exchange("I did not understand that.", "Hello!", now=NOW + number * SECOND)
    store.hear("I did not understand that.", now=NOW + 4 * SECOND)
    assert store.step(NOW + 4 * SECOND).usage.repeats == 4


def test_a_person_who_repeats_themselves_is_no_machine(store: Driven) -> None:
    for number in range(4):
        store.exchange("hello?", "Hello!", now=NOW + number * MINUTE)
    store.hear("hello?", now=NOW + 4 * MINUTE)
    assert store.step(NOW + 4 * MINUTE).usage.repeats == 0


def test_the_please_wait_notice_leaves_the_messages_waiting(store: Driven) -> None:
    store.hear()
    step = store.step()
    step = store.finish(step.conversation, Finish({}, ("one moment",), noticed=True), NOW)
    assert step.conversation.noticed_at == NOW
    step = store.sent(step)
    assert texts(step) == ["hello"] and step.conversation.noticed_at == NOW
    assert store.reply(step, "at last").conversation.noticed_at == 0


# --- addresses and erasure --------------------------------------------------------------------------------------------

def test_a_chat_that_is_renamed_keeps_its_history_in_any_order_and_twice(store: Driven) -> None:
    store.exchange("before", "ok", chat="old")
    store.hear("meanwhile", "new")
    rekey = Rekey("telegram", "1", "old", "new")
    store.take(rekey, rekey)
    store.hear("after", "new")
    step = store.step()
    assert texts(step) == ["meanwhile", "after"] and spoken(step) == ["user: before", "assistant: ok"]
    assert step.conversation.chat == "new"


def test_a_message_taken_back_leaves_the_store(store: Driven) -> None:
    store.exchange("delete me", "ok", message_id="m1")
    store.hear("and me", message_id="m2")
    store.take(Erase("telegram", "1", "anna", "m1"), Erase("telegram", "1", "anna", "m2"))
    assert store.work() == []
    store.hear("next")
    assert spoken(store.step()) == ["assistant: ok"]
    assert store.take(Inbound("telegram", "1", "anna", "message:1", text="delete me", sent_at=NOW)) == Accepted(0, 1)


def test_the_transcript_of_a_message_taken_back_is_not_written_down(store: Driven) -> None:
    store.hear("", message_id="m1", media=(Media("voice", "ref"),))
    step = store.step()
    assert store.take(Erase("telegram", "1", "anna", "m1")).due == (step.conversation.id,), "its worker hears of it"
    store.sent(store.finish(step.conversation, Finish({step.waiting[0].id: "replied"}, ("hi",), Answer("hi"),
                                                      {step.waiting[0].id: "a secret"}), NOW))
    store.hear("next")
    assert spoken(store.step()) == ["assistant: hi"]


def test_a_picture_beside_is_kept_only_where_its_album_waits_for_an_answer(store: Driven) -> None:
    def beside(event: str, album: str) -> Aside:
        return Aside(Inbound("telegram", "1", "group", event, sent_at=NOW, album=album, media=(Media("image", event),)))
    assert store.take(beside("message:a", "7")) == Accepted(0, 0)
    store.hear("which?", "group", album="7", media=(Media("image", "first"),))
    assert store.take(beside("message:b", "7"), beside("message:c", "8"), beside("message:d", "7")).new == 2
    step = store.step(NOW + 2 * SECOND)
    assert [item.inbound.media[0].ref for item in step.waiting] == ["first", "message:b", "message:d"]


def test_an_answer_that_waits_to_be_sent_is_dropped_when_a_person_takes_over(store: Driven) -> None:
    store.hear()
    step = store.reply(store.step(), "one", "two")
    store.settle(step.conversation, step.part.id, Fate("pending", error="429", due_at=NOW + MINUTE), NOW)
    store.take(Echo("telegram", "1", "anna", "h1", text="I am here", ours=False, at=NOW))
    assert store.work(NOW + DAY) == [] and store.health(NOW).pending == 0
    store.hear("/bot", kind="bot")
    step = store.step()
    assert [item.inbound.text for item in step.waiting] == ["/bot"] and "user: hello" in spoken(step)


def test_who_blocks_us_is_gone_from_every_topic_and_from_no_other_chat(store: Driven) -> None:
    for chat in ("5", "5/9", "5/d9", "50", "4"):
        store.hear(chat, chat)
    store.take(Presence("telegram", "1", "5", True))
    blocked = {step.conversation.chat: step.conversation.blocked for step in store.work()}
    assert blocked == {"5": True, "5/9": True, "5/d9": True, "50": False, "4": False}


def test_a_receipt_finds_its_message_on_its_own_platform(store: Driven) -> None:
    store.hear()
    store.sent(store.reply(store.step(), "hi"), message_id="the same")
    for platform, dead in (("messenger", 0), ("telegram", 1)):
        store.take(Receipt(platform, "1", "failed", "the same", code="551"))
        assert store.health(NOW).dead == dead


def test_forget_erases_everything_but_what_keeps_repeats_out(store: Driven) -> None:
    store.exchange("secret", "noted")
    store.hear("/forget", kind="forget")
    step = store.step()
    done = Finish({step.waiting[0].id: "command"}, ("erased",), forget="everything")
    step = store.finish(step.conversation, done, NOW)
    assert step.part and step.part.text == "erased"
    store.sent(step)
    assert store.take(Inbound("telegram", "1", "anna", "message:1", text="secret", sent_at=NOW)) == Accepted(0, 1)
    store.hear("next")
    assert store.step().history == ()


def test_a_question_written_right_after_forget_is_answered(store: Driven) -> None:
    store.hear("secret")
    sending = store.reply(store.step(), "an answer")
    store.hear("/forget", kind="forget")
    store.hear("and now?")
    step = store.sent(sending)
    assert texts(step) == ["/forget", "and now?"]
    done = Finish({step.waiting[0].id: "command"}, ("erased",), forget="everything")
    step = store.sent(store.finish(step.conversation, done, NOW))
    assert texts(step) == ["and now?"] and step.history == ()


def test_the_operator_can_forget_a_chat_that_is_in_hand(store: Driven) -> None:
    store.hear("secret")
    step = store.step()
    assert store.forget("anna") == 1 and store.forget("nobody") == 0
    with pytest.raises(LeaseLost):
        store.reply(step, "too late")
    assert store.work(NOW + DAY) == []


# --- upkeep -----------------------------------------------------------------------------------------------------------

def test_health_counts_what_waits_and_what_was_given_up(store: Driven) -> None:
    assert store.health(NOW).pending == 0
    store.hear(now=NOW - 90 * SECOND)
    health = store.health(NOW)
    assert (health.pending, health.oldest, health.dead) == (1, 90, 0)
    step = store.step()
    step = store.finish(step.conversation, Finish({step.waiting[0].id: "ai_failed:401"}, ("sorry",)), NOW)
    assert (store.health(NOW).pending, store.health(NOW).dead) == (1, 1)
    store.settle(step.conversation, step.part.id, Fate("dead", error="400"), NOW)
    assert (store.health(NOW).pending, store.health(NOW).dead) == (0, 2)


def test_retry_sends_a_dead_part_again_and_asks_a_failed_message_again(store: Driven) -> None:
    store.hear("one")
    step = store.step()
    failed = step.waiting[0].id
    step = store.finish(step.conversation, Finish({failed: "ai_failed:401"}, ("sorry",)), NOW)
    store.settle(step.conversation, step.part.id, Fate("dead", error="400", outcome="send_failed:400"), NOW)
    assert store.retry([step.part.id], False, NOW) == 1 and store.retry([step.part.id, 999], False, NOW) == 0
    step = store.step()
    assert step.part and step.part.text == "sorry" and step.part.tries == 1
    store.sent(step)
    assert store.health(NOW).dead == 0


def test_retry_of_everything_re_drives_messages_the_model_failed_on(store: Driven) -> None:
    store.hear("one")
    step = store.step()
    store.finish(step.conversation, Finish({step.waiting[0].id: "ai_failed:401"}), NOW)
    assert store.retry([], False, NOW + 2 * DAY) == 0
    assert store.retry([], False, NOW + HOUR) == 1
    assert texts(store.step(NOW + HOUR)) == ["one"]


def test_what_is_past_its_window_is_retried_only_by_force(store: Driven) -> None:
    store.hear()
    step = store.reply(store.step(), "one", expires_at=NOW + HOUR)
    store.settle(step.conversation, step.part.id, Fate("expired", rest=True, outcome="window_closed"), NOW + 2 * HOUR)
    assert store.retry([step.part.id], False, NOW + 2 * HOUR) == 0
    assert store.retry([step.part.id], True, NOW + 2 * HOUR) == 1
    part = store.step(NOW + 2 * HOUR).part
    assert part and part.expires_at == 0


def test_a_clock_that_was_set_back_makes_nobody_wait(store: Driven) -> None:
    store.hear()
    store.postpone(store.step().conversation, NOW + MINUTE, True, "x", NOW)
    store.maintain(NOW)
    assert store.next_due(NOW) == NOW + MINUTE
    store.maintain(NOW - HOUR)
    assert len(store.work(NOW - HOUR)) == 1


def test_old_conversations_are_removed_and_young_ones_stay(store: Driven) -> None:
    store.reopen(retention_days=3)
    store.exchange("old words", "old answer", now=NOW - 4 * DAY)
    store.exchange("young words", "young answer", now=NOW)
    store.maintain(NOW)
    store.hear("next")
    assert spoken(store.step()) == ["user: young words", "assistant: young answer"]
    old = Inbound("telegram", "1", "anna", "message:1", text="old words", sent_at=NOW)
    assert store.take(old) == Accepted(0, 1)
    store.maintain(NOW + 11 * DAY)
    assert store.take(old).new == 1


def test_what_still_waits_is_not_removed_for_its_age(store: Driven) -> None:
    store.reopen(retention_days=1)
    store.hear("waiting", now=NOW - 2 * DAY)
    store.maintain(NOW)
    assert texts(store.step()) == ["waiting"]
