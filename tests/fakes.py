"""A world for minibot: Bot API, Graph and an OpenAI-compatible model as one real HTTP server on the loopback.

Not here: what the platforms accept and answer (`minibot/desk/simulator*.py` and `platforms.py`), starting minibot
(`botprocess.py`). The law: every request is recorded, every answer comes from the same code as in the demo, and a
secret that turns up where it does not belong fails the test.

Next: `platforms.py`, the rest of the platforms; `botprocess.py`.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote, urlsplit

from minibot.desk.simulator import Answered, Screen, Webhook, json_answer
from tests.platforms import Graph, Telegram

# One canary in every setting that is secret. None of them may ever be seen outside its own upstream.
SECRETS = {
    "AI_API_KEY": "sk-canary-model-0f1e2d3c4b5a69788796a5b4c3d2e1f0",
    "TELEGRAM_BOT_TOKEN": "7123456789:AAcanaryTelegramToken_0123456789abc",
    "TELEGRAM_WEBHOOK_SECRET": "canary-telegram-webhook-secret-2718281828",
    "VERIFY_TOKEN": "canary-verify-token-3141592653",
    "META_ACCESS_TOKEN": "EAAcanaryWhatsAppToken1618033988",
    "META_PAGE_ACCESS_TOKEN": "EAAcanaryPageToken1414213562",
    "META_APP_SECRET": "canary0app0secret0573205080756",
    "INSTAGRAM_ACCESS_TOKEN": "IGAAcanaryInstagramToken2236067977",
    "ADMIN_TOKEN": "canary-admin-token-2645751311",
    "EXPORT_SECRET": "canary-export-secret-3316624790",
}
FORMS = {name: {secret.encode(), quote(secret, safe="").encode()} for name, secret in SECRETS.items()}
MODELS = ("gpt-4o-mini", "gpt-6-luna", "gpt-transcribe", "fake-model")
GARBAGE = b"\x16\x03\x01\x02\x00\x01 this is no HTTP at all\r\n\r\n"


class Seen(NamedTuple):
    """One request as it arrived. `upstream`: telegram, graph, instagram, model, elsewhere, or the page's prefix."""

    at: float  # time.monotonic()
    upstream: str
    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


