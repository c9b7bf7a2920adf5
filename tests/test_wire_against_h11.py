"""The parser beside h11 on mutated requests: whatever h11 refuses, minibot refuses, but for the reasons in a table.

Skipped where h11 is not installed. MINIBOT_MUTATIONS sets the number of requests (100,000 take ten seconds).
Where both take a stream they must read the same requests out of it: that is what a smuggler would need to differ.
Not here: what is refused and why (`test_wire.py`).

Next: `test_server.py`.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Iterator

import pytest

from minibot.errors import Refused
from minibot.web.limits import Limits
from minibot.web.wire import Heads, Parser

h11 = pytest.importorskip("h11", reason="h11 is not installed: pip install h11")

HEADS: Heads = {}  # understood once, as the connections of one door share them
MUTATIONS = int(os.environ.get("MINIBOT_MUTATIONS", "20000"))
Message = tuple[bytes, bytes, bytes]

SEEDS = (
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /a?b HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"POST /w HTTP/1.1\r\nHost: a.b:80\r\nContent-Length: 5\r\nX-Y: z\r\n\r\nhello",
    b"POST /w HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\n",
    b"PUT /w HTTP/1.1\r\nHost: a\r\nConnection: foo, close\r\nContent-Length: 0\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nHost: [::1]:8\r\nAccept: */*\r\nExpect: 100-continue\r\n\r\n",
    b"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nabGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
)
BITS = (b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b";", b",", b"\x00", b"\x0b", b"\x80", b"0", b"5", b"a", b"=", b'"',
        b"/", b"#", b"\r\n\r\n",
        b"Host: b\r\n", b"Content-Length: 5\r\n", b"Content-Length: 6\r\n", b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"Transfer-Encoding: gzip\r\n", b"HTTP/1.1", b"HTTP/1.0", b"chunked", b"+", b"-", b"_", b"0x", b"ffffffffff",
        b"GET / HTTP/1.1\r\n")

# Where minibot takes what h11 refuses, and why: what is replaced by its equivalent for h11's sake.
MORE_LENIENT: tuple[tuple[bytes, bytes | Callable[[re.Match[bytes]], bytes], str], ...] = (
    (rb"\A(\r\n){1,4}", b"", "empty lines before a request: RFC 9112 2.2, a server SHOULD ignore them"),
    (rb"\A\r\Z", b"", "and half of one may still become one"),
    (rb"(?im)^(transfer-encoding:)[ \t,]*chunked[ \t,]*\r$", rb"\1chunked\r",
     "empty elements in a list: RFC 9110 5.6.1.2, a recipient MUST ignore them"),
    (rb"(?m)^([0-9A-Fa-f]+)[ \t]+(?=;)", rb"\1", "blanks around a chunk extension: RFC 9112 7.1.1, MUST be parsed"),
    (rb"(?s)(?<=\n0\r\n)[!-~].*\Z",
     lambda found: re.sub(rb"(?im)^(content-length|transfer-encoding):", b"X:", found[0]),
     "framing fields among the trailers: RFC 9110 6.5.1, they are dropped unread"),
)


def read_with_h11(octets: bytes) -> tuple[Message | None, bool]:
    """-> the one message that h11 reads out of this, if it is whole, and whether h11 refuses it."""
    for pattern, replacement, _ in MORE_LENIENT:
        octets = re.sub(pattern, replacement, octets)
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    head, body = None, b""
    if not octets:
        return None, False
    connection.receive_data(octets)
    try:
        while (event := connection.next_event()) is not h11.NEED_DATA:
            if isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                return (head.method, head.target, body + connection.trailing_data[0]), False
    except h11.RemoteProtocolError:
        return None, True
    return None, False


def read_with_minibot(octets: bytes) -> Iterator[tuple[bytes, Message | None]]:
    """Each message minibot reads, with its octets; then what is left unfinished, with None, unless it is refused."""
    parser = Parser(Limits(), lambda method, path: None, HEADS)
    parser.feed(octets)
    try:
        while request := parser.next():
            rest = bytes(parser.buffer)
            octets, target = octets[:len(octets) - len(rest)], f"{request.path}?{request.query}".encode()
            if not request.query and target not in octets:
                target = target[:-1]
            yield octets, (request.method.encode(), target, request.body)
            octets = rest
    except Refused:
        return
    yield octets, None


def mutated(chance: random.Random) -> bytes:
    """A seed, or two in a row, with one to three small wounds."""
    octets = b"".join(chance.choices(SEEDS, k=chance.choice((1, 1, 2))))
    for _ in range(chance.choice((1, 1, 2, 3))):
        at = chance.randrange(len(octets) + 1)
        cut = chance.choice((0, 0, 1, 1, 2, 7))
        octets = octets[:at] + chance.choice((b"", bytes((chance.randrange(256),)), *BITS)) + octets[at + cut:]
    return octets


def test_minibot_is_nowhere_more_lenient_than_h11() -> None:
    chance, differences = random.Random(2026), list[str]()
    for _ in range(MUTATIONS):
        for octets, ours in read_with_minibot(mutated(chance)):
            theirs, refused = read_with_h11(octets)
            if refused or ours != theirs:
                differences.append(f"{octets!r}: minibot {ours}, h11 {'refuses' if refused else theirs}")
    assert not differences, "\n".join(differences[:10])


@pytest.mark.parametrize("seed", SEEDS[:-1])
def test_both_read_the_same_out_of_a_good_request(seed: bytes) -> None:
    (octets, message), (rest, nothing) = read_with_minibot(seed)
    assert octets == seed and message is not None and read_with_h11(seed) == (message, False)
    assert rest == b"" and nothing is None
