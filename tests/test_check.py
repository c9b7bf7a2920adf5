"""`python run.py check`: every fault on the list is named, exactly it and with its remedy; a sound bot has none.

A real minibot runs behind a real https address (`gate.py`); the platforms are the strict fakes, and each test breaks
one thing in them, in the settings or on this machine.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from minibot.desk import check
from minibot.desk.report import Finding, Report
from tests.botprocess import ROOT
from tests.fakes import SECRETS
from tests.servers import FaultServer, reply
from tests.town import APP, PUBLIC, Case


def wrong(report: Report) -> list[Finding]:
    return [finding for finding in report if finding.level != "ok"]


def test_where_all_is_well_nothing_is_found(case: Case) -> None:
    found = case.check()
    assert wrong(found) == []
    assert {"database", "server", "address", "telegram", "whatsapp", "messenger", "instagram", "model"} <= {
        finding.about for finding in found}


# --- one fault each ------------------------------------------------------------------------------------------


class Fault(NamedTuple):
    """What a test breaks, and the one finding that must name it."""

    breaks: Callable[[Case], Any]
    level: str
    about: str
    what: str  # regular expressions
    remedy: str


def given(**settings: str) -> Callable[[Case], Any]:
    """These settings are in .env."""
    return lambda case: case.given.update(settings)


def hook(**facts: Any) -> Callable[[Case], Any]:
    """Telegram reports this of the webhook."""
    return lambda case: case.world.telegram.webhook.update(facts)


def token(key: str, **facts: Any) -> Callable[[Case], Any]:
    """debug_token says this of a token."""
    return lambda case: case.world.graph.debug[SECRETS[key]].update(facts)


def subscription(object: str, **facts: Any) -> Callable[[Case], Any]:
    """The app's webhook for this object is like that."""
    return lambda case: case.world.graph.subscriptions[object].update(facts)


def model(status: int, code: str) -> Callable[[Case], Any]:
    """The model's server answers this error."""
    def fail(case: Case) -> None:
        case.world.model.plan(str(status), body={"error": {"message": "planned", "code": code, "type": code}}, times=9)
    return fail


def forget_bot(case: Case) -> None:
    case.world.telegram.token = "7123456789:AAanother_Token_of_the_same_bot_0123456"


def error_since(seconds: int, said: str, waiting: int = 1) -> Callable[[Case], Any]:
    def fail(case: Case) -> None:
        case.world.telegram.webhook |= {"last_error_date": int(case.now) - seconds, "last_error_message": said}
        case.world.telegram.pending.extend({"update_id": number} for number in range(waiting))
    return fail


def instagram_by_page(case: Case) -> None:
    case.given["INSTAGRAM_ACCESS_TOKEN"] = ""


def fields_of(*names: str) -> list[dict[str, str]]:
    return [{"name": name, "version": "v25.0"} for name in names]


PAGE_FIELDS = ["messages", "messaging_postbacks", "message_echoes", "message_deliveries", "message_reads",
               "messaging_handovers", "standby"]
CONNECT = "python run.py connect "
IN_A_DAY = int(time.time()) + 86_400

