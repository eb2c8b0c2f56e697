# SPDX-License-Identifier: Apache-2.0
"""Writes the ARM section of native/README.md from what arm_model.py and arm_counts.py measured.

    python tests/benchmarks/arm_model.py --json model.json
    python tests/benchmarks/arm_counts.py ... --json counts.json
    python tests/benchmarks/arm_report.py model.json counts.json

The section stands between two markers and is replaced as a whole.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["replace_section", "write_counts", "write_model"]

README = Path(__file__).resolve().parents[2] / "native" / "README.md"
MARKERS = ("<!-- arm: begin -->", "<!-- arm: end -->")
# The core that a model stands for, where they differ.
NAMES = {
    "cortex-a57": "A57 (A72)",
    "neoverse-n1": "N1 (A76)",
    "neoverse-n2": "N2 (A710)",
    "neoverse-v2": "V2 (X4)",
}


def write_model(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the table of cycles per weight: loops by cores."""
    cores = list(dict.fromkeys(row["core"] for row in rows))
    titles = [NAMES.get(core, core.removeprefix("cortex-").upper()) for core in cores]
    lines = ["| loop | " + " | ".join(titles) + " |", "|---" * (len(cores) + 1) + "|"]
    for key in dict.fromkeys((row["format"], row["level"], row["phase"]) for row in rows):
        found = {
            row["core"]: row for row in rows if (row["format"], row["level"], row["phase"]) == key
        }
        cells = [cell(found.get(core)) for core in cores]
        lines.append(f"| `{key[0]}` {key[1]}, {key[2]} | " + " | ".join(cells) + " |")
    return lines


def cell(row: dict[str, Any] | None) -> str:
    """Return one figure; behind it the prototype's where that is the bar, bold if it is missed."""
    if row is None:
        return ""
    text = f"{row['cycles']:.3f}"
    if not row["judged"] or row["figure"] is None:
        return text
    return f"**{text}** / {row['figure']:.3f}" if row["slower"] else f"{text} / {row['figure']:.3f}"


def write_counts(record: dict[str, Any]) -> list[str]:
    """Return the table of instructions per token and that of the bars."""
    lines = ["| S shape, one thread | decode | prefill | |", "|---|---|---|---|"]
    for row in record["instructions"]:
        prefill = "" if row["prefill"] is None else f"{row['prefill'] / 1e6:.2f}"
        source = row["source"]
        lines.append(f"| `{row['name']}` | {row['decode'] / 1e6:.2f} | {prefill} | {source} |")
    lines += ["", "| ratio | measured | at most | |", "|---|---|---|---|"]
    for bar in record["bars"]:
        verdict = "kept" if bar["kept"] else "**missed**"
        lines.append(f"| {bar['what']} | {bar['ratio']:.3f} | {bar['bar']:.2f} | {verdict} |")
    return lines


def replace_section(text: str, section: Sequence[str]) -> str:
    """Replace what is between the markers. Raises: ValueError without them."""
    begin, end = (text.find(marker) for marker in MARKERS)
    if begin < 0 or end < begin:
        raise ValueError(f"expected {MARKERS[0]} and then {MARKERS[1]}, found no such pair")
    return text[: begin + len(MARKERS[0])] + "\n" + "\n".join(section) + "\n" + text[end:]


def main(argv: list[str] | None = None) -> int:
    """Replace the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path, help="what arm_model.py --json wrote")
    parser.add_argument("counts", type=Path, help="what arm_counts.py --json wrote")
    parser.add_argument("--readme", type=Path, default=README)
    arguments = parser.parse_args(argv)
    model = json.loads(arguments.model.read_text(encoding="utf-8"))
    counts = json.loads(arguments.counts.read_text(encoding="utf-8"))
    section = ["Million instructions per token, `tests/benchmarks/arm_counts.py`:", ""]
    section += write_counts(counts)
    section += ["", "Cycles per weight and token, `tests/benchmarks/arm_model.py`; behind a slash"]
    section += ["the prototype's figure, which is the bar; bold: missed.", "", *write_model(model)]
    try:
        text = replace_section(arguments.readme.read_text(encoding="utf-8"), section)
    except ValueError as error:
        print(f"arm_report: {arguments.readme}: {error}", file=sys.stderr)
        return 1
    arguments.readme.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
