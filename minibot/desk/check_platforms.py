"""What `check` finds out at the platforms: tokens and their rights, webhooks, the number, the Page, the link.

Not here: asking Graph (`graph.py`), registering (`connect.py`). The law: ours means our app and our address; a token
that is not valid is named once, and nothing that it would have shown is guessed. Facts: core.telegram.org/bots/api,
getWebhookInfo; Meta's pages on debug_token, the subscriptions edge, phone numbers, and Graph's versions (2026-09).

Next: `metrics.py`.
"""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime

from minibot.channels import telegram as bot_api
from minibot.channels.fields import Item, block
from minibot.config import KEYS
from minibot.desk.check_here import Case, Say
from minibot.desk.connect import PATH, advice
from minibot.desk.graph import NEEDED, names
from minibot.desk.report import age
from minibot.errors import MinibotError, Remedy, SendFailed
from minibot.model import Secret

CONNECT = "python run.py connect "
DAY = 86_400  # seconds
ENDS = {"v19.0": "2026-05-21", "v20.0": "2026-09-24", "v21.0": "2027-01-21", "v22.0": "2027-05-20",
        "v23.0": "2027-10-08", "v24.0": "2028-02-18", "v25.0": "2028-07-29"}
LASTING = {"meta_access_token": "make a token of a system user, which lasts (Business Settings > Users > System users)",
           "meta_page_access_token": "generate the Page's token again (Messenger > Settings > Access tokens)",
           "instagram_access_token": CONNECT + "instagram"}
NUMBER = {  # a field of the phone number: its good values, the level of others, what to do
    "quality_rating": ("GREEN UNKNOWN NA", "warning", "people block or report this number: see WhatsApp Manager"),
    "code_verification_status": ("VERIFIED", "warning", "verify it in WhatsApp Manager > Phone numbers"),
    "name_status": ("APPROVED AVAILABLE_WITHOUT_REVIEW NONE", "warning", "see its display name in WhatsApp Manager"),
    "platform_type": ("CLOUD_API", "error", "register the number: WhatsApp > API Setup")}


async def telegram(case: Case, say: Say) -> None:
    """Ask Telegram who we are and what it thinks of our webhook."""
    if case.settings.telegram_on:
        replies = [await case.caller.perform(bot_api.request(case.settings, method), "telegram")
                   for method in ("getMe", "getWebhookInfo")]
        me, info = map(bot_api.result, replies)
        say("telegram", (True, "ok", f"the token is that of @{me.get('username')}", ""))
        webhook(case, say, info)
        clock(case, say, replies[0].fields.get("date", ""))


def webhook(case: Case, say: Say, info: Item) -> None:
    """What a WebhookInfo means."""
    at, waiting, said, since = (info.get(name) for name in ("url", "pending_update_count", "last_error_message",
                                                            "last_error_date"))
    ours, connect = case.public.url and case.public.url + PATH, CONNECT + "telegram"
    say("telegram", *((
        (at, "error", "TELEGRAM_POLLING=1, but a webhook is registered, so nothing is fetched", connect),
        (True, "ok", "no webhook is registered, as polling wants it", "")) if case.settings.telegram_polling else (
        (not at, "error", "no webhook is registered", connect),
        (ours and at != ours, "error", f"the webhook is registered at {at}, not at {ours}", connect),
        (True, "ok", f"the webhook is registered at {at}", ""))))
    lacking = {"message", "callback_query"} - {*names(info.get("allowed_updates", ["message", "callback_query"]))}
    past = case.now - since if said and isinstance(since, int) else DAY
    if at == ours and not case.settings.telegram_polling:
        say("telegram", (lacking, "error", f"it does not send {', '.join(lacking)}", connect),
            (past < DAY, "error" if waiting else "warning", f"{age(past)} ago it could not deliver: {said}",
             advice(str(said))),
            (waiting, "warning", f"{waiting} updates wait at Telegram", "if they do not get fewer, see minibot's log"))


def clock(case: Case, say: Say, date: str) -> None:
    """How far our clock is from that of a platform, whose answer had this Date."""
    try:
        ahead = case.now - parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        return
    say("clock", (abs(ahead) > 60, "warning", f"this machine's clock is {age(abs(ahead))} "
                  f"{'ahead' if ahead > 0 else 'behind'}", "set it, e.g. timedatectl set-ntp true"))


async def application(case: Case, say: Say) -> None:
    """The app: the webhook of every platform that is on, and the API version."""
    graph, on = case.graph, [name for name in case.settings.platforms if name != "telegram"]
    say("meta", (on and not case.settings.meta_app_id, "warning", "META_APP_ID: not set, so nobody can see what is "
                 "registered", "App settings > Basic shows it"))
    if not on or not graph.app:
        return
    try:
        found = await graph.subscriptions()
    except MinibotError:  # told once, and not relied on any further
        graph.app, graph.app_id = Secret(), ""
        raise
    for name in on:
        hook, ours = found.get(graph.product(name).object, {}), f"{case.public.url}/{name}/webhook"
        at = hook.get("callback_url")
        say(name, (not hook, "error", "no webhook is registered in the app", CONNECT + name),
            (case.public.url and at != ours, "error", f"the webhook is registered at {at}, not at {ours}",
             CONNECT + name),
            (hook.get("active") is not True, "error", "Meta has switched the webhook off", CONNECT + name),
            (True, "ok", f"the webhook is registered at {at}", ""))
        _fields(say, name, "the app", graph.product(name).fields, names(hook.get("fields")) if hook else None)
    version, newest = case.settings.meta_api_version, f"set META_API_VERSION={max(ENDS)}"
    today, soon = (time.strftime("%Y-%m-%d", time.gmtime(case.now + days * DAY)) for days in (0, 60))
    end = ENDS.get(version, "9999")
    say("meta", (end < today or graph.served not in ("", version), "warning",
                 f"META_API_VERSION {version} is over, and {graph.served} is served", newest),
        (end < soon, "warning", f"META_API_VERSION {version} ends on {end}", newest))


