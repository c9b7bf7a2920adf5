"""What `web/media.py` promises about fetching other people's pictures: whose servers, which addresses, what bytes.

The law: refusals are proved by what did not happen: no connection, no token, no byte too many.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any

import pytest

from minibot.errors import MinibotError, NoAnswer, Remedy, SendFailed
from minibot.model import Call, Reply
from minibot.web.calls import Caller
from minibot.web.media import Resolve, addresses, fetch, sniff
from tests.servers import FaultServer, Plan, drip, raw, reply

CANARY = "canary-token-that-must-not-show"
HOSTS = ("lookaside.fbsbx.com", ".fbcdn.net")
JPEG = b"\xff\xd8\xff\xe0picture"
watched: list[Any] = []  # addresses that were about to be connected to, while a test watches


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Sees every real connect; only those to the loopback go through."""
    if event == "socket.connect":
        watched.append(arguments[1])
        if arguments[1][0] not in ("127.0.0.1", "::1"):
            raise OSError(0, "this test connects to nobody outside")


@pytest.fixture(autouse=True)
def eyes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    if not getattr(sys, "_minibot_watch", False):  # an audit hook cannot be taken away again
        sys.addaudithook(lambda event, arguments: _watch(event, arguments) if watching else None)
        setattr(sys, "_minibot_watch", True)
    watched.clear()
    watching.append(True)
    yield
    watching.clear()


watching: list[bool] = []


@pytest.fixture
def caller() -> Iterator[Caller]:
    made = Caller(clock=time.monotonic)
    yield made
    made.close()


def at(*addresses: str) -> Resolve:
    return lambda host, port: list(addresses)


def download(caller: Caller, url: str, *origins: str, hosts: tuple[str, ...] = HOSTS, limit: int = 1000,
             resolve: Resolve = addresses, timeout: float = 5.0) -> bytes:
    async def once() -> bytes:
        async with asyncio.timeout(20):
            call = Call("fake.download", "GET", url, {"Authorization": f"Bearer {CANARY}"}, timeout=timeout)
            return await caller.download(call, hosts, origins, limit, resolve)
    return asyncio.run(once())


def refused(caller: Caller, url: str, *origins: str, **more: Any) -> MinibotError:
    with pytest.raises((SendFailed, NoAnswer)) as caught:
        download(caller, url, *origins, **more)
    seen: BaseException | None = caught.value
    while seen is not None:
        assert CANARY not in f"{seen!s} {seen!r}" + "".join(traceback.format_exception(seen))
        seen = seen.__context__
    return caught.value


def code(error: MinibotError) -> str:
    assert isinstance(error, SendFailed) and error.remedy is Remedy.REFUSED
    return error.code


# --- whose servers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", [
    "http://lookaside.fbsbx.com/x", "https://lookaside.fbsbx.com:8443/x", "https://user@lookaside.fbsbx.com/x",
    "https://lookaside.fbsbx.com@evil.example/x", "https://evil.example/x", "https://lookaside.fbsbx.com.evil.com/x",
    "https://evillookaside.fbsbx.com/x", "https://xfbcdn.net/x", "https://fbcdn.net/x", "https://.fbcdn.net.evil/x",
    "https://127.0.0.1/x", "https://169.254.169.254/latest", "https://[::1]/x", "https://localhost/x",
    "https://127.1/x", "https://2130706433/x", "https://0177.0.0.1/x", "https://lookaside.fbsbx.com\\@evil.example/x",
    "https://evil.example#lookaside.fbsbx.com/x", "https://evil.example?.fbcdn.net/x", "https://lookaside.fbsbx.com",
    "https://lookaside.fbsbx.com%00.evil.example/x", "https://l\u00f6okaside.fbsbx.com/x", "//lookaside.fbsbx.com/x",
    "file:///etc/passwd", "data:,x", "ftp://lookaside.fbsbx.com/x", "gopher://lookaside.fbsbx.com/x", "", "x",
    "HTTPS://EVIL.example/x", "https://a.fbcdn.net:443:8443/x", "https:/a.fbcdn.net/x", "https:a.fbcdn.net",
    "http://127.0.0.1:8081@evil.example/x", "http://127.0.0.1:80810/x",
])
def test_only_the_platforms_own_hosts_are_asked(caller: Caller, url: str) -> None:
    assert code(refused(caller, url, "http://127.0.0.1:8081")) == "host"
    assert not watched


