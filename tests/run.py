# SPDX-License-Identifier: Apache-2.0
"""Run the suite: install the system packages that it uses, then pytest.

Without arguments tests marked `slow` are left to `python tests/check.py --only slow`.

Example:
    python tests/run.py
    python tests/run.py tests/runtime -k sampling
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from targets.system_packages import install_missing  # noqa: E402


def main(arguments: list[str]) -> int:
    """Return pytest's exit status."""
    missing = install_missing()
    for package in missing:
        print(f"missing: {package.name}; without it: {package.cost}", flush=True)
    # -rs names every skipped test; the slowest are shown since the suite has a time limit.
    options = ["--rootdir", str(ROOT), "-rs", "--durations=15", "--durations-min=2"]
    return int(pytest.main([*options, *(arguments or ["-m", "not slow", str(ROOT / "tests")])]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
