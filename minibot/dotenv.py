"""The file `.env`: where it is looked for, and how its lines are understood.

Not here: what the keys mean (`config.py`). The law: a line is NAME=value as shells and people write it, and whatever
is not is named with its number, never with its text: a stray line may be a pasted token. Nothing is expanded or run.

Next: `config.py`, the table of keys.
"""

from __future__ import annotations

import os
import re
from typing import TextIO

from minibot.errors import SettingsFault

_LINE = re.compile(r"""\s* (?:export\s+)? ([A-Za-z_][A-Za-z0-9_]{0,63}) \s* = \s*+  # `*+`: no blank is given back
    (?: "((?:[^"\\]|\\.)*)" | '([^']*)' | (?<=\s)\#.* | (?!["'])(.*?) ) (?: \s* | \s+\#.* )""", re.VERBOSE)
NEEDED = ("PATH", "HOME", "USERPROFILE", "SYSTEMROOT", "TEMP", "TMP", "TMPDIR", "HTTPS_PROXY", "SSL_CERT_FILE")
_ESCAPES = {"n": "\n", "t": "\t", '"': '"', "\\": "\\", "$": "$"}  # any other backslash stands for itself


def read_env_file(cwd: str, beside: str) -> tuple[str | None, list[str]]:
    """-> (text, warnings) of the first `.env` in the two folders; (None, []) where there is none.

    Raises SettingsFault for a file that is there and cannot be read.
    """
    for path in (os.path.join(folder, ".env") for folder in (cwd, beside)):
        if os.path.isfile(path):
            try:
                text, mode = read_text(path), os.stat(path).st_mode
            except (OSError, ValueError):
                raise SettingsFault([f"{path}: cannot be read; check its permissions, and save it as UTF-8"]) from None
            closed = os.name != "posix" or not mode & 0o077  # Windows makes these bits up
            warning = f"{path}: other users of this machine can read the secrets in it; run: chmod 600 {path}"
            return text, [] if closed else [warning]
    return None, []


def surroundings() -> dict[str, str]:
    """What any program needs of the environment to start, and no setting of ours: for a process of our own."""
    return {name: os.environ[name] for name in NEEDED if name in os.environ}


def wants_colour(stream: TextIO) -> bool:
    """A person looks at a terminal that knows colours, and did not say NO_COLOR (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


def read_text(path: str) -> str:
    """A text as people save it: UTF-8 with or without BOM, or the UTF-16 of Windows. Raises OSError, ValueError."""
    with open(path, "rb") as file:
        raw = file.read()
    return raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig").replace("\r\n", "\n")


def parse_env(text: str) -> tuple[dict[str, str], list[str], list[str]]:
    """-> (values by key, faults, warnings). A blank value is kept as ""; of several lines for a key the last counts."""
    values: dict[str, str] = {}
    faults, warnings = [], []
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text.removeprefix("\ufeff")), 1):
        if match := _LINE.fullmatch(line):
            key, double, single, bare = match.groups()
            if key in values:
                warnings.append(f"{key}: .env line {number} gives it again, and that one counts; remove the other")
            values[key] = single or bare or re.sub(r"\\(.)", lambda it: _ESCAPES.get(it[1], it[0]), double or "")
        elif not re.match(r"\s*(#|$)", line):
            faults.append(f".env line {number}: is not NAME=value, quotation marks paired; correct it or put # before")
    return values, faults, warnings
