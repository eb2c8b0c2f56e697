# SPDX-License-Identifier: Apache-2.0
"""Ingot's c4 against llama.cpp's 4-bit types: same shapes, random weights, interleaved.

    python tests/benchmarks/against_llama_cpp.py --peer-python PEER/bin/python --configs FOLDER

The peer's Python needs llama-cpp-python (built from source, so that it uses this CPU) and gguf.
All models are made here and kept in build/benchmarks. Each round runs every engine once, and the
streaming ceiling between them, so that a machine whose speed moves moves all of them. Then come the
bars that need no peer (own_bars.py).
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from dataclasses import asdict
from pathlib import Path

import own_bars
from bars import Bar, print_bars
from comparison import Row, judge, judge_start, measure, print_row
from shapes import SHAPES, Shape, make_ours, make_peers

ROOT = Path(__file__).resolve().parents[2]
# Body and head: the default, and two smaller heads.
MIXES = ("c4_q8", "c4_q6", "c4_c4")


def machine() -> str:
    """Return the processor's name and how many of them there are."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    names = [
        line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name")
    ]
    return f"{len(names)} x {names[0]}" if names else platform.machine()


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--peer-python", type=Path, required=True)
    parser.add_argument("--configs", type=Path, default=ROOT.parent / "shared" / "configs")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "benchmarks")
    names = [shape.name for shape in SHAPES]
    parser.add_argument("--shapes", nargs="*", choices=names, default=names)
    parser.add_argument("--threads", nargs="+", type=int, choices=(1, 2), default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5, help="of decoding (default 5)")
    parser.add_argument("--prefill-rounds", type=int, default=3)
    parser.add_argument("--starts", type=int, default=3, help="process starts (default 3)")
    parser.add_argument("--own", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    return parser.parse_args()


def record_of(row: Row) -> dict[str, object]:
    """Return all figures of a row for the JSON file."""
    return {
        "engines": {name: asdict(one) for name, one in row.engines.items()},
        "ceilings": row.ceilings,
        "peaks": row.peaks,
        "operations_per_token": row.operations_per_token,
    }


def run_shape(shape: Shape, arguments: argparse.Namespace, record: dict[str, object]) -> list[Bar]:
    """Make the files of a shape, measure them at each thread count, and judge."""
    files = {mix: make_ours(shape, mix, arguments) for mix in MIXES}
    files |= make_peers(shape, arguments)
    bars: list[Bar] = []
    for threads in arguments.threads:
        print(f"\n{shape.name} ({shape.config}), {threads} threads; least, median, most")
        row = measure(shape, files, threads, arguments)
        print_row(row)
        bars += judge(row)
        record[f"{shape.name}-{threads}"] = record_of(row)
    if shape.name == "M":
        print("\nM, process start")
        started = {name: path for name, path in files.items() if name not in ("c4_q6", "c4_c4")}
        bars += judge_start(started, arguments)
    return bars


def main() -> int:
    """Print tables and bars; exits with 1 if a bar is not reached."""
    arguments = parse_arguments()
    bars: list[Bar] = []
    record: dict[str, object] = {"machine": machine()}
    for shape in SHAPES:
        if shape.name in arguments.shapes:
            bars += run_shape(shape, arguments, record)
    if arguments.own:
        bars += own_bars.run(arguments, record)
    good = print_bars(bars)
    if arguments.json:
        record["bars"] = [asdict(bar) | {"reached": bar.reached} for bar in bars]
        arguments.json.write_text(json.dumps(record, indent=1), encoding="utf-8")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
