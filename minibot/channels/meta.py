"""What the three Meta channels share to the byte: who may speak, how a batch is walked, how Graph is asked and says no.

Not here: what a message looks like on a platform (`whatsapp.py`, `messenger.py`). The law: bytes are authenticated
before they are read; of what came from outside nothing is believed but what a reader here checked; an item that
cannot be read costs only itself and is kept as `Odd`; tokens stand in a header, never in a URL. `appsecret_proof` is
not sent: only an app that demands it needs it, and among several app secrets nobody knows which is the app's own.
Facts: developers.facebook.com/docs/graph-api, webhooks/getting-started and guides/error-handling.

Next: `whatsapp.py`.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qsl

from minibot.channels.contract import UNSEEN, command_of
from minibot.channels.fields import Item, block, read_json, read_reply
from minibot.config import Settings
from minibot.errors import Refused, Remedy, SendFailed, Unreadable, retry_after
from minibot.model import Call, Event, Ignored, Inbound, Media, Odd, Reply, Request, Response, Secret
from minibot.text import clean, visible

Row = tuple[Remedy, str]  # what to do about an error, and what the operator must know; {key} is the token's setting

MEDIA_HOSTS = (".fbsbx.com", ".fbcdn.net", ".cdninstagram.com", "graph.facebook.com")
TEST_SENDERS = ("12334", "16315551181")  # of the dashboard's Test button: nobody would read the answer
NOSNIFF = (("X-Content-Type-Options", "nosniff"), ("Content-Security-Policy", "default-src 'none'"))
CHALLENGE = re.compile(r"[A-Za-z0-9_.-]{1,200}")  # "int" or "random string" in Meta's pages; we echo nothing wilder
TOO_LONG = re.compile(r"too long|at most \d+ char|less than or equal to \d+")


def verifier(settings: Settings) -> Callable[[Request], None]:
    """The check of X-Hub-Signature-256, the HMAC-SHA256 of the raw body, against each app secret.

    Raises Refused(400) for a doubled header, Refused(401) for a missing or wrong signature or without any secret.
    """
    keys = [hmac.new(secret.reveal().encode(), digestmod="sha256") for secret in settings.meta_app_secrets if secret]

    def verify(request: Request) -> None:
        given = request.all(b"x-hub-signature-256")
        if len(given) > 1:
            raise Refused(400, "two signatures")
        if settings.allow_unsigned_webhooks:
            return
        if not any([_signed(key, request.body, value) for key in keys for value in given]):
            raise Refused(401, f"{'wrong' if given else 'no'} signature" if keys else "META_APP_SECRET is not set")

    return verify


def _signed(key: hmac.HMAC, body: bytes, given: bytes) -> bool:
    """Whether `given` is our signature of `body`. The hash is fixed: its name is never taken from the header."""
    digest = key.copy()  # a prepared key, copied, costs half of hmac.new
    digest.update(body)
    return hmac.compare_digest(b"sha256=" + digest.hexdigest().encode(), given)


def handshake(token: Secret, request: Request) -> Response:
    """The answer to Meta's GET: the challenge for the right VERIFY_TOKEN, else 403. An empty one never verifies."""
    pairs = parse_qsl(request.query, keep_blank_values=True)
    query = dict(pairs)
    known = hmac.compare_digest(query.get("hub.verify_token", "").encode("utf-8", "replace"), token.reveal().encode())
    if not token or not known or query.get("hub.mode") != "subscribe" or len(query) < len(pairs):  # or one named twice
        return Response(403)
    challenge = query.get("hub.challenge", "")
    return Response(200, challenge.encode(), fields=NOSNIFF) if CHALLENGE.fullmatch(challenge) else Response(400)


def batch(platform: str, kind: str, body: bytes, read: Callable[[Item], Iterable[Event]]) -> list[Event]:
    """Every event of a delivery; `read` is called with each entry. Raises Unreadable for the whole body only."""
    root = read_json(body)
    if root.get("object") != kind or not isinstance(root.get("entry"), list):
        raise Unreadable(f"not of the object {kind}: is another product's webhook registered here?")
    return list(each(platform, root, "entry", lambda entry: [Ignored(platform, "test")] if entry.get("id") in ("0", 0)
                     else read(entry)))


def each(platform: str, holder: Item, key: str, read: Callable[[Item], Iterable[Event]]) -> Iterator[Event]:
    """What `read` makes of every item of the list `holder[key]`; an item it cannot read becomes `Odd`."""
    items = holder.get(key)
    for item in items if isinstance(items, list) else [] if items is None else [[items]]:
        try:
            if not isinstance(item, dict):
                raise Unreadable(f"{key}: not a list of objects")
            yield from read(item)
        except Unreadable as fault:
            yield Odd(platform, "odd:" + digest(item), str(fault), dump(item)[:65536])


