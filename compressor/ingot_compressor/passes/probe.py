# SPDX-License-Identifier: Apache-2.0
"""What changed weights do to the final logits, computed from the first block that they change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from ingot.errors import InvalidArgumentError
from ingot.packing import Quantized, dequantize
from ingot_compressor.evaluate import UNSCORED
from ingot_compressor.execute import TensorStore, execute_block
from ingot_compressor.ir import Program
from ingot_compressor.numerics.divergence import Likeliest, keep_likeliest, kl_from
from ingot_compressor.passes.blocks import split_blocks

__all__ = ["Probe", "Trial"]

# Tokens of the reference's distribution that are kept for each position.
MOST_TOKENS = 512


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """Some weights changed on top of the probe's own; `divergence` in nats.

    Shapes: inputs holds (b, t, width), the input of each block after `first`.
    """

    changed: Mapping[str, Quantized]
    divergence: float
    first: int
    inputs: tuple[torch.Tensor, ...]


class Probe:
    """A program on some windows: its logits in full precision, and the inputs of its blocks.

    The probe begins with the program as given, which is the reference, and goes where `keep` or
    `adopt` take it. `divergence` is that of where it stands: the mean KL of the scored positions.
    """

    def __init__(
        self,
        program: Program,
        windows: Sequence[NDArray[np.int64]],
        store: TensorStore,
        most_tokens: int = MOST_TOKENS,
    ) -> None:
        """Run the reference. Shapes: windows each (t,) int64, of one length.

        Raises: InvalidArgumentError for windows of different lengths or too short to score.
        """
        if len({len(window) for window in windows}) != 1 or len(windows[0]) <= UNSCORED:
            raise InvalidArgumentError(
                f"a probe takes windows of one length above {UNSCORED}, found lengths"
                f" {sorted({len(window) for window in windows})}"
            )
        self._program = program
        self._blocks = split_blocks(program)
        self._first_use = _first_uses(self._blocks)
        self._store = store
        self._inputs = [torch.from_numpy(np.stack(windows))]
        self._reference: list[Likeliest] = []
        self.divergence = 0.0
        with torch.inference_mode():
            self._inputs += self._run_body(0, {})
            for row in self._inputs[-1]:
                self._reference.append(keep_likeliest(self._logits(row, {}), most_tokens))

    def try_out(self, changed: Mapping[str, Quantized]) -> Trial:
        """Return what some other weights would give; the probe stays where it is.

        Cost: the blocks from the first that reads one of them.
        """
        weights = {name: torch.from_numpy(dequantize(q)) for name, q in changed.items()}
        return self._run(changed, weights)

    def keep(self, trial: Trial) -> None:
        """Go where a trial from here led."""
        self._change(trial.changed)
        self._inputs[trial.first + 1 :] = trial.inputs
        self.divergence = trial.divergence

    def adopt(self, changed: Mapping[str, Quantized]) -> float:
        """Go to other weights, however many, and return the divergence there."""
        self._change(changed)
        self.keep(self._run(changed, {}))
        return self.divergence

    def _change(self, changed: Mapping[str, Quantized]) -> None:
        self._program = self._program.with_tensors(
            {
                name: replace(self._program.tensors[name], dtype=quantized.dtype, source=quantized)
                for name, quantized in changed.items()
            }
        )
        self._blocks = tuple(
            replace(block, tensors=self._program.tensors) for block in self._blocks
        )

    def _run(self, changed: Mapping[str, Quantized], weights: Mapping[str, torch.Tensor]) -> Trial:
        first = min((self._first_use[name] for name in changed), default=len(self._blocks) - 1)
        with torch.inference_mode():
            inputs = self._run_body(first, weights)
            last = inputs[-1] if inputs else self._inputs[-1]
            parts = [
                kl_from(reference, self._logits(row, weights))
                for reference, row in zip(self._reference, last, strict=True)
            ]
        return Trial(changed, float(torch.cat(parts).mean()), first, tuple(inputs))

    def _run_body(self, first: int, weights: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """Return the inputs of the blocks after `first`."""
        x, inputs = self._inputs[first], []
        for block in self._blocks[first:-1]:
            x = execute_block(block, x, weights=weights, store=self._store)
            inputs.append(x)
        return inputs

    def _logits(self, row: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the logits of a window's scored positions, (p, v): one window at a time."""
        head = self._blocks[-1]
        logits = execute_block(head, row[None], weights=weights, store=self._store)[0]
        return logits[UNSCORED - 1 :, : self._program.vocabulary]


def _first_uses(blocks: Sequence[Program]) -> dict[str, int]:
    """Return the block in which each tensor is first read."""
    found: dict[str, int] = {}
    for index, block in enumerate(blocks):
        for operation in block.operations:
            for name in operation.inputs:
                found.setdefault(name, index)
    return found
