# SPDX-License-Identifier: Apache-2.0
"""Cycles per weight of our ARM inner loops, by llvm-mca's models of the cores.

    python tests/benchmarks/arm_model.py [--formats q4 c4] [--compiler gcc] [--json FILE]

Compiles each kernel for each core, cuts out the innermost loop, and simulates it with its data in
L1. Decoding loops stand beside the figures of the prototypes (arm_model.toml); a slower one is a
failure. A model is not a core: figures compare loops, and never say how many tokens a second.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tomllib

__all__ = ["Loop", "ModelError", "Result", "find_loop", "measure"]

ROOT = Path(__file__).resolve().parents[2]
KERNELS = ROOT / "native" / "kernels" / "linear"
SETTINGS = Path(__file__).with_suffix(".toml")
SYSROOT = Path("/usr/aarch64-linux-gnu/include")
# Loops that we do not ship, to be compared with those that we do.
VARIANTS = Path(__file__).with_name("arm_variants")
ITERATIONS = 300
# Half a unit of the last digit that the study printed.
ROUNDING = 0.0005
# Products of one instruction.
PRODUCTS = {"sdot": 16, "udot": 16, "smmla": 32, "smull": 8, "smull2": 8, "smlal": 8, "smlal2": 8}
LABEL = re.compile(r"^([.\w$]+):")
BRANCH = re.compile(r"^\s+(?:b\.?\w*|cbn?z|tbn?z)\s+(?:.*,\s*)?(\.?\w+)\s*$")
# Weights of one instruction where a lookup takes the place of products: 16 rows, 2 k, 2 bytes.
LOOKUPS = {"tbl": 16}
# The functions that hold the loops; the first that a kernel has.
PHASES = {"decode": ("panel_1",), "prefill": ("gemm_8", "gemm_4")}


class ModelError(Exception):
    """A tool is missing or refused; the message says which."""


@dataclass(frozen=True, slots=True)
class Loop:
    """The innermost loop of a function: its lines of assembly and what they do."""

    lines: tuple[str, ...]
    instructions: int
    products: int


@dataclass(frozen=True, slots=True)
class Result:
    """One loop on one core. Units: cycles and instructions per weight and token."""

    format: str
    level: str
    phase: str
    core: str
    cycles: float
    instructions: float
    figure: float | None
    judged: bool

    @property
    def slower(self) -> bool:
        """Whether the loop falls behind the figure that is its bar."""
        return self.judged and self.figure is not None and self.cycles > self.figure + ROUNDING


def run_tool(command: Sequence[str], text: str | None = None) -> str:
    """Return what a tool printed. Raises: ModelError if it is missing or fails."""
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise ModelError(f"'{command[0]}' is not installed") from error
    if done.returncode != 0:
        raise ModelError(f"{' '.join(command[:6])}: {done.stderr[-2000:]}")
    return done.stdout


def find_tool(*names: str) -> str:
    """Return the first of the names that is installed. Raises: ModelError naming them all."""
    for name in names:
        if shutil.which(name):
            return name
    raise ModelError(f"none of {', '.join(names)} is installed; on Debian: apt install {names[0]}")


def compile_kernel(compiler: str, source: Path, march: str, core: str) -> str:
    """Return the assembly of a kernel, built as CMake builds it but tuned for the core."""
    flags = ["-std=c11", "-O3", "-ffp-contract=off", "-fno-math-errno", f"-march={march}"]
    flags += [f"-I{ROOT / 'native'}", f"-I{ROOT / 'native' / 'include'}"]
    if compiler == "gcc":
        tool = [find_tool("aarch64-linux-gnu-gcc"), "-fno-schedule-insns"]
        core = "neoverse-v1" if core == "neoverse-v2" else core  # gcc 12 knows no newer one
    else:
        tool = [find_tool("clang-19", "clang"), "--target=aarch64-linux-gnu", f"-isystem{SYSROOT}"]
    return run_tool([*tool, *flags, f"-mtune={core}", "-S", str(source), "-o", "-"])


def function_lines(assembly: str, name: str) -> list[str]:
    """Return the lines of a function, from its label to its size. Raises: ModelError without it."""
    lines = assembly.splitlines()
    starts = [i for i, line in enumerate(lines) if re.match(rf"{name}(\.\w+)*:", line)]
    if not starts:
        raise ModelError(f"there is no function {name}")
    end = next(
        (i for i in range(starts[0], len(lines)) if lines[i].strip().startswith(".size")),
        len(lines),
    )
    return lines[starts[0] : end]


def defines(assembly: str, name: str) -> bool:
    """Tell whether there is a function of that name."""
    return re.search(rf"^{name}\b", assembly, re.MULTILINE) is not None


def find_loops(lines: Sequence[str]) -> list[tuple[int, int]]:
    """Return the line numbers of each loop's label and of the last branch back to it."""
    labels: dict[str, int] = {}
    loops: dict[int, int] = {}
    for number, line in enumerate(lines):
        if match := LABEL.match(line):
            labels[match[1]] = number
        elif (match := BRANCH.match(line)) and match[1] in labels:
            loops[labels[match[1]]] = number
    return list(loops.items())


