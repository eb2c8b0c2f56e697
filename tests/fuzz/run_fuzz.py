# SPDX-License-Identifier: Apache-2.0
"""Runs the fuzz targets on corpora that grow from run to run, merges and records them.

Example:
    python tests/fuzz/run_fuzz.py --seconds 60
    python tests/fuzz/run_fuzz.py --seconds 600 --record
    python tests/fuzz/run_fuzz.py --only session --merge --keep 40
Exit status: 0, 1 on a finding, 2 without clang.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "compressor"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "runtime"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.checks.command import ROOT, StepError, run
from tests.fuzz import coverage
from tests.fuzz.record import Outcome, read_log, write_table
from tests.fuzz.targets import SEEDS, TARGETS, Place, Tools, build, find_tools, prepare

LIMITS = ["-timeout=180", "-rss_limit_mb=2048", "-len_control=0", "-print_final_stats=1"]
LIMITS += ["-report_slow_units=60"]
MOST_SEED_BYTES = 4096


def first_inputs(name: str) -> Iterator[bytes]:
    """Yield the generated inputs of a target; those of `file` are the files that must fail."""
    from tests.fuzz import call_sequences, importer_inputs

    makers: dict[str, Callable[[], Iterator[bytes]]] = {
        **importer_inputs.SEEDS,
        "plan": call_sequences.plan_seeds,
        "session": call_sequences.session_seeds,
    }
    return makers[name]() if name in makers else iter(())


def write_first_inputs(place: Place) -> None:
    folder = place.folder / "bases" / place.target.name
    folder.mkdir(parents=True, exist_ok=True)
    for index, data in enumerate(first_inputs(place.target.name)):
        (folder / f"{index}.bin").write_bytes(data)


def fuzz(place: Place, seconds: int, seed: int) -> int:
    """Run a target for a time; return how many findings it left. A seed of 0 is a random one."""
    findings = place.work / "findings"
    for path in findings.iterdir():
        path.unlink()
    options = [
        f"-max_total_time={seconds}",
        f"-seed={seed}",
        *LIMITS,
        f"-artifact_prefix={findings}/",
    ]
    with (place.work / "log.txt").open("w", encoding="utf-8") as log:
        done = subprocess.run(
            place.command([*options, place.corpus, *place.seeds]),
            check=False,
            cwd=ROOT,
            env={**os.environ, **place.environment()},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    found = len(list(findings.iterdir()))
    return max(found, int(done.returncode != 0))


def measure(place: Place, tools: Tools, details: bool) -> str:
    """Run the corpus once more and return its coverage: branches of the C sources, or edges."""
    profile = place.work / "corpus.profraw"
    command = place.command(["-runs=0", place.corpus, *place.seeds])
    log = run(command, place.environment(profile if place.target.native else None))
    if not place.target.native:
        return read_log(log)[2]
    sources = coverage.native_sources(place.target.sources)
    program = place.folder / "native" / f"fuzz_{place.target.name}"
    data = coverage.export(tools, [program], [profile], sources)
    if details:
        sys.stdout.write("".join(f"  {line}\n" for line in coverage.unreached(data)))
    covered, count = coverage.branch_share(data)
    return f"{covered} of {count} branches ({100.0 * covered / count:.1f} %)"


def merge(place: Place, keep: int) -> None:
    """Keep the fewest inputs that reach what all reach; commit the smallest of them as seeds."""
    smallest = place.work / "merged"
    shutil.rmtree(smallest, ignore_errors=True)
    smallest.mkdir(parents=True)
    run(place.command(["-merge=1", smallest, place.corpus, *place.seeds]), place.environment())
    before = len(list(place.corpus.iterdir()))
    if not any(smallest.iterdir()):
        raise StepError(f"{place.target.name}: the merge left nothing; the corpus is as it was")
    shutil.rmtree(place.corpus)
    smallest.rename(place.corpus)
    inputs = sorted(place.corpus.iterdir(), key=lambda path: (path.stat().st_size, path.name))
    sys.stdout.write(f"{place.target.name}: {before} inputs merged into {len(inputs)}\n")
    for path in [path for path in inputs if path.stat().st_size <= MOST_SEED_BYTES][:keep]:
        seeds = SEEDS / place.target.name
        seeds.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, seeds / f"{path.name[:16]}.bin")


def outcome_of(place: Place, tools: Tools, details: bool, measured: bool = True) -> Outcome:
    """Return the row of the last run, from its log."""
    log = (place.work / "log.txt").read_text(encoding="utf-8", errors="replace")
    seconds, executions, edges = read_log(log)
    kept, found = len(list(place.corpus.iterdir())), len(list((place.work / "findings").iterdir()))
    if place.target.native and measured:
        sys.stdout.write(f"{place.target.name}: {measure(place, tools, details)}\n")
    return Outcome(place.target.name, seconds, executions, edges, kept, found)


def run_target(place: Place, tools: Tools, options: argparse.Namespace) -> Outcome:
    """Fuzz or merge one target and tell what came of it."""
    prepare(place)
    write_first_inputs(place)
    failed = fuzz(place, options.seconds, options.seed) if options.seconds else 0
    if options.merge:
        merge(place, options.keep)
    if failed:
        log = (place.work / "log.txt").read_text(encoding="utf-8", errors="replace")
        sys.stdout.write(f"{log[-6000:]}\n{place.target.name}: see {place.work / 'findings'}\n")
        return Outcome(place.target.name, *read_log(log)[:2], "", 0, failed)
    outcome = outcome_of(place, tools, options.details)
    sys.stdout.write(outcome.row() + "\n")
    sys.stdout.flush()
    return outcome


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--seconds", type=int, default=60, help="time of each target; 0: only measure or merge")
    add("--seed", type=int, default=0, help="of the inputs; 0: another in each run (default)")
    add("--jobs", type=int, default=2, metavar="N", help="targets at a time (default 2)")
    add("--only", nargs="+", choices=list(TARGETS), default=list(TARGETS), metavar="TARGET")
    add("--merge", action="store_true", help="afterwards reduce the corpus to what it reaches")
    add("--keep", type=int, default=0, help="with --merge: commit so many small inputs as seeds")
    add("--record", action="store_true", help="write the rows into tests/fuzz/README.md")
    add("--from-logs", action="store_true", help="record the last runs by their logs; runs nothing")
    add("--details", action="store_true", help="list the sides of branches that never ran")
    add("--build-dir", type=Path, default=ROOT / "build" / "fuzz")
    add("--corpus-dir", type=Path, help="where corpora are kept, by default BUILD_DIR/corpus")
    return parser.parse_args()


def main() -> int:
    options = parse()
    folder = options.build_dir.resolve()
    cache = (options.corpus_dir or folder / "corpus").resolve()
    try:
        tools = find_tools()
    except StepError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if options.from_logs:
        places = [Place(folder, cache, TARGETS[name]) for name in options.only]
        write_table({p.target.name: outcome_of(p, tools, False, measured=False) for p in places})
        return 0
    build(folder, tools, options.only)
    with ThreadPoolExecutor(options.jobs) as pool:
        places = [Place(folder, cache, TARGETS[name]) for name in options.only]
        found = pool.map(lambda place: run_target(place, tools, options), places)
        outcomes = dict(zip(options.only, found, strict=True))
    if options.record:
        write_table(outcomes)
    return 1 if any(outcome.findings for outcome in outcomes.values()) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except StepError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)
