# SPDX-License-Identifier: Apache-2.0
"""The model shapes of the benchmarks, and their files: ours and the peer's, random weights."""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from random_checkpoint import make_random_checkpoint

__all__ = ["OURS", "PEERS", "SHAPES", "Shape", "make_ours", "make_peers"]

PEERS = ("q4_0", "q4_k_m")


@dataclass(frozen=True, slots=True)
class Mix:
    """Formats of one of our files: the linear layers' and the head's."""

    body: str
    head: str


# Which of them are bars and for what is said in against_llama_cpp.py and own_bars.py.
OURS = {
    "c4_q8": Mix("c4", "q8"),
    "c4_q6": Mix("c4", "q6"),
    "c4_c4": Mix("c4", "c4"),
    "c3_q6": Mix("c3", "q6"),
    "c2_q6": Mix("c2", "q6"),
    "t2_q6": Mix("t2", "q6"),
}


@dataclass(frozen=True, slots=True)
class Shape:
    """A model shape, its bars at one and two threads, and the peer's known share of the ceiling.

    `decode`: least ratio to the peer's better 4-bit type, by our mix. `prefill`: to its Q4_0.
    """

    name: str
    config: str
    decode: dict[str, tuple[float, float]]
    prefill: tuple[float, float]
    peer_fractions: dict[str, tuple[float, float]] = field(default_factory=dict)


# The fractions are those of the peers' table, at one and two threads, in its 38 and 46 GB/s.
SHAPES = (
    Shape(
        "S",
        "SmolLM2-135M.json",
        {"c4_q8": (1.3, 1.4), "c4_q6": (1.4, 1.8)},
        (1.2, 1.2),
        {"q4_0": (0.45, 0.41)},
    ),
    Shape(
        "M",
        "Qwen2-0.5B.json",
        {"c4_q8": (1.3, 1.2), "c4_q6": (1.7, 1.6)},
        (1.2, 2.5),
        {"q4_0": (0.57, 0.61)},
    ),
    Shape(
        "L",
        "Llama-3.2-1B-Instruct.json",
        {"c4_q8": (1.1, 0.95), "c4_q6": (1.4, 1.2)},
        (1.2, 2.5),
        {"q4_0": (0.57, 0.69), "q4_k_m": (0.64, 0.77)},
    ),
)


def make_ours(shape: Shape, mix: str, arguments: argparse.Namespace) -> Path:
    """Make one of our files where it is not there yet; return it."""
    folder = Path(arguments.folder) / shape.name
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / f"{mix}.ingot"
    if not out.exists():
        checkpoint = folder / "checkpoint"
        if not checkpoint.exists():
            make_random_checkpoint(arguments.configs / shape.config, checkpoint)
        command = [sys.executable, "-m", "ingot", "compress", str(checkpoint), "--out", str(out)]
        formats = ["--format", OURS[mix].body, "--head-format", OURS[mix].head]
        subprocess.run([*command, "--preset", "draft", *formats, "--allow-failing"], check=True)
    return out


def make_peers(shape: Shape, arguments: argparse.Namespace) -> dict[str, Path]:
    """Make the peer's files where they are not there yet; return them by type."""
    folder = Path(arguments.folder) / shape.name
    folder.mkdir(parents=True, exist_ok=True)
    script = str(Path(__file__).with_name("peer_gguf.py"))
    config = str(arguments.configs / shape.config)
    subprocess.run([str(arguments.peer_python), script, config, str(folder)], check=True)
    return {name: folder / f"{name}.gguf" for name in PEERS}
