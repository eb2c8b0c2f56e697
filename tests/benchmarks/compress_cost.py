# SPDX-License-Identifier: Apache-2.0
"""How long presets take on a model, and how much memory: `ingot compress` as a user runs it.

    python tests/benchmarks/compress_cost.py CHECKPOINT [--presets draft balanced]

Writes tests/golden/compress_cost.csv and exits 1 if a preset misses its bar, which holds for the
shape of Qwen2-0.5B on two cores: draft in 2 minutes, balanced in 40 and in 6 GB.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "tests/golden/compress_cost.csv"
# Seconds and bytes at most.
BARS = {"draft": (120.0, 6e9), "balanced": (2400.0, 6e9)}


@dataclass(frozen=True, slots=True)
class Cost:
    """One preset: wall seconds, most resident bytes, bytes of the file, CPUs that it might use."""

    preset: str
    checkpoint_bytes: int
    seconds: float
    peak_bytes: int
    file_bytes: int
    cpus: int

    def kept(self) -> bool:
        """Whether the preset stays within its bar; one without a bar does."""
        seconds, size = BARS.get(self.preset, (float("inf"), float("inf")))
        return self.seconds <= seconds and self.peak_bytes <= size


def measure(checkpoint: Path, preset: str) -> Cost:
    """Run one preset to its end. Raises: CalledProcessError if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "model.ingot"
        command = [sys.executable, "-m", "ingot", "compress", str(checkpoint), "--out", str(out)]
        command += ["--preset", preset, "--allow-failing"]
        begin = time.monotonic()
        process = subprocess.Popen(command)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - begin
        if status != 0:
            raise subprocess.CalledProcessError(status, command)
        size = sum(one.stat().st_size for one in checkpoint.glob("*.safetensors"))
        cpus = len(os.sched_getaffinity(0))
        peak = usage.ru_maxrss * 1024
        return Cost(preset, size, round(seconds, 1), peak, out.stat().st_size, cpus)


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--presets", nargs="+", default=list(BARS))
    arguments = parser.parse_args()
    costs = [measure(arguments.checkpoint, preset) for preset in arguments.presets]
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [one.name for one in fields(Cost)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(cost) for cost in costs)
    for cost in costs:
        verdict = "kept" if cost.kept() else "MISSED"
        print(f"{cost.preset}: {cost.seconds:.0f} s, {cost.peak_bytes / 1e9:.2f} GB: {verdict}")
    return int(not all(cost.kept() for cost in costs))


if __name__ == "__main__":
    sys.exit(main())
