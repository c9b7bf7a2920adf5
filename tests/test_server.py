"""What the door promises to a peer over real sockets: answers, order, closing, deadlines, caps, stopping.

A test for each sentence about behaviour that the parser alone (`test_wire.py`) cannot show. No time is asserted:
a deadline that passes is seen by the answer it brings, and limits are short so that it passes soon.

Next: `drill/garbage.py`, the same door under minutes of rubbish.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import ssl
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from minibot.errors import Refused, StoreDown
from minibot.model import Request, Response
from minibot.promise import Promise
from minibot.web.routes import Stream
from minibot.web.server import raise_descriptor_limit
from tests.door import PATIENT, QUICK, Client, OpenDoor, wait_for

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OpenADoor = Callable[..., OpenDoor]


def post(body: bytes, fields: bytes = b"", path: bytes = b"/") -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n%b\r\n%b" % (path, len(body), fields, body)


@pytest.fixture
def open_door() -> Iterator[OpenADoor]:
    """`open_door(limits, table)`: a running server with endpoints of one's own beside `/` (an echo) and `/healthz`."""
    doors: list[OpenDoor] = []

    def made(*arguments: object, **named: object) -> OpenDoor:
        doors.append(OpenDoor(*arguments, **named))  # type: ignore[arg-type]
        return doors[-1]

    yield made
    for door in doors:
        door.close()


@pytest.fixture
def door(open_door: OpenADoor) -> OpenDoor:
    """A door with long deadlines."""
    return open_door()


# Answers


def test_a_good_request_is_answered_and_the_connection_kept(door: OpenDoor) -> None:
    client = door.send(post(b"one"))
    assert client.read() == (200, {"date": "Sun, 06 Nov 1994 08:49:37 GMT", "content-type": "text/plain; charset=utf-8",
                                   "content-length": "3"}, b"one")
    assert client.send(post(b"two")).read().body == b"two"


def test_head_is_answered_with_the_length_and_without_the_body(door: OpenDoor) -> None:
    client = door.send(b"HEAD /healthz HTTP/1.1\r\nHost: a\r\n\r\n" + GET)
    assert client.read(bare=True).fields["content-length"] == "4"
    assert client.read().status == 200