async def whatsapp(case: Case, say: Say) -> None:
    """The token, the number, and whom the account sends its messages to."""
    if case.settings.whatsapp_on:
        await _token(case, say, "whatsapp", case.graph.product("whatsapp").scopes)
        fields = ",".join(("display_phone_number", "webhook_configuration", *NUMBER))
        number = await case.graph.ask("phone number", f"{case.settings.meta_phone_number_id}?fields={fields}",
                                      "meta_access_token")
        at, ours = block(number.get("webhook_configuration")).get("application"), f"{case.public.url}/whatsapp/webhook"
        say("whatsapp", (at and case.public.url and at != ours, "error", f"the number's messages go to {at}, not to "
                         f"{ours}", CONNECT + "whatsapp"),
            (True, "ok", f"the number is {number.get('display_phone_number')}", ""))
        for field, (good, level, remedy) in NUMBER.items():
            value = number.get(field, "")
            say("whatsapp", (value and value not in good.split(), level, f"the number's {field} is {value}", remedy))
        await _subscribed(case, say, "whatsapp")


async def page(case: Case, say: Say) -> None:
    """The Page: Messenger, and Instagram where it has no token of its own."""
    if case.settings.messenger_on:
        linked = not case.settings.instagram_access_token
        on = ("messenger", "instagram")[:1 + linked]
        scopes = [scope for name in on for scope in case.graph.product(name).scopes]
        await _token(case, say, "messenger", tuple(dict.fromkeys(scopes)))
        me = await case.graph.ask("Page", "me?fields=id,name,instagram_business_account", "meta_page_access_token")
        say("messenger", (True, "ok", f"the Page is {me.get('name')}", ""))
        say("instagram", (linked and not block(me.get("instagram_business_account")), "error", "no Instagram account "
                          "is linked to the Page", "link a professional one: Page settings > Linked accounts"))
        await _subscribed(case, say, "messenger")


async def login(case: Case, say: Say) -> None:
    """Instagram with a token of its own. Whether its host has debug_token is not documented; if not, no harm."""
    if case.settings.instagram_access_token:
        me = await case.graph.ask("account", "me?fields=id,username", "instagram_access_token")
        say("instagram", (True, "ok", f"the account is {me.get('username')}", ""))
        await _subscribed(case, say, "instagram")
        try:
            _lasts(case, say, "instagram", await case.graph.token("instagram_access_token"))
        except SendFailed:
            say("instagram", (True, "ok", "until when its token lasts cannot be seen; connect instagram renews it", ""))


async def _token(case: Case, say: Say, name: str, scopes: tuple[str, ...]) -> None:
    """Is it valid, for how long, of our app, of the right kind, and may it what it must? Raises SendFailed."""
    holder, app_id = case.graph.product(name).token, case.graph.app_id
    facts, key = await case.graph.token(holder), KEYS[holder]
    if facts.get("is_valid") is not True:
        raise SendFailed(Remedy.STOP, "190", help=f"{key} is not valid (any more): {LASTING[holder]}")
    app, kind = str(facts.get("app_id")), facts.get("type")
    lacking = [scope for scope in scopes if scope not in names(facts.get("scopes"))]
    say(name, (app_id and app != app_id, "error", f"{key} belongs to the app {app}, {facts.get('application')}, not to "
               "META_APP_ID", "make a token in our app, or set META_APP_ID and META_APP_SECRET to that app's"),
        (holder == "meta_page_access_token" and kind != "PAGE", "error", f"{key} is the token of a {kind}, not of a "
         "Page", LASTING[holder]),
        (lacking, "error", f"{key} lacks the permission {', '.join(lacking)}", "generate it again with that one"))
    _lasts(case, say, name, facts)


def _lasts(case: Case, say: Say, name: str, facts: Item) -> None:
    """Until when a token is good; it may have no end."""
    holder = case.graph.product(name).token
    ends = [end for each in ("expires_at", "data_access_expires_at") if isinstance(end := facts.get(each), int) and end]
    left = min(ends, default=case.now + 99 * DAY) - case.now
    say(name, (left < 7 * DAY, "warning", f"{KEYS[holder]} ends in {age(left)}", LASTING[holder]),
        (True, "ok", f"{KEYS[holder]} is valid" + (f" for {age(left)}" if ends else ""), ""))


async def _subscribed(case: Case, say: Say, name: str) -> None:
    """Does the account send its messages to our app, and all of them?"""
    account = await case.graph.account(name)
    if not account:
        return say(name, (True, "warning", "META_WABA_ID: not set, and the token does not name the account",
                          "WhatsApp > API Setup shows it"))
    fields, others = await case.graph.subscribed(name, account)
    what = f"to another app ({others}) than ours" if others else "to no app; Meta ends it after an hour of failures"
    say(name, (fields is None, "error", f"the account sends its messages {what}", CONNECT + name))
    _fields(say, name, "the account", case.graph.product(name).account_fields, fields)


def _fields(say: Say, name: str, who: str, wanted: tuple[str, ...], found: tuple[str, ...] | None) -> None:
    lacking = [field for field in wanted if found is not None and field not in found]
    say(name, (lacking, "error" if NEEDED in lacking else "warning", f"{who} is not subscribed to {', '.join(lacking)}",
               CONNECT + name))
