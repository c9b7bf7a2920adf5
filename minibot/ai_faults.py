"""What the model's server said, judged: an answer, or an `AiFailed` that says what follows from it.

Not here: calling (`ai.py`). The law: a 200 proves nothing, the shape is checked; what the server writes is used to
recognise a fault and never shown, because servers quote keys and people. The codes are OpenAI's, and what llama.cpp,
Ollama, vLLM and Groq really answer; the class names are the SDK's and its HTTP library's.

Next: `ai_offline.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from minibot.errors import AiFailed, AiRemedy, NoAnswer, retry_after
from minibot.text import clean, visible

WAIT, GIVE_UP, REFUSED = AiRemedy.WAIT, AiRemedy.GIVE_UP, AiRemedy.REFUSED
Row = tuple[AiRemedy, str, str]  # remedy, our code, help for the operator

NOT_JSON: Row = WAIT, "not_json", "the model's server answers something else than its API: is OPENAI_BASE_URL right?"
TIMEOUT: Row = WAIT, "timeout", "no answer within AI_TIMEOUT_SECONDS"
_EMPTY: Row = GIVE_UP, "empty_answer", "no text in the answer; a reasoning model may need more MAX_OUTPUT_TOKENS"
_CONTENT: Row = REFUSED, "content_refused", "the model's maker refuses to answer this message"
_MONEY: Row = GIVE_UP, "no_credit", "NO CREDIT LEFT, nobody gets an answer: pay or raise the limit at the model's maker"
_LONG: Row = GIVE_UP, "too_long", "too long for {model} even when shortened: lower HISTORY_CHARS"
_MODEL: Row = GIVE_UP, "unknown_model", "there is no {model} (any more): set {key} (or OPENAI_BASE_URL lacks its /v1)"
_KEY: Row = GIVE_UP, "bad_key", "AI_API_KEY is wrong, revoked, or not allowed from this address: set a new one"
_DOWN: Row = WAIT, "http_{status}", "the model's server is in trouble"
_MOVED: Row = GIVE_UP, "http_{status}", "the model's server is elsewhere (it redirects): set OPENAI_BASE_URL to that"
_OTHER: Row = GIVE_UP, "http_{status}", "the model's server refuses the request ({named})"
_BROKEN: Row = GIVE_UP, "no_client", "{named}: check OPENAI_BASE_URL and AI_API_KEY"
MEANING: Mapping[str | int, Row] = {
    **dict.fromkeys(("insufficient_quota", "credit_balance_exhausted", "organization_spend_limit_exceeded", 402,
                     "project_spend_limit_exceeded", "organization_usage_limit_exceeded",
                     "billing_hard_limit_reached"), _MONEY),
    **dict.fromkeys(("content_policy_violation", "content_filter", "invalid_prompt"), _CONTENT),
    **dict.fromkeys(("context_length_exceeded", "exceed_context_size_error", 413), _LONG),
    **dict.fromkeys(("model_not_found", 404), _MODEL), **dict.fromkeys(("invalid_api_key", 401), _KEY),
    403: (GIVE_UP, "forbidden", "the model's maker does not serve this key, project or country"),
    429: (WAIT, "rate_limited", "the model's server asks for patience"), **dict.fromkeys((408, 409, 425), _DOWN),
    "JSONDecodeError": NOT_JSON, "UnicodeDecodeError": NOT_JSON,
    "NoAnswer": (WAIT, "unreachable", "no connection ({named}): if that lasts, check OPENAI_BASE_URL, HTTPS_PROXY"),
    "ModuleNotFoundError": (GIVE_UP, "no_sdk", "the openai package is missing or broken: pip install openai"),
}
DROPPABLE = ("max_tokens", "max_completion_tokens", "store", "safety_identifier")
_TOO_LONG = re.compile(r"context (length|window|size)|maximum context|(prompt|input) is too long")


class Fault(AiFailed):
    """A row come true. `refused`: the parameters that the server does not want."""

    def __init__(self, row: Row, status: int = 0, refused: frozenset[str] = frozenset(), wait: float | None = None,
                 **words: object) -> None:
        remedy, code, help = row
        super().__init__(remedy, code.format(status=status), help=help.format(**words), retry_after=wait)
        self.status, self.refused = status, refused


def explain(error: Exception, **words: object) -> Fault:
    """What an exception of the SDK means. `words`: `key`, the setting that named `model`."""
    if response := getattr(error, "response", None):
        return rejected(response.status_code, getattr(error, "body", None), response.headers, **words)
    row = next((MEANING[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in MEANING), _BROKEN)
    return Fault(row, named=error if isinstance(error, NoAnswer) else type(error).__name__)


def rejected(status: int, error: Any, fields: Any = {}, **words: object) -> Fault:
    """What an error answer means; `error` is that member of its body, `fields` are its header fields."""
    said = error if isinstance(error, dict) else {"message": error}
    code, kind, param = names = [str(said.get(name) or "") for name in ("code", "type", "param")]
    text = f"{param!r} {code} {kind} {said.get('message')}".lower()
    row = MEANING.get(code) or MEANING.get(kind) or MEANING.get(status) or (
        _DOWN if status >= 500 else _MOVED if 300 <= status < 400 else _OTHER)
    if row is _OTHER:
        row = _LONG if _TOO_LONG.search(text) else _MODEL if param == "model" else _OTHER
    refused = frozenset(name for name in DROPPABLE if re.search(rf"""['"`]{name}['"`]|supplied: {name}\b""", text))
    return Fault(row, status, refused, retry_after(fields), named=re.sub(r"[^\w ]", "", " ".join(names))[:80], **words)


def read_answer(found: Any, **words: object) -> tuple[str, int, int]:
    """(text, tokens in, tokens out) of a chat completion; 0 tokens: not told. Raises Fault for whatever is none."""
    message, ending = _at(found, "choices", 0, "message"), _at(found, "choices", 0, "finish_reason")
    if not isinstance(message, dict):
        if not (error := _at(found, "error")):
            raise Fault(NOT_JSON)
        raise rejected(code if isinstance(code := _at(error, "code"), int) else 502, error, **words)
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(str(_at(part, "text") or "") for part in content)
    text = content if isinstance(content, str) else ""
    text = re.sub(r"^\s*<think>.*?(</think>|\Z)", "", text, flags=re.DOTALL).strip()  # local reasoning models
    text = clean(text, 4 << 20)  # half a surrogate pair, as at the end of a cut answer, fits into no database
    if not visible(text):
        raise Fault(_CONTENT if message.get("refusal") or ending == "content_filter" else _EMPTY)
    tokens_in, tokens_out = (count if isinstance(count := _at(found, "usage", name), int) and 0 < count < 1 << 40
                             else 0 for name in ("prompt_tokens", "completion_tokens"))
    return f"{text} …" if ending == "length" else text, tokens_in, tokens_out


def _at(value: Any, *path: str | int) -> Any:
    """What stands at the end of `path` in untrusted JSON, or None."""
    for step in path:
        try:
            value = value[step]
        except (LookupError, TypeError):
            return None
    return value
