"""Every bound of the door, each with where it comes from.

Not here: keeping them (`wire.py`, `connection.py`, `server.py`). The law: whatever a stranger can make grow or last
has a line here.

Next: `wire.py`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Every bound of the door: octets, counts, seconds."""

    request_line: int = 8 * 1024 + 64  # RFC 9112 3: at least 8000
    head: int = 32 << 10  # all field lines; as Kestrel
    fields: int = 100  # as hyper, Kestrel, Apache, gunicorn
    body: int = 4 << 20  # Meta: "payloads can be up to 3MB"
    chunk_line: int = 512  # RFC 9112 7.1.1; CVE-2023-39326
    extensions: int = 16 << 10  # of all chunks of one body
    trailers: int = 8 << 10
    bodies: int = 32 << 20  # whatever is held for all connections together
    unparsed: int = 64 << 10  # per connection while it waits for its turn; beyond, reading pauses
    discarded: int = 16 << 20  # read and thrown away behind a last answer
    pipelined: int = 16  # requests of one connection before others have their turn
    requests: int = 1000  # per connection; as nginx
    connections: int = 2000
    head_time: float = 10.0  # from the first octet of a head to its last; CIS benchmarks
    body_time: float = 15.0  # ... of a body, and a second more per `body_rate` octets, at most `body_most`
    body_rate: int = 500  # as Apache's mod_reqtimeout
    body_most: float = 60.0
    answer_time: float = 10.0  # for whoever answers
    write_time: float = 30.0  # for a peer that does not read
    idle: float = 75.0  # must outlive a proxy's pool: nginx keeps 60 s
    linger: float = 3.0
    tick: float = 0.5  # how often deadlines are looked at