def find_loop(assembly: str, function: str, weights: Mapping[str, int] = PRODUCTS) -> Loop:
    """Return the innermost loop of a function that does most; `weights` says what counts."""
    lines = function_lines(assembly, function)
    loops = find_loops(lines)
    best = Loop((), 0, 0)
    for start, end in loops:
        inner = any((s, e) != (start, end) and start <= s and e <= end for s, e in loops)
        body = [] if inner else [line for line in lines[start : end + 1] if is_instruction(line)]
        products = sum(weights.get(line.split()[0], 0) for line in body)
        if products > best.products:
            best = Loop(tuple(body), len(body), products)
    if best.products == 0:
        raise ModelError(f"no loop of {function} multiplies")
    return best


def is_instruction(line: str) -> bool:
    """Tell an instruction from labels, directives and comments."""
    word = line.strip()
    return bool(word) and line[:1].isspace() and word[0] not in "./#@"


def simulate(loop: Loop, core: str) -> float:
    """Return cycles of one iteration of a loop."""
    tool = find_tool("llvm-mca-19", "llvm-mca")
    options = ["-mtriple=aarch64-linux-gnu", f"-mcpu={core}", f"-iterations={ITERATIONS}"]
    # The models take no feature from a march that they lack; the branch's target is of no interest.
    text = "\n".join(re.sub(r"\.L\w+$", "0", line) for line in loop.lines)
    report = run_tool([tool, *options, "-mattr=+dotprod,+i8mm", "-"], text)
    found = re.search(r"Total Cycles:\s+(\d+)", report)
    if found is None:
        raise ModelError(f"llvm-mca printed no cycles for {core}")
    return int(found[1]) / ITERATIONS


def sources(formats: Sequence[str], level: str) -> Iterator[tuple[str, Path]]:
    """Yield the formats that have a kernel on a level, with its source file."""
    for path in sorted(KERNELS.glob(f"*/linear_*_a8__{level}.c")):
        if not formats or path.parent.name in formats:
            yield path.parent.name, path
    for path in sorted(VARIANTS.glob(f"*__{level}.c")):
        name = path.stem.split("__")[0]
        if not formats or name.split("_")[0] in formats:
            yield name, path


def measure(settings: dict[str, Any], compiler: str, formats: Sequence[str]) -> list[Result]:
    """Simulate every loop that there is. Raises: ModelError naming the tool that is missing."""
    results = []
    for level, cores in settings["levels"].items():
        for name, source in sources(formats, level):
            for core in cores:
                assembly = compile_kernel(compiler, source, settings["march"][level], core)
                figures = settings["figures"].get(name, {})
                for phase, names in PHASES.items():
                    function = next((one for one in names if defines(assembly, one)), None)
                    if function is None:
                        continue
                    loop = find_loop(assembly, function, LOOKUPS if "lookup" in name else PRODUCTS)
                    decode = phase == "decode" and level != "neon_i8mm"
                    results.append(
                        Result(
                            name,
                            level,
                            phase,
                            core,
                            round(simulate(loop, core) / loop.products, 4),
                            round(loop.instructions / loop.products, 4),
                            figures.get(core) if decode else None,
                            decode and bool(figures.get("like")),
                        )
                    )
    return results


def print_table(results: Sequence[Result]) -> None:
    """Print a line per loop: cycles per weight and core, the prototype's figure behind a slash."""
    cores = list(dict.fromkeys(one.core for one in results))
    print("cycles per weight and token / figure to beat; * slower, (figure) of other arithmetic")
    print(f"{'loop':30}" + "".join(f"{core:>17}" for core in cores))
    keys = dict.fromkeys((one.format, one.level, one.phase) for one in results)
    for key in keys:
        row = {r.core: r for r in results if (r.format, r.level, r.phase) == key}
        print(f"{' '.join(key):30}" + "".join(f"{cell(row.get(core)):>17}" for core in cores))


def cell(result: Result | None) -> str:
    """Return one figure as the table shows it."""
    if result is None:
        return "-"
    text = f"{result.cycles:.3f}"
    if result.figure is None:
        return text
    figure = f"{result.figure:.3f}" if result.judged else f"({result.figure:.3f})"
    return f"{text}/{figure}" + ("*" if result.slower else "")


def main(argv: list[str] | None = None) -> int:
    """Print the table; return 1 if a loop is slower than its figure, 2 without the tools."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--formats", nargs="*", default=[])
    parser.add_argument("--compiler", choices=("clang", "gcc"), default="clang")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    arguments = parser.parse_args(argv)
    settings = tomllib.loads(SETTINGS.read_text(encoding="utf-8"))
    try:
        results = measure(settings, arguments.compiler, arguments.formats)
    except ModelError as error:
        print(f"arm_model: {error}", file=sys.stderr)
        return 2
    print_table(results)
    if arguments.json:
        rows = [asdict(one) | {"slower": one.slower} for one in results]
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    slower = [f"{r.format} {r.level} on {r.core}" for r in results if r.slower]
    print("slower than the prototype: " + (", ".join(slower) or "none"))
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
