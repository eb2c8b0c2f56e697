# SPDX-License-Identifier: Apache-2.0
"""Room for the activations of all sequences: in memory while they are few, else in a file."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ingot.errors import StorageError

__all__ = ["ActivationStore"]

# A quarter of the smallest host that the compressor is meant for.
MOST_BYTES = 1 << 30


class ActivationStore:
    """Gives out tensors; those of more than `most_bytes` are mapped from nameless files.

    The system writes them out and reads them back as memory allows; a file's room is given back
    when its tensor is gone.
    """

    def __init__(self, folder: Path | None = None, most_bytes: int = MOST_BYTES) -> None:
        self._folder, self._most_bytes = folder, most_bytes

    def empty(self, shape: Sequence[int]) -> torch.Tensor:
        """Return float32 of a shape, values undefined. Raises: StorageError."""
        size = 4 * int(np.prod(shape))
        if size <= self._most_bytes:
            return torch.empty(tuple(shape))
        try:
            with tempfile.TemporaryFile(dir=self._folder) as file:
                file.truncate(size)
                return torch.from_numpy(np.memmap(file, np.float32, "r+", 0, tuple(shape)))
        except OSError as error:
            place = self._folder or tempfile.gettempdir()
            raise StorageError(
                f"{place}: no room for {size / 1e9:.1f} GB of activations ({error.strerror});"
                " set TMPDIR to a place with more, or calibrate on less text"
            ) from error
