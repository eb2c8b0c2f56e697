# SPDX-License-Identifier: Apache-2.0
"""Ingot: small language models from one file, on the device.

>>> from ingot import Model
>>> model = Model("smol.ingot")
>>> with model.session() as session:
...     for piece in session.stream("Turn on the light in", max_tokens=32):
...         print(piece, end="", flush=True)
"""

from __future__ import annotations

from ingot import _numpy_start as _numpy_start  # before anything else loads NumPy
from ingot.chat import Chat, ChatSettings
from ingot.errors import (
    CancelledError,
    ContextFullError,
    FormatError,
    HardwareError,
    IngotError,
    InternalError,
    InvalidArgumentError,
    MemoryLimitError,
    MissingExtraError,
    NotBuiltError,
    OutOfMemoryError,
    StateError,
    StorageError,
)
from ingot.generation import Generation, Options, Stats, Stream
from ingot.model import MemoryPlan, Model, ModelInfo
from ingot.sampling import Sampling
from ingot.session import Session
from ingot.tokenizer import Tokenizer

__all__ = [
    "CancelledError",
    "Chat",
    "ChatSettings",
    "ContextFullError",
    "FormatError",
    "Generation",
    "HardwareError",
    "IngotError",
    "InternalError",
    "InvalidArgumentError",
    "MemoryLimitError",
    "MemoryPlan",
    "MissingExtraError",
    "Model",
    "ModelInfo",
    "NotBuiltError",
    "Options",
    "OutOfMemoryError",
    "Sampling",
    "Session",
    "StateError",
    "Stats",
    "StorageError",
    "Stream",
    "Tokenizer",
]
__version__ = "0.1.0"
