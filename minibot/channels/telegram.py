"""Telegram: who may post to us, how an answer is sent, and what the replies of its API mean.

Not here: what an update says (`telegram_updates.py`), Markdown (`markup.py`), performing calls (`web/calls.py`).
The law: all functions are pure; the token stands in URLs only, and those are never shown. Facts: the source of
Telegram's API server (tdlib/telegram-bot-api), which is more exact than core.telegram.org/bots/api.

Next: `telegram_updates.py`.
"""

from __future__ import annotations

import hmac
import json
import re
from dataclasses import replace
from functools import partial
from urllib.parse import quote

from minibot.channels.contract import Channel
from minibot.channels.fields import Item, block, blocks, read_reply
from minibot.channels.telegram_updates import LIMIT, number, parse, words
from minibot.config import Settings
from minibot.errors import Refused, Remedy, SendFailed, retry_after
from minibot.markup import TELEGRAM, compose, plain_of
from minibot.model import Call, Me, Reply, Request
from minibot.text import clean, utf16
from minibot.work import Conversation, Part

TEXT_LIMIT = 4000  # UTF-16 units; the server counts 4096 code points after parsing, which this always satisfies
POLL = 50  # seconds, the longest that Telegram's server waits
UPDATES = ("message", "my_chat_member", "callback_query")
MENU = {"start": "Say hello", "help": "What I can do", "ask": "Ask me something, in a group",
        "reset": "Start a new conversation", "human": "Ask for a person", "bot": "Bring me back",
        "privacy": "What is stored, and where", "forget": "Erase what is stored about this chat"}
TOKEN_HELP = "TELEGRAM_BOT_TOKEN is wrong or revoked; copy it again from @BotFather; TELEGRAM_API_URL must be right too"
# What follows from "status description": the first pattern that matches its beginning. No description: not Telegram.
ERRORS = (
    ("401|404|421", Remedy.STOP, TOKEN_HELP),
    ("409", Remedy.STOP, "the bot is in use elsewhere; stop the second one, or run: python run.py connect telegram"),
    ("3|40[03] $", Remedy.STOP, "something else answers in Telegram's place; look at TELEGRAM_API_URL and the proxy"),
    ("403|400 .*(chat not found|not enough rights|need admin|no write access|_forbidden)", Remedy.UNREACHABLE, ""),
    ("400 .*(can't parse|entit)", Remedy.PLAIN, ""),
    ("400 .*too[ _]long", Remedy.HALVE, ""),
    ("400 .*(text is empty|non-empty)", Remedy.EMPTY, ""),
    ("400 .*(thread not found|topic_closed|topic_deleted|replied not found)", Remedy.THREADLESS, ""),
    ("400 .*(not modified|query is too old)", Remedy.DELIVERED, ""),
    ("429", Remedy.WAIT_CHAT, ""),
    ("408|5", Remedy.RETRY, ""),
    ("2", Remedy.UNSURE, "an answer that is none"),
    ("", Remedy.REFUSED, ""),
)


def channel(settings: Settings) -> Channel:
    """The Telegram of these settings. Its account is the bot's id, which is the first half of the token."""
    ask, account = partial(request, settings), settings.telegram_bot_token.reveal().partition(":")[0]
    return Channel(
        name="telegram", account=account, verify=partial(_verify, settings), handshake=None, parse=parse,
        compose=lambda markdown: compose(markdown, TELEGRAM, TEXT_LIMIT, utf16), plain=plain_of,
        call=partial(_send, settings), judge=judge, group_gap=1.0, looks_up=False,
        typing=partial(_typing, settings), typing_every=4.0,  # the sign lasts five seconds
        media=lambda media: ask("getFile", file_id=media.ref), located=partial(_located, settings),
        download=lambda url: Call("telegram download", "GET", url, timeout=60.0, max_bytes=LIMIT),
        media_hosts=("api.telegram.org",), media_origins=(settings.telegram_api_url,),
        whoami=ask("getMe"), named=lambda reply: Me(account, words(result(reply).get("username"))),
        acknowledge=lambda query: ask("answerCallbackQuery", callback_query_id=query),
        fetch=partial(_fetch, settings) if settings.telegram_polling else None, fetched=_fetched)


def request(settings: Settings, method: str, **parameters: object) -> Call:
    """Any method of the Bot API, its parameters as JSON; read the reply with `result`."""
    return Call(f"telegram {method}", "POST", f"{settings.telegram_api_url}/bot{_token(settings)}/{method}",
                {"Content-Type": "application/json"}, json.dumps(parameters).encode())