FAULTS: dict[str, Fault] = {
    # settings and their shapes
    "phone number for its id": Fault(
        given(META_PHONE_NUMBER_ID="4915112345678"), "error", "settings", "META_PHONE_NUMBER_ID: .*phone number",
        "below"),
    "Telegram token for the model's key": Fault(
        given(AI_API_KEY="7123456789:AAsomebodysTelegramToken_0123456789a"), "error", "settings",
        "AI_API_KEY: holds a Telegram bot token", "TELEGRAM_BOT_TOKEN"),
    "Instagram token for the Page's": Fault(
        given(META_PAGE_ACCESS_TOKEN="IGAAsomebodysInstagramToken0123"), "error", "settings",
        "META_PAGE_ACCESS_TOKEN: holds a token of Instagram Login", "INSTAGRAM_ACCESS_TOKEN"),
    "Meta token for the Instagram one": Fault(
        given(INSTAGRAM_ACCESS_TOKEN="EAAsomebodysPageToken0123456789"), "error", "settings",
        "INSTAGRAM_ACCESS_TOKEN: holds a Meta token", "META_ACCESS_TOKEN"),
    "placeholder left in": Fault(
        given(VERIFY_TOKEN="my-secret-verify-token-123"), "error", "settings", "VERIFY_TOKEN: .*placeholder",
        "your own"),
    "no app secret": Fault(
        given(META_APP_SECRET=""), "error", "settings", "META_APP_SECRET: not set, and whatsapp, messenger, instagram",
        "proves"),
    "no verify token": Fault(given(VERIFY_TOKEN=""), "error", "settings", "VERIFY_TOKEN: not set", "your own word"),
    "token without a number": Fault(
        given(META_PHONE_NUMBER_ID=""), "error", "settings", "META_PHONE_NUMBER_ID: not set, and whatsapp",
        "Phone number ID"),
    "certificate that is none": Fault(
        given(TLS_CERT=__file__, TLS_KEY=__file__), "error", "settings", "TLS_CERT, TLS_KEY", "PEM files"),
    # this machine
    "database in a folder that is not there": Fault(
        given(DATABASE_URL="sqlite:////nowhere/at/all/minibot.db"), "error", "database", "cannot be written", "folder"),
    "nothing runs": Fault(given(PORT="1"), "error", "server", "does not run on port 1", "python run.py"),
    "plain http address": Fault(
        given(PUBLIC_URL="http://bot.example.org"), "error", "address", "plain http", "https"),
    "no address": Fault(given(PUBLIC_URL=""), "error", "address", "no ngrok runs", "ngrok http.*PUBLIC_URL"),
    "address that leads nowhere": Fault(
        lambda case: setattr(case.town.gate, "port", 0), "error", "address", "leads to something else", "port"),
    "certificate nobody trusts": Fault(
        lambda case: os.environ.pop("SSL_CERT_FILE"), "error", "address", "certificate verify failed", "certificate"),
    "minibot started with another .env": Fault(
        given(VERIFY_TOKEN="changed-since-the-start"), "error", "address", "another VERIFY_TOKEN", "start it again"),
    "clock that is wrong": Fault(
        lambda case: setattr(case.world, "clock_ahead", 400_000), "warning", "clock", "clock is 7 minutes behind",
        "timedatectl"),
    # Telegram
    "revoked bot token": Fault(forget_bot, "error", "telegram", "401", "BotFather"),
    "no webhook": Fault(hook(url=""), "error", "telegram", "no webhook is registered", CONNECT + "telegram"),
    "ngrok's old address": Fault(
        hook(url="https://old.ngrok-free.app/telegram/webhook"), "error", "telegram",
        "old.ngrok-free.app.*not at https://bot",
        CONNECT + "telegram"),
    "updates left out": Fault(
        hook(allowed_updates=["message", "inline_query"]), "error", "telegram", "does not send callback_query",
        CONNECT + "telegram"),
    "webhook without the secret": Fault(
        error_since(40, "Wrong response from the webhook: 401 Unauthorized"), "error", "telegram", "401 Unauthorized",
        "secret.*connect telegram"),
    "connection refused": Fault(
        error_since(90, "Connection refused"), "error", "telegram", "2 minutes ago.*refused", "ngrok"),
    "bad certificate for Telegram": Fault(
        error_since(9, "SSL error {error:0A000086:SSL routines::certificate verify failed}"), "error", "telegram",
        "SSL error", "certificate"),
    "an error that is over": Fault(
        error_since(7200, "Read timeout expired", 0), "warning", "telegram", "2 hours ago.*Read timeout", "reach"),
    "updates that wait": Fault(error_since(0, "", 3), "warning", "telegram", "3 updates wait", "log"),
    "polling against a webhook": Fault(
        given(TELEGRAM_POLLING="1"), "error", "telegram", "TELEGRAM_POLLING=1, but a webhook", CONNECT + "telegram"),
    "Telegram out of reach": Fault(
        given(TELEGRAM_API_URL="http://127.0.0.1:1"), "error", "telegram", "getMe: Connection refused",
        "TELEGRAM_API_URL"),
    # Meta: tokens
    "WhatsApp token that has ended": Fault(
        token("META_ACCESS_TOKEN", is_valid=False), "error", "whatsapp", "190",
        "META_ACCESS_TOKEN is not valid.*system user"),
    "WhatsApp token nobody knows": Fault(
        given(META_ACCESS_TOKEN="EAAnobodysToken0123456789012"), "error", "whatsapp", "190",
        "META_ACCESS_TOKEN is not valid"),
    "temporary WhatsApp token": Fault(
        token("META_ACCESS_TOKEN", expires_at=IN_A_DAY), "warning", "whatsapp", "META_ACCESS_TOKEN ends in",
        "system user"),
    "token of another app": Fault(
        token("META_ACCESS_TOKEN", app_id="999", application="Old App"), "error", "whatsapp",
        "belongs to the app 999, Old App", "META_APP_ID"),
    "WhatsApp permission missing": Fault(
        token("META_ACCESS_TOKEN", scopes=["whatsapp_business_management"]), "error", "whatsapp",
        "lacks the permission whatsapp_business_messaging", "generate it again with that one"),
    "Page token that has ended": Fault(
        token("META_PAGE_ACCESS_TOKEN", is_valid=False), "error", "messenger", "190",
        "META_PAGE_ACCESS_TOKEN is not valid"),
    "a person's token for the Page's": Fault(
        token("META_PAGE_ACCESS_TOKEN", type="USER"), "error", "messenger", "token of a USER, not of a Page",
        "Page's token"),
    "Messenger permission missing": Fault(
        token("META_PAGE_ACCESS_TOKEN", scopes=["pages_manage_metadata"]), "error", "messenger",
        "lacks the permission pages_messaging", "generate it again with that one"),
    "Instagram permission missing": Fault(
        lambda case: (instagram_by_page(case), token("META_PAGE_ACCESS_TOKEN", scopes=[
            "pages_messaging", "pages_manage_metadata", "instagram_basic"])(case)), "error", "messenger",
        "lacks the permission instagram_manage_messages", "generate it again with that one"),
    "access to data that ends": Fault(
        token("META_PAGE_ACCESS_TOKEN", data_access_expires_at=IN_A_DAY), "warning", "messenger", "ends in",
        "Page's token"),
    "Instagram Login token in its last days": Fault(
        token("INSTAGRAM_ACCESS_TOKEN", expires_at=IN_A_DAY), "warning", "instagram", "INSTAGRAM_ACCESS_TOKEN ends in",
        CONNECT + "instagram"),
    "Instagram Login token that has ended": Fault(
        given(INSTAGRAM_ACCESS_TOKEN="IGAAnobodysToken0123456789012"), "error", "instagram", "190",
        "INSTAGRAM_ACCESS_TOKEN"),
    # Meta: the app
    "secret of another app": Fault(
        given(META_APP_ID="999999999999"), "error", "meta", "190", "META_APP_ID, META_APP_SECRET"),
    "app id not known": Fault(given(META_APP_ID=""), "warning", "meta", "META_APP_ID", "App settings > Basic"),
    "object not subscribed": Fault(
        lambda case: case.world.graph.subscriptions.pop("page"), "error", "messenger",
        "no webhook is registered in the app",
        CONNECT + "messenger"),
    "callback elsewhere": Fault(
        subscription("whatsapp_business_account", callback_url="https://old.ngrok-free.app/whatsapp/webhook"), "error",
        "whatsapp", "old.ngrok-free.app", CONNECT + "whatsapp"),
    "webhook switched off": Fault(
        subscription("instagram", active=False), "error", "instagram", "switched the webhook off",
        CONNECT + "instagram"),
    "messages not subscribed": Fault(
        subscription("whatsapp_business_account", fields=fields_of("smb_message_echoes", "account_update")), "error",
        "whatsapp", "the app is not subscribed to messages", CONNECT + "whatsapp"),
    "echoes not subscribed": Fault(
        subscription("page", fields=fields_of(*(set(PAGE_FIELDS) - {"message_echoes"}))), "warning", "messenger",
        "the app is not subscribed to message_echoes", CONNECT + "messenger"),
    "version that has ended": Fault(
        lambda case: (given(META_API_VERSION="v19.0")(case), setattr(case.world.graph, "served_version", "v21.0")),
        "warning", "meta", "v19.0 is over, and v21.0 is served", "META_API_VERSION=v25.0"),
    "version Meta no longer serves": Fault(
        lambda case: setattr(case.world.graph, "served_version", "v26.0"), "warning", "meta", "v25.0 is over", "v25.0"),
    "version that ends soon": Fault(
        lambda case: (given(META_API_VERSION="v24.0")(case), setattr(case, "now", 1_834_000_000.0),
                      token("INSTAGRAM_ACCESS_TOKEN", expires_at=0)(case),
                      setattr(case.world, "clock_ahead", int(1_834_000_000_000 - time.time() * 1000))),
        "warning", "meta", "v24.0 ends on 2028-02-18", "META_API_VERSION=v25.0"),
    "Graph out of reach": Fault(
        given(META_GRAPH_URL="http://127.0.0.1:1", META_ACCESS_TOKEN="", META_PHONE_NUMBER_ID="",
              META_PAGE_ACCESS_TOKEN=""), "error", "meta", "Connection refused", "META_GRAPH_URL"),
    # Meta: number, Page, account
    "number the token does not see": Fault(
        given(META_PHONE_NUMBER_ID="1065403522429999"), "error", "whatsapp", "100/33", "does not exist"),
    "red quality": Fault(
        lambda case: case.world.graph.phone.update(quality_rating="RED"), "warning", "whatsapp",
        "quality_rating is RED",
        "WhatsApp Manager"),
    "number not verified": Fault(
        lambda case: case.world.graph.phone.update(code_verification_status="EXPIRED"), "warning", "whatsapp",
        "code_verification_status is EXPIRED", "verify"),
    "name refused": Fault(
        lambda case: case.world.graph.phone.update(name_status="DECLINED"), "warning", "whatsapp",
        "name_status is DECLINED",
        "display name"),
    "number not registered": Fault(
        lambda case: case.world.graph.phone.update(platform_type="NOT_APPLICABLE"), "error", "whatsapp",
        "platform_type is NOT_APPLICABLE", "register the number"),
    "number with a callback of its own": Fault(
        lambda case: case.world.graph.phone.update(webhook_configuration={"application": "https://crm.example/hook"}),
        "error", "whatsapp", "crm.example/hook, not to https://bot", CONNECT + "whatsapp"),
    "business account not subscribed": Fault(
        lambda case: case.world.graph.subscribed.pop("whatsapp"), "error", "whatsapp", "to no app",
        CONNECT + "whatsapp"),
    "Page unsubscribed by Meta": Fault(
        lambda case: case.world.graph.subscribed.pop("page"), "error", "messenger",
        "no app; Meta ends it after an hour",
        CONNECT + "messenger"),
    "Page subscribed to another app": Fault(
        lambda case: case.world.graph.subscribers.update(page={"id": "999", "name": "Old App"}), "error", "messenger",
        r"another app \(Old App\) than ours", CONNECT + "messenger"),
    "Page without messages": Fault(
        lambda case: case.world.graph.subscribed.update(page=PAGE_FIELDS[1:]), "error", "messenger",
        "the account is not subscribed to messages", CONNECT + "messenger"),
    "Instagram not linked": Fault(
        lambda case: (instagram_by_page(case), case.world.graph.page.pop("instagram_business_account")), "error",
        "instagram", "no Instagram account is linked", "professional"),
    "account that cannot be found": Fault(
        lambda case: (given(META_WABA_ID="")(case), token("META_ACCESS_TOKEN", granular_scopes=[])(case)), "warning",
        "whatsapp", "META_WABA_ID: not set", "API Setup"),
    # the model
    "model's key revoked": Fault(model(401, "invalid_api_key"), "error", "model", "bad_key", "AI_API_KEY"),
    "unknown model": Fault(given(OPENAI_MODEL="gpt-3"), "error", "model", "gpt-3: unknown_model", "OPENAI_MODEL"),
    "no credit left": Fault(model(429, "insufficient_quota"), "error", "model", "no_credit", "CREDIT"),
    "model out of reach": Fault(
        given(OPENAI_BASE_URL="http://127.0.0.1:1/v1"), "error", "model", "unreachable", "connection"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_named_exactly_with_its_remedy(case: Case, name: str) -> None:
    fault = FAULTS[name]
    fault.breaks(case)
    found = wrong(case.check())
    first = [finding for finding in found if re.search(fault.what, finding.what)]
    assert first, found
    assert (first[0].level, first[0].about) == (fault.level, fault.about)
    assert re.search(fault.remedy, first[0].remedy), first[0]
    assert len(found) == 1, found
    assert not case.world.leaks and not [secret for secret in SECRETS.values() if secret in str(found)]


# --- the machine around it -----------------------------------------------------------------------------------


def told(case: Case) -> list[tuple[str, str, str]]:
    return [(finding.level, finding.about, finding.what) for finding in wrong(case.check())]


def test_another_program_on_the_port_is_not_taken_for_minibot(case: Case) -> None:
    with FaultServer(reply(200, "<html>Apache</html>", content_type="text/html")) as other:
        case.given["PORT"] = str(other.port)
        assert told(case) == [("error", "server", f"another program answers on port {other.port}")]


def test_an_address_that_leads_to_another_minibot_is_found_out(case: Case) -> None:
    with FaultServer(reply(200, {"status": "ok", "pending": 0, "id": "another"})) as other:
        case.town.gate.port = other.port
        assert ("error", "address", f"{PUBLIC} leads to another minibot") in told(case)


def test_what_waits_and_what_was_given_up_on_is_worth_a_warning(case: Case) -> None:
    late = {"status": "ok", "pending": 4, "oldest_pending_seconds": 900, "dead": 2, "id": "x"}
    with FaultServer(reply(200, late)) as one:
        case.given |= {"PORT": str(one.port), "PUBLIC_URL": PUBLIC}
        assert ("warning", "queue", "4 wait, the oldest for 15 minutes") in told(case)
    with FaultServer(reply(200, {"status": "ok", "dead": 2, "id": "x"})) as one:
        case.given["PORT"] = str(one.port)
        assert ("warning", "queue", "2 messages were given up on") in told(case)
    with FaultServer(reply(503, {"status": "store unusable", "id": "x"})) as one:
        case.given["PORT"] = str(one.port)
        assert ("error", "queue", "the running minibot cannot use its database") in told(case)


@pytest.mark.parametrize("tunnels, what", [
    ([], "ngrok runs, but has no tunnel"),
    ([{"public_url": "https://x.ngrok.app", "config": {"addr": "http://localhost:9"}}], "not to our port"),
    ([{"public_url": "http://x.ngrok.app", "config": {"addr": "PORT"}}], "no https address")])
def test_ngroks_own_faults_are_told(case: Case, tunnels: list[Any], what: str) -> None:
    listed = json.loads(json.dumps(tunnels).replace("PORT", str(case.town.bot.port)))
    case.given["PUBLIC_URL"] = ""
    with FaultServer(reply(200, {"tunnels": listed})) as agent:
        found = wrong(case.examine(agent.url))
    assert [finding.about for finding in found] == ["address"]
    assert what in found[0].what and "ngrok http" in found[0].remedy


def test_a_bot_that_polls_needs_no_address(case: Case) -> None:
    case.world.telegram.webhook["url"] = ""
    case.given |= {key: "" for key in SECRETS if key.startswith(("META", "INSTAGRAM", "VERIFY"))}
    case.given |= {"TELEGRAM_POLLING": "1", "PUBLIC_URL": "", "META_PHONE_NUMBER_ID": ""}
    assert told(case) == []


def test_a_model_that_will_be_switched_off_is_named_with_its_successor(case: Case) -> None:
    case.given["OPENAI_BASE_URL"] = ""
    found = {finding.what: finding.remedy for finding in wrong(case.check())}
    assert found["gpt-4o-mini is switched off on 2027-01-14"] == "set OPENAI_MODEL=gpt-6-luna"


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"<html>", b'{"ok": true, "result": []}', b'{"data": 7}',
                                  b'{"data": [null, {"fields": 7, "callback_url": {}, "object": []}], "id": []}',
                                  b'{"ok": true, "result": {"url": 7, "allowed_updates": [{}, 1],'
                                  b' "last_error_date": 1e99,'
                                  b' "last_error_message": {}, "pending_update_count": "x"}}',
                                  b'{"data": {"is_valid": true, "scopes": 7, "expires_at": "x",'
                                  b' "granular_scopes": [7]}}'])
