# SPDX-License-Identifier: Apache-2.0
"""What `make check` runs: lint, contracts, sanitizers, fuzzing, the wheel, the examples.

Example:
    python tests/check.py
    python tests/check.py --only lint types
    python tests/check.py --list
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "compressor"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "runtime"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.checks import cross, cuda, native, package, sanitizers, source, suite, updates, vulkan
from tests.checks.command import StepError

# In order of cost: what fails cheaply comes first.
STEPS: dict[str, Callable[[], None]] = {
    "lint": source.lint,
    "types": source.types,
    "c-format": source.c_format,
    "contracts": source.contracts,
    "generated": source.generated,
    "headers": native.headers,
    "android": native.android_syntax,
    "cuda-compiled": cuda.compiled,
    "cuda-emulated": cuda.emulated,
    "wheel": package.wheel,
    "no-compiler": cross.no_compiler,
    "examples": package.examples,
    "shaders": vulkan.shaders,
    "vulkan-matrix": vulkan.matrix,
    "slow": suite.slow_tests,
    "kills": updates.kills,
    "deploy": updates.deployment,
    "bundle": updates.bundle,
    "address": native.address_sanitizer,
    "threads": native.thread_sanitizer,
    "errors": sanitizers.errors,
    "address-python": sanitizers.address_python,
    "threads-python": sanitizers.threads_python,
    "address-arm": sanitizers.emulated,
    "vulkan-board": vulkan.board,
    "runtimes": cross.runtimes,
    "wheels": cross.wheels,
    "backend-wheels": cross.backend_wheels,
    "boards": cross.boards,
    "fuzz": native.fuzz,
    "all-runtimes": cross.all_runtimes,
}
# Long, and covered in part by another step: run by name only.
ON_REQUEST = ("runtimes", "all-runtimes")


def run_step(name: str) -> tuple[bool, float]:
    """Run one step, print its outcome, and return whether it held and its seconds."""
    start = time.monotonic()
    print(f"== {name}", flush=True)
    try:
        STEPS[name]()
        held = True
    except StepError as error:
        print(error)
        held = False
    seconds = time.monotonic() - start
    print(f"== {name}: {'ok' if held else 'FAILED'} ({seconds:.1f} s)", flush=True)
    return held, seconds


def main(argv: list[str] | None = None) -> int:
    """Run the steps asked for; exits with 1 if one failed."""
    parser = argparse.ArgumentParser(description="The checks beside the test suite")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(STEPS),
        default=[name for name in STEPS if name not in ON_REQUEST],
    )
    parser.add_argument("--list", action="store_true", help="print the steps' names")
    arguments = parser.parse_args(argv)
    if arguments.list:
        print("\n".join(STEPS))
        return 0
    outcomes = {name: run_step(name) for name in STEPS if name in arguments.only}
    print("\n== summary")
    for name, (held, seconds) in outcomes.items():
        print(f"{name:<15} {'ok' if held else 'FAILED':<7} {seconds:8.1f} s")
    failed = [name for name, (held, _) in outcomes.items() if not held]
    print(f"{len(outcomes) - len(failed)} of {len(outcomes)} checks hold")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
