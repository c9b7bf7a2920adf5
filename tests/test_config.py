"""The settings: what people write into `.env` and the environment, and what they are told when it is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from minibot.config import KEYS, Settings, load, read_env_file
from minibot.desk.reference import example
from minibot.errors import SettingsFault
from minibot.model import Secret

ROOT = Path(__file__).resolve().parent.parent
TOKEN = "7123456789:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw"
ENOUGH = {"AI_API_KEY": "sk-canary-0123456789", "TELEGRAM_BOT_TOKEN": TOKEN}

GUIDE = """\
# AI Configuration
AI_API_KEY=sk-your-openai-api-key
OPENAI_MODEL=gpt-4o-mini

# Database
DATABASE_URL=postgresql+asyncpg://postgres:2324@localhost:5432/chatbot

# Webhook Verification (used by Meta platforms)
VERIFY_TOKEN=my-secret-verify-token-123

# Meta/WhatsApp Configuration
META_API_VERSION=v19.0
META_ACCESS_TOKEN=EAAxxxxxxxx_whatsapp_token
META_PHONE_NUMBER_ID=123456789012345

# Facebook Messenger & Instagram
META_PAGE_ACCESS_TOKEN=EAAxxxxxxxx_page_token

# Telegram
TELEGRAM_BOT_TOKEN=7123456789:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw

