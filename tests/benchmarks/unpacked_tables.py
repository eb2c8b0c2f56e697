# SPDX-License-Identifier: Apache-2.0
"""The committed tables of grids that are not packed, recipes, keys and values, and sparse files.

python tests/benchmarks/unpacked_tables.py     renew the tables in compressor/README.md
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from math import isnan
from pathlib import Path
from typing import TypeAlias, TypeVar

__all__ = [
    "GRIDS",
    "KEYS_AND_VALUES",
    "METHODS",
    "SPARSE",
    "GridRow",
    "KvRow",
    "MethodRow",
    "SparseRow",
    "read_rows",
    "renew",
    "write_rows",
]

ROOT = Path(__file__).parents[2]
GRIDS = ROOT / "tests/golden/simulated_grids.csv"
KEYS_AND_VALUES = ROOT / "tests/golden/kv_formats.csv"
METHODS = ROOT / "tests/golden/recipe_methods.csv"
SPARSE = ROOT / "tests/golden/sparse_files.csv"
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


@dataclass(frozen=True, slots=True)
class SparseRow:
    """A file with some superblocks left out, in the native runtime. Units: bytes, nats.

    `dense_kl` is what dense files of its size reach; `decode` tokens per second of one CPU's time.
    """

    body: str
    superblocks: float
    weight_bytes: int
    bits: float
    mean_kl: float
    dense_kl: float
    decode: float


@dataclass(frozen=True, slots=True)
class MethodRow:
    """A recipe measured in PyTorch. Units: bits per weight of the body, nats.

    `weight_only` is with inputs of linear operations in float32, `mean_kl` and what follows with
    `inputs` as the recipe rounds them; `rounding_kl` is that of the two against each other.
    """

    method: str
    weights: str
    inputs: str
    stored: str
    bits: float
    weight_only: float
    mean_kl: float
    p99_kl: float
    top1: float
    rounding_kl: float
    tokens: int


Row = TypeVar("Row", GridRow, KvRow, SparseRow, MethodRow)
AnyRows: TypeAlias = (
    "Sequence[GridRow] | Sequence[KvRow] | Sequence[SparseRow] | Sequence[MethodRow]"
)


def write_rows(path: Path, rows: AnyRows) -> None:
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


def render_sparse(rows: Iterable[SparseRow]) -> str:
    """Return the table for people."""
    lines = [
        "| body | superblocks left out | bytes of weights | bits | mean KL | dense KL | decode |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        dense = "" if isnan(r.dense_kl) else f"{r.dense_kl:.4f}"
        figures = f"{r.weight_bytes} | {r.bits:.2f} | {r.mean_kl:.4f} | {dense} | {r.decode:.0f}"
        lines.append(f"| {r.body} | {r.superblocks:.0%} | {figures} |")
    return "\n".join(lines)


def render_methods(rows: Iterable[MethodRow]) -> str:
    """Return the table for people, in the order of measurement."""
    lines = [
        "| method | weights | inputs | stored | bits | weight-only KL | mean KL | 99 % KL | top-1"
        " | of rounding inputs |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        figures = f"{r.bits:.2f} | {r.weight_only:.5f} | {r.mean_kl:.5f} | {r.p99_kl:.4f}"
        last = f"{r.top1:.1%} | {r.rounding_kl:.5f}"
        lines.append(f"| {r.method} | {r.weights} | {r.inputs} | {r.stored} | {figures} | {last} |")
    return "\n".join(lines)


def renew(
    page: str,
    grids: Sequence[GridRow],
    kv: Sequence[KvRow],
    sparse: Sequence[SparseRow],
    methods: Sequence[MethodRow],
) -> str:
    """Return a page with what stands between each pair of markers replaced."""
    tables = {
        "grids": render_grids(grids),
        "kv": render_kv(kv),
        "sparse": render_sparse(sparse),
        "methods": render_methods(methods),
    }
    for name, table in tables.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        head, rest = page.split(begin, 1)
        page = f"{head}{begin}\n{table}\n{end}{rest.split(end, 1)[1]}"
    return page


def main() -> None:
    """Renew the README's tables."""
    grids, kv = read_rows(GRIDS, GridRow), read_rows(KEYS_AND_VALUES, KvRow)
    sparse, methods = read_rows(SPARSE, SparseRow), read_rows(METHODS, MethodRow)
    page = renew(README.read_text(encoding="utf-8"), grids, kv, sparse, methods)
    README.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
