"""Graph from the other side: one API for WhatsApp, Messenger and Instagram, with its tokens, paths and files.

Not here: what a message may be (`simulator_meta.py`), sockets and clock, the app's administration (subscriptions,
token checks), which the tests add. The law: a call is refused that has no token, another's token, a path or a proof
that is wrong; files are handed out as Meta does, each to whom it belongs.

Next: `connect.py`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from minibot.desk.simulator import Answered, Clock, arguments, json_answer
from minibot.desk.simulator_meta import Account, Page, WhatsApp, error

LINK_LIFE = 5 * 60 * 1000  # of a WhatsApp media URL, ms


class GraphSide:
    """All of Meta. `whatsapp`, `messenger` and `instagram` are its people."""

    def __init__(self, whatsapp_token: str, page_token: str, app_secret: str, now: Clock, *,
                 instagram_token: str = "", media_url: str = "https://lookaside.fbsbx.com") -> None:
        self.account = Account(app_secret, now, media_url)
        self.whatsapp = WhatsApp(self.account, "whatsapp", Account.phone_number_id)
        self.messenger = Page(self.account, "messenger", Account.page_id)
        self.instagram = Page(self.account, "instagram", Account.instagram_id)
        self.tokens = {instagram_token: "instagram", whatsapp_token: "whatsapp", page_token: "page"}
        self.nodes = {("whatsapp", Account.phone_number_id): self.whatsapp, ("page", "me"): self.messenger,
                      ("page", Account.page_id): self.messenger, ("instagram", "me"): self.instagram,
                      ("instagram", Account.instagram_id): self.instagram}

    def answer(self, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes) -> Answered:
        """Answer one call; `path` as in the URL, header names in lower case."""
        try:
            given = arguments(query, headers, body)
        except ValueError:
            return error(100, "(#100) The body is not a JSON object")
        token = headers.get("authorization", "").removeprefix("Bearer ") or str(given.pop("access_token", ""))
        role = self.tokens.get(token, "") if token else ""
        if file := re.fullmatch(r"/(ig_messaging_cdn|whatsapp_business/attachments)/", path):
            return self.whatsapp.meet("download", lambda: self._download(file[1], role, given, headers))
        if not role:
            return error(*((190, "Invalid OAuth access token") if token else (104, "An access token is required")), 401)
        if given.pop("appsecret_proof", proof := self.account.mac(token.encode())) != proof:
            return error(100, "Invalid appsecret_proof provided in the API argument")
        if not (found := re.fullmatch(r"/v\d+\.\d+/([\w|]+)(?:/(\w+))?", path)):
            return error(2500, "Unknown path components")
        return self.call(method, found[1], found[2] or "", role, given)

    def call(self, method: str, node: str, edge: str, role: str, given: dict[str, Any]) -> Answered:
        """`/{version}/{node}/{edge}` with the token of `role`."""
        phones, to = self.nodes.get((role, node)), given.get("recipient")
        if method == "POST" and edge == "messages" and phones:
            if role == "page" and isinstance(to, dict) and to.get("id") in self.instagram.chats:
                phones = self.instagram
            name, chosen = "action" if {"status", "sender_action"} & set(given) else "send", phones
            return chosen.meet(name, lambda: json_answer(200, chosen.accept(given)))
        if method == "GET" and role == "whatsapp" and node in self.account.files and not edge:
            return self.whatsapp.meet("media", lambda: self._media(node))
        return error(100, f"Unsupported {method.lower()} request. Object with ID '{node}' does not exist", 400, 33)

    def _media(self, id: str) -> Answered:
        (mime, data), until = self.account.files[id], self.account.now() + LINK_LIFE
        url = f"{self.account.media_url}/whatsapp_business/attachments/?asset_id={id}&ext={until}"
        return json_answer(200, {"messaging_product": "whatsapp", "id": id, "url": url, "mime_type": mime,
                                 "sha256": hashlib.sha256(data).hexdigest(), "file_size": len(data)})

    def _download(self, where: str, role: str, given: dict[str, Any], headers: Mapping[str, str]) -> Answered:
        """WhatsApp's files want the token and a User-Agent, within five minutes; the others are open to everyone."""
        now, id = self.account.now(), given.get("asset_id", "")
        allowed = where == "ig_messaging_cdn" or (role == "whatsapp" and "user-agent" in headers)
        if not allowed or id not in self.account.files or int(given.get("ext", now)) < now:
            return Answered(404 if allowed else 401, {"content-type": "text/html"}, b"<html>Not here</html>")
        mime, data = self.account.files[id]
        return Answered(200, {"content-type": mime}, data)