class FakeModel(Screen):
    """An OpenAI-compatible server. `reply` makes each answer: a text, a whole body, or an Answered."""

    def __init__(self, now: Callable[[], int]) -> None:
        super().__init__(now)
        self.count = 0
        self.prompts: list[list[dict[str, Any]]] = []  # the messages of each request, in order of arrival
        self.bodies: list[dict[str, Any]] = []
        self.delay = 0.0  # seconds, each call
        self.reply: Callable[[list[dict[str, Any]]], str | dict[str, Any] | Answered] = self.echo
        self.hear: Callable[[bytes], str] = lambda data: f"spoken words, {len(data)} bytes"
        self.heard: list[tuple[str, bytes]] = []  # (file name, content)
        self.open = threading.Event()
        self.open.set()

    def hold(self) -> None:
        """Let calls wait until `release`."""
        self.open.clear()

    def release(self) -> None:
        """Let the waiting calls go on."""
        self.open.set()

    def echo(self, messages: list[dict[str, Any]]) -> str:
        """The usual answer: the last text of the person, behind a running number."""
        return f"answer {self.count} to: {text_of(messages[-1])}"

    def fail(self, fault: Any) -> Answered:
        codes = {"400": "invalid_value", "401": "invalid_api_key", "404": "model_not_found",
                 "429": "rate_limit_exceeded"}
        kind = "server_error" if fault.kind.startswith("5") else "invalid_request_error"
        usual = {"error": {"message": "planned", "type": kind, "param": None, "code": codes.get(fault.kind)}}
        headers = {"retry-after": str(fault.retry_after)} if fault.kind == "429" and fault.retry_after else {}
        return json_answer(int(fault.kind), fault.body or usual, headers)

    def answer(self, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes) -> Answered:
        """Answer one call, as strictly as OpenAI."""
        if headers.get("authorization") != f"Bearer {SECRETS['AI_API_KEY']}":
            return openai_error(401, "Incorrect API key provided", code="invalid_api_key")
        if method == "POST" and path == "/v1/chat/completions":
            return self.meet("send", lambda: self._complete(json.loads(body)))
        if method == "POST" and path == "/v1/audio/transcriptions":
            return self.meet("transcribe", lambda: self._transcribe(headers, body))
        if method == "GET" and path == "/v1/models":
            return json_answer(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in MODELS]})
        if method == "GET" and (name := path.removeprefix("/v1/models/")) in MODELS:
            return json_answer(200, {"id": name, "object": "model", "created": 1, "owned_by": "fake"})
        return openai_error(404, f"Invalid URL ({method} {path})")

    def _complete(self, asked: dict[str, Any]) -> Answered:
        if fault := _wrong_completion(asked):
            return fault
        made = self.reply(asked["messages"])
        if isinstance(made, Answered):
            return made
        size = sum(len(text_of(message)) for message in asked["messages"])
        usage = {"prompt_tokens": size // 4, "completion_tokens": len(str(made)) // 4}
        usage["total_tokens"] = sum(usage.values())
        message = {"role": "assistant", "content": made, "refusal": None}
        body = made if isinstance(made, dict) else {
            "id": f"chatcmpl-{self.count}", "object": "chat.completion", "created": self.now() // 1000,
            "model": asked["model"], "usage": usage,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}]}
        return json_answer(200, body, {"x-request-id": f"req_{self.count}"})

    def _transcribe(self, headers: Mapping[str, str], body: bytes) -> Answered:
        parts = _multipart(headers.get("content-type", ""), body)
        name, data = parts.get("file", ("", b""))
        if not data or not parts.get("model", ("", b""))[1]:
            return openai_error(400, "you must provide a model and a file")
        if name.rpartition(".")[2] not in ("flac", "mp3", "mp4", "mpeg", "mpga", "m4a", "ogg", "wav", "webm"):
            return openai_error(400, f"Unrecognized file format: {name}")
        self.heard.append((name, data))
        return json_answer(200, {"text": self.hear(data)})


def openai_error(status: int, message: str, param: str | None = None, code: str | None = None) -> Answered:
    """An error in OpenAI's envelope."""
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return json_answer(status, {"error": error})


def _wrong_completion(asked: dict[str, Any]) -> Answered | None:
    """What OpenAI refuses in a request for a completion; None if nothing."""
    allowed = {"model", "messages", "max_tokens", "max_completion_tokens", "store", "safety_identifier", "temperature",
               "reasoning_effort"}
    if unknown := set(asked) - allowed:
        return openai_error(400, f"Unrecognized request argument supplied: {sorted(unknown)[0]}", sorted(unknown)[0],
                            "unknown_parameter")
    if asked.get("model") not in MODELS:
        return openai_error(404, f"The model `{asked.get('model')}` does not exist", code="model_not_found")
    reasoning = re.match("gpt-[56]|o[1-9]", asked["model"])
    for name in {"max_tokens", "temperature"} & set(asked):
        if reasoning:
            return openai_error(400, f"Unsupported parameter: '{name}'", name, "unsupported_parameter")
    messages = asked.get("messages") or []
    if not messages or any(each.get("role") not in ("system", "user", "assistant") or not each.get("content")
                           or set(each) - {"role", "content"} for each in messages):
        return openai_error(400, "Invalid value: 'messages'", "messages", "invalid_value")
    return None


def text_of(message: Mapping[str, Any]) -> str:
    """The text of a prompt's message, images left out."""
    content = message["content"]
    return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)


def _multipart(kind: str, body: bytes) -> dict[str, tuple[str, bytes]]:
    """name -> (file name, content)"""
    found = re.search('boundary="?([^";]+)', kind)
    parts = {}
    for piece in body.split(b"--" + found[1].encode())[1:-1] if found else []:
        head, _, content = piece.partition(b"\r\n\r\n")
        names = dict(re.findall(r'; (name|filename)="([^"]*)"', head.decode()))
        parts[names["name"]] = names.get("filename", ""), content[:-2]
    return parts


