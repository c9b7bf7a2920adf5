"""What a Telegram update says: the body of one delivery in, one event out.

Not here: sending, errors, secrets (`telegram.py`). The law: any field may be missing, null or of a wrong type;
what cannot be identified becomes `Odd`, what wants no reaction `Ignored`, and nothing raises but `Unreadable` for
a body that is no JSON object. Facts: core.telegram.org/bots/api#update, and the source of Telegram's API server.

Next: `meta.py`, what the other three share.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Literal

from minibot.channels.contract import COMMANDS, UNSEEN
from minibot.channels.fields import Item, block, blocks, ident, need, place, read_json
from minibot.errors import Unreadable
from minibot.model import Acknowledge, Aside, Event, Ignored, Inbound, Me, Media, Odd, Presence, Rekey
from minibot.text import clean, clean_name

LIMIT = 20 << 20  # bytes; getFile refuses more
RICH_DEPTH = 40  # documented are 16 levels of blocks; the text inside them nests a little more
# Marked as bots, yet people: an anonymous administrator of a group, somebody who posts as a channel.
STAND_INS = ("1087968824", "136817688")
PLAIN = {"message_id", "from", "chat", "date", "text"}  # what a message of plain words consists of
FORWARDED = frozenset(("forward_origin", "forward_from", "forward_from_chat", "forward_sender_name", "forward_date"))
COMMAND = re.compile(r"/([A-Za-z0-9_]{1,64})(?:@([A-Za-z0-9_]{3,32}))?(?![\w@/])")
ASK = "ask"  # /ask@bot QUESTION: the way to a bot whose privacy mode keeps mentions from it
OTHERS = "@"  # stands for a command that is another bot's


def parse(body: bytes, me: Me) -> list[Event]:
    """The one event of an update. `me.username` decides which mentions and commands in a group are ours.

    Raises Unreadable if the body is no JSON object.
    """
    update = read_json(body)
    try:
        event = "update:" + need(update.get("update_id"), "update_id", number)
        for kind, read in READERS.items():
            if update.get(kind) is not None:
                return [read(block(update[kind]), event, me)]
    except Unreadable as fault:
        return [Odd("telegram", f"odd:{sha256(body).hexdigest()[:32]}", str(fault), clean(body.decode()))]
    return [Ignored("telegram", next((why for why in REASONS if why in "".join(update)), "unknown kind"))]


def _plain(message: Item, event: str, me: Me) -> Event | None:
    """A person's plain words in a private chat, nine messages of ten, in a third of the time; None: anything else."""
    if message.keys() != PLAIN:
        return None
    sender, text, chat = message["from"], message["text"], message["chat"]
    if type(sender) is not dict or type(text) is not str or type(chat) is not dict or sender.get("is_bot") is not False:
        return None
    person = number(sender.get("id"))
    if not text or text[0] == "/" or number(chat.get("id")) != person or not person or person[0] == "-":
        return None
    first, last = words(sender.get("first_name")), words(sender.get("last_name"))
    return Inbound("telegram", me.account, person, event, "ask", clean(text), "", person,
                   clean_name(f"{first} {last}" if last else first), "", number(message["message_id"]),
                   count(message["date"]) * 1000, username=ident(sender.get("username")))


