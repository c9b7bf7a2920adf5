"""`python run.py audit`: the program's own attack surface, read from its own source at that moment.

Not here: judging it. The law: nothing is listed from memory but which columns are personal, and that list has to be
complete; a test holds every section against the source and the running server, so that it cannot lie.

Next: `unit.py`.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from minibot.channels import instagram, messenger, telegram, whatsapp
from minibot.config import KEYS, Settings
from minibot.model import Secret
from minibot.store.schema import MIGRATIONS

SOURCE = Path(__file__).parents[1]
CHANNELS = [module.channel(Settings()) for module in (telegram, whatsapp, messenger, instagram)]
PERSONAL = set("chat text notice person name alias message_id media quoted quotes phone username event".split())
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
THREADS = ("Thread", "to_thread", "run_in_executor", "ThreadPoolExecutor", "Popen")


def main(arguments: list[str], settings: Callable[[], Settings]) -> int:
    """The command; it takes no arguments and needs no settings."""
    for heading, rows in sections().items():
        print(heading, *(f"  {row}" for row in rows), "", sep="\n")
    return 0


def sections() -> dict[str, list[str]]:
    """Heading -> lines. Files are named relative to `minibot/`."""
    files = {path.relative_to(SOURCE).as_posix(): path.read_text("utf-8") for path in sorted(SOURCE.rglob("*.py"))}
    trees = {name: ast.parse(source) for name, source in files.items()}
    nodes = [(name, node) for name, tree in trees.items() for node in ast.walk(tree)]
    strings = [(name, node.value) for name, node in nodes if isinstance(node, ast.Constant)]
    pairs = [[getattr(each, "value", "") for each in node.elts] for name, node in nodes
             if name == "app.py" and isinstance(node, ast.Tuple)]
    return {
        "listening paths": sorted(
            [f"{pair[1]:26} GET" for pair in pairs if pair[0] == "GET" and pair[1]]
            + [f"{f'/{one.name}/webhook':26} {'GET POST' if one.handshake else 'POST'}" for one in CHANNELS]),
        "outbound hosts": sorted({f"{found[1]:26} {name}" for name, text in strings if not name.startswith("desk/sim")
                                  and (found := re.fullmatch(r"https?://([\w.-]+(?::\d+)?)(/[\w./-]*)?", str(text)))}
                                 | {f"{host:26} media of {one.name}" for one in CHANNELS for host in one.media_hosts}
                                 | {f"what {key} names" for key in KEYS.values() if key.endswith("_URL")}),
        "secrets and who reads them": [
            f"{KEYS[line.name]:26} " + " ".join(sorted({
                name for name, node in nodes if name != "config.py" and line.name in (
                    getattr(node, "attr", ""), getattr(node, "value", ""))}))
            for line in fields(Settings) if isinstance(line.default, Secret) or line.name == "meta_app_secrets"],
        "tables; * columns that hold personal data": [
            f"{table:14} " + " ".join(f"{word}*" if word in PERSONAL else word for word in re.findall(
                r"(\w+) (?:TEXT|BIGINT|\{id\})", body))
            for table, body in re.findall(r"CREATE TABLE (\w+) \((.*?)\)(?:\{|;)", "".join(MIGRATIONS), re.DOTALL)],
        "threads and processes": [f"{name}:{node.lineno}" for name, node in nodes if isinstance(node, ast.Call) and (
            getattr(node.func, "attr", "") or getattr(node.func, "id", "")) in THREADS],
        "third-party imports": sorted({f"{top:26} {name}" for name, node in nodes for top in _imports(node)
                                       if top != "minibot" and top not in sys.stdlib_module_names}),
        "lines per file (all, code)": [f"{name:26} {source.count(chr(10)):5} {code_lines(source, trees[name]):5}"
                                       for name, source in files.items()],
    }


def _imports(node: ast.AST) -> list[str]:
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [
        str(node.module)] if isinstance(node, ast.ImportFrom) else []
    return [name.split(".")[0] for name in names]


def code_lines(source: str, tree: ast.Module) -> int:
    """Lines that are neither blank nor comment nor docstring."""
    words = {line for node in ast.walk(tree) if isinstance(node, DOCUMENTED) and ast.get_docstring(node)
             for line in range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)}
    quiet = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    return len({line for token in tokenize.generate_tokens(io.StringIO(source).readline) if token.type not in quiet
                for line in range(token.start[0], token.end[0] + 1)} - words)
