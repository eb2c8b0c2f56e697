# SPDX-License-Identifier: Apache-2.0
"""Floating point numbers of 8 and 4 bits: the nearest e4m3, e2m1 and power of two."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["E2M1_LARGEST", "E4M3_LARGEST", "nearest_e2m1", "nearest_e4m3", "power_below"]

E4M3_LARGEST = 448.0
E2M1_LARGEST = 6.0

Values = NDArray[np.float64]


def nearest_e4m3(x: Values) -> Values:
    """Return the nearest e4m3 (no infinities), ties to even, saturated at 448.

    Shapes: any; result alike.
    Source: OCP 8-bit Floating Point Specification: 3 bits of fraction, exponents from -6.
    """
    return _nearest(x, fraction_bits=3, least_exponent=-6, largest=E4M3_LARGEST)


def nearest_e2m1(x: Values) -> Values:
    """Return the nearest of 0, 0.5, 1, 1.5, 2, 3, 4, 6 with its sign, ties to even, saturated.

    Shapes: any; result alike.
    Source: OCP Microscaling Formats Specification: 1 bit of fraction, exponents from 0.
    """
    return _nearest(x, fraction_bits=1, least_exponent=0, largest=E2M1_LARGEST)


def power_below(x: Values) -> Values:
    """Return the largest power of two that is not above x, of 2^-127 to 2^127; 2^-127 for zero.

    Shapes: any; result alike. x is not negative.
    """
    _, exponent = np.frexp(x)
    whole = np.where(x > 0, exponent - 1, -127)
    result: Values = np.ldexp(1.0, np.clip(whole, -127, 127))
    return result


def _nearest(x: Values, fraction_bits: int, least_exponent: int, largest: float) -> Values:
    _, exponent = np.frexp(x)
    step = np.ldexp(1.0, np.maximum(exponent - 1, least_exponent) - fraction_bits)
    result: Values = np.clip(np.rint(x / step) * step, -largest, largest)
    return result
