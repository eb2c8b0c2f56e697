# SPDX-License-Identifier: Apache-2.0
"""Decoding beside a competing busy process: speed against the undisturbed, p50 and p99 per token.

    python tests/benchmarks/contention.py --build BUILD smol.ingot [more.ingot]

BUILD is a folder of `cmake -DINGOT_BUILD_TESTS=ON`. Stretches with and without the competitor
alternate, so that a machine whose speed moves moves both; the speed is tokens over time, and the
ratio that of neighbouring stretches. `--plant spin` waits by spinning alone and must fail the bar.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

BAR = 0.45  # of the undisturbed speed, two threads, one competitor
BUSY = "while True: pass"
SETTLE_SECONDS = 0.2  # until the scheduler has placed the competitor
LEAST_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Outcome:
    """One file and thread count. Units: tokens per second, milliseconds per token."""

    file: str
    threads: int
    ratio: float
    ratios: tuple[float, ...]
    undisturbed: float
    disturbed: float
    undisturbed_p50_ms: float
    undisturbed_p99_ms: float
    disturbed_p50_ms: float
    disturbed_p99_ms: float


class Driver:
    """A process that decodes on demand."""

    def __init__(self, command: Sequence[str]) -> None:
        """Start it."""
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def decode(self, tokens: int) -> list[float]:
        """Return the milliseconds of each token. Raises: RuntimeError with what it said."""
        stdin, stdout = self.process.stdin, self.process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("the driver has no pipes")
        stdin.write(f"{tokens}\n")
        stdin.flush()
        line = stdout.readline()
        words = line.split()
        if len(words) != tokens:
            raise RuntimeError(f"contention_driver said {line!r}")
        return [float(word) / 1000 for word in words]

    def close(self) -> None:
        """End it."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()


@contextmanager
def competitors(count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start busy processes, stopped until they are continued."""
    started = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        time.sleep(SETTLE_SECONDS)
        halt(started)
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


def halt(processes: list[subprocess.Popen[bytes]]) -> None:
    """Stop the competitors."""
    for process in processes:
        os.kill(process.pid, signal.SIGSTOP)


def resume(processes: list[subprocess.Popen[bytes]]) -> None:
    """Let the competitors run."""
    for process in processes:
        os.kill(process.pid, signal.SIGCONT)
    time.sleep(SETTLE_SECONDS)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of all are at most."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def measure(
    driver: Driver, rivals: list[subprocess.Popen[bytes]], rounds: int, seconds: float
) -> tuple[list[list[float]], list[list[float]]]:
    """Return the token times of all stretches: undisturbed, disturbed."""
    driver.decode(LEAST_TOKENS)
    warm = driver.decode(LEAST_TOKENS)
    tokens = max(LEAST_TOKENS, round(seconds * 1000 / statistics.median(warm)))
    quiet, busy = [], []
    for _ in range(rounds):
        quiet.append(driver.decode(tokens))
        resume(rivals)
        busy.append(driver.decode(tokens))
        halt(rivals)
    return quiet, busy


def outcome(file: Path, threads: int, quiet: list[list[float]], busy: list[list[float]]) -> Outcome:
    """Return the figures of one run: ratios of neighbours, medians of rates."""
    ratios = tuple(
        statistics.fmean(calm) / statistics.fmean(loaded)
        for calm, loaded in zip(quiet, busy, strict=True)
    )
    calm = [value for stretch in quiet for value in stretch]
    loaded = [value for stretch in busy for value in stretch]
    return Outcome(
        file.parent.name + "/" + file.name,
        threads,
        statistics.median(ratios),
        ratios,
        1000 / statistics.fmean(calm),
        1000 / statistics.fmean(loaded),
        percentile(calm, 0.5),
        percentile(calm, 0.99),
        percentile(loaded, 0.5),
        percentile(loaded, 0.99),
    )


def line(result: Outcome) -> str:
    """Return one outcome for people."""
    return (
        f"{result.file} {result.threads} threads: {result.ratio:.2f} of the undisturbed speed "
        f"({min(result.ratios):.2f} to {max(result.ratios):.2f}); per token p50 "
        f"{result.undisturbed_p50_ms:.2f} -> {result.disturbed_p50_ms:.2f} ms, p99 "
        f"{result.undisturbed_p99_ms:.2f} -> {result.disturbed_p99_ms:.2f} ms"
    )


def run(arguments: argparse.Namespace) -> list[Outcome]:
    """Measure every file."""
    results = []
    driver_path = arguments.build / "contention_driver"
    plant = ["--plant", arguments.plant] if arguments.plant else []
    with competitors(arguments.competitors) as rivals:
        for file in arguments.files:
            driver = Driver([str(driver_path), str(file), str(arguments.threads), *plant])
            stretches = measure(driver, rivals, arguments.rounds, arguments.seconds)
            driver.close()
            results.append(outcome(file, arguments.threads, *stretches))
            if not arguments.json:
                print(line(results[-1]), flush=True)
    return results


def main(argv: list[str] | None = None) -> int:
    """Run; exit status 1 if a ratio is below the bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="ingot files")
    parser.add_argument("--build", type=Path, required=True, help="folder with contention_driver")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--competitors", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one undisturbed stretch")
    parser.add_argument("--plant", choices=["spin"], help="show a bad policy")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    results = run(arguments)
    if arguments.json:
        report: dict[str, Any] = {"bar": BAR, "results": [asdict(result) for result in results]}
        print(json.dumps(report))
    return int(any(result.ratio < BAR for result in results))


if __name__ == "__main__":
    sys.exit(main())
