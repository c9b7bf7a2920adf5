"""The public address of this machine: as it was named, else as ngrok's local agent tells it.

Not here: starting ngrok, registering the address (`connect.py`). The law: only what reads as the agent's own JSON
counts, since any program may sit on its port; only an https tunnel that leads to our port is ours. Facts: agents
before 3.3x list `tunnels` with `public_url` and `config.addr`, newer ones `endpoints` with `url` and `upstream.url`.

Next: `connect.py`.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from minibot.channels.fields import block
from minibot.config import Settings
from minibot.errors import NoAnswer
from minibot.model import PLATFORMS, Call
from minibot.text import safe_line
from minibot.web.calls import Caller

AGENTS = ("http://127.0.0.1:4040", "http://127.0.0.1:4041")  # a second agent takes the next port
LISTS = ("tunnels", "endpoints")  # below /api/, and the name of the list in the answer
PATIENCE = 1.0  # seconds for one question; the agent is on this machine
ADDRESS = re.compile(r"(https?)://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\])(?::([0-9]{1,5}))?(?:/[\x21-\x7e]*)?")
OUR_PATH = re.compile(f"/({'|'.join(PLATFORMS)})/webhook$")
PUBLIC = re.compile(r"https://[A-Za-z0-9.-]+(:[0-9]{1,5})?")
UPSTREAM = re.compile(r"([0-9]{1,5})|(?:(https?)://)?(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\])?(?::([0-9]{1,5}))?/?")


class Tunnel(NamedTuple):
    """The address the world uses and who named it, or "" and why there is none, with what to do."""

    url: str
    problem: str = ""
    source: str = "ngrok"


async def address(settings: Settings, caller: Caller, port: int, named: str | None = None,
                  agents: tuple[str, ...] = AGENTS) -> Tunnel:
    """The public address: `named` (--url), else PUBLIC_URL, else what ngrok's agents tell of `port`. Never raises."""
    given, source = (named, "--url") if named is not None else (settings.public_url, "PUBLIC_URL")
    if not given:
        found = await find(caller, port, agents)
        return found if found.url else Tunnel("", f"{found.problem}; or name an address with --url or PUBLIC_URL")
    if not (match := ADDRESS.fullmatch(given)) or re.search("[?#@]", given):
        return Tunnel("", f"{source}: {safe_line(given, 80)} is no address; write it like https://abc.ngrok.app")
    if match[1] != "https":
        return Tunnel("", f"{source}: {given} is plain http; the platforms demand https, and ngrok has such an address")
    return Tunnel(OUR_PATH.sub("", given.rstrip("/")), "", source)


async def find(caller: Caller, port: int, agents: tuple[str, ...] = AGENTS) -> Tunnel:
    """Ask the agents for an https tunnel to `port`. Never raises; takes two seconds at most."""
    found = Tunnel("", f"no ngrok runs on this machine; start it with: ngrok http {port}")
    for agent in agents:
        for name in LISTS:
            try:
                reply = await caller.perform(Call("ngrok", "GET", f"{agent}/api/{name}", timeout=PATIENCE), "ngrok")
            except NoAnswer:
                break  # nobody there, or somebody else who does not speak HTTP
            if reply.status == 200 and (listed := tunnels(reply.body)) is not None:
                found = choose(listed, port)
            if found.url:
                return found
    return found


def tunnels(body: bytes) -> list[tuple[str, str]] | None:
    """(public URL, upstream) of each tunnel in an agent's answer; None if it is no agent's answer."""
    try:
        answer = block(json.loads(body))
    except (ValueError, RecursionError):
        return None
    lists = [answer[name] for name in LISTS if isinstance(answer.get(name), list)]
    return [(str(item.get("public_url") or item.get("url")),
             str(block(item.get("config")).get("addr") or block(item.get("upstream")).get("url") or "elsewhere"))
            for item in map(block, sum(lists, []))] if lists else None


def choose(listed: list[tuple[str, str]], port: int) -> Tunnel:
    """The first https tunnel to `port`."""
    ours = [public for public, upstream in listed if port_of(upstream) == port]
    secure = [public for public in ours if PUBLIC.fullmatch(public)]
    problem = ("ngrok's tunnel has no https address" if ours else "ngrok runs, but has no tunnel" if not listed else
               f"ngrok forwards to {safe_line(listed[0][1], 60)}, not to our port")
    return Tunnel(secure[0]) if secure else Tunnel("", f"{problem}; start it with: ngrok http {port}")


def port_of(upstream: str) -> int:
    """The local port behind "http://localhost:8000", "localhost:8000", "8000" or "https://localhost"; else -1."""
    if not upstream or not (match := UPSTREAM.fullmatch(upstream)):
        return -1
    bare, scheme, port = match.groups()
    return int(bare or port or (443 if scheme == "https" else 80))
