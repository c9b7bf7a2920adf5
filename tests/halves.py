"""Two processes for one run of the tests, which takes half the time: each goes through the files and takes whole ones.

Only where everything is run (no argument but `--no-skips`) and there are two cores. Not here: what is tested. The
law: every file is run once, by the process that was first to claim it in a common folder; what the second process
says, and whether it failed, is part of the first one's word.

Next: `conftest.py`, which registers this.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import IO, Any

import pytest

PROGRESS = re.compile(r"[.sxFE]+ *(\[ *\d+%\])?$")


class Halves:
    """The plugin. `claims` is the folder of the files taken; the process that was not given one makes it."""

    def __init__(self, config: pytest.Config) -> None:
        self.claims: str = config.getoption("--claims")
        self.second: subprocess.Popen[bytes] | None = None
        self.output: IO[bytes]
        arguments = config.invocation_params.args
        if not self.claims and set(arguments) <= {"--no-skips"} and (os.cpu_count() or 1) > 1:
            self.folder = tempfile.TemporaryDirectory()
            self.claims, self.output = self.folder.name, tempfile.TemporaryFile()
            self.second = subprocess.Popen(
                [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments, f"--claims={self.claims}"],
                cwd=config.rootpath, stdin=subprocess.DEVNULL, stdout=self.output, stderr=subprocess.STDOUT)

    def mine(self, items: list[pytest.Item]) -> Iterator[pytest.Item]:
        """The tests of those files that the other process has not taken."""
        for name, group in groupby(items, key=lambda item: item.nodeid.partition("::")[0]):
            try:
                (Path(self.claims) / name.replace("/", "-")).touch(exist_ok=False)
            except FileExistsError:
                continue
            yield from group

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """As pytest's own, over the files that are ours."""
        if not self.claims or session.testsfailed:  # the collection failed
            return None
        items = self.mine(session.items)
        item = next(items, None)
        while item is not None:
            following = next(items, None)
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)
            item = following
        return True

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Wait for the second process; its failure is ours."""
        if self.second and self.second.wait() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """What the second process had to say."""
        if self.second:
            self.output.seek(0)
            lines = self.output.read().decode("utf-8", "replace").splitlines()
            terminalreporter.section("the second process")
            for line in lines:
                if line and not PROGRESS.fullmatch(line):
                    terminalreporter.write_line(line)
            terminalreporter.section("the first process")
            self.output.close()
            self.folder.cleanup()
