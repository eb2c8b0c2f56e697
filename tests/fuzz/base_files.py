# SPDX-License-Identifier: Apache-2.0
"""Writes the valid files that the native targets start from.

Example:
    python -m tests.fuzz.base_files build/fuzz/bases
    (plan_0.ingot and on, session_0.ingot, session_1.ingot, file/*.ingot)
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ingot.format import Dtype
from tests.must_fail.make_corpus import valid_file, variants, write_corpus
from tests.runtime.small_program import every_op

MOST_PLANS = 32


def write_bases(folder: Path) -> None:
    """Write all base files; the session's have four blocks of positions, one has a window."""
    folder.mkdir(parents=True, exist_ok=True)
    every_op(folder / "session_0.ingot", Dtype.Q4, 32, context=256)
    every_op(folder / "session_1.ingot", Dtype.C4, 32, window=70, sinks=4, context=640)
    every_op(folder / "plan_0.ingot", Dtype.Q8, 32)
    every_op(folder / "plan_1.ingot", Dtype.F16, 0, window=9, sinks=2)
    plans = [data for _, data in variants(valid_file())]
    for index, data in enumerate(plans[: MOST_PLANS - 2]):
        (folder / f"plan_{2 + index}.ingot").write_bytes(data)
    write_corpus(folder / "file")
    (folder / "file" / "corpus.tsv").unlink()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    write_bases(parser.parse_args().folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
