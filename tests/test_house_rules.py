"""The rules of the house, held by a test: who may import whom, where input and output happen, how long things may be.

Not here: behaviour. The law: a rule that nobody runs is worse than none; a number in here changes in a commit of its
own that says why.

Next: any `test_*.py`; their names are the specification.
"""

from __future__ import annotations

import ast
import asyncio
import io
import logging
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from minibot import cli, config
from minibot.desk import reference
from minibot.model import PLATFORMS

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "minibot").rglob("*.py"))
VALUES = ("model", "work", "errors")

# Shelf -> what it may import. A shelf is a folder, or a module beside them (`ai.py` and `ai_faults.py` are one).
NEIGHBOURS: dict[str, tuple[str, ...]] = {
    "model": (), "errors": (), "text": (), "promise": (),
    "work": ("model",),
    "dotenv": ("errors",),
    "config": ("model", "errors", "dotenv"),
    "markup": ("text",),
    "logs": ("model", "config", "text"),
    "records": ("errors", "work"),
    "ai": (*VALUES, "config", "text", "ai"),
    "web": ("model", "errors", "promise", "config", "text", "web"),
    "channels": (*VALUES, "config", "text", "markup", "channels"),
    "store": (*VALUES, "promise", "config", "text", "store"),
    "flow": (*VALUES, "promise", "config", "text", "logs", "records", "ai", "web.calls", "web.media",
             "channels.contract", "store.contract", "flow"),
    "desk": (*VALUES, "promise", "config", "dotenv", "text", "markup", "logs", "records", "ai", "web", "channels",
             "store", "desk"),
    "app": (*VALUES, "promise", "config", "dotenv", "text", "logs", "ai", "web", "channels", "store", "flow", "desk"),
    "cli": (*VALUES, "config", "app"),
}

# One door per kind of input and output: module or name -> the files that may use it.
DOORS: dict[str, str] = {
    r"socket|select|selectors|socketserver": r"web/\w+",
    r"asyncio\.start_server|\w+\.create_server|asyncio\.open_connection": r"web/server",
    r"http\.server": r"(?!)",
    r"urllib\.request|http\.client|ssl": r"web/(calls|media|opener|server)",
    r"sqlite3": r"store/sqlite\w*",
    r"psycopg": r"store/postgres\w*",
    r"openai": r"ai\w*",
    r"os\.environ|os\.getenv|getenv": r"config|dotenv|cli",
    r"time\.time|time\.time_ns|time\.localtime|datetime\.now|datetime\.utcnow|date\.today": r"app|cli|desk/\w+",
    r"random|secrets|uuid|os\.urandom": r"app|cli|desk/\w+",
    r"subprocess|os\.system": r"desk/\w+",
}
EXPLAINED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)  # what has a docstring
SLOW = ("openai", "urllib.request", "ssl", "http.client", "xml", "email", "concurrent.futures", "psycopg")
FORBIDDEN_NAMES = re.compile(r"(Manager|Handler|Helper|Utils?|Base|Data|Info)(?![a-z])|^process$|^do$")
FILE_LINES, FUNCTION_LINES = 250, 40
BUDGETS = {"minibot without desk": (8600, 5900), "desk": (3180, 2240)}  # physical lines, code lines


def name_of(path: Path) -> str:
    """minibot/web/wire.py -> web.wire"""
    return ".".join(path.relative_to(ROOT / "minibot").with_suffix("").parts)


def shelf_of(module: str) -> str:
    """web.wire -> web; ai_faults -> ai"""
    shelf = module.split(".")[0]
    return "ai" if shelf.startswith("ai_") else shelf


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


def imports_of(path: Path) -> set[str]:
    """Everything imported anywhere in a module, with dots: {"asyncio", "minibot.web.wire", "urllib.request"}."""
    found = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def own_imports_of(path: Path) -> set[str]:
    """The modules of minibot that a module imports: {"web.wire"}."""
    names = {name_of(each) for each in MODULES}
    return {name for each in imports_of(path) if (name := each.removeprefix("minibot.")) in names and name != each}


def names_used_in(path: Path) -> set[str]:
    """Imports, and dotted names such as `os.environ` or `loop.create_server`."""
    dotted = {f"{node.value.id}.{node.attr}" for node in ast.walk(tree_of(path))
              if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)}
    return imports_of(path) | dotted


