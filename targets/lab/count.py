# SPDX-License-Identifier: Apache-2.0
"""Instructions per token of the ARM build, counted by a plugin of qemu-user 7.2.

Example:
    python -m targets.lab.count lantern.ingot --cpu cortex-a76
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from targets.lab.board import CPU_LEVELS, Board
from targets.lab.cross import REPOSITORY
from targets.lab.process import LabError, run

__all__ = ["Count", "count_decode", "count_prefill"]

LAB = REPOSITORY / "targets" / "lab"


@dataclass(frozen=True, slots=True)
class Count:
    """Executed instructions."""

    total: int
    sdot: int
    smmla: int

    def per_token(self, less: Count, tokens: int) -> Count:
        """Return the difference to a shorter run, divided by the tokens between them."""
        return Count(
            (self.total - less.total) // tokens,
            (self.sdot - less.sdot) // tokens,
            (self.smmla - less.smmla) // tokens,
        )


def build_plugin(folder: Path) -> Path:
    """Compile the plugin for this machine's qemu."""
    compiler = shutil.which("cc") or "gcc"
    plugin = folder / "count_plugin.so"
    source = str(LAB / "count_plugin.c")
    run([compiler, "-O2", "-Wall", "-shared", "-fPIC", source, "-o", str(plugin)])
    return plugin


def build_decode(folder: Path, native: Path) -> Path:
    """Compile the driver for the board against its libingot."""
    program = folder / "decode"
    include = f"-I{REPOSITORY / 'native' / 'include'}"
    link = [f"-L{native}", "-lingot", f"-Wl,-rpath,{native}"]
    source = str(LAB / "decode.c")
    command = ["aarch64-linux-gnu-gcc", "-O2", "-Wall", "-std=gnu11", include, source, *link]
    run([*command, "-o", str(program)])
    return program


def count_run(board: Board, cpu: str, file: Path, prompt: int, tokens: int) -> Count:
    """Count one process that feeds a prompt and then single tokens."""
    native = board.native("gcc")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plugin, result = build_plugin(folder), folder / "count"
        options = ["-plugin", f"{plugin},out={result}"]
        program: Sequence[str | Path] = [
            build_decode(folder, native),
            file.resolve(),
            str(prompt),
            str(tokens),
        ]
        board.run(cpu, program, options=options)
        if not result.exists():
            raise LabError("qemu ran without the plugin; qemu-user 7.2 is known to take it")
        return Count(*(int(word) for word in result.read_text(encoding="utf-8").split()))


def count_decode(board: Board, cpu: str, file: Path, prompt: int = 16, tokens: int = 8) -> Count:
    """Return the instructions of one decoded token after a prompt.

    Cost: two emulated runs; a 135M model takes about a second per token.
    """
    less = count_run(board, cpu, file, prompt, 2)
    return count_run(board, cpu, file, prompt, 2 + tokens).per_token(less, tokens)


def count_prefill(board: Board, cpu: str, file: Path, tokens: int = 64) -> Count:
    """Return the instructions of one prompt token, as part of a pass of many."""
    less = count_run(board, cpu, file, 0, 2)
    return count_run(board, cpu, file, tokens, 2).per_token(less, tokens)


def main(argv: list[str] | None = None) -> int:
    """Print both counts as JSON."""
    parser = argparse.ArgumentParser(description="Instructions per token of the ARM build")
    parser.add_argument("file", type=Path)
    parser.add_argument("--cpu", choices=list(CPU_LEVELS), default="cortex-a76")
    arguments = parser.parse_args(argv)
    board = Board()
    try:
        counts = {
            "cpu": arguments.cpu,
            "decode_per_token": asdict(count_decode(board, arguments.cpu, arguments.file)),
            "prefill_per_token": asdict(count_prefill(board, arguments.cpu, arguments.file)),
        }
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    print(json.dumps(counts, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
