# SPDX-License-Identifier: Apache-2.0
"""Instructions per token of the ARM build, counted by a plugin of qemu-user 7.2.

Example:
    python -m targets.lab.count lantern.ingot --cpu cortex-a76 --functions
"""

from __future__ import annotations

import argparse
import bisect
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from targets.lab.board import CPU_LEVELS, Board
from targets.lab.cross import COMPILERS, REPOSITORY
from targets.lab.process import LabError, run

__all__ = ["Count", "count_decode", "count_prefill", "count_program"]

LAB = REPOSITORY / "targets" / "lab"


@dataclass(frozen=True, slots=True)
class Count:
    """Executed instructions, in all and by the function that they belong to."""

    total: int
    sdot: int
    smmla: int
    functions: Mapping[str, int]

    def per_token(self, less: Count, tokens: int) -> Count:
        """Return the difference to a shorter run, divided by the tokens between them."""
        differences = {
            name: (count - less.functions.get(name, 0)) // tokens
            for name, count in self.functions.items()
        }
        return Count(
            (self.total - less.total) // tokens,
            (self.sdot - less.sdot) // tokens,
            (self.smmla - less.smmla) // tokens,
            dict(sorted(differences.items(), key=lambda item: -item[1])),
        )


def build_plugin(folder: Path) -> Path:
    """Compile the plugin for this machine's qemu."""
    compiler = shutil.which("cc") or "gcc"
    plugin = folder / "count_plugin.so"
    source = str(LAB / "count_plugin.c")
    run([compiler, "-O2", "-Wall", "-shared", "-fPIC", source, "-o", str(plugin)])
    return plugin


def build_decode(folder: Path, native: Path) -> Path:
    """Link the driver and libingot's objects into one program, to tell functions apart."""
    program = folder / "decode"
    include = f"-I{REPOSITORY / 'native' / 'include'}"
    parts = ("ingot_core.dir", "ingot_kernels.dir")
    objects = [str(path) for part in parts for path in (native / "CMakeFiles" / part).rglob("*.o")]
    source = str(LAB / "decode.c")
    command = ["aarch64-linux-gnu-gcc", "-O2", "-Wall", "-std=gnu11", include, source, *objects]
    run([*command, "-static", "-no-pie", "-pthread", "-lm", "-o", str(program)])
    return program


def read_symbols(program: Path) -> tuple[list[int], list[str]]:
    """Return addresses and names of a program's functions, in ascending order."""
    lines = run(["aarch64-linux-gnu-nm", "-C", "--defined-only", "-n", str(program)]).splitlines()
    words = [line.split(None, 2) for line in lines]
    functions = [(int(w[0], 16), w[2]) for w in words if len(w) == 3 and w[1] in "tTwWiu"]
    return [address for address, _ in functions], [name for _, name in functions]


def read_count(result: Path, program: Path) -> Count:
    """Read what the plugin wrote."""
    first, *blocks = result.read_text(encoding="utf-8").splitlines()
    addresses, names = read_symbols(program)
    functions: dict[str, int] = {}
    for line in blocks:
        address, instructions, executions = line.split()
        index = bisect.bisect_right(addresses, int(address, 16)) - 1
        name = names[index] if index >= 0 else "?"
        functions[name] = functions.get(name, 0) + int(instructions) * int(executions)
    total, sdot, smmla = (int(word) for word in first.split())
    return Count(total, sdot, smmla, functions)


def count_program(board: Board, cpu: str, program: Path, arguments: Sequence[str | Path]) -> Count:
    """Count one run of an aarch64 program. Raises: LabError if qemu ran without the plugin."""
    with tempfile.TemporaryDirectory() as name:
        plugin, result = build_plugin(Path(name)), Path(name) / "count"
        options = ["-plugin", f"{plugin},out={result}"]
        board.run(cpu, [program, *arguments], options=options)
        if not result.exists():
            raise LabError("qemu ran without the plugin; qemu-user 7.2 is known to take it")
        return read_count(result, program)


def count_run(
    board: Board, cpu: str, file: Path, prompt: int, tokens: int, compiler: str = "gcc"
) -> Count:
    """Count one process that feeds a prompt and then single tokens."""
    with tempfile.TemporaryDirectory() as name:
        program = build_decode(Path(name), board.native(compiler))
        return count_program(board, cpu, program, [file.resolve(), str(prompt), str(tokens)])


def count_decode(
    board: Board, cpu: str, file: Path, prompt: int = 16, tokens: int = 8, compiler: str = "gcc"
) -> Count:
    """Return the instructions of one decoded token after a prompt.

    Cost: two emulated runs; a 135M model takes about a second per token.
    """
    less = count_run(board, cpu, file, prompt, 2, compiler)
    return count_run(board, cpu, file, prompt, 2 + tokens, compiler).per_token(less, tokens)


def count_prefill(
    board: Board, cpu: str, file: Path, tokens: int = 64, compiler: str = "gcc"
) -> Count:
    """Return the instructions of one prompt token, as part of a pass of many."""
    less = count_run(board, cpu, file, 0, 2, compiler)
    return count_run(board, cpu, file, tokens, 2, compiler).per_token(less, tokens)


def shown(count: Count, functions: int) -> dict[str, object]:
    """Return a count as JSON takes it, with as many of its largest functions."""
    largest = dict(list(count.functions.items())[:functions])
    record: dict[str, object] = {"total": count.total, "sdot": count.sdot, "smmla": count.smmla}
    return record | ({"functions": largest} if functions else {})


def main(argv: list[str] | None = None) -> int:
    """Print both counts as JSON."""
    parser = argparse.ArgumentParser(description="Instructions per token of the ARM build")
    parser.add_argument("file", type=Path)
    parser.add_argument("--cpu", choices=list(CPU_LEVELS), default="cortex-a76")
    parser.add_argument("--compiler", choices=COMPILERS, default="gcc")
    parser.add_argument("--functions", nargs="?", type=int, const=16, default=0, metavar="N")
    arguments = parser.parse_args(argv)
    board, functions, compiler = Board(), arguments.functions, arguments.compiler
    try:
        decode = count_decode(board, arguments.cpu, arguments.file, compiler=compiler)
        prefill = count_prefill(board, arguments.cpu, arguments.file, compiler=compiler)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    counts = {
        "cpu": arguments.cpu,
        "decode_per_token": shown(decode, functions),
        "prefill_per_token": shown(prefill, functions),
    }
    print(json.dumps(counts, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
