# SPDX-License-Identifier: Apache-2.0
"""Every public symbol says what it is: functions of ingot.h, and names in an __all__."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.project.tree import files, text

HEADER = Path("native/include/ingot.h")
FUNCTION = re.compile(r"^[a-z_].*?\b(ingot_\w+)\(", re.MULTILINE)


def undocumented_functions(header: str) -> list[str]:
    """Return the functions of a header that no comment stands directly before."""
    region = header.partition("/* cffi: begin */")[2].partition("/* cffi: end */")[0]
    found = []
    for match in FUNCTION.finditer(region):
        before = region[: match.start()].rstrip("\n ")
        if not before.endswith("*/") or region[len(before) : match.start()].count("\n") > 1:
            found.append(match.group(1))
    return found


def undocumented_names(source: str) -> list[str]:
    """Return the functions and classes in a module's __all__ without a docstring."""
    tree = ast.parse(source)
    public: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            public = set(ast.literal_eval(node.value))
    return [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and node.name in public
        and ast.get_docstring(node) is None
    ]


def test_every_function_of_the_header_is_documented() -> None:
    header = text(HEADER)
    assert len(FUNCTION.findall(header)) > 20
    assert not undocumented_functions(header)


def test_every_public_name_is_documented() -> None:
    found = []
    for path in files(".py"):
        if path.parts[0] in ("runtime", "compressor", "targets"):
            source = text(path)
            found += [f"{path}: {name}" for name in undocumented_names(source)]
            if ast.get_docstring(ast.parse(source)) is None:
                found.append(f"{path}: the module")
    assert not found


def test_missing_documentation_is_seen() -> None:
    header = (
        "/* cffi: begin */\n/** A. */\nint ingot_a(void);\nint ingot_b(void);\n\n/* cffi: end */"
    )
    assert undocumented_functions(header) == ["ingot_b"]
    assert undocumented_names("__all__ = ['f', 'g']\ndef f(): 'F.'\ndef g(): pass\n") == ["g"]
