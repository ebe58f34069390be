"""The house rules, checked on the source itself: small files, one direction of imports, a pure core."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from replicator.settings import markdown

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "replicator"
SOURCES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 50
CORE_CODE_LINES_MAX = 3_714  # a ratchet, not to grow: 3,050; reviews by reading, slow links, slow disks
PACKAGE_CODE_LINES_MAX = 14_538  # 12,600; reviews by reading, slow links, full disks, who is out of reach
SCRIPT_LINES_MAX = 80

# A file imports only from its own layer and from those before it. The package's own `__init__` is the
# layer "replicator": its public names come from the engine's side, and the demo and the commands use them.
LAYERS = (
    "errors", "model", "core", "addresses", "sizes", "profiles", "relations", "signals", "settings",
    "descriptor", "stderr", "bell", "multipart", "codec", "link", "adapters", "worker", "engine",
    "replicator", "demo", "cli", "__main__",
)  # fmt: skip
CORE_MAY_IMPORT = {
    "__future__", "bisect", "collections", "enum", "functools", "hashlib", "heapq", "itertools", "logging",
    "math", "operator", "typing", "blake3", "msgspec", "replicator",
}  # fmt: skip
ONLY_IN = {
    "zmq": ("multipart.py", "adapters/zeromq.py", "adapters/curve.py", "link/", "worker/"),
    "pysyncobj": ("adapters/raft.py",),
    "lmdb": ("adapters/store",),
    "uvloop": ("worker/",),
    "typer": ("cli/",),
    "rich": ("cli/", "demo/"),
    "river": ("demo/",),
}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def count_lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def count_code_lines(path: Path) -> int:
    """Lines that are neither blank nor only a comment nor part of a docstring."""
    prose = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    code: set[int] = set()
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type not in (*prose, tokenize.ENCODING, tokenize.ENDMARKER):
                code.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and node.end_lineno:
            code.difference_update(range(node.lineno, node.end_lineno + 1))
    return len(code)


def imports_of(path: Path) -> Iterator[str]:
    """The full names of the modules that a file imports, anywhere in it."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno}: imports are absolute"
            assert node.module
            yield node.module
            if node.module == "replicator":
                yield from (f"replicator.{alias.name}" for alias in node.names)


def layer_of(module: str) -> int:
    """The layer of a module of ours; a public name imported from the package itself is of its layer."""
    parts = module.split(".")
    return LAYERS.index(parts[1] if len(parts) > 1 and parts[1] in LAYERS else "replicator")


