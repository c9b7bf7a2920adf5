"""What the operator reads at the start: where it listens, and for each platform ready, or what is missing.

Not here: finding out live whether a token works (`check.py`). The law: a line says what is so and what to do;
no line shows a secret.

Next: `check.py`.
"""

from __future__ import annotations

import errno

from minibot.ai import retires
from minibot.config import Settings
from minibot.model import PLATFORMS


def lines(settings: Settings, port: int, public_url: str = "") -> list[str]:
    """The start-up lines; `public_url` is the address the world uses, as far as it is known."""
    public = public_url or settings.public_url
    told = [f"minibot listens on http://{settings.host}:{port}"]
    for platform in PLATFORMS:
        told.append(f"  {platform:<10} {_platform(settings, platform, public)}")
    told.append(f"  {'model':<10} {_model(settings)}")
    if not settings.meta_app_secrets and not settings.allow_unsigned_webhooks:
        told.append("  META_APP_SECRET is not set: messages from WhatsApp, Messenger and Instagram are refused, since "
                    "nothing proves that Meta sent them (App settings > Basic > App secret)")
    if settings.allow_unsigned_webhooks:
        told.append("  warning: ALLOW_UNSIGNED_WEBHOOKS=1, unsigned webhooks are taken: anybody can send messages as "
                    "anyone; never leave this on")
    return told


def _platform(settings: Settings, platform: str, public: str) -> str:
    missing = settings.missing(platform)
    url = f"{public or 'https://<your public address>'}/{platform}/webhook"
    return f"ready    {url}" if not missing else f"off      missing in .env: {', '.join(missing)}"


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
