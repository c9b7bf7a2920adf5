"""The settings: one table, and one pure function that turns it into a frozen `Settings` or into every fault at once.

Not here: reading `.env` (`dotenv.py`), and asking the world whether a token works (`desk/check.py`). The law: the
table is the class itself, a line for each key; nothing is read at import; a fault names its key, what is wrong and
what to do, and never shows a value. `.env.example` is printed from the same table (`desk/reference.py`).

Next: `text.py`; then `app.py`, who reads the settings, and every channel, whose table line stands here.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from minibot.dotenv import parse_env, read_text
from minibot.dotenv import read_env_file as read_env_file  # noqa: F401  the other half of this door
from minibot.errors import SettingsFault
from minibot.model import PLATFORMS, Secret

_PROMPT = ("You are an AI assistant in a messaging app. Answer briefly, in the language of the person you talk to, in "
           "plain sentences with little formatting. Say so when you do not know something.")
_SIGNED, _VERIFY = ("meta_app_secrets", "allow_unsigned_webhooks"), ("verify_token",)
_NEEDS: Mapping[str, tuple[tuple[str, ...], ...]] = {  # what a platform needs; of several fields, any one serves
    "telegram": (("telegram_bot_token",),),
    "whatsapp": (("meta_access_token",), ("meta_phone_number_id",), _SIGNED, _VERIFY),
    "messenger": (("meta_page_access_token",), _SIGNED, _VERIFY),
    "instagram": (("meta_page_access_token", "instagram_access_token"), _SIGNED, _VERIFY),
}


def _shape(pattern: str, problem: str, kind: Callable[[str], Any] = str) -> Callable[[str], Any]:
    """A parser: the whole value must match `pattern`, then `kind` makes what the field holds."""
    def parse(raw: str) -> Any:
        if not re.fullmatch(pattern, raw):
            raise ValueError(problem)
        return kind(raw)
    return parse


def _number(low: float, high: float) -> Callable[[str], Any]:
    """A number of `high`'s type. Plain ASCII digits only: `int()` would take `1_0` and Arabic digits too."""
    kind, problem = type(high), f"must be a number from {low:g} to {high:.10g}"

    def within(raw: str) -> float:
        if not low <= kind(raw) <= high:
            raise ValueError(problem)
        return kind(raw)
    return _shape(r"[0-9]{1,13}" if kind is int else r"[0-9]{1,9}(\.[0-9]{1,6})?", problem, within)


_HOST = r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?"
_CLEAN = "contains a space, a control or a non-ASCII character; copy the value again"
_text = _shape(r"[^\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]+", "is empty or contains control characters; type it again")
_word = _shape(r"[\x21-\x7e]+", _CLEAN)
_secret = _shape(r"[\x21-\x7e]+", _CLEAN, Secret)
_secrets = _shape(r"[\x20-\x7e]+", _CLEAN, lambda raw: tuple(map(Secret, re.findall("[^, ]+", raw))))
_names = _shape(r"[\x20-\x7e]+", _CLEAN, lambda raw: frozenset(re.findall("[^, ]+", raw)))
_digits = _shape(r"[0-9]{1,32}", "must be digits only; copy it from the app's dashboard")
_phone_id = _shape(r"[0-9]{1,32}", "must be digits only: the Phone number ID that stands below the phone number")
_switch = _shape(r"(?i:1|true|yes|on|0|false|no|off)", "is a switch; write 1 or 0",
                 lambda raw: raw.lower() in ("1", "true", "yes", "on"))
_url = _shape(rf"https?://{_HOST}(/[!$%&'()*+,./0-9:;=A-Z_a-z~-]*)?",
              "must be an address such as https://example.org, without user, ?, #", lambda raw: raw.rstrip("/"))
_secret_url = _shape(rf"https?://([^\s/?#@]+@)?{_HOST}([/?].*)?", "must be an address like https://host/path", _secret)
_database = _shape(r"sqlite:///(?!:memory:)[^?#\x00-\x1f]*[^?#\x00-\x1f/]|postgres(ql)?(\+[a-z0-9]+)?://[\x21-\x7e]+",
                   "must be sqlite:///minibot.db (four slashes: absolute) or postgresql://user:password@host/name")
_bot_token = _shape(r"[0-9]{6,12}:[A-Za-z0-9_-]{20,}", "is no bot token; copy it whole from @BotFather", Secret)
_hook_secret = _shape(r"[A-Za-z0-9_-]{16,256}", "must be 16 to 256 of A-Z a-z 0-9 _ -, or empty", Secret)
_version = _shape(r"v[0-9]{1,3}\.[0-9]{1,2}", "must look like v25.0")
_level = _shape(r"(?i:debug|info|warning|error)", "must be debug, info, warning or error", str.lower)
_format = _shape(r"(?i:text|json)", "must be text or json", str.lower)


