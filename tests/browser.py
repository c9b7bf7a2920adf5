"""A real browser for tests: Debian's chromium, driven through chromedriver's plain HTTP (W3C WebDriver) with urllib.

Not here: what is looked at (`test_demo_browser.py`). The law: waits are for conditions, never for time; every request
that the page makes and every line of its console is kept, so that a test can demand that there were none.

Next: `test_demo_browser.py`.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
ABSENT = "" if CHROMIUM and DRIVER else "chromium and chromedriver are not installed"
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # how WebDriver marks a reference to an element
OPTIONS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
           "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
           "--autoplay-policy=no-user-gesture-required"]


class Browser:
    """One session. `css` is a selector everywhere; waiting takes at most `patience` seconds."""

    patience = 15.0

    def __init__(self, folder: Path) -> None:
        assert CHROMIUM and DRIVER
        self.console: list[str] = []
        self.requests: list[str] = []  # every URL that the page asked for
        self._driver = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                        text=True, env={**os.environ, "HOME": str(folder), "TMPDIR": str(folder)})
        assert self._driver.stdout
        started = re.compile(r"successfully on port (\d+)")
        port = next(found[1] for line in self._driver.stdout if (found := started.search(line)))
        self._url = f"http://127.0.0.1:{port}/session"
        options = {"binary": CHROMIUM, "args": [*OPTIONS, f"--user-data-dir={folder / 'profile'}"]}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options,
                  "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        made = self._ask("POST", "", {"capabilities": {"alwaysMatch": wanted}})
        self._url += "/" + made["sessionId"]

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        content = None if body is None else json.dumps(body).encode()
        fields = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._url + path, content, fields, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return json.load(reply)["value"]
        except urllib.error.HTTPError as fault:
            with fault:
                raise AssertionError(json.load(fault)["value"]["message"]) from None

    def close(self) -> None:
        """End the browser and its driver."""
        try:
            self._ask("DELETE", "")
        finally:
            self._driver.terminate()
            self._driver.wait(10)
            assert self._driver.stdout
            self._driver.stdout.close()

    # Looking

    def open(self, url: str) -> None:
        """Load a page."""
        self._ask("POST", "/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """The value of a function body in the page; `arguments[0]` ... are given."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def text(self, css: str) -> list[str]:
        """The text of every element that is found."""
        script = "return [...document.querySelectorAll(arguments[0])].map(x => x.innerText)"
        return cast(list[str], self.run(script, css))

    def until(self, script: str, *arguments: Any) -> Any:
        """Wait until the script gives something true, and return it."""
        end = time.monotonic() + self.patience
        while not (found := self.run(script, *arguments)):
            assert time.monotonic() < end, f"never true: {script} {arguments}\n{self.text('body')[0][:3000]}"
            time.sleep(0.02)
        return found

    def see(self, css: str, words: str) -> None:
        """Wait until an element with these words is there."""
        self.until("return [...document.querySelectorAll(arguments[0])].some(x => x.innerText.includes(arguments[1]))",
                   css, words)

    def look_at_logs(self) -> None:
        """Add what happened since to `console` and `requests`."""
        self.console += [f"{line['level']} {line['message']}" for line in self._log("browser")]
        for line in self._log("performance"):
            message = json.loads(line["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])

    def forget_logs(self) -> None:
        """Begin anew."""
        self.look_at_logs()
        self.console, self.requests = [], []

    def _log(self, kind: str) -> Any:
        return self._ask("POST", "/se/log", {"type": kind})

    def hosts(self) -> set[str]:
        """Where the requests went, over any network protocol."""
        return {urlsplit(url).netloc for url in self.requests if urlsplit(url).scheme not in ("data", "blob", "chrome")}

    # Acting

    def find(self, css: str) -> str:
        """A reference to the first element, once there is one."""
        found = self.until("return document.querySelector(arguments[0])", css)
        return cast(str, found[ELEMENT])

    def click(self, css: str) -> None:
        """Click as a person does: it must be visible and not covered."""
        self._ask("POST", f"/element/{self.find(css)}/click", {})

    def type(self, css: str, text: str) -> None:
        """Type into an element; "\\ue007" is Enter."""
        self._ask("POST", f"/element/{self.find(css)}/value", {"text": text})

    # Screens

    def screen(self, width: int, height: int, scheme: str = "light") -> None:
        """Take on a size in CSS pixels and a colour scheme."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        for command, given in (("setDeviceMetricsOverride", metrics), ("setEmulatedMedia", {"features": features})):
            self._ask("POST", "/goog/cdp/execute", {"cmd": f"Emulation.{command}", "params": given})

    def shoot(self, file: Path) -> None:
        """A screenshot as PNG."""
        file.write_bytes(base64.b64decode(self._ask("GET", "/screenshot")))
