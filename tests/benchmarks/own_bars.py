# SPDX-License-Identifier: Apache-2.0
"""Bars that need no peer: fewer bits, long contexts, opening, memory, a busy neighbour, lookup.

python tests/benchmarks/own_bars.py [--only low_bits context open resident contention replay]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bars import Bar, print_bars, spread
from shapes import SHAPES, make_ours
from worker import Worker

__all__ = ["run"]

ROOT = Path(__file__).resolve().parents[2]
L_SHAPE, M_SHAPE = SHAPES[2], SHAPES[1]
LOW_BITS = ("c3_q6", "c2_q6", "t2_q6")
ROUNDS = 6
PROPORTION, CONTEXT_BAR, OPEN_BAR, RESIDENT_BAR = 0.9, 0.85, 0.020, 30.0
LOOKUP_BAR, PROSE_BAR, CONTENTION_BAR = 1.5, 0.97, 0.45

Record = dict[str, Any]


def _ours(path: Path, threads: int) -> Worker:
    return Worker(Path(sys.executable), "ingot_worker.py", path, threads)


def low_bits(arguments: argparse.Namespace, record: Record) -> list[Bar]:
    """Decode of c3, c2 and t2 bodies on L: faster than c4 as their bytes are fewer."""
    bars = []
    for threads in (1, 2):
        rates: dict[str, list[float]] = {name: [] for name in ("c4_q6", *LOW_BITS)}
        sizes: dict[str, int] = {}
        with ExitStack() as stack:
            workers = {
                name: stack.enter_context(_ours(make_ours(L_SHAPE, name, arguments), threads))
                for name in rates
            }
            for name, worker in workers.items():
                sizes[name] = worker.ask("bytes")
                worker.ask("decode 8")
            for _ in range(ROUNDS):
                for name, worker in workers.items():
                    rates[name].append(64 / worker.ask("decode 64"))
        record[f"low_bits-{threads}"] = {"rates": rates, "bytes": sizes}
        for name in LOW_BITS:
            gain = [a / b for a, b in zip(rates[name], rates["c4_q6"], strict=True)]
            fewer = sizes["c4_q6"] / sizes[name]
            print(f"   {name} {threads}t: gain {spread(gain)}, bytes {fewer:.3f} times fewer")
            share = statistics.median(gain) / fewer
            bars.append(Bar(f"L {threads}t {name} gain / bytes saved", share, PROPORTION))
    return bars


def context(arguments: argparse.Namespace, record: Record) -> list[Bar]:
    """Decode behind 4,096 tokens against decode behind 128, keys and values as kv8, on L."""
    bars = []
    with _ours(make_ours(L_SHAPE, "c4_q6", arguments), max(arguments.threads)) as worker:
        for kv in ("kv8", "f16"):
            answer = worker.ask(f"context {kv}")
            record[f"context-{kv}"] = answer
            ratios = [a / b for a, b in zip(answer["long"], answer["short"], strict=True)]
            print(
                f"   {kv}: decode behind {answer['positions']} tokens / behind 128 {spread(ratios)}"
            )
            if kv == "kv8":
                share = statistics.median(ratios)
                bars.append(Bar("L decode at 4,096 / at 128 (kv8)", share, CONTEXT_BAR))
    return bars


def open_file(arguments: argparse.Namespace, record: Record) -> list[Bar]:
    """Opening a 1B file natively, its pages in the cache, and what of the weights it touches."""
    with _ours(make_ours(L_SHAPE, "c4_q6", arguments), 1) as worker:
        answer = worker.ask("open")
    record["open"] = answer
    print(f"   open, seconds {spread(answer['seconds'])}; weight pages: {answer['weight_pages']}")
    seconds = statistics.median(answer["seconds"])
    return [
        Bar("L open, seconds", seconds, OPEN_BAR, at_most=True),
        Bar("L open, pages of weights touched", answer["weight_pages"], 0, at_most=True),
    ]


def resident(arguments: argparse.Namespace, record: Record) -> list[Bar]:
    """Resident memory beyond the mapped weights and the plan's figures, in MB."""
    bars = []
    for shape in (M_SHAPE, L_SHAPE):
        with _ours(make_ours(shape, "c4_q6", arguments), max(arguments.threads)) as worker:
            worker.ask("decode 32")
            found, planned = worker.ask("resident"), worker.ask("planned")
        record[f"resident-{shape.name}"] = {"resident": found, "planned": planned}
        over = (found - planned) / 1e6
        bars.append(Bar(f"{shape.name} resident beyond plan, MB", over, RESIDENT_BAR, at_most=True))
    return bars


