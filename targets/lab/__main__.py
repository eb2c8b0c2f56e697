# SPDX-License-Identifier: Apache-2.0
"""Command line of the emulated board; run it in the root of the repository.

Example:
    python -m targets.lab prepare
    python -m targets.lab harness --cpu cortex-a53
    python -m targets.lab python --cpu cortex-a76 -- -m ingot run file.ingot --prompt Once
"""

from __future__ import annotations

import argparse
import sys
import time

from targets.lab.board import CPU_LEVELS, Board
from targets.lab.cross import COMPILERS
from targets.lab.process import LabError


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(prog="python -m targets.lab", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("prepare", help="build root file system, wheels and both libraries")
    for name, text in (
        ("harness", "run the kernel harness"),
        ("python", "run the board's Python with the runtime of this tree"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--cpu", choices=list(CPU_LEVELS), default="cortex-a76")
        command.add_argument("--compiler", choices=COMPILERS, default="gcc")
        command.add_argument("arguments", nargs="*", help="passed on; put -- before them")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    arguments = parse_arguments(argv)
    board = Board()
    start = time.monotonic()
    try:
        if arguments.command == "prepare":
            for compiler in COMPILERS:
                print(f"{board.native(compiler)}  {time.monotonic() - start:.1f} s")
            print(board.python("cortex-a76", ["-c", "import numpy; print(numpy.__version__)"]))
        elif arguments.command == "harness":
            harness = board.native(arguments.compiler) / "kernel_harness"
            print(board.run(arguments.cpu, [harness, *arguments.arguments]))
        else:
            print(board.python(arguments.cpu, arguments.arguments, arguments.compiler))
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