def functions_of(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("path", SOURCES + TESTS, ids=name_of)
def test_files_and_functions_are_small(path: Path) -> None:
    """A file has at most 400 lines and a function at most 50: one noun, read at one sitting."""
    assert count_lines(path) <= FILE_LINES_MAX
    for function in functions_of(path):
        assert function.end_lineno is not None
        assert function.end_lineno - function.lineno < FUNCTION_LINES_MAX, function.name


def test_lightweight_is_a_promise() -> None:
    """The core and the whole package stay within their bounds: lines of code, prose not counted."""
    assert sum(map(count_code_lines, (PACKAGE / "core").rglob("*.py"))) <= CORE_CODE_LINES_MAX
    assert sum(map(count_code_lines, SOURCES)) <= PACKAGE_CODE_LINES_MAX


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_go_one_way(path: Path) -> None:
    """A file imports only from its own layer of the package and from those before it."""
    own = layer_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for module in imports_of(path):
        if module.split(".")[0] == "replicator" and module != "replicator":
            assert layer_of(module) <= own, module


@pytest.mark.parametrize("path", sorted((PACKAGE / "core").rglob("*.py")), ids=name_of)
def test_the_core_is_pure(path: Path) -> None:
    """The core imports no socket, file, clock, thread or random source, and knows no Any."""
    assert {module.split(".")[0] for module in imports_of(path)} <= CORE_MAY_IMPORT
    assert not any(isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(tree_of(path)))
    assert not any(isinstance(node, ast.Name) and node.id == "open" for node in ast.walk(tree_of(path)))


@pytest.mark.parametrize("path", sorted((PACKAGE / "core").rglob("*.py")), ids=name_of)
def test_no_line_of_the_core_is_excused(path: Path) -> None:
    """What `scripts/coverage` counts is all there is: no mark leaves a line or a branch out."""
    assert not re.search(r"pragma:|TYPE_CHECKING|^\s*\.\.\.$", path.read_text(), re.MULTILINE)


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_has_its_place(library: str) -> None:
    """Each library is imported only by the adapter or the part that wraps it."""
    users = {
        str(path.relative_to(PACKAGE))
        for path in SOURCES
        if library in {module.split(".")[0] for module in imports_of(path)}
    }
    assert [user for user in sorted(users) if not user.startswith(ONLY_IN[library])] == []


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_public_names_have_docstrings(path: Path) -> None:
    """Every module, and every public class and function in it, says what it is."""
    tree = tree_of(path)
    assert ast.get_docstring(tree), "the module"
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name[0] != "_":
            assert ast.get_docstring(node), node.name


@pytest.mark.parametrize("path", TESTS, ids=name_of)
def test_tests_say_what_they_promise(path: Path) -> None:
    """The docstring of a test is the promise that it keeps."""
    silent = [f.name for f in functions_of(path) if f.name.startswith("test_") and not ast.get_docstring(f)]
    assert silent == []


@pytest.mark.parametrize("path", SOURCES + TESTS, ids=name_of)
def test_nothing_is_left_for_later(path: Path) -> None:
    """No file lands with a reminder to do something."""
    if path != Path(__file__):
        assert not re.search(r"\b(TODO|FIXME|XXX)\b", path.read_text())


@pytest.mark.parametrize("path", [*sorted((ROOT / "scripts").iterdir()), ROOT / ".ci" / "run"], ids=name_of)
def test_scripts_are_short_and_run(path: Path) -> None:
    """Each script can be run, is short, and stops at the first error."""
    text = path.read_text()
    assert text.startswith(("#!/usr/bin/env bash\n# ", '#!/usr/bin/env python3\n"""'))
    assert "bash" not in text.splitlines()[0] or "\nset -euo pipefail\n" in text
    assert count_lines(path) <= SCRIPT_LINES_MAX
    assert path.stat().st_mode & 0o111 == 0o111


def test_setup_says_what_it_lacks(tmp_path: Path) -> None:
    """An older Python is told in one line, before anything is made."""
    environ = {**os.environ, "PYTHON": "false", "REPLICATOR_VENV": str(tmp_path / "venv")}
    setup = subprocess.run(
        [ROOT / "scripts" / "setup"], env=environ, capture_output=True, text=True, check=False
    )
    assert setup.returncode == 1
    assert setup.stderr == "scripts/setup: false is not Python 3.11 or newer; set PYTHON to one that is\n"
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize("extras", ["--help", "demo,nope", "packages"])
def test_setup_refuses_what_is_no_extra(extras: str, tmp_path: Path) -> None:
    """In one line, before anything is made or taken for made."""
    environ = {**os.environ, "REPLICATOR_VENV": str(tmp_path / "venv")}
    words: list[str | Path] = [ROOT / "scripts" / "setup", extras]
    setup = subprocess.run(words, env=environ, capture_output=True, text=True, check=False)
    wrong = extras.rpartition(",")[2]
    assert (setup.returncode, setup.stderr) == (2, f"scripts/setup: setup.cfg names no extra {wrong}\n")
    assert not (tmp_path / "venv").exists()


def test_the_readme_shows_the_settings_as_they_are() -> None:
    """The README's table of settings is what `replicator config --format md` prints."""
    readme = (ROOT / "README.md").read_text()
    _, _, rest = readme.partition("<!-- settings -->\n")
    shown, _, _ = rest.partition("<!-- end of settings -->")
    assert shown.strip() == markdown()
