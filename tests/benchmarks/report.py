# SPDX-License-Identifier: Apache-2.0
"""Draws what against_llama_cpp.py measured, and writes its figures into the README's table.

    python tests/benchmarks/report.py tests/benchmarks/results.json

No figure of that table is typed by hand: it stands between two markers and is replaced as a whole.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import ScalarFormatter

ROOT = Path(__file__).resolve().parents[2]
MARKERS = ("<!-- benchmark: begin -->", "<!-- benchmark: end -->")
LABELS = {"S": "SmolLM2-135M", "M": "Qwen2-0.5B", "L": "Llama-3.2-1B"}
ENGINES = {"ingot": "ingot c4", "q4_0": "llama.cpp Q4_0", "q4_k_m": "llama.cpp Q4_K_M"}
COLOURS = {"ingot": "#c4572e", "q4_0": "#7d8a97", "q4_k_m": "#b6bec6"}


def runs(record: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Return (shape, threads, run) of every row that was measured, in order."""
    keys = [key for key in record if key[0] in LABELS and key[1] == "-"]
    return [(key[0], key[2:], record[key]) for key in keys]


def spread(values: Sequence[float]) -> str:
    """Return "median (least to most)"."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def ratios(run: Mapping[str, Any], kind: str) -> list[float]:
    """Return ours over the better peer, round by round."""
    engines = run["engines"]
    peers = [name for name in engines if name != "ingot"]
    best = max(peers, key=lambda name: statistics.median(engines[name][kind]))
    pairs = zip(engines["ingot"][kind], engines[best][kind], strict=True)
    return [ours / theirs for ours, theirs in pairs]


def of_ceiling(run: Mapping[str, Any]) -> float:
    """Return the share of the streaming ceiling of the same run that decoding reaches."""
    ours = run["engines"]["ingot"]
    rate = statistics.median(ours["decode"]) * ours["read_bytes"] / 1e9
    return float(rate / statistics.median(run["ceilings"]))


def table(record: Mapping[str, Any]) -> str:
    """Return the README's table."""
    lines = [
        f"Measured on {record['machine']}, random weights, medians of interleaved rounds; ratios"
        " are ours over the better of llama.cpp's Q4_0 and Q4_K_M, median (least to most).",
        "",
        "| shape, threads | decode tok/s | of the streaming ceiling | decode ratio | prefill tok/s"
        " | prefill ratio | file MB, ours / Q4_0 |",
        "|---|---|---|---|---|---|---|",
    ]
    for shape, threads, run in runs(record):
        ours, peer = run["engines"]["ingot"], run["engines"]["q4_0"]
        cells = [
            f"{LABELS[shape]}, {threads}",
            f"{statistics.median(ours['decode']):.0f}",
            f"{100 * of_ceiling(run):.0f} %",
            spread(ratios(run, "decode")),
            f"{statistics.median(ours['prefill']):.0f}",
            spread(ratios(run, "prefill")),
            f"{ours['file_bytes'] / 1e6:.0f} / {peer['file_bytes'] / 1e6:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(record: Mapping[str, Any], path: Path) -> None:
    """Draw decode and prefill of all engines as bars with their least and most."""
    rows = runs(record)
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.6), dpi=130)
    for axis, kind in zip(axes, ("decode", "prefill"), strict=True):
        for place, (name, label) in enumerate(ENGINES.items()):
            values = [run["engines"][name][kind] for _, _, run in rows]
            middle = [statistics.median(v) for v in values]
            below = [m - min(v) for m, v in zip(middle, values, strict=True)]
            above = [max(v) - m for m, v in zip(middle, values, strict=True)]
            x = [row + 0.27 * (place - 1) for row in range(len(rows))]
            style = {"color": COLOURS[name], "label": label, "error_kw": {"elinewidth": 0.8}}
            axis.bar(x, middle, 0.25, yerr=[below, above], **style)
        names = [f"{LABELS[shape]}\nthreads: {threads}" for shape, threads, _ in rows]
        axis.set_xticks(range(len(rows)), names, fontsize=6)
        axis.set_title(f"{kind}, tokens per second (log scale)", fontsize=9)
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(ScalarFormatter())
        axis.yaxis.set_minor_formatter(ScalarFormatter())
        axis.tick_params(axis="y", which="both", labelsize=6)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(fontsize=7, frameon=False)
    figure.tight_layout()
    figure.savefig(path)


def main() -> int:
    """Write the picture beside the results and the table into the README."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path)
    arguments = parser.parse_args()
    record = json.loads(arguments.results.read_text(encoding="utf-8"))
    draw(record, arguments.results.with_suffix(".png"))
    readme = ROOT / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split(MARKERS[0])
    after = rest.split(MARKERS[1])[1]
    text = f"{before}{MARKERS[0]}\n{table(record)}\n{MARKERS[1]}{after}"
    readme.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
