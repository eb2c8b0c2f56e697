# SPDX-License-Identifier: Apache-2.0
"""Size and quality of the bundled model in each mix of formats: the rows of results.csv.

    python tests/golden/golden.py          measure all rows again and write results.csv

A change of a row is a change of what users get: read the difference before it is committed.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from ingot_compressor.compress import CompressOptions, compress

__all__ = ["MIXES", "RESULTS", "Row", "measure", "read"]

RESULTS = Path(__file__).with_name("results.csv")
MODELS = Path(__file__).parents[2] / "examples" / "models"
# Body and head of every row, the default first.
MIXES = (
    *(("c4", "q8"), ("c4", "q6"), ("c4", "c4")),
    *((body, "q8") for body in ("f16", "q8", "q6", "c5", "q4", "q4z", "c3")),
    ("f16", "f16"),
)
DIGITS = 6


@dataclass(frozen=True, slots=True)
class Row:
    """One file. Units: bits, bytes, nats, shares of tokens."""

    model: str
    recipe: str
    body: str
    head: str
    bits_per_weight_body: float
    bits_per_weight_total: float
    bytes: int
    mean_kl: float
    p99_kl: float
    top1_agreement: float
    perplexity: float
    reference_perplexity: float


def measure(model: str, body: str, head: str, folder: Path) -> Row:
    """Compress a bundled model with its default recipe; return what was measured on the file."""
    out = folder / f"{model}-{body}-{head}.ingot"
    options = CompressOptions(MODELS / model, out, body_format=body, head_format=head, threads=2)
    report = compress(options)
    if report.quality is None:
        raise ValueError(f"{model} in {body} and {head}: nothing was measured")
    return Row(
        model,
        report.recipe,
        body,
        head,
        report.bits_per_weight_body,
        report.bits_per_weight_total,
        report.bytes,
        report.quality["mean_kl"],
        report.quality["p99_kl"],
        report.quality["top1_agreement"],
        report.quality["perplexity"],
        report.quality["reference_perplexity"],
    )


def read() -> dict[tuple[str, str], dict[str, str]]:
    """Return the committed rows by body and head, as text."""
    with RESULTS.open(encoding="utf-8", newline="") as file:
        return {(row["body"], row["head"]): row for row in csv.DictReader(file)}


def write(rows: Iterable[Row]) -> None:
    """Write the file that is committed."""
    with RESULTS.open("w", encoding="utf-8", newline="") as file:
        names = [one.name for one in fields(Row)]
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            cells = asdict(row).items()
            writer.writerow(
                {key: f"{v:.{DIGITS}g}" if isinstance(v, float) else v for key, v in cells}
            )


def main() -> None:
    """Measure every row and write results.csv."""
    with tempfile.TemporaryDirectory() as folder:
        write([measure("lantern", body, head, Path(folder)) for body, head in MIXES])


if __name__ == "__main__":
    main()
