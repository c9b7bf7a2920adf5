"""Promises of `flow/retry.py` and `flow/breaker.py`: when something is tried again, and when never."""

import pytest

from minibot.errors import NoAnswer, Remedy, SendFailed
from minibot.flow.breaker import FAILURES, FIRST_PAUSE, LONGEST_PAUSE, PROBE_LIMIT, Breaker
from minibot.flow.retry import SCHEDULES, decide, delay
from minibot.work import Part

NOW = 1_800_000_000_000
PART = Part(7, "hello", tries=1)


@pytest.mark.parametrize("schedule", [name for name in SCHEDULES if name != "export"])
def test_waits_grow_and_then_stay_at_the_last_step(schedule: str) -> None:
    waits = [delay(schedule, tries, 0.999) for tries in range(1, 30)]
    assert waits == sorted(waits, key=lambda wait: wait or 0)
    assert waits[-1] == waits[-2]


def test_an_export_ends_after_its_stated_tries() -> None:
    assert delay("export", 10, 0.5) is not None
    assert delay("export", 11, 0.5) is None


@pytest.mark.parametrize("chance", [0.0, 0.25, 0.999])
def test_jitter_spreads_a_wait_over_half_to_whole(chance: float) -> None:
    wait = delay("send", 6, chance)
    assert wait is not None and 30_000 <= wait <= 60_000


@pytest.mark.parametrize("seconds", [0.5, 3, 3600])
def test_a_wait_the_other_side_asked_for_is_never_shortened(seconds: float) -> None:
    for chance in (0.0, 0.5, 0.999):
        wait = delay("send", 1, chance, seconds)
        assert wait is not None and wait > seconds * 1000


TABLE = [
    (Remedy.RETRY, "pending"), (Remedy.WAIT_CHAT, "pending"), (Remedy.WAIT_CHANNEL, "pending"),
    (Remedy.STOP, "pending"), (Remedy.UNREACHABLE, "dead"), (Remedy.REFUSED, "dead"), (Remedy.WINDOW, "expired"),
    (Remedy.UNSURE, "pending"), (Remedy.DELIVERED, "sent"), (Remedy.THREADLESS, "pending"),
    (Remedy.MOVED, "pending"), (Remedy.PLAIN, "dead"), (Remedy.HALVE, "dead"),
    (Remedy.EMPTY, "dead"),
]


@pytest.mark.parametrize(("remedy", "state"), TABLE, ids=[remedy.value for remedy, _ in TABLE])
def test_every_remedy_leads_to_its_one_fate(remedy: Remedy, state: str) -> None:
    fate = decide(SendFailed(remedy, "code", chat="new"), PART, NOW, 0.5, looks_up=False)
    assert fate.state == state
    if state == "dead":
        assert fate.outcome == "send_failed:code"


def test_no_remedy_was_forgotten_in_the_table() -> None:
    assert {remedy for remedy, _ in TABLE} == set(Remedy)


def test_a_person_who_cannot_be_reached_ends_the_whole_answer() -> None:
    fate = decide(SendFailed(Remedy.UNREACHABLE, "403"), PART, NOW, 0.5, looks_up=False)
    assert fate.rest and fate.blocked


def test_a_closed_window_is_named_as_the_outcome() -> None:
    fate = decide(SendFailed(Remedy.WINDOW, "131047"), PART, NOW, 0.5, looks_up=True)
    assert fate.rest and fate.outcome == "window_closed"


def test_an_unsure_send_is_repeated_once_and_then_shown_as_maybe() -> None:
    lost = NoAnswer("reset after the request", unsure=True)
    first = decide(lost, PART, NOW, 0.5, looks_up=False)
    assert first.state == "pending" and first.unsure
    again = decide(lost, Part(7, "hello", tries=2, unsure=1), NOW, 0.5, looks_up=False)
    assert again.state == "maybe"


def test_an_unsure_send_waits_longer_where_the_platform_will_tell() -> None:
    lost = NoAnswer("reset after the request", unsure=True)
    assert decide(lost, PART, NOW, 0.5, looks_up=True).due_at > decide(lost, PART, NOW, 0.5, looks_up=False).due_at


def test_a_call_that_surely_did_not_arrive_is_simply_tried_again() -> None:
    fate = decide(NoAnswer("refused", unsure=False), PART, NOW, 0.5, looks_up=True)
    assert fate.state == "pending" and not fate.unsure and fate.due_at > NOW


def test_a_topic_that_is_gone_costs_one_further_try_only() -> None:
    gone = SendFailed(Remedy.THREADLESS, "thread")
    assert decide(gone, PART, NOW, 0.5, looks_up=False).threadless
    assert decide(gone, Part(7, "x", threadless=True), NOW, 0.5, looks_up=False).state == "dead"


def opened() -> Breaker:
    breaker = Breaker()
    for _ in range(FAILURES):
        assert breaker.admit(NOW) == 0
        breaker.failed(NOW)
    return breaker


def test_a_breaker_opens_after_failures_in_a_row() -> None:
    assert opened().admit(NOW + 1) == NOW + FIRST_PAUSE


def test_one_success_between_failures_keeps_a_breaker_closed() -> None:
    breaker = Breaker()
    for _ in range(FAILURES * 3):
        breaker.failed(NOW)
        breaker.worked()
    assert breaker.admit(NOW) == 0


def test_an_open_breaker_lets_one_probe_through_at_a_time() -> None:
    breaker, later = opened(), NOW + FIRST_PAUSE
    assert breaker.admit(later) == 0
    assert breaker.admit(later) > later
    breaker.worked()
    assert breaker.admit(later) == 0 and breaker.admit(later) == 0


def test_a_probe_that_never_came_back_is_replaced() -> None:
    breaker, later = opened(), NOW + FIRST_PAUSE
    assert breaker.admit(later) == 0
    assert breaker.admit(later + PROBE_LIMIT) == 0


def test_a_probe_that_was_dropped_frees_the_way_at_once() -> None:
    breaker = opened()
    later = breaker.until
    assert breaker.admit(later) == 0 and breaker.admit(later) > later
    breaker.dropped()
    assert breaker.admit(later) == 0


def test_failed_probes_wait_longer_up_to_a_limit() -> None:
    breaker, at = opened(), NOW
    pauses = []
    for _ in range(6):
        at = breaker.admit(at) or at
        assert breaker.admit(at) == 0
        breaker.failed(at)
        pauses.append(breaker.until - at)
    assert pauses == sorted(pauses) and pauses[-1] == LONGEST_PAUSE


def test_an_upstream_that_asked_for_quiet_gets_it() -> None:
    breaker = Breaker()
    breaker.pause(NOW + 7000)
    assert breaker.admit(NOW + 6999) == NOW + 7000
    assert breaker.admit(NOW + 7000) == 0
