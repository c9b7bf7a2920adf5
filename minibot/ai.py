"""The model: what was said goes in, an `Answer` comes out. OpenAI, and every server that speaks its Chat Completions.

Not here: the SDK's client (`ai_client.py`), what an error means (`ai_faults.py`), the demo's responder
(`ai_offline.py`). The law: a call has one deadline for everything and none of the SDK's own retries; a request is
adapted (a parameter, the length, the pictures) only where the server says so; no key in any log, error or
traceback. The SDK's low-level `post` costs a fifth of its typed methods (openai 3.54).

Next: `ai_client.py`.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
from base64 import b64encode
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import urlsplit

from minibot.ai_faults import NOT_JSON, TIMEOUT, Fault, explain, read_answer
from minibot.config import Settings
from minibot.model import Call, Reply
from minibot.text import clean
from minibot.work import Answer, Said

if TYPE_CHECKING:
    from openai import AsyncOpenAI

log = logging.getLogger("minibot.ai")
Result = TypeVar("Result")

IMAGE_TOKENS = 1000  # more than detail "low" costs
UNSAID = "What is in this picture?"
UNSEEN = "[a picture that this model cannot see]"
SUFFIXES = {"audio/mpeg": "mp3", "audio/mp4": "m4a", "audio/wav": "wav", "audio/flac": "flac", "video/mp4": "mp4"}
RETIRED = {  # OpenAI's deprecations as openai 3.54 lists them: the day a model is switched off
    **dict.fromkeys(("gpt-4o-mini", "gpt-4o", "gpt-4.1", "gpt-4.1-mini"), "2027-01-14"),
    **dict.fromkeys(("gpt-5", "gpt-5-mini", "gpt-5-nano", "o3"), "2026-12-11"),
    **dict.fromkeys(("whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe"), "2027-02-26"),
}


class Model(Protocol):
    """What answers."""

    name: str

    async def answer(self, said: Sequence[Said], person: str) -> Answer:
        """The reply to the last message of `said`; `person` tells people apart. Raises AiFailed."""

    async def transcribe(self, audio: bytes, mime: str) -> str:
        """The words of a voice note, "" if there are none. Raises AiFailed."""

    async def warm(self) -> None:
        """Load what takes long; a fault is logged."""


def retires(model: str) -> tuple[str, str] | None:
    """(day, successor) of an OpenAI model that is or will be switched off, dated snapshots included."""
    day = RETIRED.get(re.sub(r"-\d{4}-\d\d-\d\d$", "", model))
    return day and (day, "gpt-transcribe" if re.search("whisper|transcribe", model) else "gpt-6-luna") or None


def estimate(said: Sequence[Said]) -> int:
    """Tokens of a prompt, rather too many than too few: against o200k at least the truth in eleven languages."""
    return sum(len(item.text.encode()) // 3 + 4 + IMAGE_TOKENS * len(item.images) for item in said)


def fit(said: Sequence[Said], settings: Settings) -> list[Said]:
    """The newest of `said` within HISTORY_CHARS, oldest first; the last one stays in any case, cut if need be.

    It begins with a person, and neighbours of one role become one: local models' templates insist on turns.
    """
    kept: list[Said] = []
    left = settings.history_chars
    for item in reversed(said):
        if kept and len(item.text) > left:
            break
        text = item.text if len(item.text) <= left else f"{item.text[:left]}…"
        left -= len(item.text)
        if kept and kept[-1].role == item.role:
            kept[-1] = Said(item.role, f"{text}\n{kept[-1].text}", item.images + kept[-1].images)
        else:
            kept.append(item if text is item.text else replace(item, text=text))
    return kept[::-1] if len(kept) % 2 else kept[-2::-1]


class OpenAiModel:
    """Stateless Chat Completions. `clock` counts seconds; `perform` carries out calls, as a `Caller`'s does."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float],
                 perform: Callable[[Call, str], Awaitable[Reply]]) -> None:
        self.name = settings.openai_model
        self._settings, self._clock, self._perform = settings, clock, perform
        self._official = urlsplit(settings.openai_base_url).hostname in (None, "api.openai.com")
        self._dropped: set[str] = set()  # parameters that this server refused
        self._client: asyncio.Future[AsyncOpenAI] | None = None

    async def warm(self) -> None:
        try:
            await self._ready()
        except Exception as error:  # as in _post
            log.error("the model cannot be used: %s", explain(error))

    async def answer(self, said: Sequence[Said], person: str) -> Answer:
        begun, prompt = self._clock(), fit(said, self._settings)
        text, tokens_in, tokens_out = await self._in_time(self._ask(prompt, person))
        return Answer(text, self.name, tokens_in or estimate(prompt), tokens_out or estimate([Said("assistant", text)]),
                      round((self._clock() - begun) * 1000))

    async def transcribe(self, audio: bytes, mime: str) -> str:
        file = (f"voice.{SUFFIXES.get(mime, 'ogg')}", audio, mime)  # the name tells OpenAI the format
        found = await self._in_time(self._post(
            "audio/transcriptions", {"model": self._settings.openai_transcribe_model}, "OPENAI_TRANSCRIBE_MODEL",
            files=[("file", file)], options={"headers": {"Content-Type": "multipart/form-data"}}))
        if not isinstance(found, dict) or not isinstance(found.get("text"), str):
            raise Fault(NOT_JSON)
        return clean(str(found["text"])).strip()

    async def _in_time(self, work: Awaitable[Result]) -> Result:
        try:
            async with asyncio.timeout(self._settings.ai_timeout_seconds):
                return await work
        except TimeoutError:
            raise Fault(TIMEOUT) from None

    async def _ask(self, prompt: list[Said], person: str) -> tuple[str, int, int]:
        """Ask, and ask otherwise as long as the server names what it cannot take."""
        while True:
            body = self._body(prompt, person)
            try:
                found = await self._post("chat/completions", body, "OPENAI_MODEL")
                return read_answer(found, key="OPENAI_MODEL", model=self.name)
            except Fault as fault:
                if (adapted := self._adapted(fault, prompt, body)) is None:
                    raise
                prompt = adapted

    def _adapted(self, fault: Fault, prompt: list[Said], body: dict[str, Any]) -> list[Said] | None:
        """What to ask instead; each time there is less to leave out. A parameter is left out from now on."""
        if fault.code == "too_long":
            half = (len(prompt) // 2 + 1) // 2 * 2  # even, so that a person's words still come first
            return prompt[half:] if half else None
        if fault.refused & body.keys() and fault.status in (400, 422):
            self._dropped |= fault.refused & body.keys()
            return prompt
        blind = fault.status in (400, 415, 422) or fault.status >= 500 and not self._official
        if blind and any(item.images for item in prompt):
            return [Said(item.role, f"{item.text}\n{UNSEEN}" if item.images else item.text) for item in prompt]
        return None

    def _body(self, prompt: list[Said], person: str) -> dict[str, Any]:
        """OpenAI's own servers know all of this; others document max_tokens only, and some refuse the rest."""
        body: dict[str, Any] = {"model": self.name, "messages": [
            {"role": "system", "content": self._settings.system_prompt}, *map(_message, prompt)]}
        limits = ["max_tokens", "max_completion_tokens"][:: -1 if self._official else 1]
        for limit in [name for name in limits if name not in self._dropped][:1]:
            body[limit] = self._settings.max_output_tokens
        if self._official:
            key = self._settings.ai_api_key.reveal().encode()
            own = {"store": False, "safety_identifier": hmac.digest(key, person.encode(), "sha256").hex()[:32]}
            body |= {name: value for name, value in own.items() if name not in self._dropped}
        return body

    async def _ready(self) -> AsyncOpenAI:
        if not self._client or (self._client.done() and self._client.exception()):
            self._client = asyncio.ensure_future(asyncio.to_thread(self._connect))
        return await asyncio.shield(self._client)  # whoever gives up waiting must not end it for the others

    def _connect(self) -> AsyncOpenAI:
        """In a thread, as importing the SDK takes half a second."""
        from minibot.ai_client import connect

        return connect(self._settings, self._perform)

    async def _post(self, path: str, body: dict[str, Any], key: str, **more: Any) -> Any:
        try:
            client = await self._ready()
            return await client.post(f"{client.base_url}{path}", cast_to=object, body=body, **more)  # whole: no merging
        except Exception as error:  # the SDK's own and what it lets through of json and ours: the table knows
            fault = explain(error, key=key, model=body["model"])
        raise fault  # out here: no traceback leads to the SDK's error, which may show the key


def _message(item: Said) -> dict[str, Any]:
    pictures = [{"type": "image_url", "image_url": {
        "url": f"data:{mime};base64,{b64encode(image).decode()}", "detail": "low"}} for mime, image in item.images]
    content = [{"type": "text", "text": item.text or UNSAID}, *pictures] if pictures else item.text
    return {"role": item.role, "content": content}
