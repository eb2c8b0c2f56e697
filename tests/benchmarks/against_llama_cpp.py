# SPDX-License-Identifier: Apache-2.0
"""Ingot's c4 against llama.cpp's 4-bit types: same shapes, random weights, interleaved.

    python tests/benchmarks/against_llama_cpp.py --peer-python PEER/bin/python --configs FOLDER

The peer's Python needs llama-cpp-python (built from source, so that it uses this CPU) and gguf.
All models are made here and kept in build/benchmarks. Each round runs every engine once, and the
streaming ceiling between them, so that a machine whose speed moves moves all of them.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

from random_checkpoint import make_random_checkpoint
from worker import Worker, start_once

ROOT = Path(__file__).resolve().parents[2]
DECODE, PREFILL = 128, 512
PEERS = ("q4_0", "q4_k_m")
MOST_FRACTION = 1.02
CEILING_BAR, PREFILL_BAR, START_BAR, MEMORY_BAR = 0.75, 1.2, 0.5, 0.7


@dataclass(frozen=True, slots=True)
class Shape:
    """A model shape, the decode ratios to reach, and the peer's known fractions of the ceiling."""

    name: str
    config: str
    bars: tuple[float, float]
    peer_fractions: dict[str, tuple[float, float]]


# The fractions are those of the peers' table, at one and two threads, in its 38 and 46 GB/s.
SHAPES = (
    Shape("S", "SmolLM2-135M.json", (1.3, 1.4), {"q4_0": (0.45, 0.41)}),
    Shape("M", "Qwen2-0.5B.json", (1.3, 1.2), {"q4_0": (0.57, 0.61)}),
    Shape(
        "L",
        "Llama-3.2-1B-Instruct.json",
        (1.1, 0.95),
        {"q4_0": (0.57, 0.69), "q4_k_m": (0.64, 0.77)},
    ),
)


@dataclass(slots=True)
class Figures:
    """What one engine did in all rounds. Units: tokens per second, GB/s, bytes."""

    file_bytes: int
    read_bytes: int = 0
    decode: list[float] = field(default_factory=list)
    prefill: list[float] = field(default_factory=list)
    resident_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of the comparison and whether it is reached."""

    what: str
    value: float
    least: float
    reached: bool


def spread(values: Sequence[float]) -> str:
    """Return least, median and most as text."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{low:8.2f} {middle:8.2f} {high:8.2f}"


def make_models(shape: Shape, arguments: argparse.Namespace) -> dict[str, Path]:
    """Make both engines' files where they are not there yet; return them by engine."""
    folder = arguments.folder / shape.name
    folder.mkdir(parents=True, exist_ok=True)
    config = arguments.configs / shape.config
    peer = [str(arguments.peer_python), str(Path(__file__).with_name("peer_gguf.py"))]
    subprocess.run([*peer, str(config), str(folder)], check=True)
    out = folder / "ours.ingot"
    if not out.exists():
        checkpoint = make_random_checkpoint(config, folder / "checkpoint")
        command = [sys.executable, "-m", "ingot", "compress", str(checkpoint), "--out", str(out)]
        options = ["--preset", "draft", "--format", "c4", "--head-format", "q8"]
        subprocess.run([*command, *options], check=True)
    return {"ingot": out, **{name: folder / f"{name}.gguf" for name in PEERS}}


def measure(
    files: dict[str, Path], threads: int, arguments: argparse.Namespace
) -> tuple[dict[str, Figures], list[float]]:
    """Run the rounds with all engines loaded; return figures by engine, and the ceilings."""
    figures = {name: Figures(path.stat().st_size) for name, path in files.items()}
    ceilings: list[float] = []
    with ExitStack() as stack:
        workers = {}
        for name, path in files.items():
            python = Path(sys.executable) if name == "ingot" else arguments.peer_python
            script = "ingot_worker.py" if name == "ingot" else "peer_worker.py"
            workers[name] = stack.enter_context(Worker(python, script, path, threads))
            workers[name].ask("decode 8")
        for name, one in figures.items():
            one.read_bytes = workers[name].ask("bytes") if name == "ingot" else one.file_bytes
        for _ in range(arguments.rounds):
            for name, worker in workers.items():
                ceilings.append(workers["ingot"].ask("ceiling"))
                figures[name].decode.append(DECODE / worker.ask(f"decode {DECODE}"))
        for _ in range(arguments.prefill_rounds):
            for name, worker in workers.items():
                figures[name].prefill.append(PREFILL / worker.ask(f"prefill {PREFILL}"))
        for name, worker in workers.items():
            figures[name].resident_bytes = worker.ask("resident")
    return figures, ceilings


def fraction(one: Figures, ceilings: Sequence[float]) -> float:
    """Return the share of the ceiling that decoding reaches, medians of the same run."""
    return statistics.median(one.decode) * one.read_bytes / 1e9 / statistics.median(ceilings)


def void_rows(
    shape: Shape, threads: int, figures: dict[str, Figures], ceilings: Sequence[float]
) -> list[str]:
    """Return why a row is void: a peer driven badly, or ours above what the memory gives."""
    reasons = []
    share = fraction(figures["ingot"], ceilings)
    if share > MOST_FRACTION:
        reasons.append(f"ours at {share:.3f} of the ceiling, above {MOST_FRACTION}")
    for name, known in shape.peer_fractions.items():
        found, least = fraction(figures[name], ceilings), 0.9 * known[threads - 1]
        if found < least:
            reasons.append(f"{name} at {found:.2f} of the ceiling, a good run has {least:.2f}")
    return reasons