@pytest.mark.parametrize("octets, status", [
    (b"\x16\x03\x01", 400),
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n", 404),
    (b"DELETE / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n", 413),
    (b"GET /" + b"a" * (1 << 20), 414),
    (post(b"x", b"Content-Encoding: gzip\r\n"), 415),
    (post(b"x", b"Expect: tea\r\n"), 417),
    (b"GET / HTTP/1.1\r\nX: " + b"a" * 40000, 431),
    (b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    (b"GET / HTTP/2.0\r\n\r\n", 505)])
def test_every_refusal_is_a_complete_answer_that_tells_nothing(door: OpenDoor, octets: bytes, status: int) -> None:
    answer = door.send(octets).read()
    assert answer.status == status
    assert answer.fields["date"] == "Sun, 06 Nov 1994 08:49:37 GMT"
    assert answer.fields["content-type"].startswith("text/plain")
    assert answer.fields["content-length"] == str(len(answer.body))
    assert "server" not in answer.fields and len(answer.body) < 8
    assert answer.fields.get("connection") == (None if status in (404, 405, 501) else "close")
    assert answer.fields.get("allow") == ("GET, HEAD, POST" if status == 405 else None)


def test_a_refused_head_request_gets_no_body(door: OpenDoor) -> None:
    for octets in (b"HEAD /nowhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", b"HEAD / HTTP/1.1\r\n\r\n",
                   b"HEAD / HTTP/1.1\n"):
        assert door.send(octets).read_to_end().endswith(b"\r\n\r\n")


def test_what_the_server_can_is_told(door: OpenDoor) -> None:
    assert door.send(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").read().fields["allow"] == "GET, HEAD, OPTIONS, POST"


def test_http_1_0_is_closed_unless_it_asks_to_be_kept(door: OpenDoor) -> None:
    assert door.send(b"GET / HTTP/1.0\r\n\r\n").read_to_end().startswith(b"HTTP/1.1 200 OK\r\n")
    client = door.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert client.read().fields["connection"] == "keep-alive"
    assert client.send(GET).read().status == 200


@pytest.mark.parametrize("last", [
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: foo, close\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\n\r\n",
    b"POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 29\r\n\r\n"])
def test_after_a_last_answer_nothing_is_parsed(door: OpenDoor, last: bytes) -> None:
    received = door.send(last + GET.replace(b"/ ", b"/?smuggled ") * 3).read_to_end()
    assert received.count(b"HTTP/1.1 ") == 1 and b"\r\nConnection: close\r\n" in received
    assert not [request for request in door.seen if request.query]


def test_the_thousandth_answer_closes(open_door: OpenADoor) -> None:
    client = open_door(replace(PATIENT, requests=3)).send(GET * 4)
    assert [client.read().fields.get("connection") for _ in range(3)] == [None, None, "close"]
    assert client.read_to_end() == b""


# Bodies and expectations


def test_a_peer_that_waits_is_told_to_continue_once(door: OpenDoor) -> None:
    client = door.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
    assert client.read() == (100, {}, b"")
    client.send(b"ab")
    assert client.is_open()
    assert client.send(b"cd").read().body == b"abcd"


@pytest.mark.parametrize("head, status", [
    (b"POST /nowhere HTTP/1.1\r\nContent-Length: 4", 404), (b"DELETE / HTTP/1.1\r\nContent-Length: 4", 405),
    (b"POST / HTTP/1.1\r\nContent-Length: 4194305", 413),
    (b"POST / HTTP/1.1\r\nContent-Length: 4\r\nContent-Encoding: br", 415)])
def test_a_peer_that_waits_is_refused_at_once(door: OpenDoor, head: bytes, status: int) -> None:
    received = door.send(head + b"\r\nHost: a\r\nExpect: 100-continue\r\n\r\n").read_to_end()
    assert received.startswith(b"HTTP/1.1 %d " % status) and b"\r\nConnection: close\r\n" in received


def test_a_body_of_four_mebibytes_arrives_whole(door: OpenDoor) -> None:
    body = os.urandom(1 << 20) * 4
    assert door.send(post(body)).read().body == body


def test_a_peer_that_sends_far_too_much_can_still_read_the_refusal(door: OpenDoor) -> None:
    assert door.send(post(b"x" * 10_000_000)).read().status == 413


def test_a_flood_of_chunks_of_one_octet_stop_nobody(door: OpenDoor) -> None:
    client = door.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    sender = threading.Thread(target=client.send, args=(b"1\r\nx\r\n" * 300_000 + b"0\r\n\r\n",))
    sender.start()
    while sender.is_alive():
        assert door.is_well()
    assert client.read().body == b"x" * 300_000


# Order


def test_promises_that_are_kept_already_are_answered_in_order(open_door: OpenADoor) -> None:
    def kept(request: Request) -> Promise[Response]:
        promise: Promise[Response] = Promise()
        promise.set_result(Response(200, request.body))
        return promise
    client = open_door(PATIENT, {("POST", "/kept"): kept}).send(
        b"".join(post(b"%d" % number, path=b"/kept") for number in range(100)))
    assert [client.read().body for _ in range(100)] == [b"%d" % number for number in range(100)]


def test_pipelined_requests_are_answered_in_order_whoever_is_done_first(door: OpenDoor) -> None:
    client = door.send(b"GET /later HTTP/1.1\r\nHost: a\r\n\r\n" + post(b"second") + post(b"third"))
    wait_for(lambda: door.promised)
    assert not door.seen and client.is_open()
    door.keep(0, Response(200, b"first"))
    assert [client.read().body for _ in range(3)] == [b"first", b"second", b"third"]


def test_good_requests_are_answered_before_a_bad_one_behind_them(door: OpenDoor) -> None:
    client = door.send(post(b"one") + b"GET /later HTTP/1.1\r\nHost: a\r\n\r\n" + b"GET / HTTP/1.1\nHost: a\n\n" + GET)
    assert client.read().body == b"one"
    door.keep(0, Response(200, b"two"))
    assert client.read().body == b"two"
    assert client.read().status == 400
    assert client.read_to_end() == b"" and len(door.seen) == 1


def test_a_thousand_pipelined_requests_are_served_in_order(open_door: OpenADoor) -> None:
    client = open_door(replace(PATIENT, requests=2000)).send(b"".join(post(b"%d" % n) for n in range(1000)))
    assert [client.read().body for _ in range(1000)] == [b"%d" % n for n in range(1000)]


def test_a_run_of_pipelined_requests_lets_others_in_between(open_door: OpenADoor) -> None:
    both_are_here, order = threading.Event(), list[str]()

    def endpoint(request: Request) -> Response:
        both_are_here.wait(10)
        order.append(request.query)
        return Response(200)
    door = open_door(PATIENT, {("GET", "/wait"): endpoint})
    many, one = door.client(), door.client()
    wait_for(lambda: len(door.server.connections) == 2)
    many.send(b"GET /wait?many HTTP/1.1\r\nHost: a\r\n\r\n" * 400)
    one.send(b"GET /wait?one HTTP/1.1\r\nHost: a\r\n\r\n")
    both_are_here.set()
    assert one.read().status == 200
    for _ in range(400):
        many.read()
    assert order.index("one") < 100


def test_a_peer_that_never_reads_is_read_no_further(open_door: OpenADoor) -> None:
    door = open_door(replace(PATIENT, requests=10**9), {("GET", "/big"): lambda request: Response(200, b"x" * 5000)})
    client = door.client()
    client.socket.settimeout(0.3)
    with pytest.raises(TimeoutError):
        for _ in range(10_000):
            client.send(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n" * 500)
    (connection,) = door.server.connections
    assert connection.clogged and connection.paused and connection.held < 400_000
    assert connection.transport.get_write_buffer_size() < 100_000
    assert door.is_well()


def test_a_peer_that_reads_again_gets_the_rest(open_door: OpenADoor) -> None:
    door = open_door(replace(PATIENT, requests=10**9), {("GET", "/big"): lambda request: Response(200, b"x" * 100_000)})
    client = door.client()
    sender = threading.Thread(target=client.send, args=(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n" * 3000,))
    sender.start()
    wait_for(lambda: [one for one in list(door.server.connections) if one.clogged])
    for _ in range(3000):
        assert len(client.read().body) == 100_000
    sender.join(10)


# Closing


def test_what_is_complete_when_the_peer_closes_its_half_is_answered(door: OpenDoor) -> None:
    client = door.send(post(b"one") + b"GET /later HTTP/1.1\r\nHost: a\r\n\r\n" + post(b"three")).no_more()
    door.keep(0, Response(200, b"two"))
    assert [client.read().body for _ in range(3)] == [b"one", b"two", b"three"]
    assert client.read_to_end() == b""


@pytest.mark.parametrize("half", [GET[:-2], post(b"whole")[:-1], b"\r",
                                  b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"])
def test_a_request_cut_short_is_not_carried_out(door: OpenDoor, half: bytes) -> None:
    assert door.send(half).no_more().read_to_end().startswith(b"HTTP/1.1 400 ")
    assert not door.seen


def test_a_peer_that_leaves_is_forgotten(door: OpenDoor) -> None:
    for octets in (b"", b"GET", GET, b"GET /later HTTP/1.1\r\nHost: a\r\n\r\n"):
        door.send(octets).close()
    door.keep(0, Response(200))
    wait_for(lambda: not door.server.connections)
    assert door.server.held == 0


# Deadlines


def trickle(client: Client, octets: bytes) -> bytes:
    """Send an octet now and then until the other side answers; what it says."""
    for at in range(len(octets)):
        try:
            client.send(octets[at:at + 1])
            client.socket.settimeout(0.03)
            client.rest += client.socket.recv(65536)
            break
        except TimeoutError:
            continue
        except OSError:
            break
    client.socket.settimeout(10)
    return client.read_to_end()


CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("begun, slow", [
    (b"", GET[:-2] + b"X: y\r\n" * 99),
    (GET, GET[:-2] + b"X: y\r\n" * 99),
    (b"\r\n\r\n", GET[:-2] + b"X: y\r\n" * 99),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 999\r\n\r\n", b"x" * 998),
    (CHUNKED, b"1\r\nx\r\n" * 99),
    (CHUNKED + b"0\r\n", b"X: y\r\n" * 99)])
def test_a_trickle_does_not_push_a_deadline_back(open_door: OpenADoor, begun: bytes, slow: bytes) -> None:
    door = open_door(QUICK)
    received = trickle(door.send(begun), slow)
    assert received.split(b"HTTP/1.1 ")[-1].startswith(b"408 ") and b"\r\nConnection: close\r\n" in received


def test_a_body_at_a_fair_rate_gets_more_time(open_door: OpenADoor) -> None:
    door = open_door(replace(QUICK, body_time=0.3, body_rate=1000, body_most=30.0))
    client = door.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4000\r\n\r\n")
    for _ in range(10):
        client.send(b"x" * 400)
        time.sleep(0.1)  # the pace is the point: ten times this is more than body_time
    assert client.read().status == 200


@pytest.mark.parametrize("octets, answers", [(b"", 0), (b"\r\n\r\n", 0), (GET, 1), (GET + b"\r\n", 1)])
def test_an_idle_connection_is_closed_without_a_word(open_door: OpenADoor, octets: bytes, answers: int) -> None:
    assert open_door(QUICK).send(octets).read_to_end().count(b"HTTP/1.1 ") == answers


def test_an_endpoint_that_does_not_answer_is_answered_for(
        open_door: OpenADoor, caplog: pytest.LogCaptureFixture) -> None:
    door = open_door(QUICK)
    answer = (client := door.send(post(b"x", path=b"/later"))).read()
    assert (answer.status, answer.fields["retry-after"], answer.fields["connection"]) == (503, "5", "close")
    door.keep(0, Response(200, b"too late"))
    assert client.read_to_end() == b""
    assert "no answer in 0.3 s" in caplog.text


def test_a_peer_that_reads_nothing_is_dropped(open_door: OpenADoor) -> None:
    door = open_door(QUICK, {("GET", "/big"): lambda request: Response(200, b"x" * 30_000_000)})
    door.send(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
    wait_for(lambda: door.server.connections)
    wait_for(lambda: not door.server.connections)


def test_a_peer_that_goes_on_sending_after_its_last_answer_is_dropped(open_door: OpenADoor) -> None:
    door = open_door(replace(QUICK, linger=60.0, discarded=100_000))
    client = door.send(b"\x00")
    assert client.read().status == 400
    with pytest.raises(OSError):
        for _ in range(100):
            client.send(b"x" * 100_000)
    wait_for(lambda: not door.server.connections)


# Endpoints that fail


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("error, status, retry", [
    (Refused(401, "bad secret"), 401, None),
    (StoreDown("disk full"), 503, "5"),
    (ValueError("secret 1234"), 500, None)])
def test_an_error_becomes_its_constant_answer_and_the_connection_lives(
        open_door: OpenADoor, caplog: pytest.LogCaptureFixture, error: BaseException, status: int, retry: str | None,
        at_once: bool) -> None:
    def fail(request: Request) -> Response:
        raise error
    door = open_door(PATIENT, {("POST", "/fail"): fail})
    client = door.send(post(b"x", path=b"/fail" if at_once else b"/later"))
    if not at_once:
        door.keep(0, error)
    answer = client.read()
    assert (answer.status, answer.body, answer.fields.get("retry-after")) == (status, b"", retry)
    assert client.send(GET).read().status == 200
    errors = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(errors) == (0 if status == 401 else 1)
    assert "1234" not in caplog.text and "Traceback" not in caplog.text


def test_a_thousand_failures_are_not_a_thousand_lines(open_door: OpenADoor, caplog: pytest.LogCaptureFixture) -> None:
    def fail(request: Request) -> Response:
        return Response(1 // 0)
    client = open_door(replace(PATIENT, requests=2000), {("POST", "/fail"): fail}).send(post(b"", path=b"/fail") * 999)
    assert {client.read().status for _ in range(999)} == {500}
    assert 1 <= len([record for record in caplog.records if record.levelno >= logging.WARNING]) < 30


def test_a_field_of_an_answer_cannot_become_two(open_door: OpenADoor) -> None:
    door = open_door(PATIENT, {("GET", "/split"): lambda request: Response(200, fields=(("X", "a\r\nY: b"),))})
    answer = door.send(b"GET /split HTTP/1.1\r\nHost: a\r\n\r\n").read()
    assert answer.fields["x"] == "a??Y: b" and "y" not in answer.fields


def test_refusals_are_not_logged_above_debug(door: OpenDoor, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(50):
        door.send(b"GET /nowhere?hub.verify_token=1234 HTTP/1.1\r\nHost: a\r\n\r\n\x00").read_to_end()
    assert not caplog.records


def test_at_debug_a_request_is_one_line_without_its_query(
        open_door: OpenADoor, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "minibot.web")
    door = open_door(PATIENT, trusted_proxy="127.0.0.1")
    door.send(b"GET /?token=1234 HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 9.9.9.9, 1.2.3.4\r\n\r\n").read()
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == "1.2.3.4 GET / 200" and door.seen[0].peer == "1.2.3.4"


def test_a_forwarded_address_is_believed_from_the_proxy_alone(door: OpenDoor) -> None:
    door.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n").read()
    assert door.seen[0].peer == "127.0.0.1"


# Crowds


def test_the_connection_idle_longest_goes_first(open_door: OpenADoor) -> None:
    door = open_door(replace(PATIENT, connections=40))
    used, *idle = [door.send(GET) for _ in range(40)]
    for client in (used, *idle):
        assert client.read().status == 200
    assert used.send(GET).read().status == 200
    newest = [door.send(GET) for _ in range(5)]
    assert [client.read().status for client in newest] == [200] * 5
    assert used.send(GET).read().status == 200
    assert [client.is_open() for client in idle] == [False] * 5 + [True] * 34


def test_a_crowd_that_sends_nothing_or_half_shuts_nobody_out(open_door: OpenADoor) -> None:
    door = open_door(replace(PATIENT, connections=50))
    for octets in (b"", b"G"):
        for _ in range(150):
            door.send(octets)
        assert door.is_well()
    assert len(door.server.connections) <= 51


def test_whoever_has_its_last_answer_goes_before_an_idle_connection(open_door: OpenADoor) -> None:
    door = open_door(replace(PATIENT, connections=40, linger=30.0))
    idle = [door.send(GET) for _ in range(20)]
    over = [door.send(b"\x00") for _ in range(20)]
    for client in (*idle, *over):
        assert client.read().status in (200, 400)
    newest = [door.send(GET) for _ in range(20)]
    assert {client.read().status for client in newest} == {200}
    assert all(client.is_open() for client in idle)


def test_a_request_in_hand_is_not_closed_for_a_newcomer(open_door: OpenADoor) -> None:
    door = open_door(replace(PATIENT, connections=40))
    busy = door.send(post(b"", path=b"/later"))
    wait_for(lambda: door.promised)
    for _ in range(80):
        door.client()
    assert door.is_well()
    door.keep(0, Response(200, b"kept"))
    assert busy.read().body == b"kept"


def test_where_all_are_owed_an_answer_all_get_it(open_door: OpenADoor) -> None:
    door = open_door(replace(PATIENT, connections=32))
    busy: list[Client] = []
    for _ in range(40):
        busy.append(door.send(post(b"", path=b"/later")))
        wait_for(lambda: len(door.promised) == len(busy))
    for number in range(40):
        door.keep(number, Response(200))
    assert {client.read().status for client in busy} == {200}


def test_bodies_in_sum_stay_within_their_limit(open_door: OpenADoor) -> None:
    door = open_door(replace(PATIENT, bodies=2_000_000))
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"
    clients = [door.send(head + b"x" * 900_000) for _ in range(6)]
    wait_for(lambda: len([one for one in list(door.server.connections) if one.held]) <= 2)
    assert door.server.held <= 2_000_000 and door.is_well()
    assert door.send(post(b"y" * 1000)).read().status == 200
    refused = [client for client in clients if not client.is_open()]
    assert len(refused) >= 4
    assert {client.read().status for client in refused} == {503}


def test_a_thousand_idle_connections_cost_a_good_request_nothing(open_door: OpenADoor) -> None:
    door = open_door()
    for _ in range(1000):
        door.client()
    wait_for(lambda: len(door.server.connections) == 1000)
    assert door.is_well() and len(door.server.connections) >= 1000


FEW_DESCRIPTORS = """
    import asyncio, os, resource, sys, time
    from minibot.model import Response
    from minibot.web.routes import Routes
    from minibot.web.server import Server

    async def main(before, after, hog):
        if before:
            resource.setrlimit(resource.RLIMIT_NOFILE, (before, before))
        routes = Routes({("GET", "/"): lambda request: Response(200, str(time.process_time()).encode())})
        print(await Server(routes, clock=time.time).start("127.0.0.1", 0), flush=True)
        if after:
            resource.setrlimit(resource.RLIMIT_NOFILE, (after, after))
        files = []
        try:
            while hog:
                files.append(open(os.devnull))
        except OSError:
            spent = time.process_time()
            await asyncio.sleep(1.0)
            for file in files:
                file.close()
            print(time.process_time() - spent, flush=True)
        await asyncio.sleep(60)
    asyncio.run(main(*map(int, sys.argv[1:])))
"""


@pytest.fixture
def start_program() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """A server in a process of its own: (limit of open files before the start, after it, use them all up)."""
    pytest.importorskip("resource", reason="no limit of open files on this system")
    started: list[subprocess.Popen[str]] = []

    def start(*numbers: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", textwrap.dedent(FEW_DESCRIPTORS), *map(str, numbers)]
        started.append(subprocess.Popen(command, text=True, cwd=Path(__file__).parent.parent, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE))
        return started[-1]
    yield start
    for program in started:
        program.kill()
        _, errors = program.communicate()
        assert len(errors.splitlines()) < 12 and "Traceback" not in errors


@pytest.mark.parametrize("before, after", [(64, 0), (0, 40)])
def test_a_crowd_that_takes_all_descriptors_shuts_nobody_out(
        start_program: Callable[..., subprocess.Popen[str]], before: int, after: int) -> None:
    program = start_program(before, after, 0)
    assert program.stdout
    port = int(program.stdout.readline())
    crowd = [Client(port) for _ in range(300)]
    spent = [float(Client(port).send(GET).read().body) for _ in range(5)]
    time.sleep(0.5)  # long enough for a spinning loop to show in its own clock
    spent.append(float(Client(port).send(GET).read().body))
    assert spent[-1] - spent[-2] < 0.3 and len(crowd) == 300


def test_running_out_of_descriptors_neither_spins_nor_floods(
        start_program: Callable[..., subprocess.Popen[str]]) -> None:
    program = start_program(100, 0, 1)
    assert program.stdout
    waiting = Client(int(program.stdout.readline())).send(GET)
    assert float(program.stdout.readline()) < 0.3  # seconds of processor in a second without descriptors
    assert waiting.read().status == 200


def test_the_limit_of_open_files_is_raised_where_there_is_one() -> None:
    assert raise_descriptor_limit(300) >= 300


# Stopping


def test_stopping_closes_the_idle_and_answers_what_is_in_hand(door: OpenDoor) -> None:
    idle, busy, half = door.send(GET), door.send(post(b"", path=b"/later")), door.send(post(b"half")[:-1])
    assert idle.read().status == 200
    wait_for(lambda: door.promised and len(door.server.connections) == 3)
    stopping = asyncio.run_coroutine_threadsafe(door.server.stop(10.0), door.loop)
    assert idle.read_to_end() == b""
    with pytest.raises(OSError):
        door.client()
    half.send(b"f")
    door.keep(0, Response(200, b"in hand"))
    for client, body in ((busy, b"in hand"), (half, b"half")):
        answer = client.read()
        assert (answer.body, answer.fields["connection"]) == (body, "close")
        client.close()
    stopping.result(10)
    assert not door.server.connections


def test_stopping_waits_no_longer_than_its_grace(door: OpenDoor) -> None:
    door.send(post(b"", path=b"/later"))
    wait_for(lambda: door.promised)
    door.run(door.server.stop(0.1))
    wait_for(lambda: not door.server.connections)


# Streams


@pytest.fixture
def streaming(open_door: OpenADoor) -> OpenDoor:
    """A door with a stream at /events; `writes` gets its write, `ends` grows when it ended."""
    writes: list[Callable[[bytes], bool]] = []
    ends: list[bool] = []

    def begin(write: Callable[[bytes], bool]) -> Callable[[], None]:
        writes.append(write)
        return lambda: ends.append(True)
    stream = Stream(Response(200, content_type="text/event-stream"), begin)
    door = open_door(QUICK, {("GET", "/events"): lambda request: stream})
    door.writes, door.ends = writes, ends  # type: ignore[attr-defined]
    return door


EVENTS = b"GET /events HTTP/1.1\r\nHost: a\r\n\r\n"


def test_a_stream_goes_on_until_it_is_ended(streaming: OpenDoor) -> None:
    client = streaming.send(EVENTS)
    head = client.read()
    assert (head.status, head.fields["content-type"], head.fields["connection"]) == (200, "text/event-stream", "close")
    time.sleep(QUICK.idle + 0.2)  # longer than any deadline: a stream has none
    (write,) = streaming.writes  # type: ignore[attr-defined]
    assert streaming.on_loop(lambda: write(b"data: 1\n\n"))
    assert streaming.on_loop(lambda: write(b""))
    assert client.read_to_end() == b"data: 1\n\n"
    client.close()
    wait_for(lambda: streaming.ends)  # type: ignore[attr-defined]
    assert not streaming.on_loop(lambda: write(b"data: 2\n\n"))


def test_a_stream_answers_head_with_its_head(streaming: OpenDoor) -> None:
    received = streaming.send(EVENTS.replace(b"GET", b"HEAD")).read_to_end()
    assert b"text/event-stream" in received and received.endswith(b"\r\n\r\n")
    assert not streaming.writes  # type: ignore[attr-defined]


def test_a_stream_tells_when_its_peer_does_not_read(streaming: OpenDoor) -> None:
    streaming.send(EVENTS).read()
    wait_for(lambda: streaming.writes)  # type: ignore[attr-defined]
    (write,) = streaming.writes  # type: ignore[attr-defined]
    (connection,) = streaming.server.connections
    wait_for(lambda: not streaming.on_loop(lambda: write(b"x" * 100_000)))
    assert streaming.on_loop(lambda: connection.clogged and 0 < connection.transport.get_write_buffer_size() < 200_000)
    wait_for(lambda: streaming.ends)  # type: ignore[attr-defined]


def test_stopping_ends_the_streams(streaming: OpenDoor) -> None:
    client = streaming.send(EVENTS)
    client.read()
    streaming.run(streaming.server.stop(5.0))
    assert client.read_to_end() == b"" and streaming.ends  # type: ignore[attr-defined]


# TLS


def test_over_tls_the_door_is_the_same(open_door: OpenADoor, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed: nothing to make a certificate with")
    certificate = tmp_path / "cert.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
                    "-keyout", certificate, "-out", certificate], check=True, capture_output=True)
    ours, theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(cafile=certificate)
    ours.load_cert_chain(certificate)
    theirs.check_hostname = False
    door = open_door(QUICK, ssl=ours)
    silent = door.client()
    for octets, status in ((GET, 200), (b"\x00", 400), (post(b"x", path=b"/later"), 503)):
        client = door.client()
        client.socket = theirs.wrap_socket(client.socket)
        assert client.send(octets).read().status == status
    assert door.send(GET).read_to_end().count(b"HTTP/1.1 200") == 0  # not TLS
    assert silent.read_to_end() == b""
    loud = [record.message for record in caplog.records if record.levelno > logging.INFO]
    assert not [line for line in loud if "no answer" not in line]


def test_seconds_of_garbage_leave_no_trace() -> None:
    drill = subprocess.run([sys.executable, "-m", "tests.drill.garbage", "--seconds", "2"], text=True,
                           cwd=Path(__file__).parent.parent, capture_output=True)
    assert drill.returncode == 0, drill.stdout + drill.stderr
