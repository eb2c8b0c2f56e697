# SPDX-License-Identifier: Apache-2.0
"""The NumPy executor: slow, obvious, the oracle of the tests and the documentation of each op."""

from __future__ import annotations

from ingot import _numpy_start as _numpy_start  # before anything here loads NumPy
from ingot.reference.compare import check_operations
from ingot.reference.conformance import check_conformance, conformance
from ingot.reference.linear import LinearWeight, linear, linear_error_bound, prepare
from ingot.reference.session import ReferenceSession

__all__ = [
    "LinearWeight",
    "ReferenceSession",
    "check_conformance",
    "check_operations",
    "conformance",
    "linear",
    "linear_error_bound",
    "prepare",
]
