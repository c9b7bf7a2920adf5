"""What the parser takes, what it refuses and with which status, and when: tables, each fed in four ways.

Whole, octet by octet, in random pieces, and with something behind it. The tables are the specification; a case has
a name of its own so that a failure reads like a sentence. Not here: sockets and time (`test_server.py`).

Next: `test_server.py`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from minibot.errors import Refused
from minibot.model import Request, Response
from minibot.web.routes import Routes
from minibot.web.limits import Limits
from minibot.web.wire import Heads, Parser, render

END = b"\r\n\r\n"
Case = tuple[bytes, object]


def get(target: bytes = b"/", fields: bytes = b"Host: a\r\n", version: bytes = b"HTTP/1.1") -> bytes:
    return b"GET " + target + b" " + version + b"\r\n" + fields + b"\r\n"


def post(fields: bytes, body: bytes = b"", version: bytes = b"HTTP/1.1") -> bytes:
    return b"POST / " + version + b"\r\nHost: a\r\n" + fields + b"\r\n" + body


def chunked(body: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked\r\n", body)


def any_path(method: str, path: str) -> None:
    """A screen that lets everything pass."""


def outcome(pieces: Iterator[bytes], screen: Callable[[str, str], object] = any_path,
            limits: Limits = Limits()) -> list[object]:
    """Requests in the order understood; a last int is the status that ended it, a last None an unfinished request."""
    parser, seen = Parser(limits, screen), list[object]()
    for piece in pieces:
        parser.feed(piece)
        try:
            while request := parser.next():
                seen.append(request)
        except Refused as refused:
            return [*seen, refused.status]
    return [*seen, None] if parser.begun else seen


def whole(octets: bytes) -> Iterator[bytes]:
    yield octets


def single(octets: bytes) -> Iterator[bytes]:
    return (octets[at:at + 1] for at in range(len(octets)))


def pieces(octets: bytes) -> Iterator[bytes]:
    chance = random.Random(octets)
    while octets:
        cut = chance.randint(1, 1 + chance.choice((2, 7, len(octets))))
        yield octets[:cut]
        octets = octets[cut:]


WAYS = (whole, single, pieces)

BODIES: dict[str, Case] = {
    "no length means no body": (post(b""), b""),
    "a length": (post(b"Content-Length: 5\r\n", b"hello"), b"hello"),
    "a length with leading zeros": (post(b"Content-Length: 0005\r\n", b"hello"), b"hello"),
    "a length with more zeros than int() would take": (
        post(b"Content-Length: " + b"0" * 5000 + b"5\r\n", b"hello"), b"hello"),
    "a length between tabs and spaces": (post(b"Content-Length: \t 5 \t\r\n", b"hello"), b"hello"),
    "a length of zero": (post(b"Content-Length: 0\r\n"), b""),
    "a body that looks like a request": (
        post(b"Content-Length: 18\r\n", b"GET / HTTP/1.1\r\n\r\n"), b"GET / HTTP/1.1\r\n\r\n"),
    "a body on GET": (get(fields=b"Host: a\r\nContent-Length: 2\r\n") + b"ab", b"ab"),
    "chunks": (chunked(b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"), b"hello world"),
    "no chunks": (chunked(b"0\r\n\r\n"), b""),
    "hexadecimal of both cases": (
        chunked(b"a\r\n0123456789\r\nB\r\n0123456789a\r\n0\r\n\r\n"), b"01234567890123456789a"),
    "a size with leading zeros": (chunked(b"000000000000005\r\nhello\r\n000\r\n\r\n"), b"hello"),
    "line ends inside a chunk": (chunked(b"4\r\n\r\n\r\n\r\n0\r\n\r\n"), END),
    "extensions": (chunked(b"5;a;b=c;d=\"e;\\\"\xe9\"\r\nhello\r\n0;z\r\n\r\n"), b"hello"),
    "extensions with blanks": (chunked(b"5 ; a = b\t;c\r\nhello\r\n0\r\n\r\n"), b"hello"),
    "trailers": (chunked(b"5\r\nhello\r\n0\r\nX-Sum: 1\r\nContent-Length: 9\r\n\r\n"), b"hello"),
    "TE in capitals": (post(b"TRANSFER-ENCODING: CHUNKED\r\n", b"1\r\nx\r\n0\r\n\r\n"), b"x"),
    "TE with empty elements": (post(b"Transfer-Encoding: , chunked,,\r\n", b"1\r\nx\r\n0\r\n\r\n"), b"x"),
    "TE behind a tab": (post(b"Transfer-Encoding:\tchunked\r\n", b"1\r\nx\r\n0\r\n\r\n"), b"x"),
    "six thousand chunks of one octet": (chunked(b"1\r\nx\r\n" * 6000 + b"0\r\n\r\n"), b"x" * 6000),
}

TARGETS: dict[str, Case] = {
    "a path": (get(b"/a/b"), ("/a/b", "")),
    "a query": (get(b"/a?b=c&d?e"), ("/a", "b=c&d?e")),
    "a path as it came": (get(b"//a/../%2e%00%ff;x"), ("//a/../%2e%00%ff;x", "")),
    "absolute form": (get(b"http://other:80/a?b"), ("/a", "b")),
    "absolute form in capitals": (get(b"HTTPS://[::1]/a"), ("/a", "")),
    "absolute form without a path": (get(b"http://other"), ("/", "")),
    "absolute form with a query alone": (get(b"http://other?b"), ("/", "b")),
    "8000 octets of target": (get(b"/" + b"a" * 7999), ("/" + "a" * 7999, "")),
    "HTTP/1.0 without a host": (get(fields=b"", version=b"HTTP/1.0"), ("/", "")),
    "HTTP/1.2 as 1.1": (get(version=b"HTTP/1.2"), ("/", "")),
    "up to four empty lines before it": (b"\r\n" * 4 + get(), ("/", "")),
    "all options": (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", ("*", "")),
    "a hundred fields": (get(fields=b"Host: a\r\n" + b"X: y\r\n" * 99), ("/", "")),
    "a head of nearly 32 KiB": (get(fields=b"Host: a\r\nX: " + b"y" * 32740 + b"\r\n"), ("/", "")),
    "a field without a value": (get(fields=b"Host: a\r\nX:\r\nY: \t \r\n"), ("/", "")),
    "every octet a value may have": (
        get(fields=b"Host: a\r\nX: " + bytes({9, *range(32, 256)} - {127}) + b"\r\n"), ("/", "")),
}

GOOD_HOSTS = (b"example.org", b"example.org:80", b"example.org:", b"127.0.0.1:8000", b"[::1]", b"[::1]:80", b"a_b~c",
              b"[2001:db8::192.0.2.1]:1", b"[v1.a:b]", b"%41", b"a!$&'()*+,;=b")
BAD_HOSTS = (b"", b" ", b":80", b"a:8o", b"a:80:80", b"a:-1", b"a: 80", b"[::1", b"::1", b"[]", b"[1:2]", b"[::1]x",
             b"[::g]",
             b"[::1%25eth0]", b"[v1]", b"u@a", b"u:p@a", b"a/b", b"a?b", b"a#b", b"a b", b"a, b", b"<a>", b"a\\b",
             b"a\xe9", b"%4",
             b"%zz", b"http://a", b'"a"', b"a|b", b"a^b", b"a`b", b"{a}", b"[a]", b"a\tb")

REFUSED: dict[str, Case] = {
    # lines
    "LF alone after the request line": (b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400),
    "LF alone after a field": (b"GET / HTTP/1.1\r\nHost: a\n\r\n", 400),
    "LF alone everywhere": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "CR alone after the request line": (b"GET / HTTP/1.1\rHost: a\r\n\r\n", 400),
    "CR alone in a value": (get(fields=b"Host: a\r\nX: b\rc\r\n"), 400),
    "CR CR LF": (b"GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", 400),
    "LF CR": (b"GET / HTTP/1.1\n\rHost: a\r\n\r\n", 400),
    "five empty lines": (b"\r\n" * 5 + get(), 400),
    "an empty line by LF": (b"\n" + get(), 400),
    "a blank before the method": (b" " + get(), 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "binary": (b"\x00\xff\x80", 400),
    # request line
    "two spaces": (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a tab": (b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a space in the target": (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a trailing space": (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400),
    "no target": (b"GET HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "no version": (b"GET /\r\n\r\n", 400),
    "HTTP in lower case": (get(version=b"http/1.1"), 400),
    "no minor version": (get(version=b"HTTP/1"), 400),
    "two digits": (get(version=b"HTTP/1.10"), 400),
    "a leading zero": (get(version=b"HTTP/01.1"), 400),
    "a comma": (get(version=b"HTTP/1,1"), 400),
    "digits of another script": (get(version="HTTP/1.١".encode()), 400),
    "HTTP/2.0": (get(version=b"HTTP/2.0"), 505),
    "HTTP/3.0": (get(version=b"HTTP/3.0"), 505),
    "HTTP/9.9": (get(version=b"HTTP/9.9"), 505),
    "HTTP/0.9": (get(version=b"HTTP/0.9"), 505),
    "HTTP/2's preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "a method that is no token": (b"GE(T / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a method in lower case": (b"get / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    "an unknown method": (b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    "an unknown method with broken framing": (b"BREW / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", 400),
    "CONNECT": (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    "CONNECT without an authority": (b"CONNECT a@b:443 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a target of 9000": (get(b"/" + b"a" * 9000), 414),
    "a target of a MiB": (get(b"/" + b"a" * (1 << 20)), 414),
    "a method of 9000": (b"A" * 9000 + get(), 414),
    # target
    "a fragment": (get(b"/a#b"), 400),
    "a control character": (get(b"/a\x01"), 400),
    "NUL": (get(b"/\x00"), 400),
    "DEL": (get(b"/\x7f"), 400),
    "non-ASCII": (get("/é".encode()), 400),
    "a relative target": (get(b"a"), 400),
    "* with GET": (get(b"*"), 400),
    "an authority with GET": (get(b"a:80"), 400),
    "another scheme": (get(b"ftp://a/"), 400),
    "absolute form without a host": (get(b"http:///a"), 400),
    "absolute form with a port alone": (get(b"http://:80/a"), 400),
    "absolute form with user information": (get(b"http://u@a/"), 400),
    "absolute form without Host": (get(b"http://a/", fields=b""), 400),
    # fields
    "a space before the colon": (get(fields=b"Host : a\r\n"), 400),
    "a tab before the colon": (get(fields=b"Host\t: a\r\n"), 400),
    "a folded line": (get(fields=b"Host: a\r\nX: b\r\n c\r\n"), 400),
    "a folded first line": (get(fields=b" Host: a\r\n"), 400),
    "a line of blanks": (get(fields=b"Host: a\r\n \r\n"), 400),
    "no colon": (get(fields=b"Host: a\r\nX\r\n"), 400),
    "no name": (get(fields=b"Host: a\r\n: b\r\n"), 400),
    "brackets in a name": (get(fields=b"Host: a\r\nX[: b\r\n"), 400),
    "non-ASCII in a name": (get(fields=b"Host: a\r\nX\xc3\xab: b\r\n"), 400),
    "junk before a good field": (get(fields=b"Host: a\r\njunk X: b\r\n"), 400),
    "NUL in a value": (get(fields=b"Host: a\r\nX: \x00\r\n"), 400),
    "a vertical tab in a value": (get(fields=b"Host: a\r\nX: b\x0b\r\n"), 400),
    "DEL in a value": (get(fields=b"Host: a\r\nX: \x7f\r\n"), 400),
    "no Host": (get(fields=b""), 400),
    "two Hosts": (get(fields=b"Host: a\r\nHost: b\r\n"), 400),
    "two equal Hosts": (get(fields=b"Host: a\r\nHost: a\r\n"), 400),
    "two Hosts on HTTP/1.0": (get(fields=b"Host: a\r\nHost: a\r\n", version=b"HTTP/1.0"), 400),
    "a bad Host on HTTP/1.0": (get(fields=b"Host: a/b\r\n", version=b"HTTP/1.0"), 400),
    "101 fields": (get(fields=b"Host: a\r\n" + b"X: y\r\n" * 100), 431),
    "10,000 fields": (get(fields=b"Host: a\r\n" + b"X: y\r\n" * 10000), 431),
    "a value of 40,000": (get(fields=b"Host: a\r\nX: " + b"y" * 40000 + b"\r\n"), 431),
    "a name of 40,000": (get(fields=b"Host: a\r\n" + b"X" * 40000 + b": y\r\n"), 431),
    # framing
    "length and chunked": (post(b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"), 400),
    "chunked and length": (post(b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", b"0\r\n\r\n"), 400),
    "chunked and length on GET": (get(fields=b"Host: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n"), 400),
    "unknown coding and length": (post(b"Transfer-Encoding: xchunked\r\nContent-Length: 5\r\n", b"hello"), 400),
    "chunked on HTTP/1.0": (post(b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n", b"HTTP/1.0"), 400),
    "xchunked": (post(b"Transfer-Encoding: xchunked\r\n"), 400),
    "identity": (post(b"Transfer-Encoding: identity\r\n"), 400),
    "chunked not last": (post(b"Transfer-Encoding: chunked, identity\r\n"), 400),
    "chunked not last, in two lines": (post(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"), 400),
    "chunked with a parameter": (post(b"Transfer-Encoding: chunked;a=b\r\n"), 400),
    "chunked in quotes": (post(b'Transfer-Encoding: "chunked"\r\n'), 400),
    "an empty coding": (post(b"Transfer-Encoding:\r\n"), 400),
    "a coding with a vertical tab": (post(b"Transfer-Encoding: \x0bchunked\r\n"), 400),
    "a coding that only Unicode lower-cases to chunked": (post("Transfer-Encoding: chun\u212aed\r\n".encode()), 400),
    "gzip, chunked": (post(b"Transfer-Encoding: gzip, chunked\r\n"), 501),
    "chunked, chunked": (post(b"Transfer-Encoding: chunked, chunked\r\n"), 501),
    "two lengths": (post(b"Content-Length: 5\r\nContent-Length: 6\r\n", b"hello"), 400),
    "two equal lengths": (post(b"Content-Length: 5\r\nContent-Length: 5\r\n", b"hello"), 400),
    **{f"a length of {length!r}": (post(b"Content-Length: " + length + b"\r\n", b"hello"), 400) for length in (
        b"", b"+5", b"-5", b"-0", b"5,5", b"5, 5", b"1_0", b"0x5", b"5.0", b"5 5", b"five", b"5;", b"\xd9\xa3", b"\xb2",
        b"5\x0b")},
    "a length over the limit": (post(b"Content-Length: 4194305\r\n"), 413),
    "a length of twenty digits": (post(b"Content-Length: 99999999999999999999\r\n"), 413),
    "a length of five thousand digits": (post(b"Content-Length: " + b"9" * 5000 + b"\r\n"), 413),
    # chunks
    **{f"a chunk size of {size!r}": (chunked(size + b"\r\nhello\r\n0\r\n\r\n"), 400) for size in (
        b"", b" 5", b"5 ", b"5\t", b"0x5", b"+5", b"-5", b"5_0", b"g", b"5;", b"5;;", b"5; ", b"5;=b", b"5;a=",
        b'5;a="',
        b"5;a b", b"5;a=b c", b"5;\x00", b"5;a=\x7f", b"5;a\rb", b"5\r", "٥".encode(), b"0000000000000005",
        b"5;" + b"a" * 600)},
    "a chunk line ended by LF": (chunked(b"5\nhello\r\n0\r\n\r\n"), 400),
    "a chunk extension ended by LF": (chunked(b"5;a\nhello\r\n0\r\n\r\n"), 400),
    "chunk data ended by LF": (chunked(b"5\r\nhello\n0\r\n\r\n"), 400),
    "chunk data ended by CR": (chunked(b"5\r\nhello\r0\r\n\r\n"), 400),
    "chunk data longer than announced": (chunked(b"5\r\nhello!\r\n0\r\n\r\n"), 400),
    "chunk data without an end": (chunked(b"5\r\nhello0\r\n\r\n"), 400),
    "a last chunk ended by LF": (chunked(b"0\n\r\n"), 400),
    "a trailer section ended by LF": (chunked(b"0\r\n\n"), 400),
    "a trailer ended by LF": (chunked(b"0\r\nX: y\n\r\n"), 400),
    "a malformed trailer": (chunked(b"0\r\nX : y\r\n\r\n"), 400),
    "a folded trailer": (chunked(b"0\r\nX: y\r\n z\r\n\r\n"), 400),
    "a trailer of 9000": (chunked(b"0\r\nX: " + b"y" * 9000 + b"\r\n\r\n"), 431),
    "101 trailers": (chunked(b"0\r\n" + b"X: y\r\n" * 101 + b"\r\n"), 431),
    "a chunk over the limit": (chunked(b"400001\r\n"), 413),
    "a chunk of fifteen digits": (chunked(b"fffffffffffffff\r\n"), 413),
    "chunks over the limit in sum": (chunked(b"3fffff\r\n" + b"x" * 0x3FFFFF + b"\r\n2\r\n"), 413),
    "17 KiB of extensions": (chunked((b"1;" + b"a" * 500 + b"\r\nx\r\n") * 35), 400),
    # expectations
    "an unknown expectation": (post(b"Expect: 200-ok\r\nContent-Length: 1\r\n", b"x"), 417),
    "two expectations": (post(b"Expect: 100-continue, x\r\nContent-Length: 1\r\n", b"x"), 417),
    "an expectation over the limit": (post(b"Expect: 100-continue\r\nContent-Length: 4194305\r\n"), 413),
    # encodings
    "a compressed body": (post(b"Content-Encoding: gzip\r\nContent-Length: 1\r\n", b"x"), 415),
    "a compressed body in chunks": (post(b"Content-Encoding: GZIP\r\nTransfer-Encoding: chunked\r\n"), 415),
}

AT_ONCE: dict[str, Case] = {  # nothing may be waited for: what is here is wrong already
    "the first octet": (b"\x16", 400),
    "LF first": (b"\n", 400),
    "CR and something": (b"\rG", 400),
    "LF in the request line": (b"GET / HTTP/1.1\n", 400),
    "LF in the middle of a request line": (b"GET /\n", 400),
    "CR without LF": (b"GET /\rx", 400),
    "a complete bad request line": (b"GET /\r\n", 400),
    "a complete request line of another version": (b"GET / HTTP/2.0\r\n", 505),
    "LF in the fields": (b"GET / HTTP/1.1\r\nHost: a\n", 400),
    "a request line without an end": (b"GET /" + b"a" * 9000, 414),
    "a field without an end": (b"GET / HTTP/1.1\r\nX: " + b"a" * 33000, 431),
    "LF in a chunk line": (chunked(b"5\n"), 400),
    "CR in a chunk line": (chunked(b"5\rx"), 400),
    "no digit in a chunk line": (chunked(b"x"), 400),
    "a sixteenth digit": (chunked(b"0" * 16), 400),
    "a chunk line without an end": (chunked(b"5;" + b"a" * 520), 400),
    "LF behind chunk data": (chunked(b"1\r\nx\n"), 400),
    "something else behind chunk data": (chunked(b"1\r\nxy"), 400),
    "LF in the trailers": (chunked(b"0\r\nX: y\n"), 400),
    "trailers without an end": (chunked(b"0\r\nX: " + b"y" * 8200), 431),
    "a body over the limit": (post(b"Content-Length: 4194305\r\n"), 413),
}

UNFINISHED = (b"G", b"GET / HTTP/1.1\r", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: a\r",
              b"GET / HTTP/1.1\r\nHost: a\r\n\r",
              get()[:-1], post(b"Content-Length: 5\r\n", b"hell"), chunked(b""), chunked(b"5"), chunked(b"5;a"),
              chunked(b"5\r"),
              chunked(b"5\r\n"), chunked(b"5\r\nhello"), chunked(b"5\r\nhello\r"), chunked(b"5\r\nhello\r\n0\r\n"),
              chunked(b"0\r\n\r"), chunked(b"0\r\nX: y\r\n"), chunked(b"0\r\nX: y\r\n\r"), b"\r")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", BODIES)
def test_a_body_ends_where_its_framing_says(name: str, way: Callable[[bytes], Iterator[bytes]]) -> None:
    octets, body = BODIES[name]
    bare = outcome(way(octets))
    followed = outcome(way(octets + get(b"/next")))
    assert [getattr(request, "body", request) for request in bare] == [body]
    assert [getattr(request, "path", request) for request in followed] == ["/", "/next"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", TARGETS)
def test_a_target_is_taken_as_it_came(name: str, way: Callable[[bytes], Iterator[bytes]]) -> None:
    octets, expected = TARGETS[name]
    (request,) = outcome(way(octets))
    assert isinstance(request, Request) and (request.path, request.query) == expected


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", REFUSED)
def test_what_the_grammar_forbids_is_refused(name: str, way: Callable[[bytes], Iterator[bytes]]) -> None:
    octets, status = REFUSED[name]
    if way is single and len(octets) > 50_000:
        way = pieces  # a million calls would only take time
    assert outcome(way(octets)) == [status]
    assert outcome(way(octets + get(b"/smuggled"))) == [status]
    assert outcome(way(get(b"/first") + octets))[1:] == [status]


@pytest.mark.parametrize("name", AT_ONCE)
def test_what_is_wrong_already_is_not_waited_for(name: str) -> None:
    octets, status = AT_ONCE[name]
    assert outcome(whole(octets)) == [status]
    assert outcome(single(octets)) == [status]


@pytest.mark.parametrize("octets", UNFINISHED)
def test_an_unfinished_request_is_never_handed_on(octets: bytes) -> None:
    assert outcome(whole(octets)) == [None]
    assert outcome(single(octets)) == [None]


def test_trailers_in_pieces_do_not_hide_the_head_behind_them() -> None:
    long_trailers = chunked(b"0\r\n" + b"X: y\r\n" * 50)
    assert None not in outcome(iter((long_trailers, b"\r\n", b"GET / HTTP/1.0\r\n\r\n")))


def test_every_cut_of_a_good_stream_gives_the_same_requests() -> None:
    stream = chunked(b"5;a\r\nhello\r\n0\r\nX: y\r\n\r\n") + b"\r\n" + post(b"Content-Length: 3\r\n", b"abc") + get()
    expected = outcome(whole(stream))
    assert len(expected) == 3
    for cut in range(1, len(stream)):
        assert outcome(iter((stream[:cut], stream[cut:]))) == expected


@pytest.mark.parametrize("host", GOOD_HOSTS)
def test_a_valid_host_is_taken(host: bytes) -> None:
    assert len(outcome(whole(get(fields=b"Host: " + host + b"\r\n")))) == 1
    assert isinstance(outcome(whole(get(b"http://" + host + b"/")))[0], Request)


@pytest.mark.parametrize("host", BAD_HOSTS)
def test_an_invalid_host_is_refused(host: bytes) -> None:
    assert outcome(whole(get(fields=b"Host: " + host + b"\r\n"))) == [400]


def test_fields_come_in_order_with_lower_case_names_and_bare_values() -> None:
    (request,) = outcome(whole(get(fields=b"HOST: a\r\nX-B:  c d \t\r\nx-b:\xe9\r\n")))
    assert isinstance(request, Request)
    assert request.fields == ((b"host", b"a"), (b"x-b", b"c d"), (b"x-b", b"\xe9"))


@pytest.mark.parametrize("fields, version, persist", [
    (b"", b"HTTP/1.1", True),
    (b"Connection: close\r\n", b"HTTP/1.1", False),
    (b"Connection: foo, CLOSE\r\n", b"HTTP/1.1", False),
    (b"Connection: foo\r\nConnection: close\r\n", b"HTTP/1.1", False),
    (b"Connection: keep-alive\r\n", b"HTTP/1.1", True),
    (b"Connection: closed\r\n", b"HTTP/1.1", True),
    (b"", b"HTTP/1.0", False),
    (b"Connection: Keep-Alive\r\n", b"HTTP/1.0", True),
    (b"Connection: keep-alive, close\r\n", b"HTTP/1.0", False)])
def test_the_connection_persists_as_both_sides_understand(fields: bytes, version: bytes, persist: bool) -> None:
    parser = Parser(Limits(), any_path)
    parser.feed(get(fields=b"Host: a\r\n" + fields, version=version))
    assert parser.next() and parser.persist is persist


@pytest.mark.parametrize("head, body, expecting", [
    (post(b"Expect: 100-Continue\r\nContent-Length: 2\r\n"), b"", True),
    (post(b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n"), b"", True),
    (post(b"Expect: 100-continue\r\nContent-Length: 2\r\n"), b"x", False),
    (post(b"Expect: 100-continue\r\nContent-Length: 0\r\n"), b"", False),
    (post(b"Expect: 100-continue\r\n"), b"", False),
    (post(b"Expect: 100-continue\r\nContent-Length: 2\r\n", version=b"HTTP/1.0"), b"", False),
    (post(b"Expect: anything\r\nContent-Length: 2\r\n", version=b"HTTP/1.0"), b"", False),
    (post(b"Content-Length: 2\r\n"), b"", False)])
def test_only_a_peer_that_waits_is_told_to_continue(head: bytes, body: bytes, expecting: bool) -> None:
    parser = Parser(Limits(), any_path)
    parser.feed(head + body)
    parser.next()
    assert parser.expecting is expecting


TABLE = Routes({("GET", "/read"): lambda request: Response(200), ("POST", "/write"): lambda request: Response(200)})


@pytest.mark.parametrize("head, status", [
    (b"POST /nowhere", 404), (b"POST /read", 405), (b"DELETE /write", 405), (b"HEAD /write", 405),
    (b"PUT /nowhere", 404),
    (b"POST /write/", 404), (b"POST //write", 404), (b"POST /WRITE", 404), (b"POST /%77rite", 404),
    (b"POST /write%00", 404),
    (b"POST /write%0d%0aX:y", 404), (b"POST /write%ff", 404), (b"BREW /write", 501), (b"TRACE /read", 405)])
def test_the_table_is_asked_before_a_body_is_read(head: bytes, status: int) -> None:
    request = head + b" HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"
    assert outcome(whole(request), TABLE.find) == [status]


def test_head_is_allowed_wherever_get_is() -> None:
    assert len(outcome(whole(b"HEAD /read HTTP/1.1\r\nHost: a\r\n\r\n"), TABLE.find)) == 1
    with pytest.raises(Refused) as refused:
        TABLE.find("POST", "/read")
    assert refused.value.fields == (("Allow", "GET, HEAD"),)


@pytest.mark.parametrize("octets, persist", [
    (b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n", True),
    (b"POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n", False),
    (b"GET /nowhere HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", False),
    (b"GET /nowhere HTTP/1.0\r\n\r\n", False),
    (b"BREW /read HTTP/1.1\r\nHost: a\r\n\r\n", True), (b"GET /read HTTP/1.1\r\n\r\n", False),
    (b"GET / HTTP/2.0\r\n\r\n", False),
    (b"POST /write HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n", False), (b"\x00", False),
    (b"POST /write HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx", False)])
def test_after_a_refusal_only_a_certain_end_lets_the_connection_live(octets: bytes, persist: bool) -> None:
    parser = Parser(Limits(), TABLE.find)
    parser.feed(b"GET /read HTTP/1.1\r\nHost: a\r\n\r\n")
    assert parser.next()
    parser.feed(octets)
    with pytest.raises(Refused):
        parser.next()
    assert parser.persist is persist


def test_a_head_understood_before_means_the_same_again_and_is_screened_again() -> None:
    heads: Heads = {}
    for octets, _ in (*BODIES.values(), *TARGETS.values()):
        first, again = Parser(Limits(), any_path, heads), Parser(Limits(), any_path, heads)
        first.feed(octets)
        again.feed(octets)
        assert first.next() == again.next() and first.persist is again.persist
    closed = Parser(Limits(), TABLE.find, heads)
    closed.feed(b"DELETE /read HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
    for _ in range(2):
        with pytest.raises(Refused) as refused:
            closed.next()
        assert refused.value.status == 405


def test_of_heads_only_a_few_short_ones_are_remembered() -> None:
    heads: Heads = {}
    parser = Parser(Limits(), any_path, heads)
    for number in range(1000):
        parser.feed(get(b"/%d" % number) + get(b"/" + b"a" * 2000))
        assert parser.next() and parser.next()
    assert 0 < len(heads) <= 256 and max(map(len, heads)) <= 1024


def test_what_is_held_is_what_was_fed_and_not_yet_understood() -> None:
    parser = Parser(Limits(), any_path)
    parser.feed(chunked(b"5\r\nhello\r\n5\r\nhel"))
    assert parser.next() is None and parser.held == 8
    parser.feed(b"lo\r\n0\r\n\r\n" + get()[:7])
    assert parser.next() and parser.next() is None and parser.held == 7


DATE = "Sun, 06 Nov 1994 08:49:37 GMT"


def test_an_answer_says_date_type_and_length() -> None:
    assert render(Response(200, b"ok"), DATE) == (
        b"HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Type: text/plain; charset=utf-8\r\n"
        b"Content-Length: 2\r\n\r\nok")


def test_an_answer_to_head_has_the_length_and_no_body() -> None:
    assert render(Response(200, b"ok"), DATE, bare=True).endswith(b"Content-Length: 2\r\n\r\n")


def test_an_answer_carries_its_own_fields_and_the_connections() -> None:
    head = render(Response(405, fields=(("Allow", "GET"),)), DATE, "close")
    assert b"HTTP/1.1 405 Method Not Allowed\r\n" in head and b"\r\nAllow: GET\r\nConnection: close\r\n" in head


def test_no_content_has_neither_length_nor_body() -> None:
    assert render(Response(204, b"x"), DATE).endswith(b"utf-8\r\n\r\n")


@pytest.mark.parametrize("field, line", [
    (("X", "a\r\nSet-Cookie: b"), b"X: a??Set-Cookie: b"), (("X\nY", "a"), b"X?Y: a"), (("X", "a\x00\x7f"), b"X: a??"),
    (("X", "\xe9\u2028"), b"X: ??")])
def test_a_field_cannot_break_out_of_its_line(field: tuple[str, str], line: bytes) -> None:
    assert line in render(Response(200, fields=(field,)), DATE).split(b"\r\n")


def test_a_status_without_a_name_is_rendered_without() -> None:
    assert render(Response(299), DATE).startswith(b"HTTP/1.1 299 \r\n")