def _message(message: Item, event: str, me: Me) -> Event:
    """Somebody wrote: is it for us, and what does it say? Ids below zero are groups, the others private chats."""
    if plain := _plain(message, event, me):
        return plain
    chat = need(block(message.get("chat")).get("id"), "chat id", number)
    old, new = number(message.get("migrate_from_chat_id")), number(message.get("migrate_to_chat_id"))
    if old or new:  # the old and the new chat are both told, in any order
        return Rekey("telegram", me.account, old or chat, new or chat)
    private, reply = chat[0] != "-", block(message.get("reply_to_message"))
    reply = {} if "forum_topic_created" in reply else reply  # in a topic every message "replies" to its opening
    raw, entities = _text(message)
    media, notice = _media(message)
    forwarded = not FORWARDED.isdisjoint(message)  # somebody else's words: no command, and no call for us
    word, text = ("", raw) if forwarded else _address(raw, entities, private, me)
    called = text != raw or word in COMMANDS or number(block(reply.get("from")).get("id")) == me.account != ""
    unwanted = _unwanted(message) or ("" if raw or media or notice else "service")
    album, addressed = ident(message.get("media_group_id")), private or called and word != OTHERS
    if unwanted or not (addressed or album and media):
        return Ignored("telegram", unwanted or "not addressed")
    cited = words(block(message.get("quote")).get("text")) or (_text(reply)[0] if reply else "")
    text, quoted = clean(text), clean(cited)
    kind = word if word in COMMANDS and "text" in message else "ask" if raw or media else "unsupported"
    if kind == "ask":
        if not text and not media:  # a bare "@bot": the replied-to message is the question
            text, quoted = quoted or clean(raw), ""
        if notice:
            text += f"\n{UNSEEN.format(notice)}"
        if reply and not media:
            media = tuple(found for found in _media(reply)[0] if found.kind == "image")
    sender = block(message.get("sender_chat")) or block(message.get("from"))  # whom a stand-in stands for
    name = clean_name(" ".join(map(words, map(sender.get, ("first_name", "last_name", "title")))))
    made = Inbound(
        "telegram", me.account, _place(message, chat), event, kind, text, notice if kind == "unsupported" else "",
        person=number(sender.get("id")) or chat, name=name, username=ident(sender.get("username")), media=media,
        message_id=number(message.get("message_id")), sent_at=count(message.get("date")) * 1000, forwarded=forwarded,
        quoted=quoted, quotes=number(reply.get("message_id")), album=album)
    return made if addressed else Aside(made)


def _membership(change: Item, event: str, me: Me) -> Event:
    """In a private chat "kicked" means that the person blocked us, "member" that they came back."""
    chat = need(block(change.get("chat")).get("id"), "chat id", number)
    status = words(block(change.get("new_chat_member")).get("status"))
    if chat[0] != "-" and status in ("kicked", "member"):
        return Presence("telegram", me.account, chat, status == "kicked")
    return Ignored("telegram", "membership")


def _button(query: Item, event: str, me: Me) -> Event:
    """We send no buttons; the sign of life ends the spinner that the person sees."""
    return Acknowledge("telegram", ident(query.get("id")))


READERS = {"message": _message, "my_chat_member": _membership, "callback_query": _button}
# Words in the names of other kinds of update: what they are counted as. All of them are ignored.
REASONS = ("edited", "channel", "business", "guest", "reaction", "query", "inline", "paid", "poll", "boost", "member")


def _unwanted(message: Item) -> str:
    """Why a message gets no answer, whatever it says; "" if nothing speaks against it. Bots never talk to bots."""
    sender = block(message.get("from"))
    if sender.get("is_bot") and number(sender.get("id")) not in STAND_INS:
        return "bot"
    if message.get("is_automatic_forward"):  # the linked channel's post, copied into its discussion group
        return "channel post"
    return "via bot" if message.get("via_bot") and "game" not in message else ""  # a game always comes via its bot


def _place(message: Item, chat: str) -> str:
    """The conversation: "chat", "chat/thread" in a topic, "chat/dtopic" in a channel's direct messages.

    subtle: a plain thread of replies has a message_thread_id as well, only a topic has is_topic_message.
    """
    direct = number(block(message.get("direct_messages_topic")).get("topic_id"))
    thread = number(message.get("message_thread_id")) if message.get("is_topic_message") else ""
    return f"{chat}/d{direct}" if direct else f"{chat}/{thread}" if thread else chat


