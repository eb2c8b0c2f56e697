# SPDX-License-Identifier: Apache-2.0
"""What recipes with half-quadratic scales, and with int8 inputs scaled in several ways, cost.

    python tests/benchmarks/recipe_methods.py examples/models/lantern

Every row is a recipe as a user would write it, measured as `ingot eval RECIPE` does, on the bundled
texts. Writes tests/golden/recipe_methods.csv after each row; unpacked_tables.py then renews the
table in compressor/README.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ingot_compressor.evaluation.comparison import EvalOptions
from ingot_compressor.evaluation.simulation import simulate_recipe
from ingot_compressor.progress import SilentProgress
from tests.benchmarks.unpacked_tables import METHODS, MethodRow, write_rows

TOKENS = 4096
BODIES = ("c4", "q4", "q4z", "q6", "c5", "c3", "c2")
# Of W8A8: weights with a scale for 32 columns, for a row, for the matrix.
WEIGHTS = ("q8", "int8_symmetric_row", "int8_symmetric_tensor")
TEMPLATE = """
name = "measured"
description = "a row of recipe_methods.csv"
[formats]
body = "{body}"
head = "q8"
embedding = "q8"
q4_group = 32
grid = "{grid}"
[method]
search = false
calibrate = false
calibration_tokens = 8192
evaluation_tokens = 16384
scales = "{scales}"
[activations]
scales = "{inputs}"
[transform]
smooth = {smooth}
"""


@dataclass(frozen=True, slots=True)
class Case:
    """One recipe; `weights` is a format or a simulated grid."""

    method: str
    weights: str
    inputs: str = "dynamic"
    scales: str = ""
    smooth: float = 0.0

    def text(self) -> str:
        """Return it as TOML."""
        grid = self.weights if self.weights.startswith("int8") else ""
        return TEMPLATE.format(
            body="q8" if grid else self.weights,
            grid=grid,
            scales=self.scales,
            inputs=self.inputs,
            smooth=self.smooth,
        )


def cases() -> Iterator[Case]:
    """Yield every recipe: those without data first."""
    for body in BODIES:
        yield Case("absmax", body)
        yield Case("HQQ", body, scales="hqq")
    for weights in WEIGHTS:
        for inputs in ("dynamic", "token", "static"):
            yield Case("W8A8", weights, inputs)
        for alpha in (0.5, 0.8):
            yield Case(f"W8A8 smoothed {alpha}", weights, "static", smooth=alpha)


def measure(case: Case, model: Path, folder: Path, tokens: int) -> MethodRow:
    """Return the row of one recipe."""
    path = folder / "measured.toml"
    path.write_text(case.text(), encoding="utf-8")
    found = simulate_recipe(EvalOptions(path, model, max_tokens=tokens), SilentProgress())
    plain = next(row for row in found.rows if row.activations == "float")
    own = found.own
    return MethodRow(
        method=case.method,
        weights=found.weights,
        inputs=own.activations,
        stored=own.stored,
        bits=found.bits_per_weight_body,
        weight_only=plain.quality.mean_kl,
        mean_kl=own.quality.mean_kl,
        p99_kl=own.quality.p99_kl,
        top1=own.quality.top1_agreement,
        rounding_kl=own.rounding_kl,
        tokens=own.quality.tokens,
    )


def main() -> int:
    """Measure every row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--out", type=Path, default=METHODS)
    given = parser.parse_args()
    rows: list[MethodRow] = []
    with tempfile.TemporaryDirectory() as folder:
        for case in cases():
            began = time.monotonic()
            rows.append(measure(case, given.model, Path(folder), given.tokens))
            write_rows(given.out, rows)
            sys.stderr.write(f"{rows[-1]} {time.monotonic() - began:.1f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