@pytest.mark.parametrize("address", [
    "127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
    "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "::1", "::", "fe80::1", "fc00::1", "ff02::1",
    "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b:1::a00:1", "2002:7f00:1::", "2001::1",
    "::7f00:1", "2001:db8::1", "fec0::1",
])
def test_a_name_that_leads_to_an_address_which_is_not_public_is_refused(caller: Caller, address: str) -> None:
    for answers in ((address,), ("8.8.8.8", address), (address, "8.8.8.8")):
        assert code(refused(caller, "https://scontent.fbcdn.net/x", resolve=at(*answers))) == "address"
    assert not watched


def test_the_address_that_was_checked_is_the_one_connected_to(caller: Caller) -> None:
    asked: list[tuple[str, int]] = []

    def rebinding(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return ["9.9.9.9"] if len(asked) == 1 else ["127.0.0.1"]

    error = refused(caller, "https://scontent.fbcdn.net/x", resolve=rebinding)
    assert isinstance(error, NoAnswer) and not error.unsure
    assert asked == [("scontent.fbcdn.net", 443)]
    assert [found[:2] for found in watched] == [("9.9.9.9", 443)]


def test_an_ipv6_address_that_is_public_is_connected_to(caller: Caller) -> None:
    refused(caller, "https://lookaside.fbsbx.com:443/x", resolve=at("2a03:2880:f0ff::1"))
    assert [found[:2] for found in watched] == [("2a03:2880:f0ff::1", 443)]


def test_a_name_that_does_not_resolve_is_a_passing_fault(caller: Caller) -> None:
    def nothing(host: str, port: int) -> list[str]:
        raise OSError(0, "no such name")

    for resolve in (nothing, at()):
        assert isinstance(refused(caller, "https://lookaside.fbsbx.com/x", resolve=resolve), NoAnswer)


# --- the origins from the settings ---------------------------------------------------------------------------------


def test_an_origin_from_the_settings_is_trusted_as_it_is(caller: Caller) -> None:
    with FaultServer(reply(200, JPEG)) as server:
        assert download(caller, f"{server.url}/file/botX/photo.jpg", server.url) == JPEG
        assert server.visits[0].fields["authorization"] == f"Bearer {CANARY}"
        assert server.visits[0].fields["user-agent"]


def test_another_port_of_the_same_machine_is_not_that_origin(caller: Caller) -> None:
    with FaultServer(reply(200, JPEG)) as server:
        assert code(refused(caller, f"{server.url}/x", f"http://127.0.0.1:{server.port - 1}")) == "host"
        assert code(refused(caller, f"{server.url}/x", server.url[:-1])) == "host"
        assert not server.visits


def test_redirects_within_an_origin_keep_the_token_and_those_outside_lose_it(caller: Caller) -> None:
    with FaultServer(reply(200, JPEG)) as other, FaultServer(
            reply(302, Location="/second"), reply(307, Location="third?x"), reply(200, JPEG)) as server:
        assert download(caller, f"{server.url}/first", server.url, other.url) == JPEG
        assert [visit.target for visit in server.visits] == ["/first", "/second", "/third?x"]
        assert all("authorization" in visit.fields for visit in server.visits)
        server.plans[:] = [reply(302, Location=f"{other.url}/there")]
        assert download(caller, f"{server.url}/first", server.url, other.url) == JPEG
        assert "authorization" not in other.visits[0].fields and other.visits[0].fields["user-agent"] == "minibot/1"


@pytest.mark.parametrize("location", ["http://169.254.169.254/latest", "https://evil.example/x", "file:///etc/passwd",
                                      "http://127.0.0.1:1/x", "//evil.example/x", "", "\\\\evil", "https://[::1"])
def test_a_redirect_is_checked_like_the_first_url(caller: Caller, location: str) -> None:
    with FaultServer(reply(302, Location=location)) as server:
        refused(caller, f"{server.url}/x", server.url)
        assert {found[1] for found in watched} == {server.port}


def test_a_foreign_host_cannot_send_us_to_an_origin_of_ours(caller: Caller) -> None:
    asked: list[str] = []

    def perform(call: Call, pin: Any) -> Reply:
        asked.append(call.url)
        return Reply(302, {"location": "http://127.0.0.1:8081/bot/secrets"}, b"")

    with pytest.raises(SendFailed):
        fetch(perform, time.monotonic, Call("x", "GET", "https://a.fbcdn.net/x"), HOSTS, ("http://127.0.0.1:8081",), 10,
              addresses)
    assert asked == ["https://a.fbcdn.net/x"]


def test_redirects_for_ever_end(caller: Caller) -> None:
    with FaultServer(reply(302, Location="/again")) as server:
        assert code(refused(caller, f"{server.url}/x", server.url)) == "redirects"
        assert len(server.visits) == 4


# --- what comes back -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status, passing", [(400, False), (401, False), (403, False), (404, False), (410, False),
                                             (304, False), (408, True), (429, True), (500, True), (503, True)])