@pytest.mark.parametrize("status", [200, 500])
def test_strange_answers_are_findings_and_no_crash(case: Case, status: int, body: bytes) -> None:
    with FaultServer(reply(status, body)) as strange:
        case.given |= dict.fromkeys(("TELEGRAM_API_URL", "META_GRAPH_URL", "INSTAGRAM_GRAPH_URL"), strange.url)
        assert any(finding.level == "error" for finding in case.check())


# --- the command ---------------------------------------------------------------------------------------------


def command(case: Case, *arguments: str, folder: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    known = {**case.world.settings(), "PORT": str(case.town.bot.port), "PUBLIC_URL": PUBLIC, "META_APP_ID": APP,
             "META_WABA_ID": "102290129340398", "PATH": os.environ["PATH"], **case.town.gate.environment(), **more}
    return subprocess.run([sys.executable, str(ROOT / "run.py"), "check", *arguments], text=True, capture_output=True,
                          cwd=folder or case.town.bot.folder, env={key: value for key, value in known.items() if value})


def test_the_command_ends_with_0_where_all_is_well_and_with_1_where_something_is_broken(case: Case) -> None:
    good = command(case)
    assert (good.returncode, good.stderr) == (0, "") and "0 broken, 0 to look at" in good.stdout
    assert "\x1b" not in good.stdout and "https://bot.example.org (PUBLIC_URL) leads here" in good.stdout
    case.world.graph.phone["quality_rating"] = "YELLOW"
    odd = command(case)
    assert odd.returncode == 0 and "0 broken, 1 to look at" in odd.stdout
    case.world.telegram.webhook["url"] = ""
    bad = command(case)
    assert bad.returncode == 1 and "1 broken, 1 to look at" in bad.stdout
    assert re.search(r"^error +telegram +no webhook is registered\n +-> python run.py connect telegram$", bad.stdout,
                     re.M)


def test_json_is_for_programs(case: Case, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("OPENAI_MODLE=gpt-4o\n")
    (tmp_path / ".env").chmod(0o644)
    ran = command(case, "--json", folder=tmp_path)
    found = json.loads(ran.stdout)
    assert ran.returncode == 0 and ran.stderr == ""
    assert {"level", "about", "what", "remedy"} == set(found[0])
    bad = {finding["what"]: finding["remedy"] for finding in found if finding["level"] == "warning"}
    open_file = f"{tmp_path}/.env: other users of this machine can read the secrets in it"
    assert bad.pop(open_file).startswith("run: chmod 600")
    assert list(bad.values()) == ["did you mean OPENAI_MODEL?"]


def test_settings_that_cannot_be_read_are_findings_too(case: Case) -> None:
    ran = command(case, "--json", PORT="eight thousand", META_API_VERSION="19")
    found = {finding["what"] for finding in json.loads(ran.stdout)}
    assert ran.returncode == 1
    assert found == {"PORT: must be a number from 0 to 65535", "META_API_VERSION: must look like v25.0"}
    nothing = command(case, "--json", **{key: "" for key in case.world.settings()})
    assert [finding["what"][:11] for finding in json.loads(nothing.stdout) if finding["about"] == "settings"] == [
        "AI_API_KEY:", "TELEGRAM_BO"]


def test_wrong_arguments_get_the_usage() -> None:
    assert check.main(["--verbose"], lambda: pytest.fail("not to be asked")) == 2


def test_colour_is_for_terminals_and_lines_are_clean() -> None:
    report = Report()
    report.say("telegram", (False, "ok", "not this", ""), (True, "error", "a\x1b[2J\nb", "mend it"))
    assert report.lines(False) == ["error    telegram   a\\x1b[2J\\nb\n                    -> mend it"]
    assert report.lines(True)[0].startswith("\x1b[31merror")
