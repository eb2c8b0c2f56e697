# SPDX-License-Identifier: Apache-2.0
"""What single weights of another program do to the logits: each swapped into the reference."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ingot.errors import InvalidArgumentError
from ingot_compressor.evaluate import UNSCORED
from ingot_compressor.execute import TensorStore, execute_block
from ingot_compressor.ir import FloatArray, Program
from ingot_compressor.numerics.divergence import Likeliest, keep_likeliest, kl_from
from ingot_compressor.passes.blocks import split_blocks

__all__ = ["SwappedRun"]

# Tokens of the reference's distribution that are kept for each position.
MOST_TOKENS = 512


class SwappedRun:
    """The reference on some windows with the inputs of its blocks kept.

    Unlike a `Probe` it changes weights block by block, so that a matrix that is both embedding and
    head can be swapped in one of the two places.
    """

    def __init__(
        self,
        program: Program,
        load: Callable[[str], FloatArray],
        windows: Sequence[NDArray[np.int64]],
        store: TensorStore,
        progress: Callable[[int], None] = lambda done: None,
    ) -> None:
        """Run the reference; `load` gives the other program's weights, `progress` counts blocks.

        Shapes: windows each (t,) int64, of one length; load(name) (n, k).
        Raises: InvalidArgumentError for windows of different lengths or too short to score.
        Cost: besides the weights, one activation for each token and block.
        """
        if len({len(window) for window in windows}) != 1 or len(windows[0]) < UNSCORED + 2:
            raise InvalidArgumentError(
                f"expected windows of one length above {UNSCORED + 1}, found lengths"
                f" {sorted({len(window) for window in windows})}"
            )
        self.blocks = split_blocks(program)
        self._load = load
        self._store = store
        self._vocabulary = program.vocabulary
        self._inputs = [torch.from_numpy(np.stack(windows))]
        with torch.inference_mode():
            for index, block in enumerate(self.blocks[:-1]):
                self._inputs.append(execute_block(block, self._inputs[-1], store=store))
                progress(index + 1)
            self._reference: list[Likeliest] = [
                keep_likeliest(self._scored(row, {}), MOST_TOKENS) for row in self._inputs[-1]
            ]
        progress(len(self.blocks))

    def logits(self, window: int) -> NDArray[np.float32]:
        """Return the reference's logits that predict the scored tokens of a window, (p, v)."""
        with torch.inference_mode():
            found: NDArray[np.float32] = self._scored(self._inputs[-1][window], {}).numpy()
        return found

    def divergence(self, swapped: Mapping[int, Collection[str]]) -> float:
        """Return the mean KL of the scored positions with some weights of some blocks swapped.

        Of a vocabulary above MOST_TOKENS it is a lower bound, as in `kl_from`.
        Returns: nats, 0 where nothing is swapped.
        Cost: the blocks from the first one named, with one block's swapped weights in memory.
        """
        touched = [index for index, names in swapped.items() if names]
        if not touched:
            return 0.0
        first, last = min(touched), len(self.blocks) - 1
        with torch.inference_mode():
            x = self._inputs[first]
            for index in range(first, last):
                weights = self._swapped(swapped.get(index, ()))
                x = execute_block(self.blocks[index], x, weights=weights, store=self._store)
            weights = self._swapped(swapped.get(last, ()))
            parts = [
                kl_from(reference, self._scored(row, weights))
                for reference, row in zip(self._reference, x, strict=True)
            ]
        return float(torch.cat(parts).mean())

    def _swapped(self, names: Collection[str]) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(self._load(name)) for name in names}

    def _scored(self, row: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Run the head on the positions of one window before a scored token."""
        x = row[None, UNSCORED - 1 : -1]
        logits = execute_block(self.blocks[-1], x, weights=weights, store=self._store)[0]
        return logits[:, : self._vocabulary]