def replay(arguments: argparse.Namespace, record: Record) -> list[Bar]:
    """Decode of recorded texts with lookup against plain decode, on M."""
    bars = []
    file = make_ours(M_SHAPE, "c4_q6", arguments)
    for name, least in (("copy_edit", LOOKUP_BAR), ("free_prose", PROSE_BAR)):
        path = Path(__file__).parent / "transcripts" / f"{name}.json"
        command = [sys.executable, "-m", "ingot", "bench", str(file), "--replay", str(path)]
        options = ["--threads", str(max(arguments.threads)), "--repeat", "7", "--json"]
        done = subprocess.run([*command, *options], check=True, capture_output=True, text=True)
        answer = json.loads(done.stdout)
        record[f"replay-{name}"] = answer
        low, high = answer["ratio_range"]
        print(f"   {name}: {answer['ratio']:.2f} times ({low:.2f} to {high:.2f})")
        bars.append(Bar(f"M lookup, {name}", answer["ratio"], least))
    return bars


def contention(arguments: argparse.Namespace, record: Record) -> list[Bar]:
    """Decode at two threads beside one busy process, against the undisturbed."""
    build = Path(arguments.folder) / "driver"
    source = [
        "-S",
        str(ROOT / "native"),
        "-B",
        str(build),
        "-DINGOT_BUILD_TESTS=ON",
        "-DCMAKE_BUILD_TYPE=Release",
    ]
    for step in (["cmake", *source], ["cmake", "--build", str(build)]):
        subprocess.run(step, check=True, capture_output=True)
    files = [str(make_ours(shape, "c4_q6", arguments)) for shape in (M_SHAPE, L_SHAPE)]
    script = str(Path(__file__).with_name("contention.py"))
    command = [sys.executable, script, "--build", str(build), *files, "--rounds", "7", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    outcomes = json.loads(done.stdout)["results"]
    record["contention"] = outcomes
    bars = []
    for shape, one in zip((M_SHAPE, L_SHAPE), outcomes, strict=True):
        print(f"   {shape.name}: {spread(one['ratios'])}, p99 {one['disturbed_p99_ms']:.0f} ms")
        bars.append(Bar(f"{shape.name} beside a busy process", one["ratio"], CONTENTION_BAR))
    return bars


PARTS: dict[str, Callable[[argparse.Namespace, Record], list[Bar]]] = {
    "low_bits": low_bits,
    "context": context,
    "open": open_file,
    "resident": resident,
    "replay": replay,
    "contention": contention,
}


def run(arguments: argparse.Namespace, record: Record) -> list[Bar]:
    """Measure all parts, or those that arguments.only names; figures go into the record."""
    bars: list[Bar] = []
    for name in getattr(arguments, "only", None) or PARTS:
        print(f"\n{name}")
        bars += PARTS[name](arguments, record)
    return bars


def main() -> int:
    """Run from the command line; exits with 1 if a bar is not reached."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(PARTS))
    parser.add_argument("--configs", type=Path, default=ROOT.parent / "shared" / "configs")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "benchmarks")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    record: Record = {}
    bars = run(arguments, record)
    good = print_bars(bars)
    if arguments.json:
        record["bars"] = [asdict(bar) | {"reached": bar.reached} for bar in bars]
        arguments.json.write_text(json.dumps(record, indent=1), encoding="utf-8")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