class FakeWorld:
    """All far ends of minibot on one port. `bot_url` is where minibot listens: what platforms post goes there."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.clock_ahead = 0  # ms that the platforms' clock is ahead of ours
        self.bot_url = ""
        self.public_url = "https://bot.example.org"  # how the platforms reach it
        self.reports = True  # whether receipts and echoes are posted
        self.delay = 0.0  # seconds that a platform's call takes before it is carried out, and again until the answer
        self.drip_every = 1.0  # seconds between the bytes of a dripping reply
        self.seen: list[Seen] = []
        self.leaks: list[str] = []  # secrets found where they do not belong
        self.pages: dict[str, Callable[[Seen], Answered]] = {}  # further servers by path prefix ("/crm", "/sheets")
        self.telegram = Telegram(SECRETS["TELEGRAM_BOT_TOKEN"], SECRETS["TELEGRAM_WEBHOOK_SECRET"], self.now)
        self.graph = Graph(SECRETS["META_ACCESS_TOKEN"], SECRETS["META_PAGE_ACCESS_TOKEN"], SECRETS["META_APP_SECRET"],
                           self.now, instagram_token=SECRETS["INSTAGRAM_ACCESS_TOKEN"], media_url=self.url)
        self.graph.visit = self._visit
        self.model = FakeModel(self.now)
        self.people: dict[str, Any] = {"telegram": self.telegram, "whatsapp": self.graph.whatsapp,
                                       "messenger": self.graph.messenger, "instagram": self.graph.instagram}
        self.changed = threading.Condition()  # guards everything above; notified after each request
        self.stopped = threading.Event()
        self._local = threading.local()
        self._connections: set[socket.socket] = set()
        self._clients: list[http.client.HTTPConnection] = []
        threading.Thread(target=self._accept, daemon=True).start()
        threading.Thread(target=self._post_reports, daemon=True).start()

    def now(self) -> int:
        """The platforms' clock, ms."""
        return time.time_ns() // 1_000_000 + self.clock_ahead

    def settings(self, **more: str) -> dict[str, str]:
        """The environment that points minibot here."""
        return {**SECRETS, "OPENAI_BASE_URL": f"{self.url}/v1", "OPENAI_MODEL": "gpt-4o-mini",
                "META_PHONE_NUMBER_ID": self.graph.account.phone_number_id, "TELEGRAM_API_URL": self.url,
                "META_GRAPH_URL": self.url, "INSTAGRAM_GRAPH_URL": f"{self.url}/instagram", **more}

    def calls(self, upstream: str = "", path: str = "") -> list[Seen]:
        """The recorded requests of an upstream whose path contains `path`."""
        with self.changed:
            return [seen for seen in self.seen if upstream in ("", seen.upstream) and path in seen.path]

    def wait(self, condition: Callable[[], Any], timeout: float = 30.0) -> bool:
        """Wait until `condition` holds; looked at after each request and a few times a second."""
        end = time.monotonic() + timeout
        with self.changed:
            while not (found := condition()) and time.monotonic() < end:
                self.changed.wait(0.05)
        return bool(found)

    def close(self) -> None:
        """Stop serving; hanging connections end."""
        self.stopped.set()
        self.model.release()
        self._listener.close()
        with self.changed:
            self.changed.notify_all()
            for connection in self._connections:
                _shut(connection)
        for client in self._clients:
            client.close()

    # What the platforms post

    def post(self, webhook: Webhook, **fields: str) -> tuple[int, bytes]:
        """POST a webhook to the bot once; (status, body). `fields` replace header fields, "" leaves one out."""
        headers = {name: value for name, value in {**webhook.headers, **fields}.items() if value}
        return self.request("POST", webhook.path, webhook.body, headers)[::2]

    def request(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
                ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Any request to the bot over a connection that this thread keeps. Raises OSError when the bot is away."""
        for fresh in (False, True):
            connection = None if fresh else getattr(self._local, "connection", None)
            if connection is None or self._local.to != self.bot_url:
                fresh = True
                connection = http.client.HTTPConnection(urlsplit(self.bot_url).netloc, timeout=30)
                self._local.connection, self._local.to = connection, self.bot_url
                self._clients.append(connection)
            try:
                connection.request(method, path, body, dict(headers or {}))
                reply = connection.getresponse()
                answer = reply.status, reply.headers, reply.read()
            except (OSError, http.client.HTTPException) as fault:
                connection.close()
                self._local.connection = None
                if fresh:
                    raise OSError(f"the bot is away: {type(fault).__name__}") from None
                continue
            self._watch("an answer of the bot", answer[2] + str(answer[1]).encode(), ())
            return answer
        raise AssertionError

    def deliver(self, webhook: Webhook, timeout: float = 30.0) -> int:
        """POST as a platform does: again until it is answered 200. Returns how many times it took."""
        end, tries = time.monotonic() + timeout, 0
        while True:
            tries += 1
            try:
                if self.post(webhook)[0] == 200:
                    return tries
            except OSError:
                pass
            if time.monotonic() > end or self.stopped.wait(0.05):
                raise AssertionError(f"{webhook.path} was not taken within {timeout} s")

    def _post_reports(self) -> None:
        """Receipts and echoes, in order, each until it is taken."""
        while not self.stopped.is_set():
            with self.changed:
                ready = [people.outgoing.popleft() for people in self.people.values() if people.outgoing]
                if not ready:
                    self.changed.wait(0.2)
            for webhook in ready if self.reports else ():
                while self.bot_url and not self.stopped.is_set():
                    try:
                        if self.post(webhook)[0] in (200, 401):
                            break
                    except OSError:
                        pass
                    self.stopped.wait(0.1)

    def _visit(self, url: str) -> tuple[int, bytes]:
        """GET a callback URL, as Meta does when a webhook is registered; (0, b"") if nobody answers there."""
        if not self.bot_url or not url.startswith(self.public_url + "/"):
            return 0, b""
        try:
            return self.request("GET", url.removeprefix(self.public_url))[::2]
        except OSError:
            return 0, b""

    # What the bot calls

    def _accept(self) -> None:
        while not self.stopped.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        """One connection, request after request."""
        with self.changed:
            self._connections.add(connection)
        try:
            with connection, connection.makefile("rb") as stream:
                while line := stream.readline():
                    method, target, _ = line.decode("latin-1").split(" ", 2)
                    headers = {}
                    while (line := stream.readline().rstrip()):
                        name, _, value = line.decode("latin-1").partition(":")
                        headers[name.lower()] = value.strip()
                    length = int(headers.get("content-length", 0))
                    body = stream.read(length)
                    if len(body) < length:
                        return  # the bot died while it wrote
                    if not self._answer(connection, method, target, headers, body):
                        return
        except OSError:
            pass  # the bot went away
        finally:
            with self.changed:
                self._connections.discard(connection)

    def _answer(self, connection: socket.socket, method: str, target: str, headers: dict[str, str],
                body: bytes) -> bool:
        """Answer one request; whether the connection goes on."""
        path, _, query = target.partition("?")
        upstream = self._upstream(path)
        seen = Seen(time.monotonic(), upstream, method, path, query, headers, body)
        with self.changed:
            self.seen.append(seen)
            whole = target.encode() + str(headers).encode() + body
            self._watch(f"a request to {upstream}", whole, OWN.get(upstream, ()))
            if upstream == "model" and path.endswith("/chat/completions"):
                self.model.count += 1
                self.model.bodies.append(seen.json())
                self.model.prompts.append(seen.json()["messages"])
            self.changed.notify_all()
        if upstream == "model":
            self.model.open.wait()
            self.stopped.wait(self.model.delay) if self.model.delay else None
        elif self.delay:
            self.stopped.wait(self.delay)
        answered = self._far_end(seen)
        if self.delay and upstream != "model":
            self.stopped.wait(self.delay)
        with self.changed:
            self.changed.notify_all()
        return self._reply(connection, answered, target)

    def _upstream(self, path: str) -> str:
        for upstream, pattern in UPSTREAMS.items():
            if re.match(pattern, path):
                return upstream
        return next((prefix for prefix in self.pages if path.startswith(prefix)), "nowhere")

    def _far_end(self, seen: Seen) -> Answered:
        if seen.upstream == "telegram" and seen.path.endswith("/getUpdates"):
            self._long_poll(seen)
        with self.changed:
            for name, side in (("telegram", self.telegram), ("graph", self.graph), ("model", self.model)):
                if name == seen.upstream:
                    return side.answer(*seen[2:])
            if seen.upstream == "instagram":
                return self.graph.answer(seen.method, seen.path.removeprefix("/instagram"), *seen[4:], login=True)
        return self.pages[seen.upstream](seen) if seen.upstream in self.pages else Answered(404, {}, b"nothing here")

    def _long_poll(self, seen: Seen) -> None:
        """Hold a getUpdates back until there is an update, at most 50 s."""
        given = seen.body if "json" in seen.headers.get("content-type", "") else b"{}"
        asked = json.loads(given or b"{}") or {name: value[0] for name, value in parse_qs(seen.query).items()}
        offset, limit = int(asked.get("offset", 0)), min(50.0, float(asked.get("timeout", 0)))
        self.wait(lambda: self.stopped.is_set() or self.telegram.webhook["url"]
                  or any(update["update_id"] >= offset for update in self.telegram.pending), limit)

    def _reply(self, connection: socket.socket, answered: Answered, target: str) -> bool:
        body, trouble, length = answered.body, answered.trouble, len(answered.body)
        headers, status = answered.headers, answered.status
        if trouble.startswith("hang"):
            self._hold(connection)
        elif trouble.startswith("reset"):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        elif trouble == "garbage":
            connection.sendall(GARBAGE)
        elif trouble == "redirect":
            status, headers = 302, {"location": f"http://localhost:{self.port}/elsewhere{target}"}
        elif trouble == "html":
            headers, body = {"content-type": "text/html"}, b"<html><h1>Please log in to this network</h1></html>"
        if trouble.startswith(("hang", "reset")) or trouble == "garbage":
            return False
        length = 1 << 32 if trouble == "lie" else length if trouble in ("half", "drip") else len(body)
        head = f"HTTP/1.1 {status} Fake\r\ncontent-length: {length}\r\n" + "".join(
            f"{name}: {value}\r\n" for name, value in headers.items())
        if trouble == "drip":
            connection.sendall(head.encode() + b"\r\n")
            for at in range(length):
                connection.sendall(body[at:at + 1])
                if self.stopped.wait(self.drip_every):
                    break
        else:
            connection.sendall(head.encode() + b"\r\n" + (body[:length // 2] if trouble == "half" else body))
        return trouble not in ("half", "lie")

    def _hold(self, connection: socket.socket) -> None:
        """Say nothing until the bot gives up."""
        connection.settimeout(0.2)
        while not self.stopped.is_set():
            try:
                if not connection.recv(65536):
                    return
            except TimeoutError:
                pass

    def _watch(self, where: str, content: bytes, own: tuple[str, ...]) -> None:
        """Note every secret in `content` that is not one of `own`."""
        if b"anary" in content:
            self.leaks += [f"{name} in {where}" for name, forms in FORMS.items()
                           if name not in own and any(form in content for form in forms)]


# Where each upstream's paths begin, and which secrets it may see.
UPSTREAMS = {"telegram": "/(file/)?bot", "model": "/v1/", "instagram": "/instagram/", "elsewhere": "/elsewhere",
             "graph": r"/v\d+\.\d+/|/ig_messaging_cdn/|/whatsapp_business/"}
META = ("META_ACCESS_TOKEN", "META_PAGE_ACCESS_TOKEN", "META_APP_SECRET", "VERIFY_TOKEN")
OWN = {"telegram": ("TELEGRAM_BOT_TOKEN", "TELEGRAM_WEBHOOK_SECRET"), "model": ("AI_API_KEY",), "graph": META,
       "instagram": ("INSTAGRAM_ACCESS_TOKEN", "META_APP_SECRET", "VERIFY_TOKEN")}


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # already gone
