"""What the operator reads at the start: where it listens, how the world gets there, and for each platform ready, off
(nothing is set) or wrong (something is missing), with the remedy; then the model and what waits in the database.

Not here: finding out live whether a token works (`check.py`). The law: a line says what is so and what to do; no line
shows a secret.

Next: `report.py`.
"""

from __future__ import annotations

import errno

from minibot.ai import retires
from minibot.config import Settings
from minibot.desk.report import paint
from minibot.desk.tunnel import Tunnel
from minibot.model import PLATFORMS
from minibot.work import Health


def listening(settings: Settings, port: int) -> str:
    """The first line; `port` is the real one."""
    return f"minibot listens on http{'s' if settings.tls_cert else ''}://{settings.host}:{port}"


def lines(settings: Settings, public: Tunnel, health: Health, colour: bool) -> list[str]:
    """What follows as soon as the address is known; `health` is the store's."""
    told = [f"  {'address':<10} " + (f"{public.url} ({public.source})" if public.url else public.problem)]
    for platform in PLATFORMS:
        how, what = _platform(settings, platform, public.url)
        told.append(f"  {platform:<10} {paint(how, 6, colour)} {what}")
    waits = f"{health.pending} wait" if health.pending else "nothing waits"
    given_up = f", {health.dead} given up" if health.dead else ""
    told += [f"  {'model':<10} {_model(settings)}",
             f"  {'database':<10} {settings.sqlite_path or 'PostgreSQL'}: {waits}{given_up}"]
    if settings.allow_unsigned_webhooks:
        told.append("  warning: ALLOW_UNSIGNED_WEBHOOKS=1, unsigned webhooks are taken: anybody can send messages as "
                    "anyone; never leave this on")
    elif not settings.meta_app_secrets:
        told.append("  META_APP_SECRET is not set: messages from WhatsApp, Messenger and Instagram are refused, since "
                    "nothing proves that Meta sent them (App settings > Basic > App secret)")
    return told


def state(settings: Settings, platform: str) -> str:
    """ready, off, or wrong: it has some of what it needs."""
    given = getattr(settings, f"{platform}_on") or platform == "whatsapp" and (
        settings.meta_access_token or settings.meta_phone_number_id)
    return "off" if not given else "wrong" if settings.missing(platform) else "ready"


def _platform(settings: Settings, platform: str, public: str) -> tuple[str, str]:
    how, missing = state(settings, platform), ", ".join(settings.missing(platform))
    if platform == "telegram" and settings.telegram_polling and not missing:
        return how, "fetches its messages (TELEGRAM_POLLING=1)"
    url = f"{public or 'https://<your public address>'}/{platform}/webhook"
    return how, f"missing in .env: {missing}" if missing else url


def _model(settings: Settings) -> str:
    where = f" at {settings.openai_base_url}" if settings.openai_base_url else ""
    end = None if where else retires(settings.openai_model)
    warning = f" (will be shut down on {end[0]}; its successor is {end[1]}: set OPENAI_MODEL)" if end else ""
    return f"{settings.openai_model}{where}{warning}"


def cannot_listen(settings: Settings, fault: OSError) -> str:
    """One line for a port that is taken or not ours."""
    where = f"{settings.host}:{settings.port}"
    if fault.errno == errno.EADDRINUSE:
        return f"PORT: {where} is taken by another program; stop it, or set PORT={settings.port + 1} in .env"
    if fault.errno in (errno.EACCES, errno.EPERM):
        return f"PORT: {where} needs rights this user does not have; set PORT to 1024 or more in .env"
    return f"HOST, PORT: cannot listen on {where}: {fault.strerror or fault}"
