"""HTTP/1.1 on the wire: octets -> Request, Response -> octets. A pure state machine: no socket, no clock, no log.

Not here: the grammar (`grammar.py`), waiting and deadlines (`connection.py`), who answers what (`routes.py`). The
laws: an invalid request is refused as soon as that can be seen; where two readers could disagree about the end of a
request, there is no request. Every refusal is a `Refused`, and where `Parser.persist` is then false, the octets
that follow mean nothing and must not be read.

Next: `routes.py`, who answers; then `connection.py`, which feeds this parser.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from http import HTTPStatus

from minibot.errors import Refused
from minibot.model import Request, Response
from minibot.web.grammar import (BARE_LINE_END, CHUNK_LINE, CHUNK_LINE_BEGUN, METHODS, TOKEN_OCTETS, Fields,
                                 check_coding, demand, is_host, list_of, read_fields, read_length, read_request_line,
                                 read_target)
from minibot.web.limits import Limits

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
FRAMING = (b"host", b"content-length", b"transfer-encoding", b"connection", b"expect", b"content-encoding")
REASONS = {status.value: status.phrase for status in HTTPStatus}
Understood = tuple[bytes, dict[bytes, bytes], str, str, Fields, bool, bool, int]
Heads = dict[bytes, Understood]  # what a head means, by its octets
HEAD, COUNTED, SIZE, DATA, TRAILERS = range(5)  # what the parser reads next


class Parser:
    """`feed` it what arrived, then call `next` until it gives None: more is needed. Raises Refused.

    `screen(method, path)` is asked before a body is read, and may raise Refused. `expecting` says that the peer
    waits for CONTINUE before it sends the body.
    """

    def __init__(self, limits: Limits, screen: Callable[[str, str], object], heads: Heads | None = None) -> None:
        self.limits, self.screen, self.peer, self.heads = limits, screen, "", {} if heads is None else heads
        self.buffer, self.body = bytearray(), bytearray()
        self.stage, self.method, self.path, self.query = HEAD, "", "", ""
        self.scanned = self.blanks = self.left = self.extensions = 0
        self.fields: Fields = ()
        self.old = self.keep = self.persist = self.expecting = False

    @property
    def begun(self) -> bool:
        """Part of a request is here; empty lines before it do not count."""
        return self.stage != HEAD or bool(self.buffer)

    @property
    def held(self) -> int:
        """Octets in memory."""
        return len(self.buffer) + len(self.body)

    def feed(self, octets: bytes) -> None:
        """Add what arrived."""
        self.buffer += octets

    def clear(self) -> None:
        """Forget the octets: there will be no other request."""
        self.buffer, self.body = bytearray(), bytearray()

    def next(self) -> Request | None:
        """The next complete request, or None."""
        if self.stage == HEAD and not self._read_head():
            return None
        if self.stage == COUNTED and len(self.buffer) >= self.left:
            body = self._take(self.left)
        elif self.stage != COUNTED and self._read_chunks():
            body, self.body = bytes(self.body), bytearray()
        else:
            return None
        self.stage, self.scanned, self.persist = HEAD, 0, self.keep
        return Request(self.method, self.path, self.query, self.fields, body, self.peer)

    def _take(self, count: int) -> bytes:
        taken = bytes(self.buffer[:count])
        del self.buffer[:count]
        return taken

    def _read_head(self) -> bool:
        buffer = self.buffer
        if not buffer or (buffer[0] not in TOKEN_OCTETS and not self._skip_blank_lines()):
            return False
        self.persist, self.method = False, "HEAD" if buffer.startswith(b"HEAD ") else ""
        end = buffer.find(b"\r\n\r\n", self.scanned)
        if end < 0:
            self._check_unfinished_head()
            return False
        head = self._take(end + 4)
        self.scanned = self.blanks = 0  # how far a half head was looked at, empty lines before it
        if (seen := self.heads.get(head)) is None:
            seen = self._understand(head)
            if len(head) <= 1024:  # a platform sends the same head again and again, but for a few lengths
                if len(self.heads) >= 256:
                    self.heads.clear()
                self.heads[head] = seen
        method, known, self.path, self.query, self.fields, self.old, self.keep, self.left = seen
        self.persist = self.keep and not self.left  # the body of a refused request is not waited for
        self._admit(method, known)
        return True

    def _understand(self, head: bytes) -> Understood:
        """A whole head, for the first time. What is refused is refused anew each time."""
        line_end, method, target, self.old = read_request_line(head, self.limits.request_line)
        demand(len(head) - line_end <= self.limits.head, 431, "head too long")
        self.fields = fields = read_fields(head, line_end, self.limits.fields)
        known = dict(fields)
        if len(known) != len(fields):  # subtle: joined, a repeated Host or Content-Length is malformed
            known = {name: b", ".join(found) for name in FRAMING if (found := [v for n, v in fields if n == name])}
        self.path, _, self.query = read_target(method, target).decode("ascii").partition("?")
        self._read_framing(known)
        return method, known, self.path, self.query, fields, self.old, self.keep, self.left

    def _skip_blank_lines(self) -> bool:
        """Drop up to four empty lines before a request (RFC 9112 2.2 asks for one); true once it has begun."""
        buffer = self.buffer
        while buffer[:2] == b"\r\n" and self.blanks < 4:
            self.blanks += 1
            del buffer[:2]
        if not buffer or buffer == b"\r":
            return False
        self.persist, self.method = False, ""
        demand(buffer[0] in TOKEN_OCTETS, 400, "no request line")
        return True

    def _check_unfinished_head(self) -> None:
        """Refuse now what more octets cannot mend."""
        buffer, longest = self.buffer, self.limits.request_line
        line_end = buffer.find(b"\r\n", 0, longest + 2)
        demand(not BARE_LINE_END.search(buffer, self.scanned), 400, "bare CR or LF")
        demand(line_end >= 0 or len(buffer) <= longest, 414, "request line too long")
        if line_end >= self.scanned:  # it came just now
            read_request_line(bytes(buffer[:line_end + 2]), longest)
        demand(len(buffer) - line_end <= self.limits.head + 4, 431, "head too long")
        self.scanned = max(0, len(buffer) - 3)

    def _read_framing(self, known: dict[bytes, bytes]) -> None:
        """Where does the body end, and may another request follow it?"""
        host, coding, length = known.get(b"host"), known.get(b"transfer-encoding"), known.get(b"content-length")
        demand(self.old if host is None else is_host(host), 400, "missing or malformed host")
        if coding is not None:
            check_coding(coding, allowed=length is None and not self.old)
        self.left = -1 if coding is not None else 0 if length is None else read_length(length)
        options = list_of(known.get(b"connection", b""))
        self.keep = b"close" not in options and (not self.old or b"keep-alive" in options)

    def _admit(self, method: bytes, known: dict[bytes, bytes]) -> None:
        """Refuse before the body is read; otherwise go on to it."""
        demand(method in METHODS, 501, "unknown method")
        self.method = METHODS[method]
        self.screen(self.method, self.path)
        expect = None if self.old else known.get(b"expect")
        demand(expect is None or expect.lower() == b"100-continue", 417, "unknown expectation")
        demand(not self.left or known.get(b"content-encoding", b"").lower() in (b"", b"identity"), 415, "encoded body")
        demand(self.left <= self.limits.body, 413, "body too long")
        self.expecting = expect is not None and self.left != 0 and not self.buffer
        self.stage, self.extensions = COUNTED if self.left >= 0 else SIZE, 0

    def _read_chunks(self) -> bool:
        """Take what is here of a chunked body; true once all of it is. One deletion per call: linear time."""
        buffer, at, longest = self.buffer, 0, self.limits.chunk_line
        while self.stage != TRAILERS:
            if self.stage == DATA:
                piece = buffer[at:at + self.left]
                self.body += piece
                self.left -= len(piece)
                at += len(piece)
                ending = buffer[at:at + 2]
                if self.left or not ending or ending == b"\r":
                    break
                demand(ending == b"\r\n", 400, "chunk longer than announced")
                self.stage, at = SIZE, at + 2
            line_end = buffer.find(b"\r\n", at, at + longest + 2)
            if line_end < 0:
                begun = len(buffer) - at <= longest + 1 and CHUNK_LINE_BEGUN.match(buffer, at)
                demand(begun, 400, "malformed chunk size")
                break
            self._begin_chunk(bytes(buffer[at:line_end]))
            at = line_end + 2 if self.stage == DATA else line_end  # trailers are found by the line end before them
        del buffer[:at]
        return self.stage == TRAILERS and self._skip_trailers()

    def _begin_chunk(self, line: bytes) -> None:
        size = CHUNK_LINE.match(line)
        if size is None:
            raise Refused(400, "malformed chunk size")
        self.left, self.extensions = int(size[1], 16), self.extensions + len(size[2])
        demand(self.extensions <= self.limits.extensions, 400, "too many chunk extensions")
        demand(len(self.body) + self.left <= self.limits.body, 413, "body too long")
        self.stage = DATA if self.left else TRAILERS

    def _skip_trailers(self) -> bool:
        """Fields behind the last chunk must be well-formed; nobody reads them."""
        buffer, most = self.buffer, self.limits.trailers
        end = buffer.find(b"\r\n\r\n", self.scanned, most)
        if end >= 0:
            read_fields(self._take(end + 4), 2, self.limits.fields)
            return True
        demand(not BARE_LINE_END.search(buffer, self.scanned), 400, "bare CR or LF")
        demand(len(buffer) < most, 431, "trailers too long")
        self.scanned = max(0, len(buffer) - 3)
        return False


def render(response: Response, date: str, connection: str = "", *, bare: bool = False, open: bool = False) -> bytes:
    """The answer as octets. `connection`: "close", "keep-alive", "" for the default; `bare`: the head alone; `open`:
    the end of the connection will be the end of the body."""
    status, body, content_type, fields = response
    head = _render_head(status, content_type, fields, connection, date)
    if open or status in (204, 304):  # RFC 9110 8.6: no length
        return head + b"\r\n"
    return b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), b"" if bare else body)


@lru_cache(maxsize=256)  # the date is part of the key: once a second each kind of answer is rendered anew
def _render_head(status: int, kind: str, fields: tuple[tuple[str, str], ...], connection: str, date: str) -> bytes:
    named = (("Date", date), ("Content-Type", kind), *fields, ("Connection", connection))
    lines = [f"HTTP/1.1 {status} {REASONS.get(status, '')}", *(f"{name}: {text}" for name, text in named if text)]
    # whatever an endpoint puts into a field, it cannot break out of its line
    return b"".join("".join(c if " " <= c <= "~" else "?" for c in line).encode() + b"\r\n" for line in lines)
