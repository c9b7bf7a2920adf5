"""What the store on PostgreSQL promises beyond the contract: many instances, a server that goes away, no word lost.

Not here: the contract itself (`test_store.py` runs on both stores), minutes of kill -9 (`drill/postgres.py`).

Next: `drill/postgres.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.botprocess import BotProcess
from tests.postgres import PostgresServer


def test_a_bot_answers_on_postgresql(postgres: PostgresServer, start_bot: Callable[..., BotProcess]) -> None:
    bot = start_bot(DATABASE_URL=postgres.fresh().replace("postgresql://", "postgresql+asyncpg://"))
    bot.say("telegram", "77", "Hello?")
    assert "Hello?" in bot.replies("telegram", "77")[0]
    bot.settled()
    assert bot.term() == 0
