"""The demo's responder: it proves that messages arrive and answers leave, and claims nothing more.

Not here: a model, openai, any wish to seem alive. The law: every reply begins with the label, and nothing can
turn that off; it is never a silent stand-in for a model that fails.

Next: `web/wire.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from minibot.work import Answer, Said

LABEL = "[offline demo - no AI connected]"
QUOTED = 200  # characters


class OfflineModel:
    """A `Model` that quotes what it was told."""

    name = "offline-demo"

    async def answer(self, said: Sequence[Said], person: str) -> Answer:
        """Says what arrived: which message it was, how long, and how it began."""
        number = sum(item.role == "user" for item in said)
        return Answer(f"{LABEL} {_reply(said[-1], number, person)}", self.name)

    async def transcribe(self, audio: bytes, mime: str) -> str:
        """Nobody listens; the note that stands for the words says so."""
        return f"(a voice note of {len(audio)} bytes that nobody listened to)"

    async def warm(self) -> None:
        """Nothing to load."""


def _reply(last: Said, number: int, person: str) -> str:
    word, _, rest = last.text.strip().partition(" ")
    fixed = {"/ping": "pong", "/echo": rest, "/whoami": f"you are {person}",
             "/start": "nobody reads this and no model answers; whatever you write is quoted back",
             "/help": "nobody reads this and no model answers; try /ping, /echo WORDS or /whoami"}
    if word in fixed:
        return fixed[word]
    if last.images:
        return f"message {number}: {len(last.images)} picture(s), which I cannot look at"
    more = "…" if len(last.text) > QUOTED else ""
    return f"message {number}, {len(last.text)} characters: {last.text[:QUOTED]}{more}"
