# SPDX-License-Identifier: Apache-2.0
"""Instructions per token on an emulated A76: ours and llama.cpp's, under the same plugin.

    python tests/benchmarks/arm_counts.py --q4 q4_q4.ingot --c4 c4_c4.ingot \\
        --q4-0 q4_0.gguf --q4-k-m q4_k_m.gguf [--json FILE]

The files are those of the SmolLM2-135M shape that against_llama_cpp.py and peer_gguf.py make, and
one by `ingot compress CHECKPOINT --format q4 --head-format q4 --preset draft`. Decoding after 16
tokens, one token a pass; prefill of 64 tokens in one pass. Ours is built by zig, as for the wheels.
Counting llama.cpp takes minutes and gives the same each time: --peer-record takes an earlier count.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from targets.lab.board import Board  # noqa: E402
from targets.lab.count import Count, count_decode, count_prefill, count_program  # noqa: E402
from targets.lab.peer import VERSION, build_peer  # noqa: E402
from targets.lab.process import LabError  # noqa: E402

CPU = "cortex-a76"
PROMPT, TOKENS, PREFILL = 16, 8, 64
# Of llama.cpp, as published with the bars; taken where it cannot be built here.
PUBLISHED = {"q4_0": (38_600_000, 21_700_000), "q4_k_m": (120_000_000, None)}


@dataclass(frozen=True, slots=True)
class Line:
    """One file of one engine. Units: instructions per token."""

    name: str
    decode: int
    prefill: int | None
    source: str


@dataclass(frozen=True, slots=True)
class Bar:
    """A ratio of ours to a peer's, and what it may be at most."""

    what: str
    ratio: float
    bar: float

    @property
    def kept(self) -> bool:
        """Whether the ratio is within its bar."""
        return self.ratio <= self.bar


def count_ours(board: Board, name: str, file: Path) -> Line:
    """Count our engine. Raises: LabError."""
    decode = count_decode(board, CPU, file, PROMPT, TOKENS, "zig")
    prefill = count_prefill(board, CPU, file, PREFILL, "zig")
    return Line(name, decode.total, prefill.total, "counted")


def count_peer(board: Board, program: Path, name: str, file: Path) -> Line:
    """Count llama.cpp with the same difference of runs. Raises: LabError."""

    def counted(prompt: int, tokens: int) -> Count:
        return count_program(board, CPU, program, [file.resolve(), str(prompt), str(tokens)])

    decode = counted(PROMPT, 2 + TOKENS).per_token(counted(PROMPT, 2), TOKENS)
    prefill = counted(PREFILL, 2).per_token(counted(0, 2), PREFILL)
    return Line(name, decode.total, prefill.total, f"counted, llama-cpp-python {VERSION}")


def count_peers(board: Board, folder: Path, files: dict[str, Path]) -> list[Line]:
    """Count llama.cpp's types; where it cannot be built, say why and take what is published."""
    try:
        program = build_peer(folder)
        return [count_peer(board, program, name, file) for name, file in files.items()]
    except LabError as error:
        print(f"arm_counts: llama.cpp was not counted: {error}", file=sys.stderr)
        return [Line(name, *PUBLISHED[name], "published with the bars") for name in files]


def recorded_peers(record: Path) -> list[Line]:
    """Return llama.cpp's lines of a file that `--json` wrote. Raises: LabError naming the file."""
    try:
        rows = json.loads(record.read_text(encoding="utf-8"))["instructions"]
        lines = [Line(r["name"], r["decode"], r["prefill"], r["source"]) for r in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LabError(f"{record} is no record of --json: {error}") from error
    return [line for line in lines if line.name in PUBLISHED]


def judge(lines: Sequence[Line]) -> list[Bar]:
    """Return the bars that the counted files allow."""
    by_name = {line.name: line for line in lines}
    q4, c4, q4_0, q4_k_m = (by_name[name] for name in ("q4", "c4", "q4_0", "q4_k_m"))
    bars = [
        Bar("decode q4 / Q4_0", q4.decode / q4_0.decode, 0.80),
        Bar("decode c4 / Q4_0", c4.decode / q4_0.decode, 1.10),
        Bar("decode c4 / Q4_K_M", c4.decode / q4_k_m.decode, 0.40),
    ]
    if q4.prefill is not None and q4_0.prefill is not None:
        bars.append(Bar("prefill q4 / Q4_0", q4.prefill / q4_0.prefill, 0.70))
        published = PUBLISHED["q4_0"][1]
        if published is not None and q4_0.source.startswith("counted"):
            bars.append(Bar("prefill q4 / Q4_0 published", q4.prefill / published, 0.70))
    return bars


def print_table(lines: Sequence[Line], bars: Sequence[Bar]) -> None:
    """Print counts in millions, then the bars."""
    print(f"{'million instructions':22}{'decode':>9}{'prefill':>9}  per token")
    for line in lines:
        prefill = "-" if line.prefill is None else f"{line.prefill / 1e6:.2f}"
        print(f"{line.name:22}{line.decode / 1e6:9.2f}{prefill:>9}  {line.source}")
    for bar in bars:
        verdict = "kept" if bar.kept else "missed"
        print(f"{bar.what:30}{bar.ratio:6.3f}  at most {bar.bar:.2f}: {verdict}")


def main(argv: list[str] | None = None) -> int:
    """Print the table; return 1 if a bar is missed, 2 where nothing can be counted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for name in ("q4", "c4"):
        parser.add_argument(f"--{name}", type=Path, required=True, metavar="FILE")
    for name in ("q4-0", "q4-k-m"):
        parser.add_argument(f"--{name}", type=Path, metavar="FILE")
    parser.add_argument("--peer-folder", type=Path, default=ROOT / "build" / "lab" / "llama.cpp")
    parser.add_argument(
        "--peer-record", type=Path, metavar="FILE", help="take llama.cpp's lines from this --json"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    arguments = parser.parse_args(argv)
    peers = {name: getattr(arguments, name) for name in ("q4_0", "q4_k_m")}
    if arguments.peer_record is None and None in peers.values():
        parser.error("--q4-0 and --q4-k-m are needed to count llama.cpp, or --peer-record")
    board = Board()
    try:
        recorded = recorded_peers(arguments.peer_record) if arguments.peer_record else None
        lines = [count_ours(board, name, getattr(arguments, name)) for name in ("q4", "c4")]
    except LabError as error:
        print(f"arm_counts: {error}", file=sys.stderr)
        return 2
    lines += recorded or count_peers(board, arguments.peer_folder, peers)
    bars = judge(lines)
    print_table(lines, bars)
    if arguments.json:
        record = {
            "instructions": [asdict(line) for line in lines],
            "bars": [asdict(bar) | {"kept": bar.kept} for bar in bars],
        }
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0 if all(bar.kept for bar in bars) else 1


if __name__ == "__main__":
    sys.exit(main())
