# SPDX-License-Identifier: Apache-2.0
"""The tables that `ingot compress` prints of a mix: what each weight got and why, and the curve."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["print_choice"]

WEIGHTS = ("weight", "format", "bytes", "share of KL", "one step down", "one step up")
COMPARED = ("within the limits", "bits per weight", "bytes of weights", "predicted KL", "measured")
CURVE = ("bytes of weights", "bits per weight", "predicted KL")

Json = Mapping[str, Any]


def print_choice(choice: Json) -> None:
    """Print a choice as `Choice.to_json` has it, on standard output."""
    tables = (
        ("what each weight got, and what another format would change", WEIGHTS, _weight_rows),
        ("whole assignments, measured on other windows", COMPARED, _compared_rows),
        ("what could be had", CURVE, _curve_rows),
    )
    console = Console()
    for title, columns, rows in tables:
        found = list(rows(choice))
        if found:
            console.print(_table(title, columns, found))
    measured = choice["divergence"]
    text = "" if measured is None else f", measured {measured:.3g}"
    console.print(f"the mix: predicted KL {choice['predicted']:.3g}{text}", markup=False)


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _weight_rows(choice: Json) -> Iterator[tuple[str, ...]]:
    for one in choice["tensors"]:
        steps = (_step(one["lower"]), _step(one["higher"]))
        share = f"{one['divergence']:.2g}"
        yield one["name"], one["format"], str(one["stored_bytes"]), share, *steps


def _step(step: Sequence[Any] | None) -> str:
    """Return what the next format would change: bytes, and the divergence in nats."""
    return "" if step is None else f"{step[0]} {step[1]:+d} B {step[2]:+.2g}"


def _compared_rows(choice: Json) -> Iterator[tuple[str, ...]]:
    for one in choice["compared"]:
        sizes = f"{one['bits_per_weight_body']:.3f}", str(one["weight_bytes"])
        yield one["name"], *sizes, f"{one['predicted']:.3g}", f"{one['divergence']:.3g}"


def _curve_rows(choice: Json) -> Iterator[tuple[str, ...]]:
    for one in choice["curve"]:
        bits, divergence = one["bits_per_weight_body"], one["divergence"]
        yield str(one["weight_bytes"]), f"{bits:.3f}", f"{divergence:.3g}"
