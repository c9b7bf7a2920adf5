"""What the tests need of the platforms beyond the demo: administration, and the rarer things that people do.

Not here: messages and the calls that send them (`minibot/desk/simulator*.py`, which these classes only extend). The
law: every check of the real platform that `connect` and `check` can run into is made here, in its words.

Next: `fakes.py`.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Mapping
from email import message_from_bytes
from email.utils import formatdate
from typing import Any
from urllib.parse import urlencode, urlsplit

from minibot.desk.simulator import Answered, Clock, Webhook, filled, json_answer, mismatch
from minibot.desk.simulator_graph import GraphSide
from minibot.desk.simulator_meta import Page, Phones, WhatsApp, error
from minibot.desk.simulator_telegram import TelegramSide, refuse
from minibot.desk.simulator_telegram import error as telegram_error

DEFAULT_UPDATES = (
    "message edited_message channel_post edited_channel_post business_connection business_message "
    "edited_business_message deleted_business_messages inline_query chosen_inline_result callback_query shipping_query "
    "pre_checkout_query poll poll_answer my_chat_member chat_join_request").split()
FIELDS = {
    "whatsapp_business_account": {"messages", "smb_message_echoes", "account_update", "history", "account_alerts"},
    "page": {"messages", "messaging_postbacks", "message_echoes", "message_deliveries", "message_reads", "standby",
             "messaging_handovers", "messaging_referrals", "messaging_optins", "messaging_policy_enforcement",
             "message_edits", "message_reactions"},
    "instagram": {"messages", "messaging_postbacks", "messaging_seen", "message_reactions", "messaging_referral",
                  "messaging_handover", "standby", "message_edit", "comments"},
}


def dated(answered: Answered, now: Clock) -> Answered:
    """With the Date field that every real server sends."""
    return answered._replace(headers={**answered.headers, "date": formatdate(now() / 1000, usegmt=True)})


class Telegram(TelegramSide):
    """Telegram with webhooks, long polling and buttons."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.webhook: dict[str, Any] = {"url": "", "has_custom_certificate": False}
        self.pending: deque[dict[str, Any]] = deque(maxlen=100_000)  # for getUpdates, while no webhook is set
        self.queries: set[str] = set()  # callback queries that wait for their answer
        self.commands: list[dict[str, str]] = []
        self.registrations = 0  # times setWebhook was called
        drop, number = {"drop_pending_updates": bool | str}, int | str
        self.methods["sendMessage"][1]["direct_messages_topic_id"] = int
        self.methods |= {
            "setWebhook": (self._set_webhook, drop | {
                "url": str, "certificate": str, "ip_address": str, "max_connections": number,
                "allowed_updates": list | str, "secret_token": str}),
            "getWebhookInfo": (lambda given: {**self.webhook, "pending_update_count": len(self.pending)}, {}),
            "deleteWebhook": (self._delete_webhook, drop),
            "getUpdates": (self._get_updates, {"offset": number, "limit": number, "timeout": number,
                                               "allowed_updates": list | str}),
            "setMyCommands": (self._set_my_commands, {"commands!": list | str, "scope": dict, "language_code": str}),
            "answerCallbackQuery": (self._answer_callback_query, {
                "callback_query_id!": str, "text": ".{0,200}", "show_alert": bool}),
        }

    def answer(self, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes) -> Answered:
        if headers.get("content-type", "").startswith("multipart/form-data"):  # how a certificate is uploaded
            parts = message_from_bytes(f"Content-Type: {headers['content-type']}\r\n\r\n".encode() + body)
            given = {str(part.get_param("name", header="content-disposition")): part.get_payload(decode=True).decode()
                     for part in parts.get_payload()}
            headers, body = {**headers, "content-type": "application/json"}, json.dumps(given).encode()
        return dated(super().answer(method, path, query, headers, body), self.now)

    def update(self, kind: str, value: dict[str, Any], id: int = 0) -> Webhook:
        made = super().update(kind, value, id)
        if not self.webhook["url"]:
            self.pending.append(json.loads(made.body))
        return made

    def press(self, chat: str, payload: str, title: str = "") -> Webhook:
        """A button under a message of the bot."""
        self.queries.add(query := str(self.next_id()))
        old = {"message_id": 1, "date": 1, "chat": self.chats[chat], "from": self.me, "text": title}
        who = {"id": abs(int(chat)), "is_bot": False, "first_name": "Ada"}
        value = {"id": query, "from": who, "message": old, "data": payload, "chat_instance": "1"}
        return self.update("callback_query", value, int(query))

    def block(self, chat: str, blocked: bool = True) -> Webhook:
        """The person blocks the bot, or lets it in again."""
        self.refusing.pop(chat, None)
        if blocked:
            self.refusing[chat] = telegram_error(403, "bot was blocked by the user")
        old, new = [{"user": self.me, "status": status} for status in (("member", "kicked") if blocked else
                                                                       ("kicked", "member"))]
        who = {"id": int(chat), "is_bot": False, "first_name": "Ada"}
        return self.update("my_chat_member", {"chat": self.chats[chat], "from": who, "date": self.now() // 1000,
                                              "old_chat_member": old, "new_chat_member": new})

    def migrate(self, chat: str, new: str) -> list[Webhook]:
        """A group becomes a supergroup: what the old and the new chat report."""
        news = [self.message(chat, migrate_to_chat_id=int(new)), self.message(new, migrate_from_chat_id=int(chat))]
        words = "group chat was upgraded to a supergroup chat"
        self.refusing[chat] = telegram_error(400, words, migrate_to_chat_id=int(new))
        return news

    def _set_webhook(self, given: dict[str, Any]) -> bool:
        url, secret = urlsplit(given.get("url", "")), given.get("secret_token", "")
        names = _nested(given, "allowed_updates", [])
        if given.get("url") and url.scheme != "https":
            refuse(400, "bad webhook: An HTTPS URL must be provided for webhook")
        if url.port not in (None, 443, 80, 88, 8443):
            refuse(400, "bad webhook: Webhook can be set up only on ports 80, 88, 443 or 8443")
        if not re.fullmatch(r"[A-Za-z0-9_-]{0,256}", secret):
            refuse(400, "secret token " + ("is too long" if len(secret) > 256 else "contains unallowed characters"))
        if given.get("drop_pending_updates") in (True, "true", "True", "1"):
            self.pending.clear()
        self.registrations += 1
        self.secret = secret
        certificate = given.get("certificate", "")
        if certificate and not certificate.startswith("-----BEGIN CERTIFICATE-----"):
            refuse(400, "bad webhook: certificate must be uploaded as a file")
        self.webhook = {"url": given.get("url", ""), "has_custom_certificate": bool(certificate),
                        "ip_address": "203.0.113.7",
                        "max_connections": min(100, max(1, int(given.get("max_connections", 40)))),
                        **filled(allowed_updates=[name for name in names if name in DEFAULT_UPDATES])}
        return True

    def _delete_webhook(self, given: dict[str, Any]) -> bool:
        return self._set_webhook({**given, "secret_token": self.secret})

    def _get_updates(self, given: dict[str, Any]) -> list[dict[str, Any]]:
        if self.webhook["url"]:
            refuse(409, "can't use getUpdates method while webhook is active; "
                   "use deleteWebhook to delete the webhook first")
        while self.pending and self.pending[0]["update_id"] < int(given.get("offset", 0)):
            self.pending.popleft()
        return list(self.pending)[:min(100, int(given.get("limit", 100)))]

    def _set_my_commands(self, given: dict[str, Any]) -> bool:
        commands = _nested(given, "commands", [])
        if len(commands) > 100 or any(mismatch(each, {"command!": "[a-z0-9_]{1,32}", "description!": ".{1,256}"})
                                      for each in commands):
            refuse(400, "BOT_COMMAND_INVALID")
        self.commands = commands
        return True

    def _answer_callback_query(self, given: dict[str, Any]) -> bool:
        if given["callback_query_id"] not in self.queries:
            refuse(400, "query is too old and response timeout expired or query ID is invalid")
        self.queries.remove(given["callback_query_id"])
        return True


