"""WhatsApp, the Cloud API: what its webhooks say, what it is sent, what its errors mean.

Not here: signature, handshake, batches, calls (`meta.py`). The law: only our own number's messages count; a person is
known by phone number or, without one, by business-scoped user id (BSUID), and both lead to one chat. Facts:
developers.facebook.com/documentation/business-messaging/whatsapp, the pages on messages webhooks, business-scoped
user ids, typing indicators, media and error codes.

Next: `messenger.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import chain
from typing import Any, Literal
from urllib.parse import quote

from minibot.channels import meta
from minibot.channels.contract import Channel
from minibot.channels.fields import Item, block, blocks, ident, need, place
from minibot.channels.meta import asked, each, moment, words
from minibot.config import Settings
from minibot.errors import Remedy
from minibot.markup import WHATSAPP, compose
from minibot.model import Alert, Echo, Erase, Event, Ignored, Inbound, Media, Receipt, Rekey, Secret
from minibot.text import clean_name, utf16
from minibot.work import Part

NAME = "whatsapp"
LIMIT = 4096  # of a text body; the unit is not documented, and UTF-16 units are the most there can be
MEDIA_PATH = "https://lookaside.fbsbx.com/whatsapp_business/"  # beside Graph itself the only place for the token
ADDRESS = re.compile(r"[0-9]{5,20}|[A-Z]{2}\.(ENT\.)?[A-Za-z0-9]{1,128}")  # what an answer can be sent to
People = Mapping[str, Item]  # wa_id or user_id -> the contact


def channel(settings: Settings) -> Channel:
    """WhatsApp with these settings."""
    number, token = settings.meta_phone_number_id, settings.meta_access_token
    root, origins = f"{settings.meta_graph_url}/{settings.meta_api_version}", meta.origins(settings)
    post = partial(meta.graph, url=f"{root}/{number}/messages", token=token)
    answer = partial(meta.answer, remedies=REMEDIES, key="META_ACCESS_TOKEN")
    return Channel(
        name=NAME, verify=meta.verifier(settings), handshake=partial(meta.handshake, settings.verify_token),
        parse=lambda body, me: meta.batch(NAME, "whatsapp_business_account", body, lambda entry: each(
            NAME, entry, "changes", partial(_change, number))), account=number,
        compose=lambda markdown: compose(markdown, WHATSAPP, LIMIT, utf16), plain=str,
        call=lambda conversation, part: post("whatsapp:send", content=_outgoing(conversation.chat, part)),
        judge=lambda reply: meta.named(next(iter(blocks(answer(reply).get("messages"))), {}).get("id")),
        typing=lambda conversation, mid: (post("whatsapp:typing", content=_seen(mid), timeout=10.0),) if mid else (),
        typing_every=20.0,  # of the 25 s it shows
        media=lambda media: meta.graph("whatsapp:media", f"{root}/{quote(media.ref, safe='')}", token),
        located=lambda reply: meta.named(answer(reply).get("url")),
        download=lambda url: meta.graph("whatsapp:download", url, token if url.startswith(
            (MEDIA_PATH, origins[0] + "/")) else Secret()),
        media_hosts=meta.MEDIA_HOSTS, media_origins=origins)


def _change(number: str, change: Item) -> Iterable[Event]:
    """One change. Its field is looked at first: "history" carries old messages that look like new ones."""
    field, value = need(change.get("field"), "field"), block(change.get("value"))
    if field == "account_update":
        return [Alert(NAME, f"Meta changed the state of the account: {meta.dump(value)[:300]}")]
    if field not in FIELDS:
        return [Ignored(NAME, "field")]
    if need(block(value.get("metadata")).get("phone_number_id"), "phone number id") != number:
        return [Ignored(NAME, "other number")]
    people = {found.lstrip("+"): contact for contact in blocks(value.get("contacts"))
              for found in (ident(contact.get("wa_id")), ident(contact.get("user_id"))) if found}
    return chain.from_iterable(each(NAME, value, key, partial(read, number, people))
                               for key, read in FIELDS[field].items())


def _message(number: str, people: People, item: Item) -> list[Event]:
    """One message of a person: a question, a command, a notice, or something that wants no reaction."""
    kind = ident(item.get("type"))
    read = "group" if item.get("group_id") else KINDS.get(kind, "unknown")
    if isinstance(read, str):
        return [Ignored(NAME, read)]
    sender, user_id = ident(item.get("from")).lstrip("+"), ident(item.get("from_user_id"))
    contact = people.get(sender or user_id, {})
    sender, user_id = sender or ident(contact.get("wa_id")).lstrip("+"), user_id or ident(contact.get("user_id"))
    phone = sender if sender.isdigit() else ""  # a BSUID has been seen in the phone number's place
    chat, mid = need(sender or user_id, "sender", ident if kind == "revoke" else _address), ident(item.get("id"))
    if chat in meta.TEST_SENDERS:
        return [Ignored(NAME, "test")]
    context, profile = block(item.get("context")), block(contact.get("profile"))
    return read(Inbound(
        NAME, number, chat, f"message:{mid or meta.digest(item)}", person=chat, alias=user_id if phone else "",
        name=_label(profile.get("name")), username=_label(profile.get("username")), phone=phone and f"+{phone}",
        message_id=mid, sent_at=moment(item.get("timestamp")), quotes=ident(context.get("id")),
        forwarded=bool(context.get("forwarded") or context.get("frequently_forwarded")),
        quoted=_about(context, block(item.get("referral")))), block(item.get(kind)) | {"errors": item.get("errors")})


def _address(value: object) -> str:
    """A phone number or a BSUID, else ""."""
    return value if isinstance(value, str) and ADDRESS.fullmatch(value) else ""


def _label(value: Any) -> str:
    """A name is decoration: an odd one is left out, not refused."""
    return clean_name(value) if isinstance(value, str) else ""


def _about(context: Item, advert: Item) -> str:
    """What the person looks at while writing: a catalogue item, or the advertisement that led here."""
    product = _label(block(context.get("referred_product")).get("product_retailer_id"))
    headline = _label(advert.get("headline")) or _label(advert.get("body"))
    return f"catalogue item {product}" if product else f"advertisement: {headline}" if headline else ""


def _written(key: str, unseen: str = "", media: Literal["", "image", "voice"] = "") -> Kind:
    """A reader of a kind whose words stand under `key`, beside `media` or beside what `unseen` names."""
    return lambda seed, content: [asked(seed, words(content.get(key)), *(
        [Media(media, need(content.get("id"), "media id"))] if media else []), unseen=unseen)]


def _choice(seed: Inbound, content: Item) -> list[Event]:
    """A pressed button or a chosen row; forms and call permissions are nobody's question."""
    kind = ident(content.get("type"))
    if kind in ("button_reply", "list_reply"):
        return [asked(seed, words(block(content.get(kind)).get("title")))]
    return [Ignored(NAME, "form") if kind else asked(seed, "", unseen="message")]


