"""The SDK's client, on our own road: it builds requests and reads answers, the bytes travel through `web/calls`.

Not here: what is asked (`ai.py`). The law: every outgoing call of this program takes the one door that keeps
connections alive, ends in time, bounds the reply, follows no redirect and knows the proxies; a request that nobody
waits for any more is cut off, since the far end works as long as somebody listens. The SDK's own road also costs
more CPU, a tenth of that of a whole answer (openai 3.54, httpx2 2.16).

Imported in a thread after the server listens: the SDK takes half a second to load.
Next: `ai_faults.py`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import openai

from minibot.config import Settings
from minibot.model import Call, Reply

OPENAI = "https://api.openai.com/v1"
MOST = 4 << 20  # bytes of an answer; a long one has some 50 KB
OURS = (b"host", b"content-length", b"connection", b"accept-encoding", b"user-agent")  # the road sees to these itself
# The HTTP library that the SDK brings along, whatever its name.
HTTP: Any = sys.modules[openai.DefaultAsyncHttpxClient.__base__.__module__.partition(".")[0]]
Perform = Callable[[Call, str], Awaitable[Reply]]


class Road(openai.DefaultAsyncHttpxClient):
    """The two methods of its HTTP client that the SDK calls. Raises NoAnswer."""

    def __init__(self, perform: Perform, seconds: float) -> None:
        super().__init__(transport=HTTP.AsyncBaseTransport(), trust_env=False)
        self._perform, self._seconds = perform, seconds

    def build_request(self, method: str, url: Any, *, headers: Any = None, content: Any = None, **more: Any) -> Any:
        """Without looking for cookies and defaults that we have none of, which takes longer than the rest."""
        if any(value is not None for name, value in more.items() if name != "timeout"):
            return super().build_request(method, url, headers=headers, content=content, **more)
        return HTTP.Request(method, url, headers=headers, content=content)

    async def send(self, request: Any, **options: Any) -> Any:
        """Perform the request as a `Call`. We ask for no compression, so none is undone: it knows no bounds."""
        fields = {name.decode(): value.decode() for name, value in request.headers.raw if name.lower() not in OURS}
        reply = await self._perform(Call("model", request.method, str(request.url), fields, await request.aread(),
                                         self._seconds, MOST, cut=True), "model")
        plain = {name: value for name, value in reply.fields.items() if name != "content-encoding"}
        return HTTP.Response(reply.status, headers=plain, content=reply.body, request=request)


def connect(settings: Settings, perform: Perform) -> openai.AsyncOpenAI:
    """The SDK's client for these settings, without what a forgotten environment would add to every request."""
    client = openai.AsyncOpenAI(
        api_key=settings.ai_api_key.reveal() or "none",  # local servers want none, the SDK insists
        base_url=settings.openai_base_url or OPENAI, max_retries=0,
        http_client=Road(perform, settings.ai_timeout_seconds))
    client.organization = client.project = None
    client._custom_headers = {}
    for name in ("openai", "httpx2", "httpcore2"):  # they log URLs at info, and more at debug
        logging.getLogger(name).setLevel(logging.WARNING)
    return client