def dump(value: Any) -> str:
    """One line of ASCII JSON."""
    try:
        return json.dumps(value, sort_keys=True)
    except RecursionError:  # subtle: what was just flat enough to be parsed may be too deep from here
        return f"nested too deep: {len(value)}"


def digest(value: Any) -> str:
    """A stable id for what has none."""
    return sha256(dump(value).encode()).hexdigest()[:32]


def words(value: Any) -> str:
    """What a person wrote, clean; "" if absent. Raises Unreadable for what is no text."""
    if value is not None and not isinstance(value, str):
        raise Unreadable("the text is not a string")
    return clean(value or "")


def moment(value: Any) -> int:
    """Milliseconds from seconds or milliseconds, as a number, digits or ISO 8601; 0 for anything outside 2001-2100."""
    try:
        if isinstance(value, str) and not (value.isascii() and value.isdigit()):
            value = datetime.fromisoformat(value).timestamp()
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return 0
    return int(number) if 1e12 <= number < 4.1e12 else int(number * 1000) if 1e9 <= number < 4.1e9 else 0


def asked(seed: Inbound, text: str, *media: Media, unseen: str = "") -> Inbound:
    """`seed` with its reaction. `unseen` names what came along that nobody here can look at."""
    if unseen and not text and not media:
        return seed._replace(kind="unsupported", notice=unseen)
    if unseen:
        text = f"{text}\n{UNSEEN.format(unseen)}".lstrip()
    if not media and not visible(text):
        raise Unreadable("nothing in it")
    command = "" if seed.forwarded or media else command_of(text)
    return seed._replace(kind=command or "ask", text=text, media=media)


def origins(settings: Settings) -> tuple[str, ...]:
    """Where Graph lives by these settings (Page tokens', Instagram Login's), as scheme://host:port."""
    return tuple("/".join(url.split("/")[:3]) for url in (settings.meta_graph_url, settings.instagram_graph_url))


def graph(name: str, url: str, token: Secret, content: Item | None = None, timeout: float = 30.0) -> Call:
    """One call: POST with `content` as JSON, else GET. Without a User-Agent some of Meta's hosts refuse."""
    fields = {"User-Agent": "minibot"} | ({"Authorization": f"Bearer {token.reveal()}"} if token else {})
    if content is None:
        return Call(name, "GET", url, fields, timeout=timeout)
    return Call(name, "POST", url, fields | {"Content-Type": "application/json"}, json.dumps(content).encode(), timeout)


def answer(reply: Reply, remedies: Mapping[int, Row], key: str) -> Item:
    """The object of a 2xx reply; for anything else raises SendFailed with what `remedies` says.

    The subcode decides before the code, and both before the HTTP status, which Meta does not fix.
    """
    content = read_reply(reply.body)
    error = block(content.get("error"))
    if 200 <= reply.status < 300 and not error:
        return content
    codes = [code for code in (error.get("error_subcode"), error.get("code")) if type(code) is int]
    ways = [*codes, -500 if error.get("is_transient") is True else -reply.status]
    remedy, help = next((remedies[way] for way in ways if way in remedies), (Remedy.REFUSED, ""))
    said = error.get("message"), block(error.get("error_data")).get("details"), error.get("fbtrace_id")
    message = " ".join(str(part) for part in said if part)
    if remedy is Remedy.REFUSED and TOO_LONG.search(message):
        remedy = Remedy.HALVE
    raise SendFailed(remedy, "/".join(map(str, codes[::-1])) or str(reply.status),
                     retry_after=retry_after(reply.fields),
                     help=help.format(key=key) or " ".join(clean(message).split())[:300])


def named(found: Any) -> str:
    """What a reply had to name: a message's id, a file's address. Without it nobody knows what became of the call."""
    if not found or not isinstance(found, str):
        raise SendFailed(Remedy.UNSURE, "no_id", help="Graph answered without naming what was done")
    return found


TOKEN: Row = (Remedy.STOP, "the access token is not valid (any more): make a new one and set {key}")
PERMISSION: Row = (Remedy.STOP, "a permission is missing: see those of the app, and the role of the owner of {key}")
POLICY: Row = (Remedy.STOP, "Meta restricts this account: see business.facebook.com/accountquality")
UNREACHABLE: Row = (Remedy.UNREACHABLE, "this person cannot be written to")
WINDOW: Row = (Remedy.WINDOW, "more than 24 hours since the person's last message")
RETRY: Row = (Remedy.RETRY, "")
RATE: Row = (Remedy.WAIT_CHANNEL, "")
COMMON: Mapping[int, Row] = {  # by (sub)code; by HTTP status, negative, where Graph names none of these
    **dict.fromkeys((0, 102, 104, 190, -401), TOKEN), **dict.fromkeys((3, 10, *range(200, 300)), PERMISSION),
    **dict.fromkeys((4, 17, 32, 613, 80007, -429), RATE), **dict.fromkeys((1, 2, -408, *range(-599, -499)), RETRY),
    100: (Remedy.REFUSED, ""), 368: POLICY,
}
