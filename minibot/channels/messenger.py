"""Messenger, and the messaging item that Instagram has in common with it: what it says, what is sent back.

Not here: signature, handshake, batches, calls (`meta.py`). The law: an echo is never answered, a thread that another
app holds (standby) neither; our own echoes are known by the tag that went out with them. Facts:
developers.facebook.com/docs/messenger-platform, the pages on webhook events, the Send API, message echoes,
conversation routing and error codes.

Next: `instagram.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Literal

from minibot.channels import meta
from minibot.channels.contract import Channel
from minibot.channels.fields import Item, block, blocks, ident, need, place
from minibot.channels.meta import asked, each, moment, words
from minibot.config import Settings
from minibot.errors import Remedy
from minibot.markup import PLAIN, compose
from minibot.model import Alert, Echo, Erase, Event, Handover, Ignored, Inbound, Media, Receipt, Secret
from minibot.text import utf16
from minibot.work import Part

TAG = "minibot:"  # how the metadata of our own messages begins
INBOXES = ("263902037430900", "1217981644879628")  # the app ids of the Page's inbox and of Instagram's: people
FETCHABLE = re.compile(r"https?://[!-~]{1,4096}")  # attachment addresses can be null or relative


def channel(settings: Settings) -> Channel:
    """Messenger with these settings."""
    return page(settings, "messenger", "page", 2000, utf16, settings.meta_graph_url, settings.meta_page_access_token,
                "META_PAGE_ACCESS_TOKEN")


def page(settings: Settings, name: str, kind: str, limit: int, measure: Callable[[str], int], root: str,
         token: Secret, key: str) -> Channel:
    """Messenger or Instagram; `kind` is the webhook's object, `key` the setting that holds `token`."""
    post = partial(meta.graph, url=f"{root}/{settings.meta_api_version}/me/messages", token=token)
    return Channel(
        name=name, verify=meta.verifier(settings), handshake=partial(meta.handshake, settings.verify_token),
        parse=lambda body, me: meta.batch(name, kind, body, partial(_entry, name, settings.meta_app_id)),
        compose=lambda markdown: compose(markdown, PLAIN, limit, measure), plain=str,
        call=lambda conversation, part: post(f"{name}:send", content=_outgoing(conversation.chat, part)),
        judge=lambda reply: meta.named(meta.answer(reply, REMEDIES, key).get("message_id")),
        typing=lambda conversation, message_id: tuple(
            post(f"{name}:{action}", content={"recipient": {"id": conversation.chat}, "sender_action": action},
                 timeout=10.0) for action in ("mark_seen", "typing_on")),
        typing_every=15.0,  # of the 20 s it shows
        media=None, located=None, download=lambda url: meta.graph(f"{name}:download", url, Secret()),
        media_hosts=meta.MEDIA_HOSTS, media_origins=meta.origins(settings))


def _entry(platform: str, app_id: str, entry: Item) -> Iterator[Event]:
    """One entry; its changes are comments, mentions, the feed, and at times (Instagram) a wrapped messaging item."""
    read = partial(_item, platform, need(entry.get("id"), "account id"), app_id)
    yield from each(platform, entry, "messaging", read)
    yield from each(platform, entry, "changes", lambda change: read(block(change.get("value"))) if need(
        change.get("field"), "field").startswith("messag") else [Ignored(platform, "field")])
    yield from each(platform, entry, "standby", lambda item: [Ignored(platform, "standby")])


def _item(platform: str, account: str, app_id: str, item: Item) -> Iterable[Event]:
    """One item: a single event between the account and a person, who is whichever end is not the account."""
    kind = next((kind for kind in KINDS if kind in item), "")
    read, content = KINDS.get(kind, "unknown"), block(item.get(kind))
    if kind.startswith("policy"):
        return [Alert(platform, f"policy enforcement by Meta: {meta.dump(content)[:300]}")]
    sender, recipient = (ident(block(item.get(end)).get("id")) for end in ("sender", "recipient"))
    if isinstance(read, str) or sender in meta.TEST_SENDERS:
        return [Ignored(platform, read if isinstance(read, str) else "test")]
    if sender == account:  # whatever leaves our own account is never answered, marked or not
        content, sender = content | {"is_echo": True}, recipient
    chat, mid = need(sender, "sender"), ident(content.get("mid"))
    return read(Inbound(
        platform, account, chat, f"{kind}:{mid or meta.digest(item)}", person=chat, message_id=mid,
        sent_at=moment(item.get("timestamp"))), kind, content, app_id)


