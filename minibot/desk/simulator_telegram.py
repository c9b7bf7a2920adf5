"""Telegram from the other side: phones that write updates, and a Bot API that answers as strictly as the real one.

Not here: sockets and clock (`simulator.py` says who brings them), methods that a conversation does not need. The law:
limits and complaints are those of Telegram's own server (sources of telegram-bot-api and tdlib), and an argument that
minibot has no reason to send is refused, where the real server would ignore it.

Next: `simulator_html.py`; then `simulator_graph.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from minibot.desk.simulator import (
    Answered, Clock, Fault, Refusal, Screen, Webhook, arguments, filled, json_answer, mismatch)
from minibot.desk.simulator_html import HtmlFault, parse_html

WORDS = {400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 409: "Conflict",
         413: "Request Entity Too Large", 429: "Too Many Requests", 500: "Internal Server Error"}
NAMES = {"sendMessage": "send", "sendChatAction": "action"}  # as faults call them
ID = int | str  # the server takes numbers as text, too


def error(status: int, words: str = "", **parameters: Any) -> Answered:
    """A Bot API error: `{"ok":false,"error_code":…,"description":…}`; 429 carries Retry-After as well."""
    value = {"ok": False, "error_code": status, "description": ": ".join(filter(None, [WORDS.get(status), words]))}
    wait = filled(**{"retry-after": str(parameters.get("retry_after", ""))})
    return json_answer(status, value | filled(parameters=parameters), wait)


def refuse(status: int, words: str = "") -> NoReturn:
    """Answer a call with `error`."""
    raise Refusal(error(status, words))


class TelegramSide(Screen):
    """A bot's whole Telegram. Chats come to be when somebody writes; a negative number is a group."""

    def __init__(self, token: str, secret: str, now: Clock, username: str = "minibot_bot") -> None:
        super().__init__(now)
        self.token, self.secret = token, secret
        self.me = {"id": int(token.split(":")[0]), "is_bot": True, "first_name": "minibot", "username": username,
                   "can_join_groups": True, "can_read_all_group_messages": False, "supports_inline_queries": False}
        self.known: set[tuple[str, str, int]] = set()  # ("message" | "topic", chat, id)
        self.files: dict[str, bytes] = {}
        self.methods: dict[str, tuple[Callable[[dict[str, Any]], Any], dict[str, Any]]] = {  # and their arguments
            "getMe": (lambda given: self.me, {}),
            "sendMessage": (self._send_message, {
                "chat_id": ID, "text": str, "parse_mode": "HTML", "message_thread_id": ID, "disable_notification": bool,
                "link_preview_options": {"is_disabled": bool},
                "reply_parameters": {"message_id!": int, "allow_sending_without_reply": bool}}),
            "sendChatAction": (self._send_chat_action, {"chat_id": ID, "message_thread_id": ID, "action!": "typing"}),
            "getFile": (self._get_file, {"file_id!": str}),
            "setMyCommands": (lambda given: True, {"commands!": list, "scope": dict}),
        }

    def update(self, kind: str, value: dict[str, Any], id: int = 0) -> Webhook:
        """One update of any kind, as ASCII, as Telegram writes it."""
        fields = {"Content-Type": "application/json", "X-Telegram-Bot-Api-Secret-Token": self.secret}
        body = json.dumps({"update_id": self.next_id(), kind: value}, separators=(",", ":")).encode()
        return Webhook("/telegram/webhook", fields, body, str(id))

    def message(self, chat: str, kind: str = "message", id: int = 0, **content: Any) -> Webhook:
        """A message with any content in the shape of a Message: `text=`, `photo=`, `reply_to_message=` ..."""
        who = {"id": abs(int(chat)), "is_bot": False, "first_name": "Ada", "language_code": "en"}
        kind_of_chat = "private" if chat[0] != "-" else "supergroup" if chat.startswith("-100") else "group"
        self.chats[chat] = {"id": int(chat), "type": kind_of_chat, ("title" if chat[0] == "-" else "first_name"): "Ada"}
        id = id or self.next_id()
        self.known |= {("message", chat, id), ("topic", chat, content.get("message_thread_id", 0))}
        value = {"message_id": id, "from": who, "chat": self.chats[chat], "date": self.now() // 1000, **content}
        return self.update(kind, value, id)

    def text(self, chat: str, text: str, quote: str = "", **more: Any) -> Webhook:
        """A typed text; a leading command is marked as one. `quote` is the id of the bot's message it answers."""
        command, old = re.match(r"/\w+(@\w+)?", text), next((x for x in self.shown[chat] if x.id == quote != ""), None)
        marks = [{"type": "bot_command", "offset": 0, "length": command.end()}] if command else []
        quoted = old and {"message_id": int(quote), "from": self.me, "chat": self.chats[chat], "date": old.at // 1000,
                          "text": old.text}
        return self.message(chat, **filled(text=text, entities=marks, reply_to_message=quoted), **more)

    def media(self, chat: str, data: bytes, mime: str, caption: str = "", **more: Any) -> Webhook:
        """A photo, with the small copy that Telegram makes of it, or a voice note."""
        image = mime.startswith("image/")
        photo = [{**self._file(some), "width": 9, "height": len(some)} for some in (data[:99], data) if image]
        voice = {} if image else {**self._file(data), "duration": 2, "mime_type": mime}
        return self.message(chat, **filled(photo=photo, voice=voice, caption=caption), **more)

    def _file(self, data: bytes) -> dict[str, Any]:
        self.files[id := f"file{self.next_id()}"] = data
        return {"file_id": id, "file_unique_id": f"{id}u", "file_size": len(data)}

    def answer(self, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes) -> Answered:
        """Answer one call; `path` as in the URL, header names in lower case."""
        found = re.fullmatch(r"/(file/)?bot(\d+:[\w-]+)/(.+)", path)
        if not found or found[2] != self.token:
            return error(401 if found else 404)
        if found[1]:
            return self.meet("download", lambda: self._download(found[3]))
        return self.meet(NAMES.get(found[3], found[3]), lambda: self._call(found[3], query, headers, body))

    def fail(self, fault: Fault) -> Answered:
        """A planned status in the Bot API's words."""
        limit = {"words": f"retry after {fault.retry_after}", "retry_after": fault.retry_after}
        words: dict[str, dict[str, Any]] = {"429": limit, "500": {"words": "restart"}}
        return super().fail(fault) if fault.body else error(int(fault.kind), **words.get(fault.kind, {}))

    def _download(self, path: str) -> Answered:
        data = self.files.get(path.removeprefix("files/"))
        return error(404) if data is None else Answered(200, {"content-type": "application/octet-stream"}, data)

    def _call(self, name: str, query: str, headers: Mapping[str, str], body: bytes) -> Answered:
        act, shape = self.methods.get(name) or refuse(404, "method not found")
        if len(query) + len(body) > 1 << 20:
            refuse(413)
        try:
            given = arguments(query, headers, body)
        except ValueError:
            refuse(400, "can't parse JSON object")
        if wrong := mismatch(given, shape):
            refuse(400, f"{wrong[0]} parameter {wrong[1]}")
        return json_answer(200, {"ok": True, "result": act(given)})

    def _chat(self, given: dict[str, Any]) -> str:
        chat, thread = str(given.get("chat_id", "")), int(given.get("message_thread_id", 0))
        if chat in self.refusing:
            raise Refusal(self.refusing[chat])
        if chat not in self.chats:
            refuse(400, "chat not found" if chat else "chat_id is empty")
        if thread and ("topic", chat, thread) not in self.known:
            refuse(400, "message thread not found")
        return chat

    def _send_message(self, given: dict[str, Any]) -> dict[str, Any]:
        text, entities = _formatted(given)
        chat, reply, id = self._chat(given), given.get("reply_parameters", {}), self.next_id()
        found = ("message", chat, reply.get("message_id")) in self.known
        if reply and not found and not reply.get("allow_sending_without_reply"):
            refuse(400, "message to be replied not found")
        self.known.add(("message", chat, id))
        quote = str(reply["message_id"]) if found else ""
        self.show(chat, "text", text=text, id=str(id), reply_to=quote, entities=tuple(entities))
        return {"message_id": id, "from": self.me, "chat": self.chats[chat], "date": self.now() // 1000, "text": text}

    def _send_chat_action(self, given: dict[str, Any]) -> bool:
        self.show(self._chat(given), "typing")
        return True

    def _get_file(self, given: dict[str, Any]) -> dict[str, Any]:
        data = self.files.get(id := given["file_id"])
        if data is None or len(data) > 20 << 20:
            refuse(400, "file is too big" if data else "wrong file_id or the file is temporarily unavailable")
        return {"file_id": id, "file_unique_id": f"{id}u", "file_size": len(data), "file_path": f"files/{id}"}


def _formatted(given: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    """In Telegram's order: size of the raw text, mark-up, cleaning, emptiness, and only then 4096 code points."""
    text, entities = given.get("text", ""), list[dict[str, Any]]()
    if not text or re.search("[\ud800-\udfff]", text):
        refuse(400, "strings must be encoded in UTF-8" if text else "message text is empty")
    if len(text.encode()) > 1 << 15:
        refuse(400, "text is too long")
    try:
        text, entities = parse_html(text) if "parse_mode" in given else (text, entities)
    except HtmlFault as fault:
        refuse(400, f"can't parse entities: {fault}")
    text = re.sub("[\0-\t\x0b-\x1f]", " ", re.sub("[\r\u2028-\u202e]", "", text)).strip(" \n")
    if not 0 < len(text) <= 4096:
        refuse(400, "message is too long" if text else "text must be non-empty")
    return text, entities
