# SPDX-License-Identifier: Apache-2.0
"""The tables that `ingot explain` prints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ingot_compressor.evaluation.explanation import Contribution, Explanation

__all__ = ["print_explanation"]

BAR = 24
# The end of a context that one line has room for.
CONTEXT = 48
EXCERPT = 72

PARTS = ("", "KL", "share", "", "formats")
WORST = ("KL", "before it", "text has", "checkpoint says", "file says")


def print_explanation(found: Explanation) -> None:
    """Print on standard output: the whole, its parts by layer, role and weight, the worst text."""
    console = Console()
    console.print(_summary(found))
    if found.note is not None:
        console.print(found.note, markup=False)
    ends = found.ends
    groups: dict[str, tuple[tuple[Contribution, ...], tuple[Contribution, ...]]] = {
        "by layer, each alone": (found.layers, ends),
        "by role, in all layers": (found.roles, ends),
        "weights of the worst layer": (found.weights, ()),
    }
    for title, (parts, others) in groups.items():
        if parts:
            console.print(_table(title, PARTS, _part_rows([*parts, *others])))
    if found.worst_tokens:
        console.print(_table("worst tokens", WORST, _token_rows(found)))
    if found.worst_windows:
        rows = ((f"{w.mean_kl:.4f}", _quoted(w.text[:EXCERPT])) for w in found.worst_windows)
        console.print(_table("worst windows", ("mean KL", "begins"), rows))


def _summary(found: Explanation) -> Table:
    figures = (
        ("file, in the native runtime", found.mean_kl),
        ("all weights, in full precision", found.weights_kl),
        ("sum over embedding, layers, head", found.sum_of_layers),
        ("sum over embedding, roles, head", found.sum_of_roles),
    )
    rows = [(name, f"{value:.6f}") for name, value in figures if value is not None]
    rows.append(("tokens", f"{found.tokens} in {found.windows} windows"))
    return _table("mean KL from the checkpoint", ("", ""), rows)


def _table(title: str, columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Table:
    table = Table(title=title, title_justify="left", show_header=any(columns))
    for column in columns:
        table.add_column(column, overflow="ellipsis", no_wrap=True)
    for row in rows:
        # text of a model may look like markup
        table.add_row(*(Text(cell) for cell in row))
    return table


def _part_rows(parts: list[Contribution]) -> Iterator[tuple[str, ...]]:
    """Yield the parts, the largest first, with their share of the sum."""
    total = sum(part.mean_kl for part in parts) or 1.0
    largest = max(part.mean_kl for part in parts) or 1.0
    for part in sorted(parts, key=lambda one: -one.mean_kl):
        share, length = part.mean_kl / total, part.mean_kl / largest
        bar = "█" * round(BAR * length) if length == length else ""
        yield part.name, f"{part.mean_kl:.6f}", f"{share:.1%}", bar, "+".join(part.formats)


def _token_rows(found: Explanation) -> Iterator[tuple[str, ...]]:
    for one in found.worst_tokens:
        yield (
            f"{one.kl:.4f}",
            _quoted(one.context[-CONTEXT:]),
            _quoted(one.token),
            f"{_quoted(one.reference_token)} {one.reference_probability:.2f}",
            f"{_quoted(one.file_token)} {one.file_probability:.2f}",
        )


def _quoted(text: str) -> str:
    """Return a text on one line, its spaces and line ends visible."""
    return repr(text)