def _message(seed: Inbound, kind: str, message: Item, app_id: str) -> list[Event]:
    """A message, an unsent one, or the echo of one that left our account."""
    text, parts = words(message.get("text")), blocks(message.get("attachments"))
    if message.get("is_self") or any(part.get("type") == "story_mention" for part in parts):
        return [Ignored(seed.platform, "self or mention")]
    if message.get("is_deleted"):
        return [Erase(*seed[:3], need(seed.message_id, "message id"))]
    if message.get("is_echo"):
        app, tag = ident(message.get("app_id")), ident(message.get("metadata"))
        ours = tag.startswith(TAG) or (app == app_id if app and (app_id or app in INBOXES) else None)
        return [Echo(*seed[:3], seed.message_id, text, tag, ours, seed.sent_at)]
    media, unseen, places = _attachments(parts)
    if message.get("is_unsupported"):
        unseen.append("message")
    if parts and not (text or media or unseen or places):
        return [Ignored(seed.platform, "sticker")]
    reply_to = block(message.get("reply_to"))
    seed = seed._replace(quotes=ident(reply_to.get("mid")), quoted="our story" if "story" in reply_to else "")
    return [asked(seed, "\n".join(filter(None, (text, *places))), *media, unseen=", ".join(unseen))]


def _attachments(parts: list[Item]) -> tuple[list[Media], list[str], list[str]]:
    """-> (what can be fetched, what cannot be looked at, locations); stickers and hearts are none of these."""
    media: list[Media] = []
    unseen, places = [], []
    for part in parts:
        kind, payload = ident(part.get("type")) or "attachment", block(part.get("payload"))
        form, url = FORMS.get(kind), payload.get("url")
        if kind in ("sticker", "like_heart") or "sticker_id" in payload:
            continue
        if form and isinstance(url, str) and FETCHABLE.fullmatch(url):
            media.append(Media(form, url, url=True))
        elif kind == "location":
            places.append(place((), block(payload.get("coordinates")), "lat", "long"))
        else:
            unseen.append(NAMES.get(kind, kind))
    return media, unseen, places


def _postback(seed: Inbound, kind: str, content: Item, app_id: str) -> list[Event]:
    """A pressed button, read as its title; Get Started greets."""
    title, payload = words(content.get("title")), words(content.get("payload"))
    start = "".join(filter(str.isalpha, payload.lower())).startswith("getstarted")
    pressed = asked(seed, title or payload)
    return [pressed._replace(kind="start") if start else pressed]


def _receipt(seed: Inbound, kind: str, content: Item, app_id: str) -> list[Event]:
    """What arrived or was read: single messages, or everything up to the watermark."""
    mids = content.get("mids")
    found = [mid for mid in map(ident, mids if isinstance(mids, list) else [seed.message_id]) if mid]
    at = moment(content.get("watermark")) or seed.sent_at
    return [Receipt(*seed[:2], "read" if kind == "read" else "delivered", mid, chat=seed.chat, at=at)
            for mid in found or [""]]


def _handover(seed: Inbound, kind: str, content: Item, app_id: str) -> list[Event]:
    """A person or another app has the thread, unless it was passed to us (or, our app id unknown, by an inbox)."""
    new, old = ident(content.get("new_owner_app_id")), ident(content.get("previous_owner_app_id"))
    back = new == app_id if app_id else old in INBOXES and new not in INBOXES
    return [Handover(*seed[:3], kind != "pass_thread_control" or not back)]


def _outgoing(chat: str, part: Part) -> Item:
    """A text as an answer within 24 hours; tags for later are for people, so none is ever used."""
    return {"recipient": {"id": chat}, "messaging_type": "RESPONSE",
            "message": {"text": part.text} | ({"metadata": part.tag} if part.tag else {})}


Kind = Callable[[Inbound, str, Item, str], list[Event]]
KINDS: Mapping[str, Kind | str] = {  # what an item holds -> its reader, or why it wants no reaction
    "message": _message, "postback": _postback, "read": _receipt, "delivery": _receipt,
    **dict.fromkeys(("pass_thread_control", "take_thread_control", "request_thread_control"), _handover),
    "policy-enforcement": "policy", "policy_enforcement": "policy",
    "reaction": "reaction", "referral": "referral", "message_edit": "edit", "optin": "optin",
}
FORMS: Mapping[str, Literal["image", "voice"]] = {"image": "image", "audio": "voice"}
NAMES = {"file": "document", "fallback": "link"}  # what cannot be looked at; others keep Meta's names
REMEDIES: Mapping[int, meta.Row] = {  # subcodes, then codes
    **dict.fromkeys((2018065, 2018278, 2534022), meta.WINDOW),
    **dict.fromkeys((1545041, 2018001, 2018108, 2534001, 2534014, 551), meta.UNREACHABLE),
    **meta.COMMON, 1200: meta.RETRY, 1545133: meta.RETRY, 2534040: meta.RATE, 1357046: (Remedy.DELIVERED, ""),
    1893063: meta.POLICY, 2534029: meta.POLICY,
    2534041: (Remedy.STOP, "Instagram app: Settings > Messages > Connected tools > Allow access to messages"),
}
