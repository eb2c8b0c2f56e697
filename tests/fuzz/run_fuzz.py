# SPDX-License-Identifier: Apache-2.0
"""Builds fuzz_file with clang, runs it from the must-fail corpus and reports branch coverage.

Example:
    python tests/fuzz/run_fuzz.py --seconds 300
Exit status: 0, 1 on a crash, 2 without clang.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
NATIVE = ROOT / "native"
CORE = ("error", "layout", "crc32c", "sha256", "file", "sort", "bit_tree")
FLAGS = [
    "-std=gnu11",
    "-g",
    "-O1",
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
    "-fno-omit-frame-pointer",
]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
COVERAGE = ["-fprofile-instr-generate", "-fcoverage-mapping"]
WRAP = ["-DINGOT_FUZZ_WRAP", "-Wl,--wrap=malloc", "-Wl,--wrap=calloc"]


@dataclass(frozen=True)
class Tools:
    """The compiler and the two programs that read its profiles, all of one version."""

    clang: str
    profdata: str
    cov: str


def find_tools() -> Tools | None:
    for suffix in ("-19", "-20", "-18", "-17", "-16", ""):
        found = [shutil.which(f"{name}{suffix}") for name in ("clang", "llvm-profdata", "llvm-cov")]
        if all(found):
            return Tools(*(str(path) for path in found))
    return None


def sources() -> list[Path]:
    core = [NATIVE / "core" / f"{name}.c" for name in CORE]
    platform = [NATIVE / "platform" / f"{name}.c" for name in ("guard", "linux")]
    return [*core, *sorted(NATIVE.glob("core/validate*.c")), *platform]


def build(tools: Tools, folder: Path) -> tuple[Path, Path]:
    """Return the fuzzer, and the driver that reads files through the platform layer."""
    includes = [f"-I{NATIVE}", f"-I{NATIVE / 'include'}"]
    common = [tools.clang, *FLAGS, *SANITIZE, *COVERAGE, *includes, *map(str, sources())]
    fuzzer, driver = folder / "fuzz_file", folder / "validate_driver"
    fuzz_source = str(ROOT / "tests" / "fuzz" / "fuzz_file.c")
    driver_source = str(ROOT / "tests" / "native" / "validate_driver.c")
    libraries = ["-lpthread", "-lm"]
    run([*common, "-fsanitize=fuzzer", *WRAP, fuzz_source, "-o", str(fuzzer), *libraries])
    run([*common, driver_source, "-o", str(driver), *libraries])
    return fuzzer, driver


def run(command: Sequence[str], profile: Path | None = None, text: str | None = None) -> None:
    environment = dict(os.environ)
    environment["LLVM_PROFILE_FILE"] = str(profile) if profile else os.devnull
    output = None if text is None else subprocess.DEVNULL
    subprocess.run(command, check=True, env=environment, input=text, text=True, stdout=output)


def write_seeds(folder: Path) -> None:
    sys.path[:0] = [str(ROOT), str(ROOT / "runtime")]
    from tests.must_fail.make_corpus import write_corpus

    write_corpus(folder)
    (folder / "corpus.tsv").unlink()


def fuzz(fuzzer: Path, folder: Path, seconds: int) -> bool:
    """Run the fuzzer; return whether it found nothing."""
    corpus, seeds, crashes = folder / "corpus", folder / "seeds", folder / "crashes"
    for place in (corpus, crashes):
        place.mkdir(exist_ok=True)
    command = [str(fuzzer), f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=2048"]
    command += ["-max_len=131072", "-print_final_stats=1", "-verbosity=0"]
    command += [f"-artifact_prefix={crashes}/", str(corpus), str(seeds)]
    environment = dict(os.environ, LLVM_PROFILE_FILE=str(folder / "ignored.profraw"))
    return subprocess.run(command, check=False, env=environment).returncode == 0


def measure(tools: Tools, fuzzer: Path, driver: Path, folder: Path) -> dict[str, Any]:
    """Run corpus and seeds once more and return llvm-cov's export."""
    first, second = folder / "fuzz.profraw", folder / "driver.profraw"
    places = [str(folder / "corpus"), str(folder / "seeds")]
    run([str(fuzzer), "-runs=0", "-verbosity=0", "-max_len=131072", *places], first)
    names = sorted(str(path) for path in (folder / "seeds").iterdir())
    run([str(driver)], second, "\n".join([*names, str(folder / "no_such_file"), str(folder)]))
    merged = folder / "merged.profdata"
    run([tools.profdata, "merge", "-sparse", str(first), str(second), "-o", str(merged)])
    checked = [str(path) for path in sources() if path.stem.startswith(("validate", "file"))]
    command = [tools.cov, "export", str(fuzzer), f"-object={driver}", f"-instr-profile={merged}"]
    done = subprocess.run([*command, *checked], check=True, capture_output=True, text=True)
    data: dict[str, Any] = json.loads(done.stdout)["data"][0]
    return data


def unreached(files: Sequence[dict[str, Any]]) -> list[str]:
    """Return 'file:line:column: never true|false' for each side of a branch that never ran."""
    counts: dict[tuple[str, int, int], list[int]] = {}
    for file in files:
        for branch in file["branches"]:
            key = (Path(file["filename"]).name, branch[0], branch[1])
            sides = counts.setdefault(key, [0, 0])
            sides[0] += branch[4]
            sides[1] += branch[5]
    lines = []
    for (name, line, column), sides in sorted(counts.items()):
        missing = [word for word, count in zip(("true", "false"), sides, strict=True) if not count]
        lines += [f"{name}:{line}:{column}: never {word}" for word in missing]
    return lines


def report(data: dict[str, Any]) -> None:
    total = data["totals"]["branches"]
    share = 100.0 * total["covered"] / total["count"]
    sys.stdout.write(f"\nbranches of the checks: {total['covered']} of {total['count']}")
    sys.stdout.write(f" ({share:.2f} %)\n")
    for file in data["files"]:
        summary = file["summary"]["branches"]
        name = Path(file["filename"]).name
        sys.stdout.write(f"  {name:24} {summary['covered']:4} of {summary['count']:4}\n")
    for line in unreached(data["files"]):
        sys.stdout.write(f"  {line}\n")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=300, help="time for the fuzzer")
    parser.add_argument("--build-dir", type=Path, default=ROOT / "build" / "fuzz")
    options = parser.parse_args()
    tools = find_tools()
    if tools is None:
        sys.stderr.write(
            "fuzzing needs clang with llvm-profdata and llvm-cov, version 16 or later\n"
        )
        return 2
    folder = options.build_dir.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    fuzzer, driver = build(tools, folder)
    write_seeds(folder / "seeds")
    if not fuzz(fuzzer, folder, options.seconds):
        sys.stderr.write(f"the fuzzer found a fault: see {folder / 'crashes'}\n")
        return 1
    report(measure(tools, fuzzer, driver, folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
