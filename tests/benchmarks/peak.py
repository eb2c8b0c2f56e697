# SPDX-License-Identifier: Apache-2.0
"""The int8 dot peak of this machine: a loop of vpdpbusd on registers only.

python tests/benchmarks/peak.py [THREADS]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Peak", "build_peak"]


class Peak:
    """The compiled loop."""

    def __init__(self, program: Path) -> None:
        self._program = program

    def measure(self, threads: int) -> float:
        """Return GOPS. Raises: CalledProcessError on a CPU without AVX-512 VNNI."""
        command = [str(self._program), str(threads)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return float(done.stdout)


@contextmanager
def build_peak() -> Iterator[Peak]:
    """Compile it; needs a C compiler."""
    source = Path(__file__).with_name("int8_peak.c")
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "int8_peak"
        subprocess.run(["cc", "-O2", "-pthread", str(source), "-o", str(program)], check=True)
        yield Peak(program)


def main() -> None:
    """Print it for so many threads."""
    with build_peak() as peak:
        print(f"{peak.measure(int(sys.argv[1]) if len(sys.argv) > 1 else 1):.0f} GOPS")


if __name__ == "__main__":
    main()
