# SPDX-License-Identifier: Apache-2.0
"""The generated files are what the generator makes of format.toml."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_format_files_are_current(repo_root: Path) -> None:
    command = [sys.executable, str(repo_root / "native" / "format" / "generate.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_binding_is_committed(repo_root: Path) -> None:
    command = ["git", "ls-files", "*_ingot_ffi.py", "*.so", "*.ingot"]
    done = subprocess.run(command, cwd=repo_root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