def _unsupported(seed: Inbound, content: Item) -> list[Event]:
    """What the API cannot show, or (131060) could not fetch just now: then the person is asked to send it again."""
    lost = any(error.get("code") == 131060 for error in blocks(content.get("errors")))
    return [asked(seed, "", unseen="unavailable" if lost else ident(content.get("type")) or "message")]


def _system(seed: Inbound, content: Item) -> list[Event]:
    """A new number or user id of the same person; other system messages are news for nobody."""
    olds = seed.phone.lstrip("+"), seed.alias or ("" if seed.phone else seed.chat)
    news = ident(content.get("wa_id")).lstrip("+"), ident(content.get("user_id"))
    return [Rekey(NAME, seed.account, old, new) for old, new in zip(olds, news, strict=True)
            if old and new and old != new] or [Ignored(NAME, "system")]


def _status(number: str, people: People, item: Item) -> list[Event]:
    """What became of a message of ours; "failed" may come long after the send was accepted with 200."""
    state = STATES.get(ident(item.get("status")))
    code = next((ident(error.get("code")) for error in blocks(item.get("errors"))), "")
    tag, at = _label(item.get("biz_opaque_callback_data")), moment(item.get("timestamp"))
    return [Receipt(NAME, number, state, need(item.get("id"), "message id"), tag, "", code, at) if state
            else Ignored(NAME, "status")]