# Optional: CRM/Sheets Integration
CRM_WEBHOOK_URL=
SHEETS_WEBHOOK_URL=
"""


def settings(**given: str) -> Settings:
    return load({**ENOUGH, **given})[0]


def faults(given: dict[str, str], text: str = "") -> list[str]:
    with pytest.raises(SettingsFault) as caught:
        load(given, text)
    return caught.value.faults


def the_fault(**given: str) -> str:
    found = faults({**ENOUGH, **given})
    assert len(found) == 1
    return found[0]


def one(text: str, key: str = "OPENAI_MODEL") -> str:
    """What `text` as the whole `.env` says for a key."""
    return getattr(load(ENOUGH, text)[0], key.lower())


# --- the guide, the defaults ---------------------------------------------------------------------------------


def test_the_complete_env_of_the_setup_guide_loads_without_a_word() -> None:
    loaded, warnings = load({}, GUIDE)
    assert warnings == []
    assert loaded.platforms == ("telegram", "whatsapp", "messenger", "instagram")
    assert loaded.meta_api_version == "v19.0"
    assert loaded.database_url == "postgresql+asyncpg://postgres:2324@localhost:5432/chatbot"
    assert loaded.sqlite_path == ""
    assert not loaded.crm_webhook_url and not loaded.sheets_webhook_url
    assert loaded.missing("whatsapp") == ("META_APP_SECRET",)


def test_a_key_and_a_bot_token_are_enough() -> None:
    loaded, warnings = load(ENOUGH)
    assert warnings == []
    assert loaded.platforms == ("telegram",) and loaded.missing("telegram") == ()
    assert (loaded.host, loaded.port, loaded.openai_base_url) == ("127.0.0.1", 8000, "")
    assert loaded.sqlite_path == "minibot.db"
    assert loaded.ai_timeout_seconds == 60.0 and loaded.daily_tokens == 2_000_000


def test_the_default_prompt_says_that_it_is_an_ai() -> None:
    assert "AI assistant" in settings().system_prompt and len(settings().system_prompt) < 300


# --- .env as people write it ---------------------------------------------------------------------------------


@pytest.mark.parametrize("line", [
    "OPENAI_MODEL=m-1",
    "export OPENAI_MODEL=m-1",
    "  OPENAI_MODEL = m-1  ",
    'OPENAI_MODEL="m-1"',
    "OPENAI_MODEL='m-1'",
    "OPENAI_MODEL=m-1 # which model",
    'OPENAI_MODEL="m-1"   # which model',
    "OPENAI_MODEL=m-1\r\n\r\n# end\r\n",
    "\ufeffOPENAI_MODEL=m-1\n",
    "\n\n   # comment = not a setting\n\tOPENAI_MODEL=\tm-1",
    "OPENAI_MODEL=old\rOPENAI_MODEL=m-1",
], ids=repr)
def test_a_line_is_read_as_it_was_meant(line: str) -> None:
    assert one(line) == "m-1"


@pytest.mark.parametrize("line", ["OPENAI_MODEL=", "OPENAI_MODEL=   ", "OPENAI_MODEL=''", 'OPENAI_MODEL=""',
                                  "OPENAI_MODEL=  # later", "# OPENAI_MODEL=m-1"], ids=repr)
def test_a_blank_value_means_not_set(line: str) -> None:
    assert one(line) == "gpt-4o-mini"


@pytest.mark.parametrize("written, meant", [
    ("You are #1.", "You are #1."[:7]),  # a comment begins at a space and a #
    ("You#are", "You#are"),
    ("'You are #1.'", "You are #1."),
    ('"You are #1."', "You are #1."),
    (r'"one\ntwo \"three\" \\ C:\dir"', 'one\ntwo "three" \\ C:\\dir'),
    (r"'one\ntwo'", r"one\ntwo"),
    ("it's a bot", "it's a bot"),
    ("a=b=c", "a=b=c"),
], ids=repr)
def test_quotes_comments_and_escapes_mean_what_they_mean_in_a_shell(written: str, meant: str) -> None:
    assert one(f"SYSTEM_PROMPT={written}", "SYSTEM_PROMPT") == meant


@pytest.mark.parametrize("line", ["just a line", "=canary", "OPENAI_MODEL", "a b=c", 'OPENAI_MODEL="m-1',
                                  'OPENAI_MODEL= "m', "OPENAI_MODEL='m", 'OPENAI_MODEL="a"b', f"{TOKEN}="], ids=repr)
def test_a_line_that_is_no_setting_is_named_by_its_number_only(line: str) -> None:
    found = faults(ENOUGH, f"# one\n\n{line}\nOPENAI_MODEL=m-2\n")
    assert len(found) == 1 and found[0].startswith(".env line 3:")
    assert line not in found[0]


def test_a_key_given_twice_is_mentioned_and_the_last_one_counts() -> None:
    loaded, warnings = load(ENOUGH, "OPENAI_MODEL=a\nOPENAI_MODEL=b\n")
    assert loaded.openai_model == "b"
    assert len(warnings) == 1 and "OPENAI_MODEL" in warnings[0] and "line 2" in warnings[0]


@pytest.mark.parametrize("wrong, right", [("OPENAI_MODLE", "OPENAI_MODEL"), ("TELEGRAM_TOKEN", "TELEGRAM_BOT_TOKEN"),
                                          ("ai_api_key", "AI_API_KEY"), ("META_APP_SECRETS", "META_APP_SECRET"),
                                          ("OPENAI_APIKEY", "OPENAI_API_KEY")])
def test_an_unknown_key_is_named_with_the_nearest_known_one(wrong: str, right: str) -> None:
    warnings = load(ENOUGH, f"{wrong}=canary-value-1")[1]
    assert len(warnings) == 1
    assert warnings[0].startswith(wrong) and f"did you mean {right}?" in warnings[0]
    assert "canary" not in warnings[0]


def test_an_unknown_key_like_no_other_gets_no_suggestion() -> None:
    assert "did you mean" not in load(ENOUGH, "ZZZ=1")[1][0]


def test_a_misspelt_key_is_shown_beside_the_fault_it_causes() -> None:
    found = faults({"TELEGRAM_BOT_TOKEN": TOKEN}, "AI_APIKEY=sk-1234567890\n")
    assert [line.split(":")[0] for line in found] == ["AI_API_KEY", "AI_APIKEY"]


# --- where a value comes from --------------------------------------------------------------------------------


def test_the_environment_wins_over_the_file() -> None:
    assert load({**ENOUGH, "PORT": "1"}, "PORT=2\nHOST=h\n")[0].port == 1


def test_an_empty_value_in_the_environment_leaves_the_file_its_say() -> None:
    assert load({**ENOUGH, "PORT": " "}, "PORT=2\n")[0].port == 2


def test_a_key_of_the_environment_that_is_not_ours_is_none_of_our_business() -> None:
    assert load({**ENOUGH, "AI_APIKEY": "x", "LANG": "C"})[1] == []


def test_the_openai_key_serves_where_ai_api_key_is_absent() -> None:
    given = {"TELEGRAM_BOT_TOKEN": TOKEN, "OPENAI_API_KEY": "sk-other"}
    assert load(given)[0].ai_api_key == Secret("sk-other")
    assert load(given, "AI_API_KEY=sk-own")[0].ai_api_key == Secret("sk-own")


def test_a_server_of_ones_own_needs_no_key() -> None:
    loaded = load({"TELEGRAM_BOT_TOKEN": TOKEN, "OPENAI_BASE_URL": "http://localhost:11434/v1/"})[0]
    assert loaded.openai_base_url == "http://localhost:11434/v1" and not loaded.ai_api_key


def test_an_empty_base_url_means_the_real_one() -> None:
    assert settings(OPENAI_BASE_URL="").openai_base_url == ""
    assert "AI_API_KEY" in faults({"TELEGRAM_BOT_TOKEN": TOKEN, "OPENAI_BASE_URL": " "})[0]


def test_the_prompt_may_stand_in_a_file_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_bytes("\ufeffDu bist höflich.\r\nAntworte kurz.\r\n".encode())
    assert settings(SYSTEM_PROMPT_FILE=str(file)).system_prompt == "Du bist höflich.\nAntworte kurz."
    assert load({**ENOUGH, "SYSTEM_PROMPT_FILE": "x"}, None, lambda path: f"read {path}")[0].system_prompt == "read x"


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff\xff\xff", b"a\0b"])
def test_a_prompt_file_that_says_nothing_is_a_fault(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "prompt.txt"
    if content is not None:
        file.write_bytes(content)
    assert "SYSTEM_PROMPT" in the_fault(SYSTEM_PROMPT_FILE=str(file))


def test_a_prompt_and_a_prompt_file_contradict_each_other() -> None:
    assert "remove one" in the_fault(SYSTEM_PROMPT="a", SYSTEM_PROMPT_FILE="b")


# --- faults --------------------------------------------------------------------------------------------------


def test_an_empty_folder_is_told_how_to_go_on() -> None:
    found = faults({})
    assert [line.split(":")[0] for line in found] == ["AI_API_KEY", "TELEGRAM_BOT_TOKEN"]
    assert ".env.example" in found[0] and "run.py demo" in found[0]
    assert "@BotFather" in found[1] and "run.py demo" in found[1]


def test_a_command_that_does_not_serve_asks_for_less() -> None:
    assert load({}, complete=False)[0].platforms == ()


def test_a_verify_token_alone_is_enough_to_be_verified() -> None:
    assert load({"AI_API_KEY": "k", "VERIFY_TOKEN": "v"})[0].platforms == ()


@pytest.mark.parametrize("half", [{"META_ACCESS_TOKEN": "x"}, {"META_PHONE_NUMBER_ID": "1"}, {"META_APP_SECRET": "x"}])
def test_half_a_platform_is_no_platform(half: dict[str, str]) -> None:
    assert "no platform" in faults({"AI_API_KEY": "k", **half})[0]


def test_all_faults_are_reported_together() -> None:
    found = faults({"PORT": "no", "META_API_VERSION": "19", "TELEGRAM_BOT_TOKEN": "x"}, "oops\nHISTORY_TURNS=-1\n")
    assert [line.split(":")[0] for line in found] == [
        ".env line 1", "HISTORY_TURNS", "TELEGRAM_BOT_TOKEN", "META_API_VERSION", "PORT", "AI_API_KEY"]
    assert "\n" not in "".join(found)


def test_a_wrong_token_is_not_called_missing_as_well() -> None:
    found = faults({"AI_API_KEY": "a b", "TELEGRAM_BOT_TOKEN": "123"})
    assert [line.split(":")[0] for line in found] == ["AI_API_KEY", "TELEGRAM_BOT_TOKEN"]
    assert "BotFather" in found[1]


WRONG = [
    ("AI_API_KEY", "sk-canary canary"), ("AI_API_KEY", "sk-canary\ncanary"), ("AI_API_KEY", "sk-canäry"),
    ("AI_API_KEY", "sk-canary\u200b"), ("AI_API_KEY", "\u201csk-canary\u201d"), ("AI_API_KEY", "sk-canary\x00"),
    ("VERIFY_TOKEN", "two canaries"), ("META_APP_SECRET", "canary,two canaries\x7f"), ("ADMIN_TOKEN", "canäry"),
    ("TELEGRAM_BOT_TOKEN", "canary"), ("TELEGRAM_BOT_TOKEN", "712345678:canary"), ("TELEGRAM_BOT_TOKEN", TOKEN + "/x"),
    ("TELEGRAM_BOT_TOKEN", TOKEN.replace("7", "٧")), ("TELEGRAM_BOT_TOKEN", "\udcff:canary"),
    ("TELEGRAM_WEBHOOK_SECRET", "canary"), ("TELEGRAM_WEBHOOK_SECRET", "c" * 257),
    ("TELEGRAM_WEBHOOK_SECRET", "canary canary canary"), ("TELEGRAM_POLLING", "maybe"),
    ("OPENAI_BASE_URL", "localhost:11434/v1"), ("OPENAI_BASE_URL", "ftp://canary"), ("OPENAI_BASE_URL", "https://"),
    ("OPENAI_BASE_URL", "https://me:canary@host/v1"), ("OPENAI_BASE_URL", "https://host/v1?key=canary"),
    ("OPENAI_BASE_URL", "https://ho st/v1"), ("OPENAI_BASE_URL", "https://host/v1\r\nX: canary"),
    ("TELEGRAM_API_URL", "https://host/#x"), ("PUBLIC_URL", "abc.ngrok.app"), ("CRM_WEBHOOK_URL", "crm.canary/x"),
    ("CRM_WEBHOOK_URL", "https://crm/x y"), ("SHEETS_WEBHOOK_URL", "file:///etc/canary"),
    ("META_PHONE_NUMBER_ID", "+49 151 123"), ("META_PHONE_NUMBER_ID", "12٣"), ("META_APP_ID", "my app"),
    ("META_WABA_ID", "x"), ("META_API_VERSION", "19.0"), ("META_API_VERSION", "v25"), ("META_API_VERSION", "v25.0/me"),
    ("DATABASE_URL", "sqlite://"), ("DATABASE_URL", "sqlite:///"), ("DATABASE_URL", "sqlite:///:memory:"),
    ("DATABASE_URL", "minibot.db"), ("DATABASE_URL", "mysql://root:canary@host/db"), ("DATABASE_URL", "sqlite:///dir/"),
    ("PORT", "65536"), ("PORT", "-1"), ("PORT", "80_00"), ("PORT", "８０"), ("PORT", "1e3"), ("PORT", "8000.0"),
    ("HISTORY_TURNS", "many"), ("HISTORY_CHARS", "0"), ("MAX_OUTPUT_TOKENS", "0"), ("AI_TIMEOUT_SECONDS", "0"),
    ("AI_TIMEOUT_SECONDS", "inf"), ("AI_TIMEOUT_SECONDS", "nan"), ("DAILY_TOKENS", "9" * 14),
    ("MESSAGES_PER_MINUTE", "0"),
    ("HUMAN_PAUSE_HOURS", "-4"), ("RETENTION_DAYS", "1.5"), ("LOG_LEVEL", "loud"), ("LOG_FORMAT", "xml"),
    ("HOST", "a b"), ("OPENAI_MODEL", "gpt 4"), ("SYSTEM_PROMPT", "a\x1b[2Jb"),
    ("TLS_CERT", "cert\0.pem"), ("SYSTEM_PROMPT", "a\udcffb"),
]


@pytest.mark.parametrize("key, value", WRONG, ids=[f"{key}={value!a}" for key, value in WRONG])
def test_a_wrong_value_is_refused_in_one_line_that_does_not_show_it(key: str, value: str) -> None:
    line = the_fault(**{key: value})
    assert key in line.partition(": ")[0] and "canary" not in line and "canaries" not in line
    assert line.isascii() and line.isprintable() and len(line) < 200


RIGHT = [
    ("PORT", "0", 0), ("PORT", "08080", 8080), ("AI_TIMEOUT_SECONDS", "0.5", 0.5), ("AI_TIMEOUT_SECONDS", "120", 120.0),
    ("TELEGRAM_POLLING", "1", True), ("TELEGRAM_POLLING", "Yes", True), ("TELEGRAM_POLLING", "on", True),
    ("TELEGRAM_POLLING", "TRUE", True), ("ALLOW_UNSIGNED_WEBHOOKS", "0", False),
    ("ALLOW_UNSIGNED_WEBHOOKS", "No", False), ("ALLOW_UNSIGNED_WEBHOOKS", "off", False),
    ("ALLOW_UNSIGNED_WEBHOOKS", "false", False), ("LOG_LEVEL", "DEBUG", "debug"), ("LOG_FORMAT", "Json", "json"),
    ("AI_API_KEY", " sk-canary-0123456789\r\n", Secret("sk-canary-0123456789")),
    ("TELEGRAM_BOT_TOKEN", TOKEN + "\n", Secret(TOKEN)), ("ALLOWED_USERS", "12, 34,,t:5 ", {"12", "34", "t:5"}),
    ("PUBLIC_URL", "https://bot.example.org//", "https://bot.example.org"),
    ("TELEGRAM_API_URL", "http://127.0.0.1:8081", "http://127.0.0.1:8081"),
    ("META_GRAPH_URL", "http://[::1]:9000/graph/", "http://[::1]:9000/graph"),
    ("CRM_WEBHOOK_URL", "https://me:pw@crm.example/in?k=1&x=%20", Secret("https://me:pw@crm.example/in?k=1&x=%20")),
    ("DATABASE_URL", "sqlite:////var/lib/minibot/bot.db", "sqlite:////var/lib/minibot/bot.db"),
    ("DATABASE_URL", "postgres://u:p@h/db?sslmode=require", "postgres://u:p@h/db?sslmode=require"),
    ("META_APP_ID", "1234567890", "1234567890"), ("RETENTION_DAYS", "0", 0), ("HUMAN_PAUSE_HOURS", "0.25", 0.25),
]


@pytest.mark.parametrize("key, value, meant", RIGHT, ids=[f"{key}={value!a}" for key, value, _ in RIGHT])
def test_a_right_value_arrives_as_its_type(key: str, value: str, meant: object) -> None:
    found = getattr(settings(**{key: value}), key.lower())
    assert found == meant and isinstance(found, frozenset if isinstance(meant, set) else type(meant))


def test_several_app_secrets_are_separated_by_commas() -> None:
    assert settings(META_APP_SECRET="one, two,").meta_app_secrets == (Secret("one"), Secret("two"))


def test_three_slashes_are_relative_and_four_absolute() -> None:
    assert settings(DATABASE_URL="sqlite:///a/b.db").sqlite_path == "a/b.db"
    assert settings(DATABASE_URL="sqlite:////a/b.db").sqlite_path == "/a/b.db"
    assert settings(DATABASE_URL="sqlite:///C:/a/b.db").sqlite_path == "C:/a/b.db"


def test_the_certificate_and_its_key_come_together() -> None:
    assert settings(TLS_CERT="c.pem", TLS_KEY="k.pem").tls_key == "k.pem"
    assert "TLS_KEY" in the_fault(TLS_CERT="c.pem") and "TLS_CERT" in the_fault(TLS_KEY="k.pem")


# --- secrets -------------------------------------------------------------------------------------------------


def test_the_webhook_secret_follows_from_the_token_and_differs_between_bots() -> None:
    first, again = settings().telegram_webhook_secret, settings().telegram_webhook_secret
    other = settings(TELEGRAM_BOT_TOKEN=TOKEN[:-1] + "x").telegram_webhook_secret
    assert first == again != other
    assert len(first.reveal()) == 64 and TOKEN not in first.reveal()
    assert settings(TELEGRAM_WEBHOOK_SECRET="s" * 16).telegram_webhook_secret == Secret("s" * 16)


def test_without_a_bot_token_there_is_no_webhook_secret() -> None:
    assert not load({"AI_API_KEY": "k", "VERIFY_TOKEN": "v"})[0].telegram_webhook_secret


def test_the_settings_do_not_show_their_secrets() -> None:
    canaries = {key: f"canary-{number}-0123456789" for number, key in enumerate(KEYS.values())
                if key.endswith(("_KEY", "_TOKEN", "_SECRET")) and key not in ("TELEGRAM_BOT_TOKEN", "TLS_KEY")}
    canaries |= {"DATABASE_URL": "postgresql://u:canary@h/db", "CRM_WEBHOOK_URL": "https://crm/canary",
                 "SHEETS_WEBHOOK_URL": "https://sheet/canary", "TELEGRAM_BOT_TOKEN": "123456:" + "canary" * 5}
    loaded = load(canaries)[0]
    assert len(canaries) >= 13
    assert "canary" not in repr(loaded) and "canary" not in str(loaded) and "canary" not in f"{loaded}"


# --- which platform lacks what -------------------------------------------------------------------------------


def test_each_platform_says_which_keys_it_lacks() -> None:
    bare = settings()
    assert bare.missing("whatsapp") == ("META_ACCESS_TOKEN", "META_PHONE_NUMBER_ID", "META_APP_SECRET", "VERIFY_TOKEN")
    assert bare.missing("messenger") == ("META_PAGE_ACCESS_TOKEN", "META_APP_SECRET", "VERIFY_TOKEN")
    assert bare.missing("instagram") == ("META_PAGE_ACCESS_TOKEN", "META_APP_SECRET", "VERIFY_TOKEN")
    assert load({"AI_API_KEY": "k", "VERIFY_TOKEN": "v"})[0].missing("telegram") == ("TELEGRAM_BOT_TOKEN",)


def test_instagram_takes_a_token_of_its_own_or_the_pages() -> None:
    own, page = settings(INSTAGRAM_ACCESS_TOKEN="IGx"), settings(META_PAGE_ACCESS_TOKEN="EAx")
    assert own.instagram_on and not own.messenger_on and page.instagram_on and page.messenger_on
    assert "META_PAGE_ACCESS_TOKEN" not in own.missing("instagram")


def test_without_the_demand_for_signatures_no_app_secret_is_missing() -> None:
    loaded = settings(ALLOW_UNSIGNED_WEBHOOKS="1", META_PAGE_ACCESS_TOKEN="t", VERIFY_TOKEN="v")
    assert loaded.missing("messenger") == ()


# --- the file ------------------------------------------------------------------------------------------------


def test_the_env_of_the_current_folder_comes_before_the_one_beside_the_program(tmp_path: Path) -> None:
    here, beside = tmp_path / "here", tmp_path / "beside"
    for folder in (here, beside):
        folder.mkdir()
    assert read_env_file(str(here), str(beside)) == (None, [])
    (beside / ".env").write_text("A=1")
    assert read_env_file(str(here), str(beside))[0] == "A=1"
    (here / ".env").write_text("A=2")
    assert read_env_file(str(here), str(beside))[0] == "A=2"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_the_encodings_of_windows_editors_are_understood(tmp_path: Path, encoding: str) -> None:
    (tmp_path / ".env").write_bytes("SYSTEM_PROMPT=Grüße\r\n".encode(encoding))
    assert load(ENOUGH, read_env_file(str(tmp_path), "")[0])[0].system_prompt == "Grüße"


def test_a_file_that_is_no_text_is_one_plain_line(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"A=\xff\xfe\xfa")
    with pytest.raises(SettingsFault) as caught:
        read_env_file(str(tmp_path), "")
    assert len(caught.value.faults) == 1 and "UTF-8" in caught.value.faults[0]


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_secrets_that_others_can_read_are_worth_a_warning(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("A=1")
    for mode, warned in ((0o600, 0), (0o644, 1), (0o640, 1), (0o400, 0)):
        file.chmod(mode)
        warnings = read_env_file(str(tmp_path), "")[1]
        assert len(warnings) == warned and all("chmod 600" in line for line in warnings)


def test_the_example_file_is_what_the_table_prints() -> None:
    assert (ROOT / ".env.example").read_text(encoding="utf-8") == example()


def test_the_example_names_every_key_and_is_itself_valid() -> None:
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    lines = [line.lstrip("#") for line in text.splitlines() if "=" in line and not line.startswith("# ")]
    keys = [line.partition("=")[0] for line in lines]
    assert sorted(keys) == sorted(KEYS.values()) and "SYSTEM_PROMPT_FILE" in text
    assert load(ENOUGH, text) == load(ENOUGH, "\n".join(lines)) == load(ENOUGH)


def test_reading_the_settings_imports_nothing_slow() -> None:
    script = ("import sys; from minibot.config import load; load({'AI_API_KEY': 'k', 'VERIFY_TOKEN': 'v'}); "
              "print(*({'urllib', 'ssl', 'asyncio', 'difflib', 'pathlib', 'socket'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {script}"],
                          capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
