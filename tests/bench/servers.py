"""Starting the two servers that the bench compares, pinned to one core each in turn, and looking at their memory."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv-bench"
PACKAGES = ("fastapi", "uvicorn[standard]", "aiosqlite", "openai>=3.8,<4", "httpx")
TOKEN, SECRET = "123456789:" + "b" * 35, "bench-secret-bench-secret"
SERVER_CORE, LOAD_CORE = "0", "1"


def python() -> str:
    """The peer's interpreter; minibot runs on the same one. Made at the first use."""
    inside = VENV / "bin" / "python"
    if not inside.exists():
        venv.create(VENV, with_pip=True)
        subprocess.run([inside, "-m", "pip", "install", "-q", *PACKAGES], check=True)
    return str(inside)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Running:
    """One server process: its port, its memory, the seconds until its first 200."""

    def __init__(self, command: list[str], env: dict[str, str], port: int, cwd: str) -> None:
        self.port = port
        begin = time.monotonic()
        self.process = subprocess.Popen(["taskset", "-c", SERVER_CORE, *command], env=env, cwd=cwd,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > begin + 60:
                raise RuntimeError(f"{command} did not start")
            time.sleep(0.005)
        self.first_200 = time.monotonic() - begin

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=5) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    def rss(self) -> float:
        """Resident megabytes."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def minibot(far: int, **more: str) -> Iterator[Running]:
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        env = {"PATH": os.environ["PATH"], "PORT": str(port), "AI_API_KEY": "none", "VERIFY_TOKEN": "bench",
               "OPENAI_BASE_URL": f"http://127.0.0.1:{far}/v1", "TELEGRAM_API_URL": f"http://127.0.0.1:{far}",
               "TELEGRAM_BOT_TOKEN": TOKEN, "TELEGRAM_WEBHOOK_SECRET": SECRET, "LOG_LEVEL": "warning",
               "MESSAGES_PER_MINUTE": "1000000", "DAILY_TOKENS": "999999999999", "HUMAN_PAUSE_HOURS": "8760",
               "DAILY_TOKENS_PER_USER": "999999999999", **more}
        running = Running([python(), str(ROOT / "run.py")], env, port, folder)
        try:
            yield running
        finally:
            running.stop()


@contextlib.contextmanager
def peer(far: int, replies: bool = False) -> Iterator[Running]:
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        env = {"PATH": os.environ["PATH"], "PEER_SECRET": SECRET, "PEER_FAR": f"http://127.0.0.1:{far}",
               "PEER_DB": f"{folder}/peer.db", "PEER_REPLIES": "1" if replies else "0"}
        command = [python(), "-m", "uvicorn", "tests.bench.peer:app", "--port", str(port), "--no-access-log",
                   "--log-level", "warning", "--app-dir", str(ROOT)]
        running = Running(command, env, port, folder)
        try:
            yield running
        finally:
            running.stop()


@contextlib.contextmanager
def far_ends() -> Iterator[int]:
    """The instant model and platform, on the load's core."""
    port = free_port()
    process = subprocess.Popen(["taskset", "-c", LOAD_CORE, sys.executable, "-m", "tests.bench.far", str(port)],
                               cwd=ROOT)
    try:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.01)
        yield port
    finally:
        process.kill()
        process.wait()