def set_webhook(settings: Settings, url: str) -> Call:
    """Register `url` (whole, https) together with our secret. What waits at Telegram is never dropped."""
    return request(settings, "setWebhook", url=url, secret_token=settings.telegram_webhook_secret.reveal(),
                   allowed_updates=UPDATES, max_connections=40, drop_pending_updates=False)


def set_commands(settings: Settings) -> Call:
    """The menu beside the text field."""
    return request(settings, "setMyCommands", commands=[{"command": word, "description": MENU[word]} for word in MENU])


def result(reply: Reply) -> Item:
    """What a method returned, {} where that is no object. Raises SendFailed with what to do about it."""
    body = read_reply(reply.body)
    if body.get("ok") is True and 200 <= reply.status < 300:
        return block(body.get("result"))
    status, parameters = number(body.get("error_code")) or str(reply.status), block(body.get("parameters"))
    said = " ".join(clean(words(body.get("description")))[:200].split())
    remedy, help = next((row[1:] for row in ERRORS if re.match(row[0], f"{status} {said}", re.I)))
    chat = number(parameters.get("migrate_to_chat_id"))
    asked = {"retry-after": str(parameters.get("retry_after"))}
    wait = retry_after(asked) or retry_after(reply.fields) or (5.0 if remedy is Remedy.WAIT_CHAT else None)
    raise SendFailed(Remedy.MOVED if chat else remedy, status, retry_after=wait, chat=chat, help=help or said)


def judge(reply: Reply) -> str:
    """The id of the message that was sent."""
    message_id = number(result(reply).get("message_id"))
    if not message_id:
        raise SendFailed(Remedy.UNSURE, str(reply.status), help="sent, but without a message id")
    return message_id


def _fetch(settings: Settings, offset: int) -> Call:
    """Ask for what came since `offset`; Telegram holds the question for POLL seconds until there is something."""
    call = request(settings, "getUpdates", offset=offset, timeout=POLL, allowed_updates=UPDATES)
    return replace(call, timeout=POLL + 15.0, max_bytes=8 << 20)


def _fetched(reply: Reply) -> list[tuple[int, bytes]]:
    """The numbered updates of an answer, each as a webhook's body. Raises SendFailed."""
    result(reply)
    return [(item["update_id"], json.dumps(item).encode()) for item in blocks(read_reply(reply.body).get("result"))
            if type(item.get("update_id")) is int]


def _verify(settings: Settings, request: Request) -> None:
    given, secret = request.all(b"x-telegram-bot-api-secret-token"), settings.telegram_webhook_secret.reveal().encode()
    if len(given) > 1:
        raise Refused(400, "two secret headers")
    if not settings.allow_unsigned_webhooks and not (given and secret and hmac.compare_digest(given[0], secret)):
        raise Refused(401, "another secret header than ours" if given else "no secret header (set by hand without it?)")


def _send(settings: Settings, conversation: Conversation, part: Part) -> Call:
    """One message. Only in a group does it point at the question; link previews would let an answer fetch URLs."""
    body = _place(conversation.chat, part.threadless) | {
        "text": part.text, "link_preview_options": {"is_disabled": True}}
    if not part.plain:
        body["parse_mode"] = "HTML"
    if conversation.chat.startswith("-") and part.reply_to.isdecimal() and not part.threadless:
        body["reply_parameters"] = {"message_id": int(part.reply_to), "allow_sending_without_reply": True}
    return request(settings, "sendMessage", **body)


def _place(chat: str, threadless: bool = False) -> Item:
    """A conversation's "chat", "chat/thread" or "chat/dtopic" as the parameters that lead there."""
    number, _, topic = chat.partition("/")
    if topic.startswith("d"):
        return {"chat_id": int(number), "direct_messages_topic_id": int(topic[1:])}
    return {"chat_id": int(number)} | ({"message_thread_id": int(topic)} if topic and not threadless else {})


def _typing(settings: Settings, conversation: Conversation, message_id: str) -> tuple[Call, ...]:
    """Not in a channel's direct messages, where Telegram refuses it."""
    call = partial(request, settings, "sendChatAction", action="typing")
    return () if "/d" in conversation.chat else (call(**_place(conversation.chat)),)


def _located(settings: Settings, reply: Reply) -> str:
    """The address of a file that getFile told of; it holds the token and is good for an hour."""
    steps = words(result(reply).get("file_path")).split("/")
    if not all(steps) or {".", ".."} & set(steps):
        raise SendFailed(Remedy.REFUSED, "file_path", help="getFile told of no usable path")
    path = "/".join(quote(step, safe="") for step in steps)
    return f"{settings.telegram_api_url}/file/bot{_token(settings)}/{path}"


def _token(settings: Settings) -> str:
    return quote(settings.telegram_bot_token.reveal(), safe=":")
