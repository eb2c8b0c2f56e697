# SPDX-License-Identifier: Apache-2.0
"""Tensor functions of the compressor: NumPy in, NumPy out, no files and no models."""

from __future__ import annotations

from ingot_compressor.numerics.matrix import (
    UNSCALED,
    Encoding,
    group_of,
    quantize_matrix,
    relative_error,
)

__all__ = ["UNSCALED", "Encoding", "group_of", "quantize_matrix", "relative_error"]
