# SPDX-License-Identifier: Apache-2.0
"""Statistics of what flows into each linear operation, gathered on calibration text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from ingot_compressor.execute import TensorStore, execute
from ingot_compressor.ir import Program

__all__ = ["NO_STATISTICS", "Statistics", "calibrate", "pick_windows"]

# Fewer tokens than this say little about a column; the result is still better than none.
FEW_TOKENS = 4096
BATCH_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class Statistics:
    """Mean squares, mean and largest magnitudes of the input columns of each weight, by its name.

    Shapes: each (k,) float64. `tokens` were seen; 0 means that there was no text.
    """

    mean_squares: Mapping[str, NDArray[np.float64]]
    tokens: int
    mean_abs: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    max_abs: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def few(self) -> bool:
        """Whether there was text, but too little to depend on."""
        return 0 < self.tokens < FEW_TOKENS

    def importance(self, name: str) -> NDArray[np.float64] | None:
        """Return the mean squares for a weight, None where nothing is known of it."""
        return self.mean_squares.get(name)


NO_STATISTICS = Statistics({}, 0)


def pick_windows(windows: Sequence[NDArray[np.int64]], most_tokens: int) -> list[NDArray[np.int64]]:
    """Return windows of one length, spread evenly over the text, of about most_tokens together."""
    if not windows:
        return []
    longest = max(len(window) for window in windows)
    full = [window for window in windows if len(window) == longest]
    count = min(len(full), max(1, most_tokens // longest))
    chosen = np.linspace(0, len(full) - 1, count).round().astype(int)
    return [full[index] for index in chosen]


def calibrate(
    program: Program,
    windows: Sequence[NDArray[np.int64]],
    store: TensorStore,
    progress: Callable[[int], None] | None = None,
) -> Statistics:
    """Run windows of equal length and gather statistics of every linear's input columns.

    The head is not computed: its input is the result of the shortened program. `progress` is told
    the tokens done so far.
    Shapes: windows each (t,) int64.
    """
    if not windows:
        return NO_STATISTICS
    trunk, head = _without_head(program)
    sums: dict[str, torch.Tensor] = {}

    def observe(name: str, x: torch.Tensor) -> None:
        sums[name] = _joined(sums.get(name), x.flatten(0, -2))

    done = 0
    batch = max(1, BATCH_TOKENS // len(windows[0]))
    with torch.inference_mode():
        for first in range(0, len(windows), batch):
            tokens = torch.from_numpy(np.stack(windows[first : first + batch]))
            observe(head, execute(trunk, tokens, store=store, observe=observe))
            done += tokens.numel()
            if progress is not None:
                progress(done)
    return Statistics(
        {name: (found[0] / done).numpy() for name, found in sums.items()},
        done,
        {name: (found[1] / done).numpy() for name, found in sums.items()},
        {name: found[2].numpy() for name, found in sums.items()},
    )


def _joined(before: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    """Return sums of squares and of magnitudes and the largest magnitudes, with x's rows joined.

    Shapes: before (3, k) float64 or None; x (m, k); result (3, k) float64.
    """
    magnitudes = x.abs()
    squares = x.square().sum(dim=0, dtype=torch.float64)
    total = magnitudes.sum(dim=0, dtype=torch.float64)
    found = torch.stack([squares, total, magnitudes.amax(dim=0).double()])
    if before is None:
        return found
    return torch.cat([before[:2] + found[:2], torch.maximum(before[2:], found[2:])])


def _without_head(program: Program) -> tuple[Program, str]:
    """Return the program up to the head's input, and the name of the head's weight."""
    head = program.head()
    last = max(i for i, op in enumerate(program.operations) if head in op.inputs[1:])
    source = program.operations[last].inputs[0]
    return replace(program, operations=program.operations[:last], output=source), head
