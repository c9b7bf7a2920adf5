"""Meta's three messengers from the other side: what their people do, and how a message to them is accepted.

Not here: Graph's tokens, paths and files (`simulator_graph.py`). The law: bodies, limits and complaints are the
documented ones, and what minibot has no reason to send is refused. Each send is followed by what Meta posts of it:
WhatsApp's statuses with our tag, the others' echoes with our metadata, and a sign that it was read.

Next: `simulator_graph.py`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any, NoReturn

from minibot.desk.simulator import Answered, Clock, Fault, Refusal, Screen, Webhook, filled, json_answer, mismatch

DAY = 24 * 3600 * 1000  # the customer service window, ms
TO = {"recipient!": {"id!": r"\d+"}}
SHAPES: dict[str, dict[str, Any]] = {
    "whatsapp send": {"messaging_product!": "whatsapp", "recipient_type": "individual", "to": r"\+?\d{5,20}",
                      "recipient": r"[A-Z]{2}\.(ENT\.)?[A-Za-z0-9]{1,128}", "biz_opaque_callback_data": ".{0,512}",
                      "type!": "text", "text!": {"body!": ".{1,4096}", "preview_url": bool},
                      "context": {"message_id!": ".+"}},
    "whatsapp action": {"messaging_product!": "whatsapp", "status!": "read", "message_id!": ".+",
                        "typing_indicator": {"type!": "text"}},
    "page send": TO | {"messaging_type": "RESPONSE", "message!": {"text!": ".{1,2000}", "metadata": ".{0,1000}"},
                       "reply_to": {"mid!": ".+"}},
    "page action": TO | {"sender_action!": "typing_on|typing_off|mark_seen"}}
TOO_LONG = "Length of param message[text] must be less than or equal to "
ACTIONS = {"mark_seen": "read", "typing_on": "typing", "typing_off": "idle"}
CLOSED = {"messenger": 2018278, "instagram": 2534022}  # subcodes of error 10: outside the window
NOBODY = {"messenger": 2018001, "instagram": 2534014}  # subcodes of error 100: no such person
INBOX = {"messenger": 263902037430900, "instagram": 1217981644879628}  # the apps in which people answer


def error(code: int, message: str, status: int = 400, subcode: int = 0, **more: Any) -> Answered:
    """A Graph error: `{"error": {"message", "type", "code", "error_subcode"?, "fbtrace_id", …}}`."""
    about = {"message": message, "type": "OAuthException", "code": code, "fbtrace_id": "AXsgnV2Cm3ZMGF3dF_cfYIn"}
    return json_answer(status, {"error": about | filled(error_subcode=subcode) | more})


STATUSES = {"401": error(190, "Error validating access token: Session has expired.", 401, 463),
            "403": error(200, "(#200) Permissions error", 403),
            "429": error(4, "(#4) Application request limit reached", 429, is_transient=True),
            "500": error(2, "An unexpected error has occurred. Please retry your request later.", 500)}


def refuse(code: int, message: str, subcode: int = 0, **more: Any) -> NoReturn:
    """Answer a call with `error`."""
    raise Refusal(error(code, f"(#{code}) {message}", 400, subcode, **more))


class Account:
    """One app with a WhatsApp number, a Page and its Instagram account; `media_url` is where its files are served."""

    number, phone_number_id, waba_id = "15550783881", "106540352242922", "102290129340398"
    page_id, instagram_id, app_id = "682498302938465", "17841400000000000", "138483919580948"

    def __init__(self, app_secret: str, now: Clock, media_url: str) -> None:
        self.app_secret, self.now, self.media_url = app_secret, now, media_url
        self.files: dict[str, tuple[str, bytes]] = {}  # id -> (MIME type, content)
        self.senders: dict[str, str] = {}  # WhatsApp message id -> who wrote it

    def mac(self, message: bytes, kind: str = "sha256") -> str:
        """Hex HMAC with the app secret: of a delivery's exact bytes, or of a token (`appsecret_proof`)."""
        return hmac.new(self.app_secret.encode(), message, kind).hexdigest()

    def keep(self, data: bytes, mime: str) -> str:
        """Store a file; its id."""
        self.files[id := str(900_000 + len(self.files))] = mime, data
        return id


