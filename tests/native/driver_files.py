# SPDX-License-Identifier: Apache-2.0
"""Writes the small files that allocation_driver and errors_driver are run on.

Example:
    python -m tests.native.driver_files build/check/drivers
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from ingot.format import Dtype
from tests.must_fail.make_corpus import valid_file, variants
from tests.runtime.small_program import every_op

__all__ = ["DriverFiles", "write_driver_files"]

SPARSE = "sparse"  # the first of the valid variants with a list of superblocks


@dataclass(frozen=True)
class DriverFiles:
    """Paths of the files, and a folder for what the drivers write."""

    plain: Path
    window: Path
    tiny: Path
    sparse: Path
    scratch: Path

    @property
    def errors(self) -> list[Path]:
        """The arguments of errors_driver."""
        return [self.plain, self.window, self.tiny, self.sparse, self.scratch]

    @property
    def allocations(self) -> list[Path]:
        """The arguments of allocation_driver."""
        return [self.plain, self.window, self.sparse]


def write_driver_files(folder: Path) -> DriverFiles:
    """Write all files: a decoder with every op, one with a window, a tiny and a sparse file."""
    scratch = folder / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    plain = every_op(folder / "plain.ingot", Dtype.Q8, 32, context=320)
    window = every_op(folder / "window.ingot", Dtype.F16, 0, window=9, sinks=2, context=640)
    tiny, sparse = folder / "tiny.ingot", folder / "sparse.ingot"
    valid = valid_file()
    tiny.write_bytes(valid)
    found = [data for name, data in variants(valid) if name.startswith(SPARSE)]
    sparse.write_bytes(found[0])
    return DriverFiles(plain, window, tiny, sparse, scratch)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    write_driver_files(parser.parse_args().folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