def functions_of(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def lines_of(path: Path) -> tuple[int, int]:
    """(physical, code) lines: code is neither blank nor comment nor docstring."""
    source, strings, code = path.read_text("utf-8"), set[int](), set[int]()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, EXPLAINED) and ast.get_docstring(node):
            strings |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    quiet = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in quiet:
            code |= set(range(token.start[0], token.end[0] + 1))
    return source.count("\n"), len(code - strings)


def tracked() -> list[Path]:
    """The files of the repository; skips where there is none (a downloaded archive)."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is no git checkout")
    return [path for name in listed.decode().split("\0") if name and (path := ROOT / name).is_file()]


def readme() -> str:
    if not (ROOT / "README.md").is_file():
        pytest.skip("there is no README.md yet")
    return (ROOT / "README.md").read_text("utf-8")


# Who knows whom

def test_shelves_import_only_their_neighbours() -> None:
    wrong = []
    for path in MODULES:
        shelf = shelf_of(name_of(path))
        if shelf == "__init__":
            continue
        assert shelf in NEIGHBOURS, f"{path.name}: give its shelf a line in NEIGHBOURS"
        for each in own_imports_of(path):
            allowed = {*NEIGHBOURS[shelf], shelf}
            if each not in allowed and shelf_of(each) not in allowed:
                wrong.append(f"{name_of(path)} imports {each}")
    assert not wrong, wrong


def test_imports_form_no_circle() -> None:
    graph = {name_of(path): own_imports_of(path) for path in MODULES}
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as circle:
        pytest.fail(" -> ".join(circle.args[1]))
    assert set(order) == set(graph)


@pytest.mark.parametrize("pattern", DOORS)
def test_each_kind_of_input_and_output_has_one_door(pattern: str) -> None:
    whole, wrong = re.compile(rf"({pattern})(\..*)?"), []
    for path in MODULES:
        if not re.fullmatch(DOORS[pattern], name_of(path).replace(".", "/")):
            wrong += [f"{name_of(path)} uses {name}" for name in names_used_in(path) if whole.fullmatch(name)]
    assert not wrong, wrong


def test_only_the_standard_library_and_openai_are_imported() -> None:
    third = {each.split(".")[0] for path in MODULES for each in imports_of(path)} - set(sys.stdlib_module_names)
    assert third <= {"minibot", "openai", "psycopg"}


def test_the_command_line_starts_without_slow_modules() -> None:
    code = f"import sys, minibot.cli; print(*({set(SLOW)!r} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


def test_the_server_listens_without_the_model_and_the_http_client() -> None:
    if not (ROOT / "minibot" / "app.py").is_file():
        pytest.skip("there is no app.py yet")
    wanted = {"openai", "urllib.request", "http.client", "xml"}
    code = f"import sys, minibot.app; print(*({wanted!r} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


def test_windows_only_lacks_what_is_asked_for_politely() -> None:
    wrong = [f"{name_of(path)} imports {name} at its top" for path in MODULES for node in tree_of(path).body
             if isinstance(node, ast.Import | ast.ImportFrom)
             for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module])
             if name in ("fcntl", "resource", "pwd", "grp", "termios", "tty")]
    assert not wrong, wrong


# How long, how named, how explained

def test_files_and_functions_stay_short() -> None:
    wrong = [f"{name_of(path)} has {lines_of(path)[0]} lines" for path in MODULES if lines_of(path)[0] > FILE_LINES]
    for path in MODULES:
        for function in functions_of(path):
            length = (function.end_lineno or 0) - function.lineno + 1
            if length > FUNCTION_LINES:
                wrong.append(f"{name_of(path)}.{function.name} has {length} lines")
    assert not wrong, wrong


@pytest.mark.parametrize("part", BUDGETS)
def test_the_whole_stays_within_its_budget(part: str) -> None:
    counts = [lines_of(path) for path in MODULES if (shelf_of(name_of(path)) == "desk") == (part == "desk")]
    physical, code = (sum(column) for column in zip(*counts, strict=True))
    assert physical <= BUDGETS[part][0] and code <= BUDGETS[part][1], f"{physical} physical, {code} code lines"


def test_every_module_says_what_it_is_for_and_where_to_read_on() -> None:
    wrong = []
    for path in MODULES:
        said = ast.get_docstring(tree_of(path)) or ""
        if not re.search(r"^Next: \S", said, re.MULTILINE):
            wrong.append(name_of(path))
    assert not wrong, wrong


def test_every_public_function_and_class_is_explained() -> None:
    """A method needs no words of its own where the protocol it fulfils has them (ours, or the standard library's)."""
    said = {name for kind in (asyncio.Protocol, logging.Formatter, Exception) for name in dir(kind)}
    unsaid = []
    for path in MODULES:
        for node in tree_of(path).body:
            inner = node.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_") else []
            for each in [node, *inner]:
                if isinstance(each, EXPLAINED[1:]) and not each.name.startswith("_"):
                    said |= {each.name} if ast.get_docstring(each) else set()
                    unsaid += [] if ast.get_docstring(each) else [(each.name, name_of(path))]
    assert not [where for where in unsaid if where[0] not in said], unsaid


def test_names_are_words_of_the_domain() -> None:
    wrong = [f"{name_of(path)}: {node.name}" for path in MODULES for node in ast.walk(tree_of(path))
             if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
             and FORBIDDEN_NAMES.search(node.name)]
    assert not wrong, wrong


def test_a_file_that_is_pointed_at_exists() -> None:
    wrong = []
    for path in MODULES:
        for named in re.findall(r"`([\w/]+\.py)`", ast.get_docstring(tree_of(path)) or ""):
            bases = (ROOT, ROOT / "minibot", ROOT / "tests", path.parent)
            if not any((base / named).is_file() for base in bases):
                wrong.append(f"{name_of(path)} points at {named}")
    assert not wrong, wrong


# The repository

def test_the_top_level_is_exactly_what_was_agreed() -> None:
    tops = {path.relative_to(ROOT).parts[0] for path in tracked()}
    assert {top for top in tops if not top.startswith(".")} <= {"minibot", "tests", "run.py", "setup.cfg", "README.md"}
    assert {top for top in tops if top.startswith(".")} <= {".ci", ".env.example", ".gitignore"}


def test_no_text_names_a_package_host_or_somebodys_machine() -> None:
    hosts = ("py" "pi\\.org", "python" "hosted", "registry\\.np" "mjs")
    machines = ("/wo" "rk/", "/tmp/to" "ols", "/ro" "ot/", "/home/[a-z]")
    forbidden = re.compile("|".join(hosts + machines))
    wrong = []
    for path in tracked():
        for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1):
            if forbidden.search(line):
                wrong.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert not wrong, wrong


