"""Long polling: a platform is asked for what its webhook would have brought, for machines without a public address.

Not here: what an update says (`channels/`), storing it (`intake.py`). The law: the offset, by which the platform
forgets, moves only past what the store has taken; a poll that fails or hangs is asked again, ever more slowly, and
the log says why. At the start everything not yet confirmed comes once more, and the store knows it already.

Next: `retry.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from minibot.channels.contract import Channel
from minibot.errors import NoAnswer, SendFailed
from minibot.flow.intake import Answer
from minibot.logs import Seldom
from minibot.model import Response
from minibot.web.calls import Caller

log = logging.getLogger("minibot.polling")
LONGEST_WAIT = 30.0  # seconds between two tries while it fails


async def poll(channel: Channel, caller: Caller, take: Callable[[Channel, bytes], Answer]) -> None:
    """For ever. `take` is the intake's."""
    assert channel.fetch and channel.fetched
    offset, wait, seldom = 0, 1.0, Seldom()
    while True:
        try:
            updates = channel.fetched(await caller.perform(channel.fetch(offset), f"{channel.name}:poll"))
        except (NoAnswer, SendFailed) as fault:
            seldom.warning(log, "poll", f"{channel.name}: polling failed, it is tried again: {fault}")
            await asyncio.sleep(max(wait, getattr(fault, "retry_after", None) or 0))
            wait = min(wait * 2, LONGEST_WAIT)
            continue
        answers = [(number, take(channel, body)) for number, body in updates]
        for number, answer in answers:
            response = answer if isinstance(answer, Response) else await answer
            if response.status != 200:  # the store is out of reach: this one and what follows comes again
                await asyncio.sleep(1.0)
                break
            offset = number + 1
        if wait > 1.0:
            log.info("%s: polling works again", channel.name)
        wait = 1.0
