"""Instagram direct messages: Messenger's items under other ids, with a limit in bytes and two ways to log in.

Not here: reading and sending (`messenger.py`, `meta.py`). The law: with INSTAGRAM_ACCESS_TOKEN everything goes to
graph.instagram.com, otherwise to the linked Page's graph.facebook.com; a part is at most 1,000 UTF-8 bytes. Facts:
developers.facebook.com/docs/messenger-platform/instagram and /docs/instagram-platform.

Next: `telegram_updates.py`.
"""

from __future__ import annotations

from minibot.channels.contract import Channel
from minibot.channels.messenger import page
from minibot.config import Settings
from minibot.text import octets


def channel(settings: Settings) -> Channel:
    """Instagram with these settings."""
    if settings.instagram_access_token:
        return page(settings, "instagram", "instagram", 1000, octets, settings.instagram_graph_url,
                    settings.instagram_access_token, "INSTAGRAM_ACCESS_TOKEN")
    return page(settings, "instagram", "instagram", 1000, octets, settings.meta_graph_url,
                settings.meta_page_access_token, "META_PAGE_ACCESS_TOKEN")
