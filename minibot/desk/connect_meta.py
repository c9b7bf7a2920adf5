"""`connect` for WhatsApp, Messenger and Instagram: subscribe the app, subscribe the account, read both back.

Not here: finding our address (`tunnel.py`), asking Graph (`graph.py`). The law: fields that somebody else subscribed
stay; what was registered before is named; without the app's id and secret nothing is tried and the exact clicks are
told; running it twice does no harm. A renewed token is written only where the old one stood, and never shown.

Next: `check.py`.
"""

from __future__ import annotations

import os
from pathlib import Path

from minibot.desk.graph import APP, LOGIN, Graph, names
from minibot.desk.report import moved
from minibot.errors import MinibotError, SendFailed
from minibot.text import safe_line

CLICKS = {  # the menu of the app's dashboard that leads to the webhook
    "whatsapp": "WhatsApp > Configuration > Webhook > Edit",
    "messenger": "Messenger > Settings > Webhooks > Add Callback URL",
    "instagram": "Instagram > Webhooks > Add Callback URL"}
VERIFICATION = "Meta called the address and did not get its challenge back: minibot must run now, with this .env " \
    "(VERIFY_TOKEN), and be reachable there; python run.py check tells"
FOLDERS = (Path("."), Path(__file__).parents[2])  # where `.env` is looked for


class Stopped(MinibotError):
    """The registration cannot go on; the text is the line for the operator."""


async def connect(graph: Graph, platform: str, url: str) -> tuple[list[str], int]:
    """Register `url` for `platform`. -> (lines, exit code). Raises Stopped, NoAnswer, SendFailed."""
    product = graph.product(platform)
    where = [f"  address    {url}", f"  fields     {', '.join(product.fields)}"]
    if not graph.app:
        return [f"{platform}: {APP} are not both set, so you do this at developers.facebook.com, while minibot runs",
                f"  open       {CLICKS[platform]}", "  token      the word from VERIFY_TOKEN in .env", *where], 1
    if missing := graph.settings.missing(platform):
        raise Stopped(f"missing in .env: {', '.join(missing)}")
    before = await _subscribe_app(graph, platform, url)
    await _subscribe_account(graph, platform)
    renewed = [await renew(graph)] if product is LOGIN else []
    return [f"{platform}: the webhook is registered, and the account sends the app its messages",
            *moved(before, url), *where, *renewed], 0


async def _subscribe_app(graph: Graph, platform: str, url: str) -> object:
    """The app's webhook for the platform's object; gives the address that was registered before."""
    product, path = graph.product(platform), f"{graph.settings.meta_app_id}/subscriptions"
    before = (await graph.subscriptions()).get(product.object, {})
    fields = dict.fromkeys((*product.fields, *names(before.get("fields"))))
    try:
        await graph.ask("subscriptions", path, "", {
            "object": product.object, "callback_url": url, "verify_token": graph.settings.verify_token.reveal(),
            "fields": ",".join(fields), "include_values": True})
    except SendFailed as fault:
        raise (Stopped(VERIFICATION) if "2200" in fault.code else fault) from None
    after = (await graph.subscriptions()).get(product.object, {})
    if after.get("callback_url") != url or not after.get("active"):
        raise Stopped(f"Meta reports {safe_line(str(after.get('callback_url')))} and not our address; does a second "
                      "program register this app? Stop it and run this again")
    return before.get("callback_url")


async def _subscribe_account(graph: Graph, platform: str) -> None:
    """Let the account (WABA, Page, Instagram account) send its messages to the app, and see that it does."""
    product, account = graph.product(platform), await graph.account(platform)
    if not account:
        raise Stopped("META_WABA_ID: not set, and the token does not name the account; WhatsApp > API Setup shows it")
    before, _ = await graph.subscribed(platform, account)
    fields = ",".join(dict.fromkeys((*product.account_fields, *(before or ()))))
    await graph.ask("subscribed_apps", f"{account}/subscribed_apps", product.token,
                    {"subscribed_fields": fields} if product.account_fields else {})
    after, _ = await graph.subscribed(platform, account)
    if after is None or not {*product.account_fields} <= {*after}:
        raise Stopped("the account does not send the app its messages; is META_APP_ID the app that made the token?")


async def renew(graph: Graph) -> str:
    """Make a token of Instagram Login good for 60 more days, in the `.env` that holds it; a line that tells."""
    old = graph.settings.instagram_access_token.reveal()
    path = next((file for folder in FOLDERS if (file := folder / ".env").is_file()
                 and old.encode() in file.read_bytes()), None)
    if not path:
        return "  token      not renewed: .env, where the new one would go, does not hold INSTAGRAM_ACCESS_TOKEN"
    question = f"refresh_access_token?grant_type=ig_refresh_token&access_token={old}"
    found = await graph.ask("renewal", question, "instagram_access_token")
    new, seconds = found.get("access_token"), found.get("expires_in")
    if not isinstance(new, str) or not new.isalnum() or not isinstance(seconds, int):
        return "  token      not renewed: Meta's answer holds no token"
    draft = path.with_name(".env.part")
    with open(os.open(draft, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, path.stat().st_mode & 0o777), "wb") as opened:
        opened.write(path.read_bytes().replace(old.encode(), new.encode()))
    os.replace(draft, path)
    return f"  token      renewed for {seconds // 86400} days" + ("; start minibot again" if new != old else "")
