# SPDX-License-Identifier: Apache-2.0
"""Run `kernel_harness --bench` and write its figures into native/README.md.

    python tests/benchmarks/kernel_table.py [--harness FILE] [--megabytes N]

The table stands between two markers; everything around them is left as it is. Build the harness
with -DINGOT_BUILD_TESTS=ON.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "native" / "README.md"
BEGIN, END = "<!-- kernel_table.py: begin -->", "<!-- kernel_table.py: end -->"
HEAD = (
    "| format | group | tiles | ISA | decode GB/s | of a plain read | cycles per weight "
    "| 4 tokens GOPS | 128 tokens GOPS | of the int8 peak |",
    "|---|---|---|---|---|---|---|---|---|---|",
)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the harness: rates of decode, of four and of 128 tokens."""

    format: str
    isa: str
    group: int
    tiles: str
    decode: float
    fraction: str
    cycles: float
    four: float
    many: float
    peak: str

    def markdown(self) -> str:
        """Return the row of the table; what was not measured is a dash."""
        peak = self.peak if self.peak != "0%" else "-"
        rates = [f"{rate:.0f}" if rate > 0 else "-" for rate in (self.four, self.many)]
        cells = [self.format, str(self.group or "-"), self.tiles, self.isa, f"{self.decode:.1f}"]
        return f"| {' | '.join([*cells, self.fraction, f'{self.cycles:.4f}', *rates, peak])} |"


def parse(text: str) -> tuple[str, list[Row]]:
    """Return the clock that the harness measured, and its rows."""
    clock, rows = "", []
    for line in text.splitlines():
        words = line.split()
        if line.startswith("clock "):
            clock = line.removeprefix("clock ")
        if not line.startswith("linear_"):
            continue
        name, group, tiles, decode, _, fraction, cycles, four, many, peak, _ = words
        stem, isa = name.split("__")
        rates = (float(four), float(many), peak)
        row = (stem.split("_")[1], isa, int(group), tiles, float(decode), fraction, float(cycles))
        rows.append(Row(*row, *rates))
    return clock, rows


def table(clock: str, rows: Sequence[Row]) -> str:
    """Return the text between the markers."""
    note = f"One core, clock {clock}, measured by `python tests/benchmarks/kernel_table.py`."
    return "\n".join([BEGIN, note, "", *HEAD, *(row.markdown() for row in rows), END])


def replace(text: str, new: str) -> str:
    """Put the table between the markers of a document.

    Raises: ValueError if the markers are missing.
    """
    if BEGIN not in text or END not in text:
        raise ValueError(f"the markers {BEGIN} and {END} are not in the document")
    before, rest = text.split(BEGIN, 1)
    return before + new + rest.split(END, 1)[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--harness", default=ROOT / "build" / "native-tests" / "kernel_harness")
    parser.add_argument("--megabytes", type=int, default=256)
    options = parser.parse_args()
    command = [str(options.harness), "--bench", "--megabytes", str(options.megabytes)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    clock, rows = parse(text)
    if not rows:
        sys.stderr.write(f"{options.harness} printed no kernel\n")
        return 1
    README.write_text(replace(README.read_text(), table(clock, rows)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
