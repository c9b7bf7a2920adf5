"""One part on its way out: may it go, did it arrive, and if not, what becomes of it.

Not here: what an error means (the channel's `judge`), how long to wait (`retry.py`), writing it down (the
store). The law: every attempt ends in exactly one `Fate`; an unsure send is never simply repeated.

Next: `conversation.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from minibot import text
from minibot.channels.contract import Channel
from minibot.errors import NoAnswer, Remedy, SendFailed
from minibot.flow import retry, wording
from minibot.flow.kit import Kit
from minibot.work import Conversation, Fate, Part

log = logging.getLogger("minibot.delivery")
TYPING_AFTER = 0.5  # seconds; a quick answer needs no typing indicator


async def deliver(kit: Kit, conversation: Conversation, part: Part) -> Fate:
    """Send `part`, unless it must not or cannot go now."""
    channel, now = kit.channels[conversation.platform], kit.clock()
    if part.state == "sending":  # the process died in flight: nobody knows whether it arrived
        return retry.unsure(part, now, channel.looks_up)
    if part.expires_at and now > part.expires_at:
        return Fate("expired", error="window", rest=True, outcome="window_closed", counted=False)
    if later := kit.breakers[channel.name].admit(now):
        return Fate("pending", due_at=later + round(kit.chance() * 1000), counted=False)
    try:
        message_id = channel.judge(await kit.caller.perform(channel.call(conversation, part), channel.name))
    except (NoAnswer, SendFailed) as error:
        return _failed(kit, channel, part, error)
    kit.breakers[channel.name].worked()
    return Fate("sent", message_id=message_id)


def _failed(kit: Kit, channel: Channel, part: Part, error: NoAnswer | SendFailed) -> Fate:
    now, breaker = kit.clock(), kit.breakers[channel.name]
    remedy = error.remedy if isinstance(error, SendFailed) else Remedy.RETRY
    if remedy in (Remedy.RETRY, Remedy.UNSURE):
        breaker.failed(now)
    else:
        breaker.worked()
    if isinstance(error, SendFailed):
        if remedy is Remedy.STOP or error.help:
            log.log(logging.ERROR if remedy is Remedy.STOP else logging.WARNING, "%s refused a message (%s): %s",
                    channel.name, error.code, error.help or remedy.value)
        if (again := _rewritten(channel, remedy, part)) is not None:
            return again
    fate = retry.decide(error, part, now, kit.chance(), channel.looks_up)
    if remedy in (Remedy.WAIT_CHANNEL, Remedy.STOP):
        breaker.pause(fate.due_at)
    return fate


def _rewritten(channel: Channel, remedy: Remedy, part: Part) -> Fate | None:
    """In another shape: halves for a length the platform refused, plain for its mark-up, ours for no words at all."""
    plain = part.text if part.plain else channel.plain(part.text)
    if remedy is Remedy.PLAIN and not part.plain and plain:
        return Fate("pending", error="plain", replace=(plain,), plain=True)
    if remedy is Remedy.HALVE and len(plain) > 1:
        return Fate("pending", error="halved", plain=True,
                    replace=tuple(text.cut(plain, (len(plain) + 1) // 2, len)))
    if remedy is Remedy.EMPTY and plain != wording.APOLOGY:
        return Fate("pending", error="empty", replace=(wording.APOLOGY,), plain=True)
    return None


def start_typing(kit: Kit, conversation: Conversation, message_id: str) -> Callable[[], None]:
    """Read mark and typing indicator from half a second on, until the returned function is called."""
    loop, typing = asyncio.get_running_loop(), list[asyncio.Task[None]]()
    begin = loop.call_later(TYPING_AFTER,
                            lambda: typing.append(loop.create_task(_typing(kit, conversation, message_id))))

    def stop() -> None:
        begin.cancel()
        for task in typing:
            task.cancel()

    return stop


async def _typing(kit: Kit, conversation: Conversation, message_id: str) -> None:
    """Repeated as long as the work lasts; its failures disturb nothing and end it."""
    channel = kit.channels[conversation.platform]
    while True:
        for call in channel.typing(conversation, message_id):
            try:
                reply = await kit.caller.perform(call, f"{channel.name}:typing")
            except NoAnswer:
                return
            if reply.status >= 400:
                return
        await asyncio.sleep(channel.typing_every)
