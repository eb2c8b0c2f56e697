# SPDX-License-Identifier: Apache-2.0
"""What a native session tells about itself: activations, memory, executed work, reading speed."""

from __future__ import annotations

from ingot.errors import InvalidArgumentError
from ingot.passes import Passes
from ingot.session_config import MemoryInfo

TYPE_CHECKING = False  # as in typing, whose import takes long
if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["executed", "memory", "read_activation", "stream_bandwidth"]


def read_activation(passes: Passes, tensor: int, rows: int, width: int) -> NDArray[np.float32]:
    """Return an activation of the last pass. Shapes: (rows, width) float32.

    Raises: InvalidArgumentError if the tensor is no activation of that pass.
    """
    from ingot._numpy_start import np

    native = passes.native
    out = np.zeros((rows, width), np.float32)
    pointer = native.ffi.cast("float *", out.ctypes.data)
    native.check(native.lib.ingot_session_read(passes.handle, tensor, pointer, out.size))
    return out


def executed(passes: Passes, backend: str) -> int:
    """Return how many instructions a backend has executed. Raises: InvalidArgumentError."""
    from ingot.backends import NAMES

    if backend not in (*NAMES, passes.backend):
        raise InvalidArgumentError(f"backend '{backend}', expected one of {', '.join(NAMES)}")
    if backend not in ("cpu", passes.backend):
        return 0
    return int(passes.native.lib.ingot_session_executed(passes.handle, int(backend != "cpu")))


def memory(passes: Passes) -> MemoryInfo:
    """Return what the session takes, in bytes."""
    native = passes.native
    info = native.struct("ingot_memory_info")
    native.check(native.lib.ingot_session_memory(passes.handle, info))
    return MemoryInfo(*(int(getattr(info, name)) for name in MemoryInfo.names))


def stream_bandwidth(passes: Passes, pattern: int) -> float:
    """Return the gigabytes per second of reading all weights once."""
    native = passes.native
    result = native.ffi.new("double *")
    native.check(native.lib.ingot_session_stream(passes.handle, pattern, result))
    return float(result[0])
