"""`python run.py unit`: a systemd unit for this folder and this user, as locked up as minibot can bear.

Not here: installing it (README.md, "Production"). The law: it may write beside its database and nowhere else; paths
are written as systemd reads them; wrong settings (2) and a damaged database (78) are not tried again and again.

Next: `reference.py`.
"""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Callable
from pathlib import Path

from minibot.config import Settings

UNIT = Path(__file__).parent / "pages" / "minibot.service"


def main(arguments: list[str], settings: Callable[[], Settings]) -> int:
    """Print the unit; `arguments` are not looked at."""
    loaded, door = settings(), Path(__file__).parents[2] / "run.py"
    database = Path(loaded.sqlite_path or "minibot.db").absolute().parent
    values = {"USER": getpass.getuser(), "FOLDER": os.getcwd().replace("%", "%%"), "DATABASE": _quoted(str(database)),
              "PYTHON": _quoted(sys.executable), "DOOR": _quoted(str(door)),
              "CAPABILITY": "CAP_NET_BIND_SERVICE" if 0 < loaded.port < 1024 else ""}
    text = UNIT.read_text("utf-8")
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    print(text, end="")
    return 0


def _quoted(path: str) -> str:
    """A path with its blanks, percent signs, quotes and backslashes as systemd wants them."""
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"'
