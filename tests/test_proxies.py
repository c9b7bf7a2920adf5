"""minibot in production: behind the very nginx and Caddy files that README.md shows, and with TLS of its own."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from minibot.desk.simulator import Webhook
from tests.botprocess import ROOT, BotProcess
from tests.conftest import CHATS
from tests.fakes import SECRETS, FakeWorld
from tests.gate import certificate
from tests.platforms import forged

Start = Callable[..., BotProcess]
Proxy = tuple[BotProcess, int, Path]
NAME = "bot.example.org"


class Visitor(http.client.HTTPSConnection):
    """A platform that calls `NAME` at a port of this machine and trusts one certificate."""

    def __init__(self, port: int, trusted: Path) -> None:
        super().__init__(NAME, port, timeout=20, context=ssl.create_default_context(cafile=str(trusted)))
        VISITORS.append(self)

    def connect(self) -> None:
        plain = socket.create_connection(("127.0.0.1", self.port), 20)
        try:
            self.sock = self._context.wrap_socket(plain, server_hostname=NAME)  # type: ignore[attr-defined]
        except OSError:
            plain.close()
            raise

    def ask(self, method: str, path: str, body: bytes = b"", **fields: str) -> tuple[int, bytes]:
        """One request on this connection; (status, body)."""
        self.request(method, path, body, fields)
        reply = self.getresponse()
        return reply.status, reply.read()

    def deliver(self, webhook: Webhook) -> int:
        """POST as the platform does."""
        self.request("POST", webhook.path, webhook.body, webhook.headers)
        reply = self.getresponse()
        reply.read()
        return reply.status


VISITORS: list[Visitor] = []


@pytest.fixture(autouse=True)
def _goodbye() -> Iterator[None]:
    """Nobody stays connected."""
    yield
    while VISITORS:
        VISITORS.pop().close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def from_readme(language: str) -> str:
    """The one example of README.md in that language."""
    found = re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.M | re.S)
    assert len(found) == 1, language
    return str(found[0])


def tool(name: str) -> str:
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if not path:
        pytest.skip(f"{name} is not installed")
    return path


def nginx(folder: Path, port: int, bot_port: int, cert: Path, key: Path) -> list[str]:
    """Write the configuration around README's server block; the command that runs it."""
    site = from_readme("nginx")
    for old, new in ((f"/etc/letsencrypt/live/{NAME}/fullchain.pem", str(cert)),
                     (f"/etc/letsencrypt/live/{NAME}/privkey.pem", str(key)),
                     ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"), ("127.0.0.1:8000", f"127.0.0.1:{bot_port}")):
        assert old in site, old
        site = site.replace(old, new)
    paths = "".join(f"{name}_temp_path {folder}/{name};\n"
                    for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    user = "user root;\n" if hasattr(os, "getuid") and os.getuid() == 0 else ""
    (folder / "nginx.conf").write_text(f"{user}pid {folder}/nginx.pid;\nerror_log {folder}/error.log;\ndaemon off;\n"
                                       f"events {{}}\nhttp {{\naccess_log off;\n{paths}{site}\n}}\n")
    return [tool("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf")]


def caddy(folder: Path, port: int, bot_port: int, cert: Path, key: Path) -> list[str]:
    """README's Caddyfile with a certificate of ours, since no authority would vouch for the name; the command."""
    site = from_readme("caddyfile")
    for old, new in ((f"{NAME} {{\n", f"https://{NAME}:{port} {{\n\ttls {cert} {key}\n"),
                     ("127.0.0.1:8000", f"127.0.0.1:{bot_port}")):
        assert old in site, old
        site = site.replace(old, new)
    assert site.startswith("{\n")
    alone = "{\n\tadmin off\n\tauto_https disable_redirects\n\tskip_install_trust\n"
    (folder / "Caddyfile").write_text(alone + site[2:])
    return [tool("caddy"), "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


@pytest.fixture(scope="module", params=[nginx, caddy], ids=["nginx", "caddy"])
def proxy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A bot behind the proxy, for all tests: (bot, the proxy's port, its certificate)."""
    (folder := tmp_path_factory.mktemp("bot") / "proxy").mkdir()
    cert, key = certificate(folder, NAME)
    world = FakeWorld()
    bot = BotProcess(world, folder.parent, TRUSTED_PROXY="127.0.0.1", LOG_LEVEL="debug")
    port = free_port()
    command = request.param(folder, port, bot.port, cert, key)
    environ = {"PATH": os.environ["PATH"], **dict.fromkeys(("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"), str(folder))}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environ, cwd=folder)
    try:
        bot.until(lambda: process.poll() is not None or reachable(port, cert), 20, "the proxy listens")
        assert process.poll() is None, (folder / "log").read_text()
        yield bot, port, cert
    finally:
        process.terminate()
        process.wait(10)
        bot.close()
        world.close()


def reachable(port: int, cert: Path) -> bool:
    try:
        return Visitor(port, cert).ask("GET", "/healthz")[0] == 200
    except OSError:
        return False


def test_every_platform_is_answered_through_the_proxy(proxy: Proxy) -> None:
    bot, port, cert = proxy
    visitor = Visitor(port, cert)
    for name, chat in CHATS.items():
        webhook = bot.world.people[name].text(chat, f"hello from {name} — ünïcödé")
        assert visitor.deliver(webhook) == 200
        assert bot.replies(name, chat)[0].endswith(f"hello from {name} — ünïcödé")
        assert visitor.deliver(webhook) == 200  # again, over the same connection
        assert visitor.deliver(forged(webhook)) == 401
    bot.settled()
    assert [len(bot.world.people[name].texts(chat)) for name, chat in CHATS.items()] == [1, 1, 1, 1]


def test_the_handshake_and_unknown_paths_pass_unchanged(proxy: Proxy) -> None:
    bot, port, cert = proxy
    visitor = Visitor(port, cert)
    query = f"hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token={SECRETS['VERIFY_TOKEN']}"
    assert visitor.ask("GET", f"/whatsapp/webhook?{query}") == (200, b"1158201444")
    assert visitor.ask("GET", "/whatsapp/webhook?hub.mode=subscribe&hub.challenge=1&hub.verify_token=x")[0] == 403
    assert visitor.ask("GET", "/nothing")[0] == 404 and visitor.ask("PUT", "/telegram/webhook")[0] == 405
    assert json.loads(visitor.ask("GET", "/healthz")[1])["status"] == "ok"


def test_metas_largest_delivery_passes(proxy: Proxy) -> None:
    bot, port, cert = proxy
    people = bot.world.people["whatsapp"]
    webhook = people.text("4915112345679", "the last one")
    whole = json.loads(webhook.body)
    whole["padding"] = "x" * 3_000_000
    assert Visitor(port, cert).deliver(people.sign(whole)) == 200
    assert bot.replies("whatsapp", "4915112345679")[0].endswith("the last one")


def test_a_chunked_body_passes(proxy: Proxy) -> None:
    bot, port, cert = proxy
    webhook = bot.world.people["messenger"].text("1254459154682920", "in pieces")
    visitor = Visitor(port, cert)
    pieces = (webhook.body[at:at + 50] for at in range(0, len(webhook.body), 50))
    visitor.request("POST", webhook.path, pieces, webhook.headers, encode_chunked=True)
    assert visitor.getresponse().status == 200
    assert bot.replies("messenger", "1254459154682920")[0].endswith("in pieces")


def test_the_log_shows_who_called_and_not_the_proxy(proxy: Proxy) -> None:
    bot, port, cert = proxy
    Visitor(port, cert).ask("GET", "/somewhere", **{"X-Forwarded-For": "198.51.100.7"})
    bot.until(lambda: " GET /somewhere 404" in bot.log, 30, "logged")
    assert "127.0.0.1 GET /somewhere 404" in bot.log
    assert "198.51.100.7 GET" not in bot.log  # what a stranger writes there himself is not believed


def test_while_minibot_is_away_the_platform_is_told_to_repeat(proxy: Proxy) -> None:
    bot, port, cert = proxy
    webhook = bot.world.people["telegram"].text("4815162343", "are you there?")
    bot.kill()
    assert Visitor(port, cert).deliver(webhook) in (502, 503)
    if (bot.folder / "proxy" / "Caddyfile").exists():  # nginx has the whole request in its error log, and no filter
        query = f"hub.mode=subscribe&hub.challenge=1&hub.verify_token={SECRETS['VERIFY_TOKEN']}"
        assert Visitor(port, cert).ask("GET", f"/whatsapp/webhook?{query}")[0] in (502, 503)
    bot.start()
    bot.until(lambda: Visitor(port, cert).deliver(webhook) == 200, 20, "the proxy finds it again")
    assert bot.replies("telegram", "4815162343")[0].endswith("are you there?")


# --- TLS by minibot itself -----------------------------------------------------------------------------------


@pytest.fixture
def secure(start_bot: Start, tmp_path: Path) -> tuple[BotProcess, Path, Path]:
    """A bot that speaks TLS: (bot, certificate, key)."""
    (folder := tmp_path / "tls").mkdir()
    cert, key = certificate(folder, NAME)
    bot = start_bot(start=False, TLS_CERT=str(cert), TLS_KEY=str(key))
    bot.port = free_port()
    bot.start(wait=False)
    bot.until(lambda: bot.exited or "\n  database " in bot.log, 20, "it listens")
    assert f"minibot listens on https://127.0.0.1:{bot.port}" in bot.log
    return bot, cert, key


def test_minibot_answers_over_tls_and_over_nothing_else(secure: tuple[BotProcess, Path, Path]) -> None:
    bot, cert, _ = secure
    visitor = Visitor(bot.port, cert)
    for name, chat in CHATS.items():
        assert visitor.deliver(bot.world.people[name].text(chat, "hello")) == 200
        assert bot.replies(name, chat)[0].endswith("hello")
    with socket.create_connection(("127.0.0.1", bot.port), 10) as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"HTTP/1.1 200" not in plain.recv(4096)


def test_sighup_reads_a_renewed_certificate_without_cutting_anybody(
        secure: tuple[BotProcess, Path, Path], tmp_path: Path) -> None:
    bot, cert, key = secure
    before = cert.read_bytes()
    visitor, old = Visitor(bot.port, cert), tmp_path / "old.pem"
    old.write_bytes(before)
    assert visitor.ask("GET", "/healthz")[0] == 200
    assert bot.process
    key.write_text("no key at all")
    bot.process.send_signal(signal.SIGHUP)
    bot.until(lambda: "the certificate stays as it was" in bot.log, 30, "a broken pair is refused")
    assert Visitor(bot.port, old).ask("GET", "/healthz")[0] == 200
    certificate(cert.parent, NAME)  # a new pair in the old one's place
    assert cert.read_bytes() != before
    bot.process.send_signal(signal.SIGHUP)
    bot.until(lambda: "the certificate was read again" in bot.log, 30, "the new pair is taken")
    assert Visitor(bot.port, cert).ask("GET", "/healthz")[0] == 200
    with pytest.raises(ssl.SSLCertVerificationError):
        Visitor(bot.port, old).ask("GET", "/healthz")
    assert visitor.ask("GET", "/healthz")[0] == 200  # the connection from before goes on


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_certificate_that_cannot_be_used_ends_the_start_with_one_line(
        start_bot: Start, tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "cert.pem"
    if content:
        file.write_text(content)
    bot = start_bot(start=False, TLS_CERT=str(file), TLS_KEY=str(file))
    bot.start(wait=False)
    assert bot.wait() == 2
    assert bot.log.startswith("TLS_CERT, TLS_KEY: ") and bot.log.count("\n") == 1
    assert not bot.database.exists()


def test_check_and_status_look_into_a_bot_with_a_certificate_of_its_own_making(
        secure: tuple[BotProcess, Path, Path]) -> None:
    bot, _, _ = secure
    environ = {**bot.settings, "PATH": os.environ["PATH"], "PORT": str(bot.port), "META_APP_ID": "138483919580948",
               "PUBLIC_URL": f"https://localhost:{bot.port}"}
    ran = [subprocess.run([sys.executable, str(ROOT / "run.py"), *words], cwd=bot.folder, env=environ, text=True,
                          capture_output=True) for words in (("check", "--json"), ("status",))]
    found = {(finding["about"], finding["level"]) for finding in json.loads(ran[0].stdout)}
    assert {("server", "ok"), ("address", "ok")} <= found and ("settings", "error") not in found
    assert ran[1].stdout.startswith(f"minibot on port {bot.port}: 0 waiting")
    bot.kill()
    gone = subprocess.run([sys.executable, str(ROOT / "run.py"), "check"], cwd=bot.folder, env=environ, text=True,
                          capture_output=True)
    assert "does minibot run, and does PUBLIC_URL lead to it?" in gone.stdout
