"""What `web/calls.py` promises about outgoing HTTP, against real servers that misbehave.

The law: no mocks; a fault is made by a server that really commits it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from minibot.errors import NoAnswer
from minibot.model import Call, Reply
from minibot.web.calls import Caller
from tests.servers import FaultServer, certificate, drip, pipe, raw, reply

CANARY = "7123456789:AAHcanary-Token_that-must-not-show"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def caller() -> Iterator[Caller]:
    made = Caller(clock=time.monotonic)
    yield made
    made.close()


@pytest.fixture(scope="module")
def cert(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    made = certificate(tmp_path_factory.mktemp("tls"))
    if made is None:
        pytest.skip("the openssl command is missing")
    return made


def post(server: FaultServer, path: str = "/send", body: bytes = b'{"text": "hi"}', **more: Any) -> Call:
    more.setdefault("timeout", 5.0)
    return Call("fake.send", "POST", f"{server.url}{path}", {"Content-Type": "application/json"}, body, **more)


def get(server: FaultServer, path: str = "/", **more: Any) -> Call:
    return Call("fake.get", "GET", f"{server.url}{path}", **more)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Every test ends, whatever a call does."""
    async def within() -> Any:
        async with asyncio.timeout(20):
            return await work
    return asyncio.run(within())


def perform(caller: Caller, *calls: Call) -> list[Reply]:
    async def one_by_one() -> list[Reply]:
        return [await caller.perform(call, "fake") for call in calls]
    found: list[Reply] = run(one_by_one())
    return found


def failure(caller: Caller, call: Call) -> NoAnswer:
    with pytest.raises(NoAnswer) as caught:
        perform(caller, call)
    return caught.value


# --- what is sent, what comes back ---------------------------------------------------------------------------------


def test_a_call_arrives_as_it_was_meant_and_its_answer_comes_back_whole(caller: Caller) -> None:
    with FaultServer(reply(200, {"ok": True}, X_Some="Thing")) as server:
        [answer] = perform(caller, post(server, "/bot123/send?x=1"))
        [visit] = server.visits
    assert (visit.method, visit.target, visit.body) == ("POST", "/bot123/send?x=1", b'{"text": "hi"}')
    assert visit.fields["user-agent"] == "minibot/1" and visit.fields["accept-encoding"] == "identity"
    assert visit.fields["content-type"] == "application/json" and visit.fields["content-length"] == "14"
    assert visit.fields["host"] == f"127.0.0.1:{server.port}" and "connection" not in visit.fields
    assert (answer.status, answer.fields["x-some"], answer.body) == (200, "Thing", b'{"ok": true}')


@pytest.mark.parametrize("status", [201, 204, 302, 400, 401, 404, 429, 500, 503])
def test_every_status_is_a_reply_and_no_redirect_is_followed(caller: Caller, status: int) -> None:
    body = b"" if status == 204 else b"why"
    with FaultServer(reply(status, body, Location="http://127.0.0.1:1/elsewhere", Retry_After="7")) as server:
        [answer] = perform(caller, post(server))
        assert len(server.visits) == 1
    assert (answer.status, answer.body, answer.fields["retry-after"]) == (status, body, "7")


