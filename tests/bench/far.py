"""The far ends for the bench: an instant model and an instant Bot API, as fast as Python can make them.

`python -m tests.bench.far PORT` serves both; every platform call is noted with its time, and `GET /sent` hands the
notes out (and forgets them) as soon as there are some: who measures must not keep a core busy with asking. Not a
fake for tests: it checks nothing.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

COMPLETION = json.dumps({
    "id": "c", "object": "chat.completion", "created": 1, "model": "gpt-4o-mini",
    "choices": [{"index": 0, "finish_reason": "stop",
                 "message": {"role": "assistant", "content": "A short and friendly answer."}}],
    "usage": {"prompt_tokens": 20, "completion_tokens": 6, "total_tokens": 26}}).encode()
SENT = json.dumps({"ok": True, "result": {"message_id": 1, "date": 1, "chat": {"id": 1, "type": "private"}}}).encode()
ME = json.dumps({"ok": True, "result": {"id": 1, "is_bot": True, "first_name": "b", "username": "bench_bot"}}).encode()


class Far(asyncio.Protocol):
    """One connection; requests come whole or in pieces, answers leave at once."""

    sent: list[tuple[int, float]] = []
    asker: Far | None = None  # waits for notes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.buffer = bytearray()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self.buffer[:end]).lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15:].split(b"\r\n")[0]) if at >= 0 else 0
            if len(self.buffer) < end + 4 + length:
                return
            body = bytes(self.buffer[end + 4: end + 4 + length])
            del self.buffer[: end + 4 + length]
            path = head.split(b" ", 2)[1]
            if path == b"/sent":
                Far.asker = self
            else:
                self.reply(self.answer(path, body))
            if Far.asker and Far.sent:
                asker, notes, Far.asker, Far.sent[:] = Far.asker, json.dumps(Far.sent).encode(), None, []
                asker.reply(notes)

    def reply(self, body: bytes) -> None:
        self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
                             % (len(body), body))

    def answer(self, path: bytes, body: bytes) -> bytes:
        if path.endswith(b"/chat/completions"):
            return COMPLETION
        if path.endswith(b"/sendmessage"):
            self.sent.append((int(json.loads(body)["chat_id"]), time.monotonic()))
            return SENT
        return ME if path.endswith(b"/getme") else b'{"ok":true,"result":true}'


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Far, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
