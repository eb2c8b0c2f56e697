# SPDX-License-Identifier: Apache-2.0
"""Draws what against_llama_cpp.py measured; writes the README's table and results.md, all bars.

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
ENGINES = {
    "c4_q8": "ingot c4, q8 head",
    "c4_q6": "ingot c4, q6 head",
    "c4_c4": "ingot c4, c4 head",
    "q4_0": "llama.cpp Q4_0",
    "q4_k_m": "llama.cpp Q4_K_M",
}
COLOURS = {
    "c4_q8": "#8f3d1f",
    "c4_q6": "#c4572e",
    "c4_c4": "#e39a7b",
    "q4_0": "#7d8a97",
    "q4_k_m": "#b6bec6",
}
OURS = ("c4_q8", "c4_q6")
PEERS = ("q4_0", "q4_k_m")


def runs(record: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Return (shape, threads, run) of every row that was measured, in order."""
    keys = [key for key in record if key[0] in LABELS and key[1] == "-"]
    return [(key[0], key[2:], record[key]) for key in keys]


def spread(values: Sequence[float]) -> str:
    """Return "median (least to most)"."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def ratios(run: Mapping[str, Any], name: str, kind: str, peers: Sequence[str]) -> list[float]:
    """Return ours over the better of the peers, round by round."""
    engines = run["engines"]
    best = max(peers, key=lambda peer: statistics.median(engines[peer][kind]))
    pairs = zip(engines[name][kind], engines[best][kind], strict=True)
    return [ours / theirs for ours, theirs in pairs]


def of_peak(run: Mapping[str, Any], name: str) -> float:
    """Return the share of the int8 dot peak of the same run that prefill reaches."""
    rate = statistics.median(run["engines"][name]["prefill"]) * run["operations_per_token"] / 1e9
    return float(rate / statistics.median(run["peaks"]))


def of_ceiling(run: Mapping[str, Any], name: str) -> float:
    """Return the share of the streaming ceiling of the same run that decoding reaches."""
    ours = run["engines"][name]
    rate = statistics.median(ours["decode"]) * ours["read_bytes"] / 1e9
    return float(rate / statistics.median(run["ceilings"]))


def _cells(shape: str, threads: str, run: Mapping[str, Any], name: str) -> list[str]:
    ours, peer = run["engines"][name], run["engines"]["q4_0"]
    return [
        f"{LABELS[shape]}, {threads}",
        name.split("_")[1],
        f"{statistics.median(ours['decode']):.0f}",
        f"{100 * of_ceiling(run, name):.0f} %",
        spread(ratios(run, name, "decode", PEERS)),
        f"{statistics.median(ours['prefill']):.0f}",
        spread(ratios(run, name, "prefill", ("q4_0",))),
        f"{100 * of_peak(run, name):.0f} %",
        f"{ours['file_bytes'] / 1e6:.0f} / {peer['file_bytes'] / 1e6:.0f}",
    ]


def table(record: Mapping[str, Any]) -> str:
    """Return the README's table."""
    lines = [
        f"Measured on {record['machine']}, random weights, a `c4` body, medians of interleaved"
        " rounds. Decode ratio: ours over the better of llama.cpp's Q4_0 and Q4_K_M; prefill ratio:"
        " over its Q4_0; median (least to most). Ceiling and peak: a streaming read and a loop of"
        " int8 dot products in registers, in the same run.",
        "",
        "| shape, threads | head | decode tok/s | of the ceiling | decode ratio | prefill tok/s"
        " | prefill ratio | of the peak | file MB, ours / Q4_0 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for shape, threads, run in runs(record):
        for name in OURS:
            lines.append(f"| {' | '.join(_cells(shape, threads, run, name))} |")
    return "\n".join(lines)


def bars(record: Mapping[str, Any]) -> str:
    """Return the table of all bars of the run."""
    lines = ["| bar | found | limit | |", "|---|---|---|---|"]
    for bar in record["bars"]:
        side = "at most" if bar["at_most"] else "at least"
        state = "reached" if bar["reached"] else "**missed**"
        state = state if bar["judged"] else "not judged"
        lines.append(f"| {bar['what']} | {bar['value']:.3g} | {side} {bar['limit']:g} | {state} |")
    return "\n".join(lines)


def draw(record: Mapping[str, Any], path: Path) -> None:
    """Draw decode and prefill of all engines as bars with their least and most."""
    rows = runs(record)
    figure, axes = plt.subplots(1, 2, figsize=(12, 3.8), dpi=130)
    for axis, kind in zip(axes, ("decode", "prefill"), strict=True):
        for place, (name, label) in enumerate(ENGINES.items()):
            values = [run["engines"][name][kind] for _, _, run in rows]
            middle = [statistics.median(v) for v in values]
            below = [m - min(v) for m, v in zip(middle, values, strict=True)]
            above = [max(v) - m for m, v in zip(middle, values, strict=True)]
            x = [row + 0.17 * (place - 2) for row in range(len(rows))]
            style = {"color": COLOURS[name], "label": label, "error_kw": {"elinewidth": 0.8}}
            axis.bar(x, middle, 0.16, yerr=[below, above], **style)
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
    page = f"# Bars of the last committed run\n\n{bars(record)}\n"
    arguments.results.with_suffix(".md").write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