def _nested(given: dict[str, Any], name: str, default: Any) -> Any:
    """A structured argument; in forms and queries it comes as JSON text."""
    value = given.get(name, default)
    return json.loads(value) if isinstance(value, str) else value


class Graph(GraphSide):
    """Meta with the app's administration. Every fact that `check` reads is a plain dict to be changed by a test."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        account, self.now = self.account, self.account.now
        self.app_token = f"{account.app_id}|{account.app_secret}"
        self.tokens[self.app_token] = "app"
        self.visit: Callable[[str], tuple[int, bytes]] = lambda url: (0, b"")  # GET of a callback URL
        self.subscriptions: dict[str, dict[str, Any]] = {}  # object -> subscription
        self.subscribers: dict[str, dict[str, str]] = {}  # role -> the app that its account sends to, if not ours
        self.subscribed: dict[str, list[str]] = {}  # whatsapp, page, instagram -> fields its account sends the app
        self.phone = {"id": account.phone_number_id, "display_phone_number": account.number,
                      "verified_name": "Lucky Shrub", "quality_rating": "GREEN", "code_verification_status": "VERIFIED",
                      "name_status": "APPROVED", "platform_type": "CLOUD_API", "throughput": {"level": "STANDARD"}}
        self.page: dict[str, Any] = {"id": account.page_id, "name": "My Page", "instagram_business_account": {
            "id": account.instagram_id, "username": "mypage"}}
        self.profile = {"id": account.instagram_id, "user_id": account.instagram_id, "username": "mypage"}
        scopes = {"whatsapp": ["whatsapp_business_management", "whatsapp_business_messaging"],
                  "page": ["pages_messaging", "pages_manage_metadata", "pages_show_list", "business_management",
                           "instagram_basic", "instagram_manage_messages"]}
        targets = {"whatsapp": account.waba_id, "page": account.page_id}
        self.debug: dict[str, dict[str, Any]] = {token: {
            "app_id": account.app_id, "type": "PAGE" if role == "page" else "SYSTEM_USER", "application": "My App",
            "expires_at": 0, "data_access_expires_at": 0, "is_valid": True, "issued_at": 1_700_000_000,
            "scopes": scopes[role], "granular_scopes": [{"scope": scope, "target_ids": [targets[role]]}
                                                        for scope in scopes[role]],
        } for token, role in self.tokens.items() if role in scopes}
        for token in [token for token, role in self.tokens.items() if role == "instagram" and token]:
            self.debug[token] = {"app_id": account.app_id, "type": "USER", "is_valid": True,
                                 "expires_at": self.now() // 1000 + 50 * 86_400, "scopes": []}
        self.renewed = ""  # the token that a renewal gives, if it is another one
        self.served_version = ""  # what Meta serves instead of an expired version

    def answer(self, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes,
               login: bool = False) -> Answered:
        """`login`: at graph.instagram.com, where only tokens of Instagram Login are known; elsewhere they are not."""
        found = re.search(r"access_token=([^&]*)", query)
        token = headers.get("authorization", "").removeprefix("Bearer ") or (found[1] if found else "")
        if path.count("/") > 1 and (self.tokens.get(token) == "instagram") != login and token in self.tokens:
            return error(190, "Invalid OAuth access token - Cannot parse access token", 401)
        if login and re.fullmatch("(/v[0-9.]+)?/refresh_access_token", path):
            self.tokens[renewed := self.renewed or token] = "instagram"
            return json_answer(200, {"access_token": renewed, "token_type": "bearer", "expires_in": 5_183_944})
        answered = super().answer(method, path, query, headers, body)
        version = self.served_version or path.split("/")[1]
        return dated(answered._replace(headers={**answered.headers, "facebook-api-version": version}), self.now)

    def call(self, method: str, node: str, edge: str, role: str, given: dict[str, Any]) -> Answered:
        account = self.account
        own = {"page": ("me", account.page_id), "instagram": ("me", account.instagram_id),
               "whatsapp": (account.waba_id,), "app": (account.app_id,)}[role]
        if method == "GET" and node == "debug_token":
            return self._debug_token(role, given)
        if edge == "subscriptions" and role == "app" and node in own:
            return self._app_subscription(method, given)
        if edge == "subscribed_apps" and node in own:
            return self._account_subscription(method, role, given)
        objects = {("whatsapp", account.phone_number_id): self.phone, ("page", "me"): self.page,
                   ("page", account.page_id): self.page, ("instagram", "me"): self.profile}
        if method == "GET" and not edge and (role, node) in objects:
            return json_answer(200, _chosen(objects[role, node], given.get("fields", "")))
        return super().call(method, node, edge, role, given)

    def _debug_token(self, role: str, given: dict[str, Any]) -> Answered:
        found = self.debug.get(given.get("input_token", ""))
        if found is None:
            message = "The access token could not be decrypted"
            found = {"is_valid": False, "scopes": [], "error": {"code": 190, "message": message}}
        return json_answer(200, {"data": found})

    def _app_subscription(self, method: str, given: dict[str, Any]) -> Answered:
        """Subscribing visits the callback with the handshake, before it is answered."""
        if method == "GET":
            return json_answer(200, {"data": list(self.subscriptions.values())})
        object, url = given.get("object", ""), str(given.get("callback_url", ""))
        if method == "DELETE":
            self.subscriptions.pop(object, None)
            return json_answer(200, {"success": True})
        fields = set(filter(None, given.get("fields", "").split(",")))
        if object not in FIELDS or not fields or fields - FIELDS[object] or not given.get("verify_token"):
            return error(100, "(#100) Invalid parameter")
        challenge = "1158201444"
        asked = {"hub.mode": "subscribe", "hub.challenge": challenge, "hub.verify_token": given["verify_token"]}
        status, body = self.visit(f"{url}?{urlencode(asked)}") if url.startswith("https://") else (0, b"")
        if status != 200 or body.decode("latin-1") != challenge:
            return error(2200, "(#2200) Callback verification failed with the following errors: "
                         f"HTTP Status Code = {status}")
        self.subscriptions[object] = {"object": object, "callback_url": url, "active": True, "fields": [
            {"name": name, "version": "v25.0"} for name in sorted(fields)]}
        return json_answer(200, {"success": True})

    def _account_subscription(self, method: str, role: str, given: dict[str, Any]) -> Answered:
        about = {"id": self.account.app_id, "name": "My App", **self.subscribers.get(role, {})}
        if method == "GET":
            fields = self.subscribed.get(role)
            entry: dict[str, Any] = {**about, "subscribed_fields": fields}
            entry = {"whatsapp_business_api_data": about} if role == "whatsapp" else entry
            return json_answer(200, {"data": [entry] if fields is not None else []})
        if method == "DELETE":
            self.subscribed.pop(role, None)
            return json_answer(200, {"success": True})
        wanted = list(filter(None, str(given.get("subscribed_fields", "")).split(",")))
        if role != "whatsapp" and (not wanted or set(wanted) - FIELDS["page" if role == "page" else "instagram"]):
            return error(100, "(#100) The parameter subscribed_fields is required.")
        self.subscribed[role] = wanted
        return json_answer(200, {"success": True})


def _chosen(whole: dict[str, Any], fields: str) -> dict[str, Any]:
    """The fields asked for; the id always. Without a list, id and name."""
    names = set(re.sub(r"\{[^}]*\}", "", fields).split(",")) | {"id"} | (set() if fields else {"name"})
    return {name: value for name, value in whole.items() if name in names}


# What people do on any of the four

def edit(people: Any, chat: str, id: str, text: str) -> Webhook:
    """The person changes a message."""
    if isinstance(people, WhatsApp):
        return people.message(chat, "edit", {"original_message_id": id, "message": {
            "context": {"id": "M0"}, "type": "text", "text": {"body": text}}})
    if isinstance(people, Page):
        return people.event(chat, {"message_edit": {"mid": id, "text": text, "num_edit": 1}}, id)
    made: Webhook = people.message(chat, "edited_message", int(id), text=text, edit_date=people.now() // 1000)
    return made


def unsend(people: Phones, chat: str, id: str) -> Webhook:
    """The person takes a message back; Telegram tells bots nothing of that."""
    if isinstance(people, WhatsApp):
        return people.message(chat, "revoke", {"original_message_id": id})
    assert isinstance(people, Page)
    return people.event(chat, {"message": {"mid": id, "is_deleted": True}}, id)


def batch(people: Phones, webhooks: list[Webhook]) -> Webhook:
    """Several deliveries of one Meta platform as one POST."""
    first = json.loads(webhooks[0].body)
    first["entry"] = [entry for each in webhooks for entry in json.loads(each.body)["entry"]]
    return people.sign(first)


def forged(webhook: Webhook) -> Webhook:
    """The same delivery from somebody who does not know the secret."""
    name = "X-Hub-Signature-256" if "X-Hub-Signature-256" in webhook.headers else "X-Telegram-Bot-Api-Secret-Token"
    value = webhook.headers[name]
    return webhook._replace(headers={**webhook.headers, name: value[:-1] + ("0" if value[-1] != "0" else "1")})
