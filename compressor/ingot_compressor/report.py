# SPDX-License-Identifier: Apache-2.0
"""A page for people beside a compressed file: figures, and the error of every weight as a bar."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ingot.container import Container
from ingot.errors import StorageError
from ingot.packing import unpack_record
from ingot_compressor.ir import Program, Weight
from ingot_compressor.numerics import relative_error

__all__ = ["TensorError", "render_report", "tensor_errors", "write_report"]

WIDTH, BAR = 900, 18
LABEL, WIDEST = 380, 400
COLOURS = {
    **{"f16": "#9aa5b1", "q8": "#4c9f70", "q6": "#7bb661", "c5": "#5a9bd4"},
    **{"q4": "#d08c3c", "q4z": "#e0b070", "c4": "#3f74b5", "c3": "#8a5fb0"},
    **{"c2": "#b05f8a", "t2": "#6b4c3b"},
}
# The longest bar: int8 is near 45 dB, float16 beyond it.
MOST_DECIBELS = 50.0


@dataclass(frozen=True, slots=True)
class TensorError:
    """One stored weight. Units: bytes; signal to noise in dB, infinite where nothing was lost."""

    name: str
    format: str
    stored_bytes: int
    decibels: float


def tensor_errors(program: Program, path: Path) -> Iterator[TensorError]:
    """Compare each weight of a file with the checkpoint's, one in memory at a time."""
    with Container(path) as container:
        for tensor in program.weights():
            if not isinstance(tensor.source, Weight):
                continue
            number = container.tensor_id(tensor.name)
            quantized = unpack_record(container, number)
            error = relative_error(tensor.source.load(), quantized)
            decibels = -10 * math.log10(error) if error > 0 else math.inf
            name = quantized.dtype.name.lower()
            size = container.tensors[number].size
            yield TensorError(tensor.name, name, size, decibels)


def render_report(title: str, figures: Mapping[str, Any], errors: Sequence[TensorError]) -> str:
    """Return the page as HTML without scripts or links to elsewhere."""
    rows = "".join(
        f"<tr><td>{html.escape(key)}</td><td>{html.escape(_text(value))}</td></tr>"
        for key, value in figures.items()
    )
    bars = "".join(_bar(index, error) for index, error in enumerate(errors))
    height = BAR * len(errors) + BAR
    return (
        '<!doctype html><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title>"
        "<style>body{font:14px sans-serif;max-width:60em;margin:2em auto}"
        "td{padding:2px 1em 2px 0;vertical-align:top}</style>"
        f"<h1>{html.escape(title)}</h1><table>{rows}</table>"
        "<h2>Signal to noise of each weight, dB (longer is better)</h2>"
        f'<svg width="{WIDTH}" height="{height}" font-size="11">{bars}</svg>\n'
    )


def write_report(path: Path, page: str) -> None:
    """Write the page. Raises: StorageError."""
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        path.unlink(missing_ok=True)
        raise StorageError(f"{path}: cannot write the report: {error.strerror}") from error


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    return str(value)


def _bar(index: int, error: TensorError) -> str:
    y = BAR * index
    length = WIDEST * min(max(error.decibels, 0.0), MOST_DECIBELS) / MOST_DECIBELS
    colour = COLOURS.get(error.format, "#888888")
    return (
        f'<text x="0" y="{y + 13}">{html.escape(error.name)}</text>'
        f'<rect x="{LABEL}" y="{y + 3}" width="{length:.1f}" height="{BAR - 5}" fill="{colour}"/>'
        f'<text x="{LABEL + length + 6:.1f}" y="{y + 13}">'
        f"{error.decibels:.1f} {error.format}</text>"
    )
