# SPDX-License-Identifier: Apache-2.0
"""Checks that read the sources only."""

from __future__ import annotations

import sys

from tests.checks.command import ROOT, run, tool
from tests.project.tree import files

GENERATED = {"native/include/ingot_format.h"}


def lint() -> None:
    """Ruff's rules and its layout."""
    run([tool("ruff"), "check", "."])
    run([tool("ruff"), "format", "--check", "."])


def types() -> None:
    """Mypy, strict, on packages, generators and the lab."""
    run([tool("mypy")])


def c_format() -> None:
    """The layout of our C files."""
    sources = [str(path) for path in files(".c", ".h") if str(path) not in GENERATED]
    run([tool("clang-format"), "--dry-run", "--Werror", *sources])


def contracts() -> None:
    """Which package may import which."""
    paths = f"{ROOT / 'runtime'}:{ROOT / 'compressor'}"
    run([tool("lint-imports"), "--no-cache"], {"PYTHONPATH": paths})


def generated() -> None:
    """The files made from format.toml."""
    run([sys.executable, "native/format/generate.py", "--check"])
