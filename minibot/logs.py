"""Logging: one line for each step worth knowing, text or JSON, on stderr, without secrets.

Not here: deciding what is worth a line. The law: whatever reaches the handler is masked and escaped last, message and
traceback alike, whoever logged it: a token in a library's exception must not be printed, and no user's name may forge
a line or drive the terminal. Libraries speak from WARNING on, whatever their own environment variables say.

Next: `web/wire.py`.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, fields, is_dataclass
from typing import Any, TextIO

from minibot.config import Settings
from minibot.model import Secret
from minibot.text import safe_line

hops = logging.getLogger("minibot.hop")  # the way of every message, step by step, for LOG_LEVEL=debug
_SHAPES = (  # what tokens look like when they are not ours: pasted into a chat, or of another account
    r"[0-9]{6,12}(?::|%3A)[A-Za-z0-9_-]{20,}",  # Telegram
    r"\bsk-[A-Za-z0-9_-]{16,}",  # OpenAI
    r"\b(?:EAA|IG[A-Z]{2})[A-Za-z0-9_-]{20,}",  # Meta
    r"(?<=://)[^\s/@]+(?=@)",  # user:password in any URL
)
_LONGEST = 1000  # characters of a line: a fault with its remedy fits, a flood does not
_SHORTEST = 8  # a shorter secret is a word, and masking it would blot out ordinary text


def setup(settings: Settings, stream: TextIO | None = None) -> None:
    """Send all logging to `stream` (stderr), and uncaught exceptions there too, masked; a crash leaves no core file."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Lines(settings))
    handler.addFilter(lambda record: record.levelno >= logging.WARNING or record.name.startswith("minibot"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("minibot").setLevel(settings.log_level.upper())
    logging.raiseExceptions = False  # logging's own complaint prints a record's arguments as they are
    sys.excepthook = lambda *raised: logging.getLogger("minibot").critical("unexpected fault", exc_info=raised)
    with suppress(ImportError):  # Windows writes none
        import resource
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def mask(settings: Settings) -> Callable[[str], str]:
    """A function that blots out our own secrets in a text, and what has the shape of somebody else's."""
    values = [getattr(settings, line.name) for line in fields(settings)]
    known = {one.reveal() for value in values for one in (value if isinstance(value, tuple) else (value,))
             if isinstance(one, Secret) and len(one.reveal()) >= _SHORTEST}
    shapes = re.compile("|".join([*map(re.escape, sorted(known, key=len, reverse=True)), *_SHAPES]))
    return lambda text: shapes.sub("[secret]", text)


class Lines(logging.Formatter):
    """A record as one clean line, text or JSON; a traceback follows in indented lines or as the field `trace`."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._json, self._masked = settings.log_format == "json", mask(settings)

    def format(self, record: logging.LogRecord) -> str:
        """The line, without line end."""
        message = self._masked(record.getMessage())
        trace = self._masked(self.formatException(record.exc_info)) if record.exc_info else ""
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        if self._json:
            when = f"{when[:-1]}.{int(record.created % 1 * 1e6):06}Z"
            line = {"time": when, "level": record.levelname.lower(), "logger": record.name, "message": message,
                    **getattr(record, "facts", {})}  # numbers of ours: the conversation, the messages
            return json.dumps(line | ({"trace": trace} if trace else {}))
        head = f"{when} {record.levelname.lower():<8} {safe_line(message, _LONGEST)}"
        return "\n    ".join([head, *(safe_line(row, _LONGEST) for row in trace.splitlines())])


def hop(name: str, conversation: Any, **facts: object) -> None:
    """One step of a message's way as a debug record, `NAME {JSON}`: in which chat it happened, and `facts`.

    Costs next to nothing where nobody listens. `conversation` has the attributes platform and chat.
    """
    if hops.isEnabledFor(logging.DEBUG):
        facts |= {"platform": conversation.platform, "chat": conversation.chat}
        hops.debug("%s %s", name, json.dumps({key: _plain(fact) for key, fact in facts.items()}, default=_plain))


def _plain(value: Any) -> Any:
    """What JSON has no word for; of a record only what says something."""
    if hasattr(value, "_asdict") or is_dataclass(value):
        record: Any = value._asdict() if hasattr(value, "_asdict") else asdict(value)
        return {name: fact for name, fact in record.items() if fact}
    return f"({len(value)} bytes)" if isinstance(value, bytes) else value


class Seldom:
    """Lets a line through once in `seconds` for each key; the next one says how many were left out.

    Keys come from a small closed set: nothing a stranger chooses.
    """

    def __init__(self, seconds: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._last: dict[str, tuple[float, int]] = {}

    def warning(self, log: logging.Logger, key: str, message: str) -> None:
        """Log `message`, or count it."""
        now = self._clock()
        since, left_out = self._last.get(key, (now - self._seconds, 0))
        if now - since < self._seconds:
            self._last[key] = since, left_out + 1
            return
        self._last[key] = now, 0
        log.warning("%s", message + (f" (repeated {left_out} times)" if left_out else ""))