# The documents

def test_the_example_settings_are_those_of_the_table() -> None:
    assert (ROOT / ".env.example").read_text("utf-8") == reference.example()


def test_the_readme_names_every_command_and_no_other() -> None:
    text = readme()
    printed = set(re.findall(r"run\.py ([a-z]+)\b", text))
    assert set(cli.COMMANDS) <= printed, "missing in README.md"
    assert printed <= set(cli.COMMANDS), "README.md names a command that does not exist"


def test_the_readme_names_every_setting_and_no_other() -> None:
    text, known = readme(), {*config.KEYS.values(), "OPENAI_API_KEY", "SYSTEM_PROMPT_FILE"}
    missing = {key for key in known if not re.search(rf"\b{key}\b", text)}
    assert not missing, "missing in README.md"
    shaped = {word for word in re.findall(r"(?<![$\w<])[A-Z]+(?:_[A-Z]+)+\b", text)}
    assert shaped <= known | {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "NO_COLOR", "MINIBOT_SHARED"}, \
        "README.md names a setting that does not exist"


def test_the_readme_names_every_route() -> None:
    text = readme()
    routes = {f"/{name}/webhook" for name in PLATFORMS} | {"/healthz"}
    sources = "".join(path.read_text("utf-8") for path in MODULES if shelf_of(name_of(path)) in ("app", "flow"))
    routes |= {"/metrics"} if '"/metrics"' in sources else set()
    assert not {route for route in routes if route not in text}


def test_the_readme_prints_the_command_that_runs_the_tests() -> None:
    fenced = re.findall(r"^```\w*\n(.*?)^```", readme(), re.MULTILINE | re.DOTALL)
    assert any(re.match(r"python3 -m venv \S+ && \S+pip install .*pytest.* && \S+python -m pytest", line)
               for block in fenced for line in block.splitlines())