class Phones(Screen):
    """The people of one of the three. Each way of writing gives the webhook that Meta would post."""

    def __init__(self, account: Account, name: str, id: str) -> None:
        super().__init__(account.now)
        self.account, self.name, self.id = account, name, id

    def sign(self, value: dict[str, Any], id: str = "") -> Webhook:
        """A delivery: ASCII, signed as it is, the outdated SHA-1 beside the signature."""
        body = json.dumps(value, separators=(",", ":")).encode()
        fields = {"Content-Type": "application/json", "User-Agent": "facebookexternalua",
                  "X-Hub-Signature": "sha1=" + self.account.mac(body, "sha1"),
                  "X-Hub-Signature-256": "sha256=" + self.account.mac(body)}
        return Webhook(f"/{self.name}/webhook", fields, body, id)

    def fail(self, fault: Fault) -> Answered:
        """A planned status in Graph's words."""
        usual = STATUSES.get(fault.kind) or error(1, "An unknown error occurred", int(fault.kind))
        return super().fail(fault) if fault.body else usual

    def closed(self, chat: str) -> bool:
        """Whether the person has been silent for 24 hours, so that only templates may be sent."""
        if chat in self.refusing:
            raise Refusal(self.refusing[chat])
        return self.now() - int(self.chats.get(chat, -DAY)) >= DAY

    def accept(self, given: dict[str, Any]) -> dict[str, Any]:
        """Take a message, a read mark or a typing sign, and show it; the reply's body."""
        raise NotImplementedError


