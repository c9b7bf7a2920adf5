"""The settings: one table, and one pure function that turns it into a frozen `Settings` or into every fault at once.

Not here: reading `.env` (`dotenv.py`), and asking the world whether a token works (`desk/check.py`). The law: the
table is the class itself, a line for each key; nothing is read at import; a fault names its key, what is wrong and
what to do, and never shows a secret's value. `.env.example` is printed from the same table.

Next: `text.py`; then `app.py`, who reads the settings, and every channel, whose table line stands here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from minibot.model import PLATFORMS, Secret

DEFAULT_PROMPT = (
    "You are an AI assistant in a messaging app. Answer briefly, in the language of the person you talk to, in plain "
    "sentences with little formatting. Say so when you do not know something."
)
WEBHOOK_SECRET_LABEL = b"minibot telegram webhook"


def _shape(pattern: str, problem: str, kind: Callable[[str], Any] = str) -> Callable[[str], Any]:
    """A parser: the whole value must match `pattern`, then `kind` makes what the field holds."""
    def parse(raw: str) -> Any:
        if not re.fullmatch(pattern, raw):
            raise ValueError(problem)
        return kind(raw)
    return parse


def _number(kind: type[int] | type[float], low: float, high: float) -> Callable[[str], float]:
    """Plain ASCII digits only: `int()` would take `1_0` and Arabic digits too."""
    problem = f"must be a {'whole ' if kind is int else ''}number from {low:.10g} to {high:.10g}"
    plain = _shape(r"[0-9]{1,12}" if kind is int else r"[0-9]{1,12}(\.[0-9]{1,6})?", problem, kind)

    def parse(raw: str) -> float:
        if not low <= (number := plain(raw)) <= high:
            raise ValueError(problem)
        return kind(number)
    return parse


def _list(raw: str) -> list[str]:
    return [part.strip() for part in raw.split(",") if part.strip()]


_HOST = r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?"
_CLEAN = "contains a space, a control or a non-ASCII character; copy the value again"
_text = _shape(r"[^\x00-\x08\x0b-\x1f\x7f]+", "contains control characters; type it again")
_word = _shape(r"[\x21-\x7e]+", _CLEAN)
_secret = _shape(r"[\x21-\x7e]+", _CLEAN, Secret)
_secrets = _shape(r"[\x21-\x7e, ]+", _CLEAN, lambda raw: tuple(map(_secret, _list(raw))))
_names = _shape(r"[\x21-\x7e, ]+", _CLEAN, lambda raw: frozenset(map(_word, _list(raw))))
_digits = _shape(r"[0-9]{1,32}", "must be digits only; copy it from the app's dashboard")
_phone_id = _shape(r"[0-9]{1,32}", "must be digits only: the Phone number ID, not the phone number (+...); "
                   "WhatsApp > API Setup shows it below the number")
_switch = _shape(r"(?i:1|true|yes|on|0|false|no|off)", "is a switch; write 1 or 0",
                 lambda raw: raw.lower() in ("1", "true", "yes", "on"))
_url = _shape(rf"https?://{_HOST}(/[!$%&'()*+,./0-9:;=A-Z_a-z~-]*)?", "must be an address such as https://example.org, "
              "without user name, ? or #", lambda raw: raw.rstrip("/"))
_secret_url = _shape(rf"https?://([^\s/?#@]+@)?{_HOST}([/?][\x21-\x7e]*)?",
                     "must be an address such as https://example.org/path", Secret)
_database = _shape(r"sqlite:///(?!:memory:)[^?#\x00-\x1f]*[^?#\x00-\x1f/]|postgres(ql)?(\+[a-z0-9]+)?://[\x21-\x7e]+",
                   "must be sqlite:///minibot.db (three slashes: in the current folder; four: an absolute path) "
                   "or postgresql://user:password@host/name")
_bot_token = _shape(r"[0-9]{6,12}:[A-Za-z0-9_-]{20,}", "is not a bot token such as 7123456789:AAH...; copy it whole "
                    "from @BotFather (/mybots > API Token)", Secret)
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

    ai_api_key: Secret = _key(_secret, Secret(), "the model's key; not needed with your own OPENAI_BASE_URL",
                              group="The model")
    openai_model: str = _key(_word, "gpt-4o-mini", "which model answers")
    openai_base_url: str = _key(_url, "", "another OpenAI-compatible server, e.g. http://localhost:11434/v1 (Ollama)")
    system_prompt: str = _key(_text, DEFAULT_PROMPT, "who the bot is (or SYSTEM_PROMPT_FILE: a file that says it)")
    history_turns: int = _key(_number(int, 0, 1000), 20, "how many earlier exchanges the model sees")
    history_chars: int = _key(_number(int, 100, 10**7), 12000, "and how many characters of them at most")
    max_output_tokens: int = _key(_number(int, 1, 10**6), 800, "length of an answer at most")
    ai_timeout_seconds: float = _key(_number(float, 0.1, 3600), 60.0, "time for one answer; local models need more")
    openai_transcribe_model: str = _key(_word, "gpt-transcribe", "which model listens to voice messages")
    telegram_bot_token: Secret = _key(_bot_token, Secret(), "from @BotFather", group="Telegram")
    telegram_webhook_secret: Secret = _key(_hook_secret, Secret(), "derived from the token when empty")
    telegram_polling: bool = _key(_switch, False, "1: fetch messages instead of a webhook; needs no public URL")
    verify_token: Secret = _key(_secret, Secret(), "a word of your own; the same goes into Meta's webhook form",
                                group="WhatsApp, Messenger, Instagram (Meta)")
    meta_app_secrets: tuple[Secret, ...] = _key(_secrets, (), "App settings > Basic > App secret: proves that messages "
                                                "come from Meta; several: comma-separated", key="META_APP_SECRET")
    meta_app_id: str = _key(_digits, "", "lets `python run.py connect` register the webhooks")
    meta_api_version: str = _key(_version, "v25.0", "Graph API version")
    meta_access_token: Secret = _key(_secret, Secret(), "WhatsApp: a permanent token of a system user")
    meta_phone_number_id: str = _key(_phone_id, "", "WhatsApp: the Phone number ID, not the phone number")
    meta_waba_id: str = _key(_digits, "", "WhatsApp: the Business Account ID; lets `connect` subscribe it")
    meta_page_access_token: Secret = _key(_secret, Secret(), "Messenger and Instagram: the Page's token")
    instagram_access_token: Secret = _key(_secret, Secret(), "Instagram Login instead of the Page's token")
    allow_unsigned_webhooks: bool = _key(_switch, False, "1: take messages nothing authenticates; to try things out")
    database_url: str = _key(_database, "sqlite:///minibot.db", "three slashes: in the current folder; four: absolute; "
                             "or postgresql://user:password@host/name", group="Where things live", shown=False)
    host: str = _key(_word, "127.0.0.1", "where to listen; 0.0.0.0: every network")
    port: int = _key(_number(int, 0, 65535), 8000, "0: any free one")
    public_url: str = _key(_url, "", "the https address the world uses; found by itself when ngrok runs")
    tls_cert: str = _key(_text, "", "a certificate file: HTTPS without a proxy")
    tls_key: str = _key(_text, "", "its key file")
    trusted_proxy: str = _key(_word, "", "the proxy's address whose X-Forwarded-For the log believes")
    messages_per_minute: int = _key(_number(int, 1, 10**6), 20, "of one person", group="Limits")
    daily_tokens_per_user: int = _key(_number(int, 1, 10**12), 100_000, "of one person")
    daily_tokens: int = _key(_number(int, 1, 10**12), 2_000_000, "of all together")
    allowed_users: frozenset[str] = _key(_names, frozenset(), "ids, comma-separated; empty: everyone")
    human_pause_hours: float = _key(_number(float, 0, 8760), 4.0, "silence after a person took over")
    retention_days: int = _key(_number(int, 0, 36500), 0, "older conversations are removed; 0: keep")
    crm_webhook_url: Secret = _key(_secret_url, Secret(), "finished conversations are posted here",
                                   group="Export and operation")
    sheets_webhook_url: Secret = _key(_secret_url, Secret(), "and here, for a Google Sheet")
    export_secret: Secret = _key(_secret, Secret(), "signs the posts to the CRM")
    admin_token: Secret = _key(_secret, Secret(), "opens GET /metrics as a bearer token")
    log_level: str = _key(_level, "info", "debug, info, warning or error")
    log_format: str = _key(_format, "text", "text or json")
    telegram_api_url: str = _key(_url, "https://api.telegram.org", "a local Bot API server",
                                 group="The platforms' addresses, for tests and local servers")
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
    def sqlite_path(self) -> str:
        """The database file, relative to the current folder or absolute; "" where DATABASE_URL is not SQLite."""
        return self.database_url.removeprefix("sqlite:///") if self.database_url.startswith("sqlite:///") else ""