def test_a_status_that_brings_no_picture_is_told_apart(caller: Caller, status: int, passing: bool) -> None:
    with FaultServer(reply(status, b"")) as server:
        error = refused(caller, f"{server.url}/x", server.url)
    assert isinstance(error, NoAnswer) if passing else code(error) == str(status)


@pytest.mark.parametrize("plan", [
    reply(200, b"x" * 1001), raw(b"HTTP/1.1 200 OK\r\nContent-Length: 4294967296\r\n\r\n" + b"x" * 3000),
    drip(b"HTTP/1.1 200 OK\r\n\r\n", again=b"x" * 500, pause=0), drip(b"HTTP/1.1 200 OK\r\n\r\n", again=b"x"),
    raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx"), lambda visit: visit.hang(),
], ids=["too long", "a length of 4 GB", "no end", "a byte now and then", "half", "silence"])
def test_a_download_is_bounded_in_bytes_and_in_time(caller: Caller, plan: Plan) -> None:
    with FaultServer(plan) as server:
        refused(caller, f"{server.url}/x", server.url, timeout=0.5)


def test_all_hops_of_a_download_share_one_deadline(caller: Caller) -> None:
    def slow(visit: Any) -> None:
        visit.hang(0.3)
        reply(302, Location="/x")(visit)

    with FaultServer(slow) as server:
        assert isinstance(refused(caller, f"{server.url}/x", server.url, timeout=0.5), NoAnswer)


def test_a_download_may_be_as_long_as_its_limit(caller: Caller) -> None:
    with FaultServer(reply(200, b"x" * 3_000_000)) as server:
        assert len(download(caller, f"{server.url}/x", server.url, limit=3_000_000)) == 3_000_000


@pytest.mark.parametrize("content, mime", [
    (JPEG, "image/jpeg"), (b"\x89PNG\r\n\x1a\n\0", "image/png"), (b"GIF89a", "image/gif"), (b"GIF87a", "image/gif"),
    (b"RIFF\x10\n\x00\x00WEBPVP8 ", "image/webp"), (b"OggS\0", "audio/ogg"), (b"ID3\x04", "audio/mpeg"),
    (b"\xff\xfb\x90", "audio/mpeg"), (b"\xff\xf3\x90", "audio/mpeg"), (b"\0\0\0\x1cftypM4A ", "audio/mp4"),
    (b"RIFF\0\0\0\0WAVEfmt ", "audio/wav"), (b"fLaC\0", "audio/flac"), (b"\0\0\0\x18ftypisom", "video/mp4"),
    (b"\0\0\0\x18ftypmp42", "video/mp4"), (b"\0\0\0\x18ftypheic", ""), (b"\0\0\0\x18ftypavif", ""), (b"", ""),
    (b"<html>", ""), (b"%PDF-1.7", ""), (b"GIF88a", ""), (b"\xff\xf1\x50", ""), (b"#!AMR\n", ""), (b"\xff\xd8", ""),
])
def test_the_bytes_tell_what_they_are(content: bytes, mime: str) -> None:
    assert sniff(content) == mime
