# SPDX-License-Identifier: Apache-2.0
"""The files of the repository, as git sees them."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


@cache
def files(*suffixes: str) -> tuple[Path, ...]:
    """Return the tracked and the new files with these suffixes, relative to the repository."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    paths = [Path(line) for line in done.stdout.splitlines()]
    kept = [path for path in paths if not suffixes or path.suffix in suffixes]
    return tuple(sorted(path for path in kept if (REPOSITORY / path).is_file()))


def text(path: Path) -> str:
    """Return the content of a file of the repository."""
    return (REPOSITORY / path).read_text(encoding="utf-8")
