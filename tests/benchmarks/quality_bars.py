# SPDX-License-Identifier: Apache-2.0
"""The rows of quality.csv, the bars that they are held against, and their plot.

python tests/benchmarks/quality_bars.py     print the bars of the committed table, renew README's
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

__all__ = ["Bar", "Row", "draw", "judge", "read_rows", "renew", "write_rows"]

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "tests/golden/quality.csv"
MARKERS = ("<!-- quality: begin -->", "<!-- quality: end -->")


@dataclass(frozen=True, slots=True)
class Row:
    """One quantization: stored bits per weight of the layers, mean KL in nats.

    `bytes` are those of all weights with their scales, embedding and head included, without
    tokenizer and tables: the peers' files of this comparison have none. 0 where nothing is stored.
    `tokens` of calibration text were seen at most.
    """

    name: str
    maker: str
    bits: float
    bytes: int
    weight_only: float
    as_run: float
    seconds: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Bar:
    """Ours must be at most `share` of the peer's divergence, in each column that both have.

    With `equal_bytes` it must not take more bytes either.
    """

    what: str
    ours: str
    peer: str
    share: float = 1.0
    equal_bytes: bool = False


BARS = (
    Bar("4.25 bits, searched, against Q4_K (4.5)", "c4 searched", "q4_k_s+pure+head8"),
    Bar("4.25 bits, best, against Q4_K_M (4.7)", "c4 trained", "q4_k_m+head8"),
    Bar("4.25 bits, best, against AutoRound W4G128", "c4 trained", "W4G128"),
    Bar(
        "mix of Q4_K_M's bytes, at most 0.6 of it",
        "mix of q4_k_m's bytes",
        "q4_k_m+head8",
        0.6,
        True,
    ),
    Bar("3.25 bits, best, against Q3_K_M (3.9)", "c3 trained", "q3_k_m+head8"),
    Bar("3.25 bits, best, against AutoRound W3G128", "c3 trained", "W3G128"),
    Bar("2.25 bits, best, against Q2_K (2.6)", "c2 trained", "q2_k+head8"),
    Bar("2.25 bits, best, against AutoRound W2G64", "c2 trained", "W2G64"),
)


def judge(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a line for each bar whose rows are there."""
    found = {row.name: row for row in rows}
    for bar in BARS:
        if bar.ours not in found or bar.peer not in found:
            yield f"not measured: {bar.what}"
            continue
        mine, peer = found[bar.ours], found[bar.peer]
        ratios = {
            column: getattr(mine, column) / getattr(peer, column)
            for column in ("weight_only", "as_run")
            if not math.isnan(getattr(peer, column))
        }
        larger = bar.equal_bytes and mine.bytes > peer.bytes
        reached = not larger and all(x <= bar.share for x in ratios.values())
        verdict = "reached" if reached else "MISSED"
        figures = ", ".join(f"{column} {ratio:.2f}" for column, ratio in ratios.items())
        if bar.equal_bytes:
            figures += f", {mine.bytes} bytes of weights to {peer.bytes}"
        yield f"{verdict}: {bar.what}: {figures} (bar {bar.share:g})"


def render(rows: Sequence[Row]) -> str:
    """Return the table for the README, fewest bits first."""
    lines = [
        "| made by | format | bits per weight | mean KL, weights alone | mean KL, as run | text |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda r: (r.bits, r.weight_only)):
        run = "" if math.isnan(row.as_run) else f"{row.as_run:.4f}"
        name = row.name.removesuffix("+head8")
        kl, text = f"{row.weight_only:.4f}", f"{row.tokens / 1024:.0f} Ki"
        lines.append(f"| {row.maker} | {name} | {row.bits:.2f} | {kl} | {run} | {text} |")
    return "\n".join([*lines, "", *(f"- {line}" for line in judge(rows))])


def renew(page: str, rows: Sequence[Row]) -> str:
    """Return a page with what stands between the markers replaced."""
    begin, end = MARKERS
    head, rest = page.split(begin, 1)
    return f"{head}{begin}\n{render(rows)}\n{end}{rest.split(end, 1)[1]}"


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write the table."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            values = asdict(row)
            for name in ("bits", "weight_only", "as_run", "seconds"):
                values[name] = "" if math.isnan(values[name]) else f"{values[name]:.6g}"
            writer.writerow(values)


def read_rows(path: Path = TABLE) -> list[Row]:
    """Return the committed table."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Row(
                values["name"],
                values["maker"],
                float(values["bits"]),
                int(values["bytes"]),
                float(values["weight_only"]),
                float(values["as_run"] or "nan"),
                float(values["seconds"] or "nan"),
                int(values["tokens"]),
            )
            for values in csv.DictReader(file)
        ]


def draw(path: Path, rows: Sequence[Row]) -> None:
    """Plot divergence over bits per weight, one colour for each maker."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5))
    marks = {"ingot": "o", "llama.cpp": "s", "AutoRound": "^"}
    for maker, mark in marks.items():
        mine = [row for row in rows if row.maker == maker]
        axes.plot([r.bits for r in mine], [r.weight_only for r in mine], mark, label=maker)
        for row in mine:
            axes.annotate(
                row.name.removesuffix("+head8"),
                (row.bits, row.weight_only),
                textcoords="offset points",
                xytext=(5, 4),
                fontsize=7,
            )
    axes.set_yscale("log")
    axes.set_xlabel("stored bits per weight of the layers")
    axes.set_ylabel("mean KL divergence, nats (weight-only)")
    axes.set_title("lantern, held-out books: lower and further left is better")
    axes.grid(True, which="both", alpha=0.25)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def main() -> None:
    """Print the bars and renew the README's table."""
    rows, readme = read_rows(), ROOT / "README.md"
    readme.write_text(renew(readme.read_text(encoding="utf-8"), rows), encoding="utf-8")
    draw(TABLE.with_suffix(".png"), rows)
    for line in judge(rows):
        print(line)


if __name__ == "__main__":
    main()
