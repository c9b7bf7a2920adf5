"""The grammar of a request's head: regular expressions over bytes, and functions that raise Refused.

Not here: state, waiting, bodies (`wire.py`). The law: what RFC 9110 and 9112 do not allow is refused, exactly.
Everything is bytes until it is understood, for `str` knows digits, spaces and lower case that HTTP does not; `\\Z`,
never `$`; possessive quantifiers, so that no input makes an expression walk back.

Next: `wire.py`, the state machine that reads with these.
"""

from __future__ import annotations

import re

from minibot.errors import Refused

Fields = tuple[tuple[bytes, bytes], ...]

METHODS = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")}
TOKEN_OCTETS = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
TOKEN = b"[" + re.escape(TOKEN_OCTETS) + b"]++"
TEXT = rb"\t\x20-\x7e\x80-\xff"  # the octets of a field's value
NAME = rb"A-Za-z0-9\-._~!$&'()*+,;="  # ... of a host's name, percent-encoding aside (RFC 3986 3.2.2)
QUOTED = rb'"(?:[\t\x20\x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[' + TEXT + rb'])*+"'

REQUEST_LINE = re.compile(b"(" + TOKEN + rb") ([\x21\x22\x24-\x7e]++) HTTP/([0-9])\.([0-9])\r\n")
# subtle: the look-behind ties each match to the start of a line and no match spans two lines, so all lines are
# well-formed exactly when there are as many matches as lines. One pass in C over the whole head.
FIELD = re.compile(rb"(?<=\n)(" + TOKEN + rb"):[ \t]*+([" + TEXT + rb"]*+)\r\n")
BARE_LINE_END = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)")
ABSOLUTE_FORM = re.compile(rb"(?i:https?)://([^/?]++)/?(.*)\Z")
HOST = re.compile(rb"(?:(?:[" + NAME + rb"]|%[0-9A-Fa-f]{2})++|\[(?:([0-9A-Fa-f:.]++)|v[0-9A-Fa-f]++\.[" + NAME
                  + rb":]++)\])(?::[0-9]*+)?\Z")
CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})((?:[ \t]*+;[ \t]*+" + TOKEN + rb"(?:[ \t]*+=[ \t]*+(?:" + TOKEN + b"|"
                        + QUOTED + rb"))?+)*+)\Z")
CHUNK_LINE_BEGUN = re.compile(rb"(?:[0-9A-Fa-f]{1,15}(?:[ \t;][" + TEXT + rb"]*+)?\r?)?\Z")


def demand(truth: object, status: int, reason: str) -> None:
    """Refuse the request unless `truth`."""
    if not truth:
        raise Refused(status, reason)


def read_request_line(head: bytes, longest: int) -> tuple[int, bytes, bytes, bool]:
    """-> where it ends, method, target, and whether the peer speaks HTTP/1.0."""
    line = REQUEST_LINE.match(head)
    demand((line.end() if line else head.find(b"\r\n") + 2) <= longest + 2, 414, "request line too long")
    if line is None:
        raise Refused(400, "malformed request line")
    demand(line[3] == b"1", 505, "not HTTP/1")
    return line.end(), line[1], line[2], line[4] == b"0"


def read_fields(lines: bytes, start: int, most: int) -> Fields:
    """The field lines from `start` (which follows a line end) to the empty line that ends `lines`; names lower-case."""
    count = lines.count(b"\n", start) - 1
    demand(count <= most, 431, "too many fields")
    found = FIELD.findall(lines, start)
    demand(len(found) == count, 400, "malformed field line")
    return tuple([(name.lower(), value.rstrip(b" \t")) for name, value in found])


def read_target(method: bytes, target: bytes) -> bytes:
    """The target in origin form. The host of an absolute form replaces Host; nobody here asks for either."""
    if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
        return target
    absolute = ABSOLUTE_FORM.match(target)
    if absolute and is_host(absolute[1]):
        return b"/" + absolute[2]
    demand(method == b"CONNECT" and is_host(target), 400, "malformed target")
    return target


def is_host(value: bytes) -> bool:
    """Is this uri-host [":" port], and not empty?"""
    host = HOST.match(value)
    if host is None or host[1] is None:
        return host is not None
    from ipaddress import IPv6Address  # here: hardly anybody writes one, and the import is slow
    try:
        return bool(IPv6Address(host[1].decode("ascii")))
    except ValueError:
        return False


def list_of(value: bytes) -> list[bytes]:
    """The elements of a comma-separated list of tokens, lower-case, without empty ones."""
    return [item for piece in value.lower().split(b",") if (item := piece.strip(b" \t"))]


def read_length(value: bytes) -> int:
    """A Content-Length in octets. Beyond 15 digits some are cut off (`int` takes 4300 at most): too long anyway."""
    demand(value.isdigit(), 400, "malformed content-length")  # bytes: ASCII digits only, at least one
    return int(value.lstrip(b"0")[:15] or b"0")


def check_coding(value: bytes, allowed: bool) -> None:
    """A Transfer-Encoding may be `chunked` and nothing else."""
    codings = list_of(value)
    demand(allowed and codings and codings[-1] == b"chunked", 400, "malformed framing")
    demand(len(codings) == 1, 501, "unknown transfer coding")
