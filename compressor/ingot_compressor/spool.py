# SPDX-License-Identifier: Apache-2.0
"""Keeps quantized weights on disk until the file is written: memory holds one at a time."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot.errors import StorageError
from ingot.packing import Quantized

__all__ = ["Spool"]

# Smaller arrays stay in memory.
LEAST_BYTES = 1 << 20


class Spool:
    """A nameless temporary file: nothing of it is left, however the process ends.

    Use as a context manager; the arrays it gave out are not to be read after that.
    """

    def __init__(self, folder: Path) -> None:
        """Open it in the folder of the result. Raises: StorageError if that is not writable."""
        try:
            self._file: Any = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by __exit__)
        except OSError as error:
            raise StorageError(
                f"{folder}: {error.strerror}; choose another place for --out"
            ) from error
        self._folder = folder
        self._size = 0

    def __enter__(self) -> Spool:
        """Return the spool."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the disk space back."""
        self._file.close()

    def hold(self, quantized: Quantized) -> Quantized:
        """Return the same weight with its codes mapped from the spool.

        Raises: StorageError if the disk is full.
        """
        return replace(quantized, codes=self._array(quantized.codes))

    def _array(self, array: NDArray[Any]) -> NDArray[Any]:
        if array.nbytes < LEAST_BYTES:
            return array
        offset = self._size
        try:
            self._file.seek(offset)
            self._file.write(np.ascontiguousarray(array).data)
            self._file.flush()
        except OSError as error:
            raise StorageError(
                f"{self._folder}: no room for the quantized weights ({error.strerror})"
            ) from error
        self._size += array.nbytes
        return np.memmap(self._file, array.dtype, "r", offset, array.shape)
