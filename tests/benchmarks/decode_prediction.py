# SPDX-License-Identifier: Apache-2.0
"""Predicted against measured decode speed on this machine, for several files.

    python tests/benchmarks/decode_prediction.py CHECKPOINT=FILE [CHECKPOINT=FILE ...]

The prediction is the one that `ingot compress --min-decode` and the report use: how fast this
machine's kernels read weights of each format, measured on matrices made for it. Files take turns
over --rounds; in each round a file's prediction and its speed are measured one after the other.
Writes tests/golden/decode_prediction.csv and exits 1 if a file's median ratio is off by more than
15 %.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ingot.targets import load_target
from ingot_compressor.importers import import_checkpoint
from ingot_compressor.ir import Program
from ingot_compressor.passes.fuse import fuse
from ingot_compressor.reporting.speed import Speed, measure_speed

TABLE = Path(__file__).parents[2] / "tests/golden/decode_prediction.csv"
COLUMNS = ("file", "threads", "predicted", "measured", "ratio_min", "ratio_median", "ratio_max")
TOLERANCE = 0.15


def row(name: str, speeds: Sequence[Speed]) -> dict[str, str]:
    """Return a file's medians, and the least and most of measured over predicted."""
    ratios = [speed.measured / speed.predicted for speed in speeds]
    values = (
        statistics.median(speed.predicted for speed in speeds),
        statistics.median(speed.measured for speed in speeds),
        min(ratios),
        statistics.median(ratios),
        max(ratios),
    )
    texts = (name, str(speeds[0].threads), *(f"{value:.4g}" for value in values))
    return dict(zip(COLUMNS, texts, strict=True))


def measure(
    programs: Mapping[str, Program], paths: Mapping[str, Path], threads: int, rounds: int
) -> list[dict[str, str]]:
    """Measure all files in turn."""
    found: dict[str, list[Speed]] = {name: [] for name in paths}
    for _ in range(rounds):
        for name, path in paths.items():
            speed = measure_speed(programs[name], path, load_target("host"), threads)
            if speed is not None:
                found[name].append(speed)
    return [row(name, speeds) for name, speeds in found.items()]


def main() -> int:
    """Print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", metavar="CHECKPOINT=FILE")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    pairs = [one.rpartition("=") for one in arguments.files]
    paths = {
        f"{Path(source).parent.name}/{Path(file).stem}": Path(file) for source, _, file in pairs
    }
    programs = {
        name: fuse(import_checkpoint(Path(source)).program)
        for name, (source, _, _) in zip(paths, pairs, strict=True)
    }
    rows = []
    for threads in arguments.threads:
        rows += measure(programs, paths, threads, arguments.rounds)
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(TABLE.read_text(encoding="utf-8"))
    return int(any(abs(float(one["ratio_median"]) - 1) > TOLERANCE for one in rows))


if __name__ == "__main__":
    sys.exit(main())
