"""The peer: the same bot as most people would write it, FastAPI + uvicorn + aiosqlite + openai + httpx.

It does the same work as minibot's door (secret in constant time, parse, deduplicate, insert with
synchronous=FULL, then 200) and, with replies on, the same whole way (history, model, store, platform).
Started by `python -m tests.bench` in a virtual environment of its own; configured by the environment.
"""

import hmac
import json
import os
from contextlib import asynccontextmanager

import aiosqlite
from fastapi import BackgroundTasks, FastAPI, Request, Response
from openai import AsyncOpenAI

SECRET = os.environ["PEER_SECRET"].encode()
FAR = os.environ["PEER_FAR"]
REPLIES = os.environ.get("PEER_REPLIES") == "1"
SCHEMA = """
CREATE TABLE IF NOT EXISTS inbox(id INTEGER PRIMARY KEY, update_id INTEGER UNIQUE, chat TEXT, text TEXT, body TEXT);
CREATE TABLE IF NOT EXISTS said(id INTEGER PRIMARY KEY, chat TEXT, role TEXT, text TEXT);
CREATE INDEX IF NOT EXISTS said_chat ON said(chat, id);
"""


@asynccontextmanager
async def lifespan(app: FastAPI):
    app.db = await aiosqlite.connect(os.environ["PEER_DB"])
    await app.db.execute("PRAGMA journal_mode=WAL")
    await app.db.execute("PRAGMA synchronous=FULL")
    await app.db.executescript(SCHEMA)
    app.model = AsyncOpenAI(api_key="none", base_url=f"{FAR}/v1")
    app.model.chat.completions  # loaded at the start, as in minibot
    import httpx

    app.http = httpx.AsyncClient()
    yield
    await app.db.close()


app = FastAPI(lifespan=lifespan)


@app.get("/healthz")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/telegram/webhook")
async def webhook(request: Request, later: BackgroundTasks) -> Response:
    given = request.headers.get("x-telegram-bot-api-secret-token", "").encode()
    if not hmac.compare_digest(given, SECRET):
        return Response(status_code=401)
    body = await request.body()
    update = json.loads(body)
    message = update["message"]
    chat, text = str(message["chat"]["id"]), message["text"]
    cursor = await app.db.execute("INSERT OR IGNORE INTO inbox(update_id, chat, text, body) VALUES (?, ?, ?, ?)",
                                  (update["update_id"], chat, text, body.decode()))
    if REPLIES:
        await app.db.execute("INSERT INTO said(chat, role, text) VALUES (?, 'user', ?)", (chat, text))
    await app.db.commit()  # commits whatever others inserted meanwhile too: cheaper, and as durable
    if REPLIES and cursor.rowcount:
        later.add_task(reply, chat)
    return Response(status_code=200)


async def reply(chat: str) -> None:
    rows = await app.db.execute_fetchall("SELECT role, text FROM said WHERE chat = ? ORDER BY id DESC LIMIT 40",
                                         (chat,))
    messages = [{"role": role, "content": text} for role, text in reversed(list(rows))]
    answer = await app.model.chat.completions.create(model="gpt-4o-mini", messages=messages, max_tokens=800)
    text = answer.choices[0].message.content
    await app.db.execute("INSERT INTO said(chat, role, text) VALUES (?, 'assistant', ?)", (chat, text))
    await app.db.commit()
    await app.http.post(f"{FAR}/bot1:x/sendMessage", json={"chat_id": int(chat), "text": text})