@pytest.mark.parametrize("answer, body", [
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n3;x=y\r\n or\r\n0\r\nA: b\r\n\r\n",
     b"half or"),
    (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end", b"until the end"),
    (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok"),
    (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
], ids=["chunked", "until close", "old", "continue", "empty"])
def test_every_framing_of_an_answer_is_read(caller: Caller, answer: bytes, body: bytes) -> None:
    with FaultServer(raw(answer)) as server:
        assert perform(caller, post(server))[0].body == body


# --- connections ---------------------------------------------------------------------------------------------------


def test_calls_to_one_host_share_a_connection(caller: Caller) -> None:
    with FaultServer() as server:
        perform(caller, *[post(server)] * 5, get(server))
        assert (server.connections, len(server.visits)) == (1, 6)


def test_a_connection_that_the_server_closed_is_replaced_before_use(caller: Caller) -> None:
    with FaultServer() as server:
        perform(caller, post(server))
        server.drop_all()
        perform(caller, post(server))
        assert (server.connections, len(server.visits)) == (2, 2)


def test_bytes_that_nobody_asked_for_end_a_connection(caller: Caller) -> None:
    read, sent = threading.Event(), threading.Event()

    def more_than_asked(visit: Any) -> None:
        visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        read.wait(5)
        visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong")
        sent.set()

    with FaultServer(more_than_asked, reply(200, b"mine")) as server:
        [first] = perform(caller, post(server))
        read.set()
        sent.wait(5)
        [second] = perform(caller, post(server))
        assert (first.body, second.body, server.connections) == (b"ok", b"mine", 2)


def test_a_long_idle_connection_is_replaced() -> None:
    later = 0.0
    caller = Caller(clock=lambda: time.monotonic() + later)
    with FaultServer() as server:
        perform(caller, post(server))
        later = 31.0
        perform(caller, post(server))
        assert server.connections == 2
    caller.close()


def test_a_connection_that_will_close_or_was_not_read_out_is_not_kept(caller: Caller) -> None:
    with FaultServer(reply(200, b"x", Connection="close"), reply(103), reply(200, b"y" * 100), reply()) as server:
        perform(caller, post(server), post(server))
        failure(caller, post(server, max_bytes=10))
        perform(caller, post(server))
        assert server.connections == 4


def test_a_send_whose_kept_connection_breaks_after_it_was_written_is_unsure_and_not_repeated(caller: Caller) -> None:
    for fault in ("close", "reset"):
        with FaultServer(reply(), raw(b"", then=fault), reply()) as server:
            perform(caller, post(server))
            assert failure(caller, post(server)).unsure
            assert len(server.visits) == 2


def test_a_get_whose_kept_connection_breaks_is_repeated_on_a_new_one(caller: Caller) -> None:
    with FaultServer(reply(), raw(b"", then="reset"), reply(200, b"again")) as server:
        _, answer = perform(caller, get(server), get(server))
        assert (answer.body, server.connections, len(server.visits)) == (b"again", 2, 3)


def test_a_get_on_a_new_connection_is_not_repeated(caller: Caller) -> None:
    with FaultServer(raw(b"", then="reset"), reply()) as server:
        failure(caller, get(server))
        assert len(server.visits) == 1


def test_a_send_that_could_not_be_written_whole_goes_over_a_new_connection(caller: Caller) -> None:
    with FaultServer(on_head=lambda visit: visit.reset() if visit.target == "/big" and visit.connection == 1 else None
                     ) as server:
        perform(caller, post(server), post(server, "/big", b"x" * 20_000_000))
        assert server.connections == 2
        assert [len(visit.body) for visit in server.visits] == [14, 20_000_000]


# --- faults: is it sure that nothing happened? ---------------------------------------------------------------------

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: "
UNSURE = {
    "silence": lambda visit: visit.hang(),
    "closed": raw(b""),
    "reset": raw(b"", then="reset"),
    "half a head": raw(b"HTTP/1.1 200 OK\r\nConte"),
    "half a body": raw(HEAD + b"100\r\n\r\n{"),
    "half a chunk": raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{"),
    "reset in the body": raw(HEAD + b"100\r\n\r\n{", then="reset"),
    "garbage": raw(b"\x00\xff garbage\r\n\r\n"),
    "silence in the body": raw(HEAD + b"10\r\n\r\n{", then="hang"),
    "head byte by byte": drip(b"HTTP/1.1 200 OK\r\nX: ", again=b"x"),
    "body byte by byte": drip(HEAD + b"1000\r\n\r\n", again=b"x", pause=0.02),
    "chunks for ever": drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", again=b"1\r\nx\r\n", pause=0.02),
    "fields for ever": drip(b"HTTP/1.1 200 OK\r\n", again=b"X: " + b"y" * 1000 + b"\r\n", pause=0),
    "a field for ever": drip(b"HTTP/1.1 200 OK\r\nX: ", again=b"y" * 60_000, pause=0),
    "continue for ever": drip(b"", again=b"HTTP/1.1 100 Continue\r\n\r\n", pause=0),
    "a length of 4 GB": raw(HEAD + b"4294967296\r\n\r\n" + b"x" * 5000),
    "a length of 4 GB, kept": drip(HEAD + b"4294967296\r\n\r\n", again=b"x" * 60_000, pause=0),
    "a chunk of -1": drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", again=b"x" * 60_000, pause=0),
    "too long": reply(200, b"x" * 2000),
    "no end": drip(b"HTTP/1.1 200 OK\r\n\r\n", again=b"x" * 60_000, pause=0),
}


@pytest.mark.parametrize("fault", UNSURE)
def test_a_request_that_was_written_but_not_answered_is_unsure_within_its_time(caller: Caller, fault: str) -> None:
    with FaultServer(UNSURE[fault]) as server:
        error = failure(caller, post(server, timeout=0.4, max_bytes=1000))
        assert error.unsure
        assert len(server.visits) == 1
        assert str(error).startswith("fake.send: ")


def test_a_chunk_that_would_be_read_without_end_is_refused_at_once(caller: Caller) -> None:
    with FaultServer(UNSURE["a chunk of -1"]) as server:
        assert "IncompleteRead" in str(failure(caller, post(server, timeout=5, max_bytes=1000)))


def unlistened() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@pytest.mark.parametrize("url", [
    f"http://127.0.0.1:{unlistened()}/bot{CANARY}/x", f"https://127.0.0.1:{unlistened()}/bot{CANARY}/x",
    f"http://nowhere.invalid/bot{CANARY}/x", f"http://127.0.0.1:80/bot{CANARY} /x", f"http://127.0.0.1/bot{CANARY}\n/",
    f"http://127.0.0.1:port/bot{CANARY}", f"ftp://127.0.0.1/{CANARY}", f"file:///{CANARY}", f"data:,{CANARY}", CANARY,
    f"http://127.0.0.1/bot{CANARY}/\u0142", f"http://user:{CANARY}@127.0.0.1/", f"http://[::1/{CANARY}",
    f"http://{'a' * 70}.example/{CANARY}", f"http://\u0142.example/{CANARY}",
])
def test_a_request_that_never_left_is_surely_not_done_and_shows_no_secret(caller: Caller, url: str) -> None:
    error = failure(caller, Call("telegram.sendMessage", "POST", url, {"Authorization": f"Bearer {CANARY}"}, b"x"))
    assert not error.unsure
    assert_silent(error)
    assert str(error).startswith("telegram.sendMessage: ")


@pytest.mark.parametrize("value", [f"{CANARY}\r\nX-Evil: 1", f"{CANARY}\u0142", f"{CANARY}\n"])
def test_a_field_that_would_break_the_request_is_refused_unshown(caller: Caller, value: str) -> None:
    with FaultServer() as server:
        error = failure(caller, Call("fake.send", "POST", server.url, {"Authorization": value}, b"x"))
        assert not server.visits and not error.unsure
    assert_silent(error)


def assert_silent(error: BaseException) -> None:
    """Neither the text nor the traceback nor anything the error leads to shows the canary."""
    seen: BaseException | None = error
    while seen is not None:
        assert CANARY not in f"{seen!s} {seen!r} {vars(seen)}"
        assert CANARY not in "".join(traceback.format_exception(seen))
        seen = seen.__context__


def test_an_unsure_failure_shows_no_secret_either(caller: Caller) -> None:
    with FaultServer(raw(f"{CANARY} is no status line\r\n\r\n".encode())) as server:
        assert_silent(failure(caller, post(server, f"/bot{CANARY}/send")))


def test_a_server_that_does_not_read_ends_at_the_deadline_and_surely_did_nothing(caller: Caller) -> None:
    with FaultServer(on_head=lambda visit: visit.hang(10)) as server:
        error = failure(caller, post(server, body=b"x" * 20_000_000, timeout=0.5))
        assert not error.unsure and "sending" in str(error)


# --- TLS -----------------------------------------------------------------------------------------------------------


def test_https_is_kept_alive_once_the_certificate_is_trusted(
        caller: Caller, cert: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", cert[0])
    with FaultServer(reply(200, b"safe"), tls=cert) as server:
        caller.warm()
        answers = perform(caller, *[post(server)] * 3)
        assert [answer.body for answer in answers] == [b"safe"] * 3
        assert server.connections == 1


def test_an_untrusted_certificate_or_another_name_is_refused_before_anything_is_sent(
        cert: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultServer(tls=cert) as server:
        for trusted, url in ((False, server.url), (True, f"https://127.0.0.2:{server.port}")):
            if trusted:
                monkeypatch.setenv("SSL_CERT_FILE", cert[0])
            caller = Caller(clock=time.monotonic)
            error = failure(caller, Call("fake.send", "POST", f"{url}/{CANARY}", {}, b"x", timeout=5))
            caller.close()
            assert not error.unsure and "connecting" in str(error)
            assert_silent(error)
        assert not server.visits


def test_a_server_silent_in_the_handshake_ends_in_time(caller: Caller) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/"
        error = failure(caller, Call("fake.send", "POST", url, {}, b"x", timeout=0.5))
    assert not error.unsure


# --- proxies -------------------------------------------------------------------------------------------------------


def test_http_goes_through_the_proxy_of_the_environment_with_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultServer(reply(200, b"by proxy")) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.replace("//", "//user:pass@"))
        caller = Caller(clock=time.monotonic)
        call = Call("fake.get", "GET", "http://far.invalid/path?x")
        answers = perform(caller, call, call)
        caller.close()
        assert [answer.body for answer in answers] == [b"by proxy"] * 2 and proxy.connections == 1
        visit = proxy.visits[0]
    assert (visit.target, visit.fields["host"]) == ("http://far.invalid/path?x", "far.invalid")
    assert visit.fields["proxy-authorization"] == "Basic dXNlcjpwYXNz"


def test_no_proxy_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultServer() as server, FaultServer() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        caller = Caller(clock=time.monotonic)
        perform(caller, post(server))
        caller.close()
        assert (len(server.visits), len(proxy.visits)) == (1, 0)


def test_https_is_tunnelled_kept_and_hides_the_proxy_password_from_the_server(
        cert: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultServer(reply(200, b"inside"), tls=cert) as server, FaultServer(pipe) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("//", "//user:pass@"))
        monkeypatch.setenv("SSL_CERT_FILE", cert[0])
        caller = Caller(clock=time.monotonic)
        answers = perform(caller, *[post(server)] * 2)
        caller.close()
        assert [answer.body for answer in answers] == [b"inside"] * 2
        assert (proxy.visits[0].method, proxy.visits[0].target) == ("CONNECT", f"127.0.0.1:{server.port}")
        assert proxy.visits[0].fields["proxy-authorization"] == "Basic dXNlcjpwYXNz"
        assert (len(proxy.visits), server.connections) == (1, 1)
        assert all("proxy-authorization" not in visit.fields for visit in server.visits)


def test_a_proxy_that_refuses_or_babbles_is_surely_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    for plan in (reply(407), raw(b"nonsense\r\n\r\n"), drip(b"HTTP/1.1 200 OK\r\n", again=b"x")):
        with FaultServer(plan) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy.url)
            caller = Caller(clock=time.monotonic)
            error = failure(caller, Call("fake.send", "POST", f"https://far.invalid/{CANARY}", {}, b"x", timeout=0.5))
            caller.close()
            assert not error.unsure
            assert_silent(error)


# --- threads -------------------------------------------------------------------------------------------------------


def test_an_upstream_that_hangs_does_not_hold_up_another() -> None:
    async def both(caller: Caller, stuck: FaultServer, quick: FaultServer) -> None:
        hanging = [asyncio.ensure_future(caller.perform(post(stuck), "crm")) for _ in range(6)]
        for _ in range(10):
            await caller.perform(post(quick), "telegram")
        assert not any(task.done() for task in hanging)
        stuck.stopping.set()
        await asyncio.gather(*hanging, return_exceptions=True)

    def hang(visit: Any) -> None:
        visit.hang()
        visit.close()

    caller = Caller(clock=time.monotonic, threads=2)
    with FaultServer(hang) as stuck, FaultServer() as quick:
        run(both(caller, stuck, quick))
    caller.close()


def test_calls_of_one_upstream_run_side_by_side_up_to_its_threads() -> None:
    together = threading.Barrier(8, timeout=10)

    def meet(visit: Any) -> None:
        together.wait()
        reply()(visit)

    async def many(caller: Caller, server: FaultServer) -> None:
        await asyncio.gather(*(caller.perform(post(server), "fake") for _ in range(8)))

    caller = Caller(clock=time.monotonic, threads=8)
    with FaultServer(meet) as server:
        run(many(caller, server))
        assert server.connections == 8
    caller.close()


def test_a_call_nobody_waits_for_any_more_is_not_begun() -> None:
    async def cancelled(caller: Caller, server: FaultServer, release: Callable[[], None]) -> None:
        first = asyncio.ensure_future(caller.perform(post(server, "/first"), "fake"))
        second = asyncio.ensure_future(caller.perform(post(server, "/second"), "fake"))
        third = asyncio.ensure_future(caller.perform(post(server, "/third"), "fake"))
        while not server.visits:
            await asyncio.sleep(0.01)
        second.cancel()
        release()
        await asyncio.gather(first, third)

    caller = Caller(clock=time.monotonic, threads=1)
    go = threading.Event()

    def held(visit: Any) -> None:
        go.wait(10)
        reply()(visit)

    with FaultServer(held) as server:
        run(cancelled(caller, server, go.set))
        assert [visit.target for visit in server.visits] == ["/first", "/third"]
    caller.close()


def test_the_threads_end_when_the_caller_is_closed() -> None:
    before = set(threading.enumerate())
    caller = Caller(clock=time.monotonic)
    with FaultServer() as server:
        perform(caller, post(server), get(server))
        [worker] = [thread for thread in set(threading.enumerate()) - before if thread.daemon and
                    "_work" in repr(getattr(thread, "_target", None))]
        caller.close()
        worker.join(5)
        assert not worker.is_alive()


def test_a_fault_of_our_own_in_a_thread_still_ends_the_call() -> None:
    def broken(name: str) -> None:
        raise RuntimeError(CANARY)

    caller = Caller(clock=time.monotonic, point=broken)
    with FaultServer() as server:
        error = failure(caller, post(server))
    caller.close()
    assert_silent(error)


def test_the_crash_points_stand_around_the_write() -> None:
    seen: list[tuple[str, int]] = []
    with FaultServer() as server:
        caller = Caller(clock=time.monotonic, point=lambda name: seen.append((name, len(server.visits))))
        perform(caller, post(server))
        caller.close()
    assert [name for name, _ in seen] == ["call:fake.send:before", "call:fake.send:written", "call:fake.send:after"]
    assert (seen[0][1], seen[2][1]) == (0, 1)


def test_importing_the_door_loads_neither_ssl_nor_urllib() -> None:
    code = ("import sys, asyncio; old = set(sys.modules); import minibot.web.calls; new = set(sys.modules) - old; "
            "assert not {'ssl', 'urllib.request', 'http.client', 'concurrent.futures.thread', 'email'} & new, new")
    subprocess.run([sys.executable, "-c", code], check=True)
