"""Who answers what: (method, path) -> endpoint, and what an endpoint is.

Not here: what endpoints do (`flow/intake.py`, `desk/`), sockets. The law: the raw path is matched as it came, octet
for octet, so that nobody has to agree with us about what `%2e` or `//` mean.

Next: `connection.py`, which asks here before it reads a body.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from minibot.errors import Refused
from minibot.model import Request, Response
from minibot.promise import Promise

Write = Callable[[bytes], bool]


class Stream(NamedTuple):
    """An answer that goes on after its head. `begin(write)` is called once the head is out.

    `write(octets)` gives False where nothing was sent, since the peer is gone or does not read; `write(b"")` ends
    the stream. What `begin` returns is called when the stream has ended, for whatever reason.
    """

    response: Response
    begin: Callable[[Write], Callable[[], None]]


Endpoint = Callable[[Request], Response | Stream | Promise[Response]]


class Routes:
    """The table. HEAD is answered wherever GET is."""

    def __init__(self, table: Mapping[tuple[str, str], Endpoint]) -> None:
        self._paths: dict[str, dict[str, Endpoint]] = {"*": {"OPTIONS": _answer_options}}
        for (method, path), endpoint in table.items():
            self._paths.setdefault(path, {})[method] = endpoint
            if method == "GET":
                self._paths[path].setdefault("HEAD", endpoint)

    def find(self, method: str, path: str) -> Endpoint:
        """The endpoint for exactly this; raises Refused(404), or Refused(405) with what would be allowed."""
        methods = self._paths.get(path)
        if methods is None:
            raise Refused(404, "no such path")
        if method not in methods:
            raise Refused(405, "method not allowed", ("Allow", ", ".join(sorted(methods))))
        return methods[method]


def _answer_options(request: Request) -> Response:
    return Response(200, fields=(("Allow", "GET, HEAD, OPTIONS, POST"),))
