# SPDX-License-Identifier: Apache-2.0
"""The hard stops of the house style. The allow-lists may only shrink."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.project.tree import files, text

LINES = {".py": 400, ".c": 500, ".h": 500}
FUNCTION_LINES = 80
LONG_FILES = {
    "runtime/ingot/format.py": "generated",
    "native/include/ingot_format.h": "generated",
}
LONG_FUNCTIONS: dict[str, str] = {}
FORBIDDEN_STEMS = {"utils", "util", "helpers", "helper", "base", "misc", "common"}
SOURCES = (".py", ".c", ".h", ".cmake", ".toml")
# A path of one machine in a source breaks on the next; kernel and system interfaces are no such.
MACHINE_PATH = re.compile(r"""(?<![\w.$}/-])/(work|tmp|root|home|mnt|opt|Users)/""")
WITH_SUCH_PATHS = {"tests/project/test_style.py": "has the pattern"}


def too_long_files(sizes: dict[str, int]) -> list[str]:
    """Return a line for each file above the limit of its kind."""
    return [
        f"{name}: {size} lines, at most {LINES[Path(name).suffix]}"
        for name, size in sizes.items()
        if size > LINES[Path(name).suffix] and name not in LONG_FILES
    ]


def long_python_functions(name: str, source: str) -> list[str]:
    """Return a line for each function of a module above the limit."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            size = (node.end_lineno or node.lineno) - node.lineno + 1
            if size > FUNCTION_LINES:
                found.append(f"{name}: {node.name} has {size} lines")
    return found


def long_c_functions(name: str, source: str) -> list[str]:
    """Return a line for each function above the limit: bodies end with a brace in column 0."""
    found = []
    start, title = 0, ""
    for number, line in enumerate(source.splitlines(), 1):
        if re.match(r"[A-Za-z].*\)\s*\{$", line):
            start, title = number, line
        elif line.startswith("}") and start:
            if number - start + 1 > FUNCTION_LINES:
                found.append(f"{name}: {title} has {number - start + 1} lines")
            start = 0
    return found


def test_file_lengths() -> None:
    sizes = {str(path): len(text(path).splitlines()) for path in files(*LINES)}
    assert len(sizes) > 20
    assert not too_long_files(sizes)


def test_function_lengths() -> None:
    found = []
    for path in files(".py"):
        found += long_python_functions(str(path), text(path))
    # An inner loop of a kernel is one function by nature.
    for path in files(".c"):
        if "kernels" not in path.parts:
            found += long_c_functions(str(path), text(path))
    assert not [line for line in found if line.split(":")[0] not in LONG_FUNCTIONS]


def test_allow_lists_name_files_that_need_them() -> None:
    for name in LONG_FILES:
        assert len(text(Path(name)).splitlines()) > LINES[Path(name).suffix], name
    for name in LONG_FUNCTIONS:
        assert long_python_functions(name, text(Path(name))), name


def test_every_source_has_its_licence_line() -> None:
    named = [path for path in files() if path.name in ("Makefile", "CMakeLists.txt")]
    missing = [
        str(path)
        for path in (*files(*SOURCES), *named)
        if not any("SPDX-License-Identifier: Apache-2.0" in x for x in text(path).split("\n")[:3])
    ]
    assert not missing


def test_no_file_has_a_name_that_says_nothing() -> None:
    assert not [str(path) for path in files(*SOURCES) if path.stem in FORBIDDEN_STEMS]


def test_no_machine_paths() -> None:
    found = []
    for path in files(*SOURCES, ".md", ".yml", ".txt", ""):
        if str(path) in WITH_SUCH_PATHS or path.parts[:2] == ("examples", "text"):
            continue
        for number, line in enumerate(text(path).splitlines(), 1):
            if MACHINE_PATH.search(line):
                found.append(f"{path}:{number}: {line.strip()[:80]}")
    assert not found


def test_c_file_names_are_unique() -> None:
    stems = [path.name for path in files(".c", ".h") if path.parts[0] == "native"]
    assert sorted(stems) == sorted(set(stems))


def test_no_print_in_the_packages_outside_the_command_line() -> None:
    found = []
    for path in files(".py"):
        if path.parts[0] not in ("runtime", "compressor") or "cli" in path.parts:
            continue
        for node in ast.walk(ast.parse(text(path))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print":
                found.append(f"{path}:{node.lineno}")
    assert not found


@pytest.mark.parametrize(
    "line", ['open("/mnt/x")', "see /tmp/y", "'/home/a/b'", "path=/root/z", "(/opt/w/)"]
)
def test_machine_paths_are_seen(line: str) -> None:
    assert MACHINE_PATH.search(line)


@pytest.mark.parametrize(
    "line", ["/proc/cpuinfo", "{root}/opt/x", "build/tmp/x", "https://a/tmp/x"]
)
def test_other_paths_are_fine(line: str) -> None:
    assert not MACHINE_PATH.search(line)


def test_long_functions_are_seen() -> None:
    body = "\n".join(["    x = 1"] * FUNCTION_LINES)
    assert long_python_functions("a.py", f"def f():\n{body}\n")
    assert not long_python_functions("a.py", "def f():\n    x = 1\n")
    c_body = "\n".join(["    x();"] * FUNCTION_LINES)
    assert long_c_functions("a.c", f"int f(void) {{\n{c_body}\n}}\n")
    assert too_long_files({"a.py": 401, "b.c": 500}) == ["a.py: 401 lines, at most 400"]
