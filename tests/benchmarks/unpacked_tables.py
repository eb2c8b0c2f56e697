# SPDX-License-Identifier: Apache-2.0
"""The committed tables of grids that are not packed and of formats of keys and values.

python tests/benchmarks/unpacked_tables.py     renew both tables in compressor/README.md
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TypeVar

__all__ = ["GRIDS", "KEYS_AND_VALUES", "GridRow", "KvRow", "read_rows", "renew", "write_rows"]

ROOT = Path(__file__).parents[2]
GRIDS = ROOT / "tests/golden/simulated_grids.csv"
KEYS_AND_VALUES = ROOT / "tests/golden/kv_formats.csv"
README = ROOT / "compressor/README.md"


@dataclass(frozen=True, slots=True)
class GridRow:
    """A body rounded and back in PyTorch. Units: bits per weight, nats.

    `stored`: "format of record", or "not packed". `activations`: what inputs of linear operations
    are rounded to, "" where they stay.
    """

    body: str
    activations: str
    stored: str
    bits: float
    mean_kl: float
    p99_kl: float
    top1: float
    perplexity: float
    tokens: int


@dataclass(frozen=True, slots=True)
class KvRow:
    """Keys and values of a format against float16. Units: tokens, nats.

    `late_kl` is of the last quarter of the windows, `perplexity` of float16 there.
    """

    model: str
    context: int
    kv: str
    mean_kl: float
    p99_kl: float
    late_kl: float
    perplexity: float
    windows: int


Row = TypeVar("Row", GridRow, KvRow)


def write_rows(path: Path, rows: Sequence[GridRow] | Sequence[KvRow]) -> None:
    """Write a table."""
    with path.open("w", encoding="utf-8", newline="") as file:
        names = [field.name for field in fields(rows[0])]
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            cells = asdict(row).items()
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in cells})


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """Return a committed table."""
    kinds = {"str": str, "int": int, "float": float}
    types = {field.name: kinds[str(field.type)] for field in fields(kind)}
    with path.open(encoding="utf-8", newline="") as file:
        return [
            kind(**{name: types[name](value) for name, value in line.items()})
            for line in csv.DictReader(file)
        ]


def render_grids(rows: Iterable[GridRow]) -> str:
    """Return the table for people, in the order of measurement."""
    lines = [
        "| body | inputs of linear operations | stored | bits | mean KL | 99 % KL | top-1 |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        inputs = r.activations or "float32"
        figures = f"{r.bits:.2f} | {r.mean_kl:.5f} | {r.p99_kl:.4f} | {r.top1:.1%}"
        lines.append(f"| {r.body} | {inputs} | {r.stored} | {figures} |")
    return "\n".join(lines)


def render_kv(rows: Iterable[KvRow]) -> str:
    """Return the table for people."""
    lines = [
        "| model | context | keys and values | mean KL | 99 % KL | last quarter | perplexity |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        figures = f"{r.mean_kl:.2e} | {r.p99_kl:.2e} | {r.late_kl:.2e} | {r.perplexity:.2f}"
        lines.append(f"| {r.model} | {r.context} | {r.kv} | {figures} |")
    return "\n".join(lines)


def renew(page: str, grids: Sequence[GridRow], kv: Sequence[KvRow]) -> str:
    """Return a page with what stands between both pairs of markers replaced."""
    for name, table in (("grids", render_grids(grids)), ("kv", render_kv(kv))):
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        head, rest = page.split(begin, 1)
        page = f"{head}{begin}\n{table}\n{end}{rest.split(end, 1)[1]}"
    return page


def main() -> None:
    """Renew the README's tables."""
    rows = read_rows(GRIDS, GridRow), read_rows(KEYS_AND_VALUES, KvRow)
    README.write_text(renew(README.read_text(encoding="utf-8"), *rows), encoding="utf-8")


if __name__ == "__main__":
    main()
