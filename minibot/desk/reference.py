"""What the table of settings says to people: the text of `.env.example`.

Not here: the table (`config.py`), reading `.env` (`dotenv.py`). The law: nothing about a setting is written twice;
a test holds the file `.env.example` equal to this text.

Next: `connect.py`.
"""

from __future__ import annotations

from dataclasses import fields

from minibot.config import KEYS, Settings

_HEAD = "# minibot's settings. Copy this file to .env and fill in what you use; `python run.py` says what is missing.\n"


def example() -> str:
    """Each key with its meaning above it, in sections; a default stands there as a comment."""
    text = _HEAD
    for line in fields(Settings):
        group, shown = line.metadata.get("group"), _shown(line.default)
        text += f"\n# --- {group} ---\n" if group else ""
        text += f"# {line.metadata['help']}\n{'#' if shown else ''}{KEYS[line.name]}={shown}\n"
    return text


def _shown(default: object) -> str:
    """A default as it would be typed; "" for none. A switch prints as 0."""
    if isinstance(default, (int, float)):
        return f"{default:.15g}"
    return default if isinstance(default, str) else ""
