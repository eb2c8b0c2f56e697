# SPDX-License-Identifier: Apache-2.0
"""Imports NumPy so that its idle threads do not take a CPU from the first tokens.

NumPy's OpenBLAS starts a thread per CPU when it is loaded, and each spins for tens of milliseconds
before it sleeps: on two cores that slows the first tokens to half. A short timeout lets them sleep
at once; nothing else about them changes, and a value that the user set is kept. This must happen
before anything loads NumPy, hence on import, which the package's other modules never do.
"""

from __future__ import annotations

import importlib
import os
import sys

__all__ = ["import_numpy"]

VARIABLE = "OPENBLAS_THREAD_TIMEOUT"
TIMEOUT = "4"  # 2^4 turns; OpenBLAS's default is 2^26


def import_numpy() -> None:
    """Load NumPy with the short timeout; the environment is afterwards as it was."""
    if "numpy" in sys.modules or VARIABLE in os.environ:
        return
    os.environ[VARIABLE] = TIMEOUT
    try:
        importlib.import_module("numpy")
    finally:
        del os.environ[VARIABLE]


import_numpy()
