"""Meta's administration for `connect` and `check`: what must be subscribed for each platform, and asking Graph.

Not here: what follows from an answer (`connect_meta.py`, `check_platforms.py`), messages (`channels/`). The law: a
token stands in a header, except where Graph takes it in the query only (debug_token's question, the renewal); what
Graph says is read as untrusted. Facts: developers.facebook.com/docs/graph-api/reference, the subscriptions edge of
an app, subscribed_apps of a Page and of a WABA, debug_token; instagram-platform, refresh_access_token.

Next: `connect_meta.py`.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import quote

from minibot.channels import meta
from minibot.channels.fields import Item, block, blocks, ident
from minibot.config import KEYS, Settings
from minibot.model import Secret
from minibot.text import safe_line
from minibot.web.calls import Caller

APP = "META_APP_ID, META_APP_SECRET"
NEEDED = "messages"  # without this field nothing arrives; the others make the bot better


class Product(NamedTuple):
    """One of Meta's platforms: its webhook object and fields in the app, the fields its account must send the app
    (none: WhatsApp sends all), the setting with its token, and what that token must be allowed."""

    object: str
    fields: tuple[str, ...]
    account_fields: tuple[str, ...]
    token: str
    scopes: tuple[str, ...]


_PAGE = (NEEDED, "messaging_postbacks", "message_echoes", "message_deliveries", "message_reads", "messaging_handovers",
         "standby")
_INSTAGRAM = (NEEDED, "messaging_postbacks", "messaging_seen", "messaging_handover", "standby")
_PRODUCTS = {
    "whatsapp": Product("whatsapp_business_account", (NEEDED, "smb_message_echoes", "account_update"), (),
                        "meta_access_token", ("whatsapp_business_messaging", "whatsapp_business_management")),
    "messenger": Product("page", _PAGE, _PAGE, "meta_page_access_token", ("pages_messaging", "pages_manage_metadata")),
    "instagram": Product("instagram", _INSTAGRAM, _PAGE, "meta_page_access_token",
                         ("instagram_basic", "instagram_manage_messages", "pages_manage_metadata")),
}
LOGIN = Product("instagram", _INSTAGRAM, _INSTAGRAM, "instagram_access_token", ())


class Graph:
    """Graph, asked with the tokens of `settings`. Every method raises NoAnswer and SendFailed.

    `app` is the app's own token, "" without its id and secret; `served` is the API version of the last reply.
    """

    def __init__(self, settings: Settings, caller: Caller) -> None:
        self.settings, self.caller, self.app_id = settings, caller, settings.meta_app_id
        secret = settings.meta_app_secrets[0].reveal() if settings.meta_app_secrets else ""
        self.app = Secret(f"{settings.meta_app_id}|{secret}" if settings.meta_app_id and secret else "")
        self.served = ""

    def product(self, platform: str) -> Product:
        """What must be subscribed for `platform`."""
        login = platform == "instagram" and self.settings.instagram_access_token
        return LOGIN if login else _PRODUCTS[platform]

    async def ask(self, name: str, path: str, holder: str, content: Item | None = None) -> Item:
        """GET `path`, or POST `content` there, with the token in the setting `holder` ("": the app's own)."""
        token = getattr(self.settings, holder) if holder else self.app
        login = holder == "instagram_access_token"
        root = self.settings.instagram_graph_url if login else self.settings.meta_graph_url
        version = "" if path.startswith("refresh_access_token") else f"/{self.settings.meta_api_version}"
        call = meta.graph(f"Graph's {name}", f"{root}{version}/{path}", token, content)
        reply = await self.caller.perform(call, "meta")
        self.served = reply.fields.get("facebook-api-version", "")
        return meta.answer(reply, meta.COMMON, KEYS[holder] if holder else APP)

    async def token(self, holder: str) -> Item:
        """What debug_token says of the token in `holder`: the app asks, else, and on Instagram, the token itself."""
        asked = quote(getattr(self.settings, holder).reveal(), safe="")
        asker = "" if self.app and holder != "instagram_access_token" else holder
        return block((await self.ask("debug_token", f"debug_token?input_token={asked}", asker)).get("data"))

    async def account(self, platform: str) -> str:
        """Whose subscribed_apps count: the WABA, which the token's own rights may name, else the token's Page."""
        if platform != "whatsapp":
            return "me"
        if self.settings.meta_waba_id:
            return self.settings.meta_waba_id
        rights = blocks((await self.token("meta_access_token")).get("granular_scopes"))
        targets = [target for right in rights if right.get("scope") == "whatsapp_business_management"
                   for target in right.get("target_ids") or ()]
        return ident(targets[0]) if len(targets) == 1 else ""

    async def subscriptions(self) -> dict[str, Item]:
        """The app's webhooks, by object."""
        found = await self.ask("subscriptions", f"{self.settings.meta_app_id}/subscriptions", "")
        return {str(item.get("object")): item for item in blocks(found.get("data"))}

    async def subscribed(self, platform: str, account: str) -> tuple[tuple[str, ...] | None, str]:
        """(the fields of `account` that our app gets, None if it gets nothing; the names of the other apps)."""
        found = await self.ask("subscribed_apps", f"{account}/subscribed_apps", self.product(platform).token)
        apps = [block(item.get("whatsapp_business_api_data")) or item for item in blocks(found.get("data"))]
        # An app of Instagram Login has a second id there, which no setting holds: any app counts as ours.
        ours = self.app_id if self.product(platform) is not LOGIN else ""
        mine = [names(app.get("subscribed_fields")) for app in apps if not ours or ident(app.get("id")) == ours]
        return mine[0] if mine else None, ", ".join(safe_line(str(app.get("name") or app.get("id"))) for app in apps)


def names(fields: object) -> tuple[str, ...]:
    """The names in a list of fields, which are strings or objects with a `name`."""
    listed = fields if isinstance(fields, list) else []
    return tuple(str(each.get("name") if isinstance(each, dict) else each) for each in listed)