def _key(parse: Callable[[str], Any], default: Any, help: str, **more: Any) -> Any:
    """One line of the table. `more`: `group` opens a section of `.env.example`, `key` where the name differs."""
    return field(default=default, repr=more.pop("shown", True), metadata={"parse": parse, "help": help, **more})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set. A field is its key in lower case; "", 0 or an empty Secret mean: not set."""

    ai_api_key: Secret = _key(_secret, Secret(), "the model's key; needless with an OPENAI_BASE_URL", group="The model")
    openai_model: str = _key(_word, "gpt-4o-mini", "which model answers")
    openai_base_url: str = _key(_url, "", "another OpenAI-compatible server, e.g. http://localhost:11434/v1 (Ollama)")
    system_prompt: str = _key(_text, _PROMPT, "who the bot is (or its text in a file: SYSTEM_PROMPT_FILE)")
    history_turns: int = _key(_number(0, 1000), 20, "how many earlier exchanges the model sees")
    history_chars: int = _key(_number(100, 10**7), 12000, "and how many characters of them at most")
    max_output_tokens: int = _key(_number(1, 10**6), 800, "length of an answer at most")
    ai_timeout_seconds: float = _key(_number(0.1, 3600.0), 60.0, "time for one answer; local models need more")
    openai_transcribe_model: str = _key(_word, "gpt-transcribe", "which model listens to voice messages")
    telegram_bot_token: Secret = _key(_bot_token, Secret(), "from @BotFather", group="Telegram")
    telegram_webhook_secret: Secret = _key(_hook_secret, Secret(), "derived from the token when empty")
    telegram_polling: bool = _key(_switch, False, "1: fetch messages instead of a webhook; needs no public URL")
    verify_token: Secret = _key(_secret, Secret(), "your own word; Meta's webhook form gets it too", group="Meta")
    meta_app_secrets: tuple[Secret, ...] = _key(_secrets, (), "proves that messages come from Meta (App settings > "
                                                "Basic); several: comma-separated", key="META_APP_SECRET")
    meta_app_id: str = _key(_digits, "", "lets `python run.py connect` register the webhooks")
    meta_api_version: str = _key(_version, "v25.0", "Graph API version")
    meta_access_token: Secret = _key(_secret, Secret(), "WhatsApp: a permanent token of a system user")
    meta_phone_number_id: str = _key(_phone_id, "", "WhatsApp: the Phone number ID, not the phone number")
    meta_waba_id: str = _key(_digits, "", "WhatsApp: the Business Account ID; lets `connect` subscribe it")
    meta_page_access_token: Secret = _key(_secret, Secret(), "Messenger and Instagram: the Page's token")
    instagram_access_token: Secret = _key(_secret, Secret(), "Instagram Login instead of the Page's token")
    allow_unsigned_webhooks: bool = _key(_switch, False, "1: take messages nothing authenticates; to try things out")
    database_url: str = _key(_database, "sqlite:///minibot.db", "three slashes: in the current folder, four: absolute; "
                             "or postgresql://user:password@host/name", group="Where it lives", shown=False)
    host: str = _key(_word, "127.0.0.1", "where to listen; 0.0.0.0: every network")
    port: int = _key(_number(0, 65535), 8000, "0: any free one")
    public_url: str = _key(_url, "", "the https address the world uses; found by itself when ngrok runs")
    tls_cert: str = _key(_text, "", "a certificate file: HTTPS without a proxy")
    tls_key: str = _key(_text, "", "its key file")
    trusted_proxy: str = _key(_word, "", "the proxy's address whose X-Forwarded-For the log believes")
    messages_per_minute: int = _key(_number(1, 10**6), 20, "of one person", group="Limits")
    daily_tokens_per_user: int = _key(_number(1, 10**12), 100_000, "of one person")
    daily_tokens: int = _key(_number(1, 10**12), 2_000_000, "of all together")
    allowed_users: frozenset[str] = _key(_names, frozenset(), "ids, comma-separated; empty: everyone")
    human_pause_hours: float = _key(_number(0, 8760.0), 4.0, "silence after a person took over")
    retention_days: int = _key(_number(0, 36500), 0, "older conversations are removed; 0: keep")
    crm_webhook_url: Secret = _key(_secret_url, Secret(), "gets finished conversations", group="Operation")
    sheets_webhook_url: Secret = _key(_secret_url, Secret(), "gets them for a Google Sheet")
    export_secret: Secret = _key(_secret, Secret(), "signs the posts to the CRM")
    admin_token: Secret = _key(_secret, Secret(), "opens GET /metrics as a bearer token")
    log_level: str = _key(_level, "info", "debug, info, warning or error")
    log_format: str = _key(_format, "text", "text or json")
    telegram_api_url: str = _key(_url, "https://api.telegram.org", "Telegram", group="The platforms' addresses")
    meta_graph_url: str = _key(_url, "https://graph.facebook.com", "WhatsApp, Messenger, Instagram")
    instagram_graph_url: str = _key(_url, "https://graph.instagram.com", "Instagram Login")

    @property
    def telegram_on(self) -> bool:
        """Telegram has its token."""
        return bool(self.telegram_bot_token)

    @property
    def whatsapp_on(self) -> bool:
        """WhatsApp has what sending needs."""
        return bool(self.meta_access_token and self.meta_phone_number_id)

    @property
    def messenger_on(self) -> bool:
        """Messenger has its Page's token."""
        return bool(self.meta_page_access_token)

    @property
    def instagram_on(self) -> bool:
        """Instagram has a token of its own or the Page's."""
        return bool(self.instagram_access_token or self.meta_page_access_token)

    @property
    def platforms(self) -> tuple[str, ...]:
        """The platforms that can send, in the usual order."""
        return tuple(name for name in PLATFORMS if getattr(self, name + "_on"))

    @property
    def destinations(self) -> dict[str, Secret]:
        """Where finished exchanges are posted: crm and sheets, with their addresses, as far as they are set."""
        known = {"crm": self.crm_webhook_url, "sheets": self.sheets_webhook_url}
        return {name: url for name, url in known.items() if url}

    @property
    def sqlite_path(self) -> str:
        """The database file, relative to the current folder or absolute; "" where DATABASE_URL is not SQLite."""
        return self.database_url.removeprefix("sqlite:///") if self.database_url.startswith("sqlite:///") else ""

    def missing(self, platform: str) -> tuple[str, ...]:
        """The keys that `platform` still lacks to receive, to answer and to be registered; empty: ready."""
        lacking = [either[0] for either in _NEEDS[platform] if not any(getattr(self, name) for name in either)]
        return tuple(KEYS[name] for name in lacking)