class WhatsApp(Phones):
    """WhatsApp's people: a chat is a phone number in digits, or a BSUID such as `US.1349`."""

    def change(self, chat: str, field: str = "messages", id: str = "", **value: Any) -> Webhook:
        """A change of any kind: `messages=[…]`, `statuses=[…]` …"""
        number = {"display_phone_number": self.account.number, "phone_number_id": self.id}
        whose = {"profile": {"name": "Ada"}, ("user_id" if "." in chat else "wa_id"): chat}
        value = {"messaging_product": "whatsapp", "metadata": number, "contacts": [whose], **value}
        entry = {"id": self.account.waba_id, "changes": [{"value": value, "field": field}]}
        return self.sign({"object": "whatsapp_business_account", "entry": [entry]}, id)

    def message(self, chat: str, kind: str, content: Any, **more: Any) -> Webhook:
        """A message of any type."""
        id, self.chats[chat] = f"wamid.P{self.next_id()}", self.now()
        self.account.senders[id] = chat
        sender = {("from_user_id" if "." in chat else "from"): chat, "timestamp": str(self.now() // 1000)}
        return self.change(chat, id=id, messages=[{**sender, "id": id, "type": kind, kind: content, **more}])

    def text(self, chat: str, text: str, quote: str = "") -> Webhook:
        """A typed text; `quote` is the id of the bot's message it answers."""
        context = quote and {"from": self.account.number, "id": quote}
        return self.message(chat, "text", {"body": text}, **filled(context=context))

    def media(self, chat: str, data: bytes, mime: str, caption: str = "") -> Webhook:
        """A picture or a voice note: an id to fetch."""
        about = {"id": self.account.keep(data, mime), "mime_type": mime,
                 "sha256": base64.b64encode(hashlib.sha256(data).digest()).decode()}
        image = mime.startswith("image/")
        return self.message(chat, "image" if image else "audio", about | filled(caption=caption, voice=not image))

    def human(self, chat: str, text: str) -> Webhook:
        """A person answers from the WhatsApp Business app."""
        echo = {"from": self.account.number, "to": chat, "id": f"wamid.H{self.next_id()}", "type": "text",
                "timestamp": str(self.now() // 1000), "text": {"body": text}}
        return self.change(chat, "smb_message_echoes", str(echo["id"]), message_echoes=[echo])

    def status(self, chat: str, id: str, status: str, tag: str = "", code: int = 0) -> Webhook:
        """What became of a message of the bot; `code` with "failed"."""
        about = {"id": id, "status": status, "timestamp": str(self.now() // 1000), "recipient_id": chat}
        errors = code and [{"code": code, "title": "Failed", "error_data": {"details": "Failed"}}]
        return self.change(chat, statuses=[about | filled(biz_opaque_callback_data=tag, errors=errors)])

    def accept(self, given: dict[str, Any]) -> dict[str, Any]:
        """Outside the window Meta accepts a message as well, and says 131047 in a status."""
        if wrong := mismatch(given, SHAPES["whatsapp action" if "status" in given else "whatsapp send"]):
            if wrong == ("invalid", "body") and given["text"]["body"]:
                refuse(100, "Param text['body'] must be at most 4096 characters long.")
            code = {"missing": 131008, "unexpected": 100}.get(wrong[0], 131009)
            refuse(code, "Invalid parameter", error_data={"messaging_product": "whatsapp", "details": " ".join(wrong)})
        if "status" in given:
            chat = self.account.senders.get(given["message_id"]) or refuse(131009, "Parameter value is not valid")
            for kind in ["read"] + ["typing"] * ("typing_indicator" in given):
                self.show(chat, kind)
            return {"success": True}
        to = given.get("to") or given.get("recipient") or refuse(131008, "Required parameter is missing")
        chat, id, tag = to.lstrip("+"), f"wamid.B{self.next_id()}", given.get("biz_opaque_callback_data", "")
        if self.closed(chat):
            self.outgoing.append(self.status(chat, id, "failed", tag, 131047))
        else:
            quote = given.get("context", {}).get("message_id", "")
            self.show(chat, "text", text=given["text"]["body"], id=id, tag=tag, reply_to=quote)
            self.outgoing += [self.status(chat, id, status, tag) for status in ("sent", "delivered", "read")]
        contact = {"input": to, ("user_id" if "." in chat else "wa_id"): chat}
        return {"messaging_product": "whatsapp", "contacts": [contact], "messages": [{"id": id}]}


class Page(Phones):
    """The people of Messenger or Instagram: a chat is a scoped number."""

    def event(self, chat: str, event: dict[str, Any], id: str = "", ours: bool = False) -> Webhook:
        """A messaging event of any kind: message, postback, read …; `ours` left our account."""
        ends = {"sender": {"id": self.id if ours else chat}, "recipient": {"id": chat if ours else self.id}}
        item = {**ends, "timestamp": self.now(), **event}
        entry = {"id": self.id, "time": self.now(), "messaging": [item]}
        return self.sign({"object": "page" if self.name == "messenger" else self.name, "entry": [entry]}, id)

    def message(self, chat: str, content: dict[str, Any], kind: str = "message") -> Webhook:
        """A message with any content: text, attachments …; or a "postback"."""
        id, self.chats[chat] = f"m_P{self.next_id()}", self.now()
        return self.event(chat, {kind: {"mid": id, **content}}, id)

    def text(self, chat: str, text: str, quote: str = "") -> Webhook:
        """A typed text; `quote` is the id of the bot's message it answers."""
        return self.message(chat, filled(text=text, reply_to=quote and {"mid": quote}))

    def media(self, chat: str, data: bytes, mime: str, caption: str = "") -> Webhook:
        """A picture or a voice note: a public URL to fetch. There are no captions, so a text comes with it."""
        url = f"{self.account.media_url}/ig_messaging_cdn/?asset_id={self.account.keep(data, mime)}"
        file = {"type": "image" if mime.startswith("image/") else "audio", "payload": {"url": url}}
        return self.message(chat, filled(attachments=[file], text=caption))

    def human(self, chat: str, text: str) -> Webhook:
        """A person answers from the inbox: an echo that is not ours."""
        mid = f"m_H{self.next_id()}"
        echo = {"mid": mid, "text": text, "is_echo": True, "app_id": INBOX[self.name]}
        return self.event(chat, {"message": echo}, mid, ours=True)

    def accept(self, given: dict[str, Any]) -> dict[str, Any]:
        """Outside the window Meta refuses at once."""
        if wrong := mismatch(given, SHAPES["page action" if "sender_action" in given else "page send"]):
            refuse(100, f"{TOO_LONG}2000" if wrong == ("invalid", "text") else f"{wrong[0]} param {wrong[1]}")
        chat = given["recipient"]["id"]
        if self.closed(chat):
            gone = (10, "This message is sent outside of allowed window.", CLOSED[self.name])
            refuse(*(gone if chat in self.chats else (100, "No matching user found", NOBODY[self.name])))
        if "sender_action" in given:
            self.show(chat, ACTIONS[given["sender_action"]])
            return {"recipient_id": chat}
        text, tag, id = given["message"]["text"], given["message"].get("metadata", ""), f"m_B{self.next_id()}"
        if self.name == "instagram" and len(text.encode()) > 1000:
            refuse(100, f"{TOO_LONG}1000")
        self.show(chat, "text", text=text, id=id, tag=tag, reply_to=given.get("reply_to", {}).get("mid", ""))
        echo = filled(mid=id, text=text, is_echo=True, app_id=int(self.account.app_id), metadata=tag)
        seen = {"watermark": self.now()} if self.name == "messenger" else {"mid": id}
        self.outgoing += [self.event(chat, {"message": echo}, id, ours=True), self.event(chat, {"read": seen})]
        return {"recipient_id": chat, "message_id": id}