def _address(raw: str, entities: list[Item], private: bool, me: Me) -> tuple[str, str]:
    """The command at the start, and the text without our name; nobody called us where it is `raw` again.

    A command is known by its entity, where Telegram gave none by its looks. Offsets count UTF-16 units; what is
    taken out becomes NUL first, so that they stay right.
    """
    match, word, text = COMMAND.match(raw), "", raw
    if match and (not entities or any(m.get("type") == "bot_command" and m.get("offset") == 0 for m in entities)):
        word, bot = match[1].lower(), (match[2] or "").lower()
        if bot and bot != me.username.lower() and (me.username or not private):
            return OTHERS, raw
        start, end = 0 if word == ASK else match.end(1), match.end()
        text = raw[:start] + "\0" * (end - start) + raw[end:]
    if private or not entities:
        return word, raw if text == raw else text.replace("\0", "").lstrip(" \n,:")
    units = bytearray(text, "utf-16-le", "surrogatepass")
    for mark in entities:
        start, length = count(mark.get("offset")), min(count(mark.get("length")), 256)  # a name is shorter
        at = slice(2 * start, 2 * (start + length))
        said = units[at].decode("utf-16-le", "replace").lower()
        if (mark.get("type") == "mention" and said == f"@{me.username}".lower()) or (
                mark.get("type") == "text_mention" and number(block(mark.get("user")).get("id")) == me.account):
            units[at] = bytes(len(units[at]))
    text = units.decode("utf-16-le", "surrogatepass").replace("\0", "")
    return word, raw if text == raw else text.lstrip(" \n,:").rstrip()


def _text(message: Item) -> tuple[str, list[Item]]:
    """Text, caption, rich text or location as sent, and the entities of the first two."""
    for key, marks in (("text", "entities"), ("caption", "caption_entities")):
        if text := words(message.get(key)):
            return text, blocks(message.get(marks))
    return _flat(message.get("rich_message")) or _location(message), []


RICH = (("label", ""), ("summary", ""), ("alternative_text", ""), ("expression", ""), ("text", ""), ("cells", "\n"),
        ("items", "\n"), ("blocks", "\n"), ("caption", ""), ("credit", ""))


def _flat(value: object, glue: str = "", depth: int = 0) -> str:
    """A rich message as plain text: blocks and rows on lines of their own, cells between bars, marks dropped."""
    if isinstance(value, list) and depth < RICH_DEPTH:
        return glue.join(filter(None, (_flat(item, glue and " | ", depth + 1) for item in value)))
    if isinstance(value, dict) and depth < RICH_DEPTH:
        lines = (_flat(value[key], inner, depth + 1) for key, inner in RICH if key in value)
        return (" " if "label" in value else "\n").join(filter(None, lines))
    return words(value)


def _location(message: Item) -> str:
    venue = block(message.get("venue"))
    spot = block(message.get("location")) or block(venue.get("location"))
    return place((venue.get("title"), venue.get("address")), spot, "latitude", "longitude")


# In the order in which to look: an animation also comes as a document.
CONTENTS = ("photo", "voice", "audio", "video_note", "animation", "video", "sticker", "document", "poll", "dice",
            "contact", "game", "story", "checklist", "paid_media")
KINDS: dict[str, Literal["image", "voice"]] = {
    "photo": "image", "image/jpeg": "image", "image/png": "image", "image/gif": "image", "image/webp": "image",
    "voice": "voice", "audio": "voice", "video_note": "voice"}  # the transcriber takes a video note's mp4 too


def _media(message: Item) -> tuple[tuple[Media, ...], str]:
    """What can be fetched (of a photo the largest size), or the word for what cannot be read."""
    for key in CONTENTS if "text" not in message else ():
        content = message.get(key)
        sizes = blocks(content if isinstance(content, list) else [content])
        if sizes:
            kind = KINDS.get(ident(sizes[0].get("mime_type")) if key == "document" else key)
            small = (size for size in sizes if ident(size.get("file_id")) and count(size.get("file_size")) <= LIMIT)
            best = max(small, key=lambda size: count(size.get("width")) * count(size.get("height")), default={})
            mime, length = ident(best.get("mime_type")), count(best.get("file_size"))
            if kind and best:
                return (Media(kind, best["file_id"], False, mime, length),), ""
            return (), "large file" if kind else key.replace("_", " ")
    return (), ""


def words(value: object) -> str:
    """The string, or "" for anything else."""
    return value if isinstance(value, str) else ""


def count(value: object) -> int:
    """A number of things or seconds, else 0. subtle: `type() is`, since True is an int to `isinstance`."""
    return value if type(value) is int and 0 <= value < 1 << 36 else 0


def number(value: object) -> str:
    """A number id (52 significant bits at most) as a string, else ""."""
    return str(value) if type(value) is int and -1 << 62 < value < 1 << 62 else ""