KEYS: Mapping[str, str] = {line.name: line.metadata.get("key", line.name.upper()) for line in fields(Settings)}


def load(environ: Mapping[str, str], env_file: str | None = None, read: Callable[[str], str] = read_text,
         complete: bool = True) -> tuple[Settings, list[str]]:
    """-> (settings, warnings), from the environment over the text of `.env`. Raises SettingsFault with every fault.

    `read` fetches the text of SYSTEM_PROMPT_FILE; `complete` demands what serving needs: a model and a platform.
    """
    lines, faults, warnings = parse_env(env_file or "")
    known = (*KEYS.values(), "OPENAI_API_KEY", "SYSTEM_PROMPT_FILE")
    warnings += [_unknown(key, known) for key in lines if key not in known]
    given = {key: value for key in known if (value := environ.get(key, "").strip() or lines.get(key, "").strip())}
    faults += _stand_ins(given, read)
    values: dict[str, Any] = {}
    for line in fields(Settings):
        try:
            values |= {line.name: line.metadata["parse"](given[key])} if (key := KEYS[line.name]) in given else {}
        except ValueError as error:
            faults.append(f"{key}: {error}")
    settings = Settings(**values)
    faults += _gaps(settings, given) if complete else []
    if faults:
        raise SettingsFault(faults + warnings)
    return settings, warnings


def _stand_ins(given: dict[str, str], read: Callable[[str], str]) -> list[str]:
    """Put in the place of other keys what serves for them: OPENAI_API_KEY, SYSTEM_PROMPT_FILE, a derived secret."""
    if "OPENAI_API_KEY" in given:
        given.setdefault("AI_API_KEY", given["OPENAI_API_KEY"])
    if token := given.get("TELEGRAM_BOT_TOKEN", "").encode(errors="replace"):  # nobody without it can compute this
        given.setdefault("TELEGRAM_WEBHOOK_SECRET", hmac.digest(token, b"minibot telegram webhook", "sha256").hex())
    if "SYSTEM_PROMPT_FILE" in given and "SYSTEM_PROMPT" in given:
        return ["SYSTEM_PROMPT_FILE: SYSTEM_PROMPT is set too; remove one of them"]
    try:
        given |= {"SYSTEM_PROMPT": read(given["SYSTEM_PROMPT_FILE"]).strip()} if "SYSTEM_PROMPT_FILE" in given else {}
    except (OSError, ValueError):
        return ["SYSTEM_PROMPT_FILE: there is no such file, or it is not UTF-8 text; correct the path"]
    return []


def _gaps(settings: Settings, given: Mapping[str, str]) -> list[str]:
    """What serving lacks. A value that is given but wrong has its own fault and is not called missing as well."""
    faults = []
    if not {"AI_API_KEY", "OPENAI_BASE_URL"} & given.keys():
        faults.append("AI_API_KEY: not set; copy .env.example to .env and put it there, or try `python run.py demo`")
    if not settings.platforms and not {"TELEGRAM_BOT_TOKEN", "VERIFY_TOKEN"} & given.keys():
        faults.append("TELEGRAM_BOT_TOKEN: no platform is set up; get a token from @BotFather (.env.example shows the "
                      "other platforms), or try `python run.py demo`")
    if bool(settings.tls_cert) != bool(settings.tls_key):
        faults.append("TLS_CERT, TLS_KEY: only one of them is set; set both, or neither")
    return faults


def _unknown(key: str, known: tuple[str, ...]) -> str:
    from difflib import get_close_matches  # only for a mistake

    near = get_close_matches(key.upper(), known, 1)
    return f"{key}: .env has it, but there is no such setting" + (f"; did you mean {near[0]}?" if near else "")