def judge(
    shape: Shape, threads: int, figures: dict[str, Figures], ceilings: Sequence[float]
) -> list[Bar]:
    """Return the bars of one shape at one thread count; none is reached on a void row."""
    void = void_rows(shape, threads, figures, ceilings)
    for reason in void:
        print(f"   void: {reason}")
    ours, label = figures["ingot"], f"{shape.name} {threads}t"
    bars = []
    if shape.name != "S":
        share = fraction(ours, ceilings)
        reached = CEILING_BAR <= share <= MOST_FRACTION
        bars.append(Bar(f"{label} decode / ceiling", share, CEILING_BAR, reached))
    for kind, least in (("decode", shape.bars[threads - 1]), ("prefill", PREFILL_BAR)):
        best = max(PEERS, key=lambda name: statistics.median(getattr(figures[name], kind)))
        pairs = zip(getattr(ours, kind), getattr(figures[best], kind), strict=True)
        ratios = [mine / other for mine, other in pairs]
        print(f"   {kind:<8} ours / {best:<7} {spread(ratios)}")
        middle = statistics.median(ratios)
        reached = middle >= least and not void
        bars.append(Bar(f"{label} {kind} / {best}", middle, least, reached))
    return bars


def print_figures(figures: dict[str, Figures], ceilings: Sequence[float]) -> None:
    """Print the table of one shape at one thread count: least, median, most."""
    print(f"   ceiling GB/s            {spread(ceilings)}")
    for name, one in figures.items():
        print(
            f"   {name:<8} decode tok/s {spread(one.decode)}   prefill {spread(one.prefill)}   "
            f"{fraction(one, ceilings) * 100:5.1f} % of ceiling   "
            f"file {one.file_bytes / 1e6:7.1f} MB   resident {one.resident_bytes / 1e6:7.1f} MB"
        )


def measure_start(files: dict[str, Path], arguments: argparse.Namespace) -> list[Bar]:
    """Compare process start to 32 tokens at two threads, warm cache, without tokenizers."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in files}
    for _ in range(arguments.starts + 1):
        for name, path in files.items():
            python = Path(sys.executable) if name == "ingot" else arguments.peer_python
            script = "ingot_worker.py" if name == "ingot" else "peer_worker.py"
            runs[name].append(start_once(python, script, path, max(arguments.threads)))
    medians = {}
    for name, answers in runs.items():
        kept = answers[1:]  # the first brings the file into the page cache
        medians[name] = {key: statistics.median(a[key] for a in kept) for key in kept[0]}
        print(
            f"   {name:<8} first token {medians[name]['first_s']:.3f} s   32 tokens "
            f"{spread([a['seconds'] for a in kept])} s   "
            f"resident {medians[name]['resident_bytes'] / 1e6:.0f} MB"
        )
    # One peer for both figures: the type that is faster here, not the best of each.
    best = min(PEERS, key=lambda name: medians[name]["seconds"])
    bars = []
    for what, key, most in (
        ("start to 32 tokens", "seconds", START_BAR),
        ("resident", "resident_bytes", MEMORY_BAR),
    ):
        ratio = medians["ingot"][key] / medians[best][key]
        bars.append(Bar(f"M {what} / {best} (at most)", ratio, most, ratio <= most))
    with Worker(Path(sys.executable), "ingot_worker.py", files["ingot"], 1) as worker:
        print(f"   tokenizer alone (ours, not in the times above): {worker.ask('tokenizer'):.3f} s")
    return bars


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
    parser.add_argument("--shapes", nargs="+", choices=names, default=names)
    parser.add_argument("--threads", nargs="+", type=int, choices=(1, 2), default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5, help="of decoding (default 5)")
    parser.add_argument("--prefill-rounds", type=int, default=3)
    parser.add_argument("--starts", type=int, default=3, help="process starts (default 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    return parser.parse_args()


def main() -> int:
    """Print tables and bars; exits with 1 if a bar is not reached."""
    arguments = parse_arguments()
    bars: list[Bar] = []
    record: dict[str, object] = {"machine": machine()}
    for shape in SHAPES:
        if shape.name not in arguments.shapes:
            continue
        files = make_models(shape, arguments)
        for threads in arguments.threads:
            print(f"\n{shape.name} ({shape.config}), {threads} threads; least, median, most")
            figures, ceilings = measure(files, threads, arguments)
            print_figures(figures, ceilings)
            bars += judge(shape, threads, figures, ceilings)
            engines = {name: asdict(one) for name, one in figures.items()}
            record[f"{shape.name}-{threads}"] = {"engines": engines, "ceilings": ceilings}
        if shape.name == "M":
            print("\nM, process start")
            bars += measure_start(files, arguments)
    print("\nbars")
    for bar in bars:
        state = "reached" if bar.reached else "MISSED"
        print(f"   {bar.what:<36} {bar.value:6.3f}  bar {bar.least:5.2f}  {state}")
    if arguments.json:
        record["bars"] = [asdict(bar) for bar in bars]
        arguments.json.write_text(json.dumps(record, indent=1), encoding="utf-8")
    return 0 if all(bar.reached for bar in bars) else 1


if __name__ == "__main__":
    sys.exit(main())
