# SPDX-License-Identifier: Apache-2.0
"""NumPy, imported so that its idle threads do not take a CPU from the tokens after it.

NumPy's OpenBLAS starts a thread per CPU when it is loaded, and each spins for tens of milliseconds
before it sleeps: on two cores that slows the tokens meanwhile to half. A short timeout lets them
sleep at once; nothing else about them changes, and a value that the user set is kept. Functions
that run beside generation take `np` from here, when they need it and not before.
"""

from __future__ import annotations

import os
import sys

from ingot.environment import environment

__all__ = ["np"]

VARIABLE = "OPENBLAS_THREAD_TIMEOUT"
TIMEOUT = "4"  # 2^4 turns; OpenBLAS's default is 2^26

_ours = "numpy" not in sys.modules and environment(VARIABLE) is None
if _ours:
    os.environ[VARIABLE] = TIMEOUT
try:
    import numpy as np
finally:
    if _ours:
        os.environ.pop(VARIABLE, None)
