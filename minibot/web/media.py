"""Downloads of pictures and voice notes: whose servers may be asked, and what the bytes are.

Not here: connections (`opener.py`). The law: a URL from a chat is a stranger's wish, so it is fetched over https,
from the platform's own hosts, at a public address that was checked and then used, and each redirect is checked
anew; a token goes to the host it was meant for and no other. Only the origins from the settings are trusted as
they are, and only from the first URL on: a foreign host cannot send us there.

Next: `channels/contract.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_network
from urllib.parse import urljoin, urlsplit

from minibot.errors import NoAnswer, Remedy, SendFailed
from minibot.model import Call, Reply

Address = tuple[str, int]
Resolve = Callable[[str, int], list[str]]  # (host, port) -> addresses, best first; raises OSError

REDIRECTS = 3
_UNICAST = ip_network("2000::/3")
_MAGIC = tuple((re.compile(pattern, re.DOTALL), mime) for pattern, mime in (
    (rb"\xff\xd8\xff", "image/jpeg"),
    (rb"\x89PNG\r\n\x1a\n", "image/png"),
    (rb"GIF8[79]a", "image/gif"),
    (rb"RIFF.{4}WEBP", "image/webp"),
    (rb"OggS", "audio/ogg"),
    (rb"ID3|\xff[\xe2\xe3\xf2\xf3\xfa\xfb]", "audio/mpeg"),
    (rb".{4}ftypM4[AB] ", "audio/mp4"),
    (rb"RIFF.{4}WAVE", "audio/wav"),
    (rb"fLaC", "audio/flac"),
    (rb".{4}ftyp(iso.|mp4.|avc1|M4V |3g..|qt  |dash)", "video/mp4"),
))


def sniff(content: bytes) -> str:
    """The MIME type that the first bytes tell; "" if it is none we know."""
    return next((mime for magic, mime in _MAGIC if magic.match(content)), "")


def fetch(perform: Callable[[Call, Callable[[Address], Address] | None], Reply], clock: Callable[[], float],
          call: Call, hosts: tuple[str, ...], origins: tuple[str, ...], limit: int, resolve: Resolve) -> bytes:
    """What lies behind `call`, at most `limit` bytes, in call.timeout over all hops. Blocks: for a worker thread.

    `hosts` holds "host" or ".suffix", `origins` "scheme://host:port". Raises NoAnswer for passing faults, else
    SendFailed with the status as its code, or host, address, redirects.
    """
    call, deadline = replace(call, max_bytes=limit), clock() + call.timeout
    for _ in range(1 + REDIRECTS):
        trusted = call.url.startswith(tuple(f"{origin}/" for origin in origins))
        # A plain name, no user, no other port: two parsers cannot differ over what is asked.
        name = re.match(r"https://([a-z0-9.-]+)(:443)?/", call.url)
        if not trusted and not (name and any(
                name[1] == host or host.startswith(".") and name[1].endswith(host) for host in hosts)):
            raise SendFailed(Remedy.REFUSED, "host", help="not a host where the platform keeps its media")
        reply = perform(call, None if trusted else lambda address: _public(address, resolve))
        if 200 <= reply.status < 300:
            return reply.body
        if reply.status in (408, 425, 429) or reply.status >= 500:
            raise NoAnswer(f"{call.name}: status {reply.status}", unsure=False)
        if reply.status not in (301, 302, 303, 307, 308):
            raise SendFailed(Remedy.REFUSED, str(reply.status))
        url = urljoin(call.url, reply.fields.get("location", ""))
        same = urlsplit(url)[:2] == urlsplit(call.url)[:2]
        call = replace(call, url=url, fields=call.fields if same else {}, timeout=deadline - clock())
        origins = origins if trusted else ()
    raise SendFailed(Remedy.REFUSED, "redirects")


def addresses(host: str, port: int) -> list[str]:
    """What the system's resolver says."""
    import socket

    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def _public(address: Address, resolve: Resolve) -> Address:
    """The address to connect to, if every one that the name has is plainly public."""
    found = resolve(*address)
    for ip in map(ip_address, found):
        # NAT64, site-local and others outside 2000::/3 count as global; so does 6to4 before Python 3.13.
        bridge = ip.version == 6 and (ip not in _UNICAST or ip.sixtofour)
        if not ip.is_global or ip.is_multicast or bridge:
            raise SendFailed(Remedy.REFUSED, "address", help=f"{address[0]} leads to an address that is not public")
    return found[0], address[1]
