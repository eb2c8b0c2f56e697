# SPDX-License-Identifier: Apache-2.0
"""Decode and prefill of our files and the peer's, interleaved round by round."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bars import Bar, spread
from peak import build_peak
from shapes import OURS, PEERS, Shape
from worker import Worker, start_once

__all__ = ["Figures", "Row", "judge", "judge_start", "measure", "print_row"]

DECODE, PREFILL = 128, 512
CEILING_BAR = {"c4_q8": 0.75, "c4_q6": 0.85}
MOST_FRACTION = 1.02
PEAK_BAR = 0.55
START_BAR, MEMORY_BAR = 0.5, 0.7
# Ratios at two threads are judged where this run's ceiling lies within what the bars were set for.
JUDGED_CEILING = (34.0, 52.0)


@dataclass(slots=True)
class Figures:
    """What one engine did in all rounds. Units: tokens per second, bytes."""

    file_bytes: int
    read_bytes: int = 0
    decode: list[float] = field(default_factory=list)
    prefill: list[float] = field(default_factory=list)
    resident_bytes: int = 0


@dataclass(slots=True)
class Row:
    """One shape at one thread count. Units: GB/s, 1e9 operations per second."""

    shape: Shape
    threads: int
    engines: dict[str, Figures]
    ceilings: list[float] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)
    operations_per_token: float = 0.0

    def of_ceiling(self, name: str) -> float:
        """Return the share of the ceiling that decoding reaches, medians of the same run."""
        one = self.engines[name]
        rate = statistics.median(one.decode) * one.read_bytes / 1e9
        return float(rate / statistics.median(self.ceilings))

    def of_peak(self, name: str) -> float:
        """Return the share of the int8 dot peak that prefill reaches, medians of the same run."""
        rate = statistics.median(self.engines[name].prefill) * self.operations_per_token / 1e9
        return float(rate / statistics.median(self.peaks))

    def ratios(self, kind: str, name: str, peers: Sequence[str] = PEERS) -> list[float]:
        """Return ours over the best of the peers, round by round."""
        best = max(peers, key=lambda peer: statistics.median(getattr(self.engines[peer], kind)))
        mine, theirs = getattr(self.engines[name], kind), getattr(self.engines[best], kind)
        return [ours / other for ours, other in zip(mine, theirs, strict=True)]


def _worker(name: str, path: Path, threads: int, arguments: argparse.Namespace) -> Worker:
    if name in OURS:
        return Worker(Path(sys.executable), "ingot_worker.py", path, threads)
    return Worker(arguments.peer_python, "peer_worker.py", path, threads)


def measure(
    shape: Shape, files: Mapping[str, Path], threads: int, arguments: argparse.Namespace
) -> Row:
    """Run the rounds with all engines loaded. The ceiling is read between any two of them."""
    row = Row(shape, threads, {name: Figures(path.stat().st_size) for name, path in files.items()})
    with ExitStack() as stack:
        peak = stack.enter_context(build_peak())
        workers: dict[str, Worker] = {}
        for name, path in files.items():
            workers[name] = stack.enter_context(_worker(name, path, threads, arguments))
            workers[name].ask("decode 8")
            ours = name in OURS
            row.engines[name].read_bytes = (
                workers[name].ask("bytes") if ours else row.engines[name].file_bytes
            )
        ours = workers[next(name for name in files if name in OURS)]
        row.operations_per_token = ours.ask("operations")
        for _ in range(arguments.rounds):
            for name, worker in workers.items():
                row.ceilings.append(ours.ask("ceiling"))
                row.engines[name].decode.append(DECODE / worker.ask(f"decode {DECODE}"))
        for _ in range(arguments.prefill_rounds):
            for name, worker in workers.items():
                row.peaks.append(peak.measure(threads))
                row.engines[name].prefill.append(PREFILL / worker.ask(f"prefill {PREFILL}"))
        for name, worker in workers.items():
            row.engines[name].resident_bytes = worker.ask("resident")
    return row


def _void(row: Row) -> list[str]:
    """Return why a row is void: a peer driven badly, or ours above what the memory gives."""
    reasons = []
    for name in row.engines:
        share = row.of_ceiling(name)
        if name in OURS and share > MOST_FRACTION and row.shape.name != "S":
            reasons.append(f"{name} at {share:.3f} of the ceiling, above {MOST_FRACTION}")
    for name, known in row.shape.peer_fractions.items():
        found, least = row.of_ceiling(name), 0.9 * known[row.threads - 1]
        if found < least:
            reasons.append(f"{name} at {found:.2f} of the ceiling, a good run has {least:.2f}")
    return reasons


def judge(row: Row) -> list[Bar]:
    """Return the bars of one row; ratios of a void one are printed and not judged."""
    void = _void(row)
    for reason in void:
        print(f"   void: {reason}")
    label, place = f"{row.shape.name} {row.threads}t", row.threads - 1
    middle = statistics.median(row.ceilings)
    in_range = row.threads == 1 or JUDGED_CEILING[0] <= middle <= JUDGED_CEILING[1]
    judged = not void and in_range
    bars = []
    for name, least in row.shape.decode.items():
        if row.shape.name != "S":
            share, bar = row.of_ceiling(name), CEILING_BAR[name]
            bars.append(Bar(f"{label} decode {name} / ceiling", share, bar, judged=not void))
        ratio = statistics.median(row.ratios("decode", name))
        bars.append(Bar(f"{label} decode {name} / better peer", ratio, least[place], judged=judged))
    name = "c4_q6"
    ratio = statistics.median(row.ratios("prefill", name, ("q4_0",)))
    bars.append(Bar(f"{label} prefill / q4_0", ratio, row.shape.prefill[place]))
    if row.threads == 2 and row.shape.name != "S":
        bars.append(Bar(f"{label} prefill / int8 dot peak", row.of_peak(name), PEAK_BAR))
    return bars


def print_row(row: Row) -> None:
    """Print the table of one row: least, median, most."""
    print(f"   ceiling GB/s             {spread(row.ceilings)}")
    print(f"   int8 dot peak GOPS       {spread(row.peaks)}")
    for name, one in row.engines.items():
        print(
            f"   {name:<7} decode tok/s  {spread(one.decode)}   prefill {spread(one.prefill)}   "
            f"{row.of_ceiling(name) * 100:5.1f} % of ceiling   "
            f"file {one.file_bytes / 1e6:6.1f} MB   resident {one.resident_bytes / 1e6:6.1f} MB"
        )
    for name in (name for name in row.engines if name in OURS):
        print(
            f"   {name:<7} / better peer: decode {spread(row.ratios('decode', name))}   "
            f"prefill {spread(row.ratios('prefill', name))}   "
            f"{row.of_peak(name) * 100:5.1f} % of the dot peak"
        )


def judge_start(files: Mapping[str, Path], arguments: argparse.Namespace) -> list[Bar]:
    """Compare process start to 32 tokens at two threads, warm cache, without tokenizers."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in files}
    for _ in range(arguments.starts + 1):
        for name, path in files.items():
            python = Path(sys.executable) if name in OURS else arguments.peer_python
            script = "start_worker.py" if name in OURS else "peer_worker.py"
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
        ratio = medians["c4_q8"][key] / medians[best][key]
        bars.append(Bar(f"M {what} / {best}", ratio, most, at_most=True))
    with Worker(Path(sys.executable), "ingot_worker.py", files["c4_q8"], 1) as worker:
        print(f"   tokenizer alone (ours, not in the times above): {worker.ask('tokenizer'):.3f} s")
    return bars
