"""A finished exchange as other programs read it: the CRM's JSON, the spreadsheet's cells, leads, the signature.

Not here: posting (`flow/export.py`), the command that writes files (`desk/export.py`). The law: pure functions;
fields keep their names and their order, for people build on them; a cell is never a formula; times are ISO 8601 in
UTC. Each field is described in the README, section "CRM and Google Sheets".

Next: `app.py`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from datetime import datetime, timezone
from typing import Any

from minibot.errors import SettingsFault
from minibot.work import Export

FORMULA = tuple("=+-@\t\r\n＝＋－＠")  # what makes a spreadsheet calculate, full-width forms included (OWASP)
CELL = 25_000  # characters; Google Sheets takes 50,000 UTF-16 units in a cell
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[a-zA-Z]{2,24}(?![\w-])", re.ASCII)
_DATE = re.compile(r"(?<![0-9./-])[0-9]{1,2}[./-][0-9]{1,2}[./-](?:19|20)[0-9]{2}(?![./-]?[0-9])")
_PHONE = re.compile(r"""(?<![\w.,:/+-])(?<![0-9][ ])(?:
    (?:\+|00[ ]?)[1-9](?:(?:\(0\)|[ ()./-]){0,3}[0-9]){6,13}    # international
    | \(?0[1-9](?:[ ()./-]{0,2}[0-9]){7,11}       # national, with its zero: nine digits or more
    | \(?[2-9][0-9]{2}\)?[ .-]{1,2}[0-9]{3}[ .-][0-9]{4}    # North America
    )(?![\w/]|[.,:-][0-9])""", re.VERBOSE | re.ASCII)


def crm(export: Export) -> dict[str, Any]:
    """The body for a CRM, with the leads found in what the person wrote."""
    return {"event_id": export.event_id, "platform": export.platform, "conversation_id": export.chat,
            "person": {"id": export.person, "name": export.name, "username": export.username, "phone": export.phone},
            "message": export.message, "reply": export.reply, "outcome": export.outcome,
            "received_at": moment(export.received_at), "replied_at": moment(export.replied_at),
            "message_ids": list(export.message_ids), "reply_ids": list(export.reply_ids),
            "lead": leads(export.message)}


def row(export: Export) -> dict[str, str]:
    """The same without nesting, for a spreadsheet: every value is a text that is no formula."""
    cells = {"event_id": export.event_id, "received_at": moment(export.received_at), "platform": export.platform,
             "conversation_id": export.chat, "person_id": export.person, "name": export.name,
             "username": export.username, "phone": export.phone, "message": export.message, "reply": export.reply,
             "outcome": export.outcome, "replied_at": moment(export.replied_at),
             "message_ids": " ".join(export.message_ids), "reply_ids": " ".join(export.reply_ids)}
    return {name: cell(text[:CELL]) for name, text in cells.items()}


def cell(text: str) -> str:
    """`text` so that a spreadsheet takes it for text: an apostrophe before what would start a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text


def leads(text: str) -> dict[str, list[str]]:
    """E-mail addresses and phone numbers (digits, and a leading + where it was written), each once, in order."""
    phones = [re.sub(r"\(0\)|[^0-9+]", "", found) for found in _PHONE.findall(_DATE.sub(";", text))]
    return {"emails": list(dict.fromkeys(_EMAIL.findall(text))), "phones": list(dict.fromkeys(phones))}


def moment(milliseconds: int) -> str:
    """2027-01-15T08:00:00.000Z; "" for never."""
    if not milliseconds:
        return ""
    at = datetime.fromtimestamp(milliseconds // 1000, timezone.utc)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{milliseconds % 1000:03}Z"


def signing_key(secret: str) -> bytes:
    """EXPORT_SECRET as bytes: base64 behind `whsec_` (Standard Webhooks), else as it is. Raises SettingsFault."""
    if not secret.startswith("whsec_"):
        return secret.encode()
    digits = secret.removeprefix("whsec_").rstrip("=")
    try:
        return base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
    except ValueError:
        raise SettingsFault(["EXPORT_SECRET: what follows whsec_ is no base64; copy it whole, or leave whsec_ away"]
                            ) from None


def signed(key: bytes, event_id: str, seconds: int, body: bytes) -> dict[str, str]:
    """The header fields of Standard Webhooks 1.0 (standardwebhooks.com): HMAC-SHA256 over id, time and body."""
    digest = hmac.digest(key, f"{event_id}.{seconds}.".encode() + body, hashlib.sha256)
    return {"webhook-id": event_id, "webhook-timestamp": str(seconds),
            "webhook-signature": f"v1,{base64.b64encode(digest).decode()}"}
