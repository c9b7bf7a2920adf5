"""What every worker uses, put together once by `app.py`.

Not here: anything that acts. The law: clock and chance come from here, so that nothing below asks the machine.

Next: `delivery.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from minibot.ai import Model
from minibot.channels.contract import Channel
from minibot.config import Settings
from minibot.flow.breaker import Breaker
from minibot.flow.guard import Purse
from minibot.store.contract import Store
from minibot.web.calls import Caller


@dataclass(frozen=True, slots=True)
class Kit:
    """`chance` gives a random number in [0, 1); `breakers` has one per platform and one for "model"."""

    settings: Settings
    store: Store
    channels: Mapping[str, Channel]
    caller: Caller
    model: Model
    clock: Callable[[], int]
    chance: Callable[[], float]
    purse: Purse
    breakers: Mapping[str, Breaker]
    counts: Counter[tuple[str, str]]
    observe: Callable[[str, int], None] = lambda what, milliseconds: None  # how long something took
