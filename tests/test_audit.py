"""`python run.py audit` and `python run.py unit`: what they print is what the source, the server and systemd say."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from minibot.config import KEYS, Settings, load
from minibot.desk import audit, unit
from minibot.model import PLATFORMS
from minibot.store.schema import MIGRATIONS
from tests.botprocess import ROOT, BotProcess
from tests.fakes import SECRETS

FACTS = audit.sections()
FILES = {path.relative_to(ROOT / "minibot").as_posix(): path.read_text("utf-8")
         for path in sorted((ROOT / "minibot").rglob("*.py"))}
SURELY_NOT_PERSONAL = """k v id conversation kind sent_at forwarded album received_at outcome turn platform account
    due_at lease_owner lease_until epoch tries crashes paused_until blocked noticed_at reset_id error model tokens_in
    tokens_out milliseconds created_at place plain threadless state unsure expires_at called_at done_at delivered_at
    read_at reply_to day tokens told destination""".split()


def rows(heading: str) -> dict[str, str]:
    """First word -> rest, of a section."""
    return {row.split(" ")[0]: row.partition(" ")[2].strip() for row in FACTS[heading]}


def test_the_command_prints_every_section() -> None:
    ran = subprocess.run([sys.executable, str(ROOT / "run.py"), "audit"], capture_output=True, text=True, check=True)
    assert all(f"{heading}\n  " in ran.stdout for heading in FACTS)
    assert len(FACTS) == 7


def test_the_listening_paths_are_those_that_the_server_answers_and_no_other(bot: BotProcess) -> None:
    listed = rows("listening paths")
    guesses = {*listed, "/", "/admin", "/metrics", "/status", "/healthz", "/debug", "/docs", "/api", "/favicon.ico",
               *(f"/{name}{rest}" for name in PLATFORMS for rest in ("", "/", "/webhook", "/send"))}
    for path in guesses:
        for method in ("GET", "POST", "PUT", "DELETE"):
            status = bot.world.request(method, path)[0]
            if path not in listed:
                assert status == 404, (method, path)
            else:
                assert (status == 405) == (method not in listed[path].split()), (method, path, status)


def test_every_address_in_the_source_is_among_the_outbound_hosts() -> None:
    listed = " ".join(FACTS["outbound hosts"])
    for name, source in FILES.items():
        for host in re.findall(r'"https?://([\w.-]+\.\w+(?::\d+)?)[/"]', source):
            if not name.startswith("desk/sim"):
                assert f"{host} " in listed and name in listed, (name, host)
    for host in ("api.telegram.org", "graph.facebook.com", "graph.instagram.com", "api.openai.com", ".fbcdn.net"):
        assert host in listed
    for key in ("CRM_WEBHOOK_URL", "SHEETS_WEBHOOK_URL", "OPENAI_BASE_URL"):
        assert f"what {key} names" in listed


def test_every_secret_is_listed_with_the_files_that_read_it() -> None:
    listed = rows("secrets and who reads them")
    assert set(listed) == set(SECRETS) | {"CRM_WEBHOOK_URL", "SHEETS_WEBHOOK_URL"}
    for field, key in KEYS.items():
        if key in listed:
            readers = {name for name, source in FILES.items() if name != "config.py" and re.search(
                rf"(?<!hub)\.{field}\b|[\"']{field}[\"']", source)}
            assert readers <= set(listed[key].split()) | {"desk/audit.py"}, key


def test_every_column_is_called_personal_or_not() -> None:
    listed = rows("tables; * columns that hold personal data")
    assert set(listed) == set(re.findall(r"CREATE TABLE (\w+)", "".join(MIGRATIONS)))
    for table, columns in listed.items():
        for column in columns.split():
            assert column.endswith("*") or column in SURELY_NOT_PERSONAL, (table, column)
    assert {"text*", "phone*", "name*", "chat*"} <= set(listed["inbound"].split())


def test_threads_and_third_party_imports_are_all_there() -> None:
    listed = [row.partition(":")[0] for row in FACTS["threads and processes"]]
    for name, source in FILES.items():
        starts = len(re.findall(r"\b(?:Thread|Popen|to_thread|run_in_executor)\(", source))
        assert listed.count(name) == starts, name
    assert {row.split()[0] for row in FACTS["third-party imports"]} <= {"openai", "psycopg"}


def test_every_file_is_counted() -> None:
    counted = {row.split()[0]: [int(word) for word in row.split()[1:]] for row in FACTS["lines per file (all, code)"]}
    assert set(counted) == set(FILES)
    assert all(counted[name][0] == source.count("\n") and counted[name][1] <= counted[name][0]
               for name, source in FILES.items())


# --- the unit ------------------------------------------------------------------------------------------------


def printed(capsys: pytest.CaptureFixture[str], **given: str) -> str:
    assert unit.main([], lambda: load({"AI_API_KEY": "k", **given}, complete=False)[0]) == 0
    return capsys.readouterr().out


def test_systemd_accepts_the_unit(capsys: pytest.CaptureFixture[str], tmp_path: Path,
                                  monkeypatch: pytest.MonkeyPatch) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    (folder := tmp_path / "a folder of 100%").mkdir()
    monkeypatch.chdir(folder)
    for number, given in enumerate(({}, {"PORT": "443"})):
        file = tmp_path / f"minibot{number}.service"
        file.write_text(printed(capsys, **given))
        ran = subprocess.run(["systemd-analyze", "verify", str(file)], capture_output=True, text=True)
        complaints = [line for line in (ran.stdout + ran.stderr).splitlines() if "minibot" in line]
        assert ran.returncode == 0 and not complaints, complaints


def test_the_unit_is_for_this_folder_and_may_write_beside_the_database_only(
        capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder := tmp_path / 'odd "name" 100%').mkdir()
    monkeypatch.chdir(folder)
    text = printed(capsys, DATABASE_URL="sqlite:////srv/minibot/data/minibot.db")
    assert "@" not in text.replace("@system-service", "")
    assert f'WorkingDirectory={tmp_path}/odd "name" 100%%\n' in text
    assert 'ReadWritePaths="/srv/minibot/data"' in text and str(ROOT / "run.py") in text
    assert "CapabilityBoundingSet=\n" in text and "RestartPreventExitStatus=2 78" in text
    assert "CapabilityBoundingSet=CAP_NET_BIND_SERVICE" in printed(capsys, PORT="443")
    assert Settings().sqlite_path == "minibot.db" and f'ReadWritePaths="{tmp_path}' in printed(capsys)