def _echo(number: str, people: People, item: Item) -> list[Event]:
    """A message that somebody wrote in the WhatsApp Business app, on the same number."""
    kind, chat = ident(item.get("type")), ident(item.get("to")).lstrip("+") or item.get("to_user_id")
    text = words(block(item.get(kind)).get("body"))
    return [Ignored(NAME, kind) if kind in ("edit", "revoke") else Echo(
        NAME, number, need(chat, "recipient"), ident(item.get("id")), text, "", False, moment(item.get("timestamp")))]


def _outgoing(chat: str, part: Part) -> Item:
    """A text to a phone number (without the plus Meta may prepend our own country's code) or to a BSUID."""
    return {
        "messaging_product": NAME, "recipient_type": "individual", "type": "text",
        **({"to": f"+{chat}"} if chat.isdigit() else {"recipient": chat}),
        "text": {"body": part.text, "preview_url": False},  # a preview would fetch whatever the model wrote
        **({"biz_opaque_callback_data": part.tag} if part.tag else {})}


def _seen(message_id: str) -> Item:
    """Blue ticks, and "typing" until the answer arrives."""
    return {"messaging_product": NAME, "status": "read", "message_id": message_id, "typing_indicator": {"type": "text"}}


Kind = Callable[[Inbound, Item], list[Event]]  # the message so far and the content under its type -> what it is
KINDS: Mapping[str, Kind | str] = {  # a message's type -> its reader, or why it wants no reaction
    "text": _written("body"), "button": _written("text"), "image": _written("caption", media="image"),
    "audio": _written("", media="voice"), "voice": _written("", media="voice"),
    "video": _written("caption", "video"), "document": _written("caption", "document"),
    "sticker": _written("", "sticker"), "contacts": _written("", "contact"), "order": _written("text", "order"),
    "location": lambda seed, content: [asked(seed, place(
        (content.get("name"), content.get("address")), content, "latitude", "longitude"))],
    "revoke": lambda seed, content: [Erase(*seed[:3], need(content.get("original_message_id"), "message id"))],
    "interactive": _choice, "unsupported": _unsupported, "system": _system,
    "reaction": "reaction", "edit": "edit", "request_welcome": "welcome",
}
FIELDS: Mapping[str, Mapping[str, Callable[[str, People, Item], list[Event]]]] = {
    "messages": {"messages": _message, "statuses": _status}, "smb_message_echoes": {"message_echoes": _echo}}
STATES: Mapping[str, Literal["sent", "delivered", "read", "failed"]] = {
    "sent": "sent", "delivered": "delivered", "read": "read", "played": "read", "failed": "failed"}
REMEDIES: Mapping[int, meta.Row] = {
    **meta.COMMON, 130429: meta.RATE, 131005: meta.PERMISSION, 131047: meta.WINDOW,
    **dict.fromkeys((131031, 131048, 131064), meta.POLICY),
    **dict.fromkeys((131000, 131016, 131057, 133004), meta.RETRY),
    **dict.fromkeys((130403, 130497, 131021, 131026, 131050), meta.UNREACHABLE),
    131056: (Remedy.WAIT_CHAT, "too many messages to this person"),
    131030: (Remedy.REFUSED, "a test number writes to five people only: add this one under WhatsApp > API Setup"),
    **dict.fromkeys((33, 131045, 133010), (
        Remedy.STOP, "META_PHONE_NUMBER_ID is no registered number of the owner of {key}: see WhatsApp > API Setup")),
    131037: (Remedy.STOP, "the display name is not approved: see WhatsApp Manager > Phone numbers"),
    131042: (Remedy.STOP, "a payment problem: see WhatsApp Manager > Payment settings"),
}
