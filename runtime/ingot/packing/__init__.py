# SPDX-License-Identifier: Apache-2.0
"""Weight formats in NumPy: sizes, codes and scales, layout T16, int8 activations."""

from __future__ import annotations

from ingot import _numpy_start as _numpy_start  # before anything here loads NumPy
from ingot.packing.activations import quantize_activations
from ingot.packing.quantized import Quantized, dequantize, zero_code
from ingot.packing.sizes import (
    WEIGHT_DTYPES,
    T16Geometry,
    geometry,
    packed_bytes,
    payload_bytes,
    round_up,
    tile_bytes,
)
from ingot.packing.t16 import pack, unpack

__all__ = [
    "WEIGHT_DTYPES",
    "Quantized",
    "T16Geometry",
    "dequantize",
    "geometry",
    "pack",
    "packed_bytes",
    "payload_bytes",
    "quantize_activations",
    "round_up",
    "tile_bytes",
    "unpack",
    "zero_code",
]
