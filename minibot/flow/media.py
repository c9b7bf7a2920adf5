"""Pictures and voice notes of the waiting messages: found, fetched within limits, understood.

Not here: the policy on hosts and sizes (`web/media.py`), what a platform's media look like (`channels/`).
The law: only bytes that are what they claim to be reach the model; whatever cannot be had becomes a short
honest note in the prompt, and the question is answered all the same.

Next: `conversation.py`.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from minibot.ai import Model
from minibot.channels.contract import Channel
from minibot.errors import NoAnswer, Refused, SendFailed
from minibot.flow import wording
from minibot.model import Media
from minibot.web.calls import Caller
from minibot.web.media import sniff
from minibot.work import Waiting

log = logging.getLogger("minibot.media")
IMAGE_BYTES, VOICE_BYTES = 20 << 20, 25 << 20
IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")


@dataclass(slots=True)
class Gathered:
    """By inbound id: images as (MIME type, bytes), and the text that stands for spoken words."""

    images: dict[int, tuple[tuple[str, bytes], ...]] = field(default_factory=dict)
    transcripts: dict[int, str] = field(default_factory=dict)


async def gather(gathered: Gathered, channel: Channel, caller: Caller, model: Model,
                 waiting: tuple[Waiting, ...]) -> None:
    """Add what the messages carry and is not there yet. Raises AiFailed when the transcriber is out of reach."""
    for item in waiting:
        if not item.inbound.media or item.id in gathered.transcripts:
            continue
        found = await asyncio.gather(*(_fetch(channel, caller, media) for media in item.inbound.media))
        images: list[tuple[str, bytes]] = []
        words = [item.inbound.text] if item.inbound.text else []
        for media, body in zip(item.inbound.media, found, strict=True):
            mime = sniff(body)
            if media.kind == "image" and mime in IMAGES:
                images.append((mime, body))
            elif media.kind == "voice" and mime.startswith(("audio/", "video/")):
                words.append(await model.transcribe(body, mime))
            else:
                words.append(wording.NO_MEDIA)
        gathered.images[item.id] = tuple(images)
        gathered.transcripts[item.id] = "\n".join(words)


async def _fetch(channel: Channel, caller: Caller, media: Media) -> bytes:
    """The bytes, or b"" where they cannot be had; the log says why, without the address.

    Tried twice: an address may have expired (WhatsApp's live five minutes), and a connection may break.
    """
    limit = IMAGE_BYTES if media.kind == "image" else VOICE_BYTES
    for last in (False, True):
        try:
            url = media.ref
            if not media.url and channel.media and channel.located:
                url = channel.located(await caller.perform(channel.media(media), f"{channel.name}:media"))
            return await caller.download(channel.download(url), channel.media_hosts, channel.media_origins, limit)
        except (NoAnswer, SendFailed, Refused) as fault:
            if last:
                log.warning("%s: a %s could not be loaded: %s", channel.name, media.kind, fault)
    return b""
