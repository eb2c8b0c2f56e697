# SPDX-License-Identifier: Apache-2.0
"""Ingot: small language models from one file, on the device.

>>> from ingot import Model
>>> model = Model("smol.ingot")
>>> with model.session() as session:
...     for piece in session.stream("Turn on the light in", max_tokens=32):
...         print(piece, end="", flush=True)

Names are loaded when they are first used, and NumPy only by what returns arrays: a process that
streams text has its first tokens before NumPy would be there.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as in typing, whose import takes longer than ours
if TYPE_CHECKING:
    from ingot.chat import Chat, ChatSettings
    from ingot.errors import (
        CanaryError,
        CancelledError,
        ContextFullError,
        FileLostError,
        FormatError,
        HardwareError,
        IngotError,
        InternalError,
        InvalidArgumentError,
        MemoryLimitError,
        MissingExtraError,
        OutOfMemoryError,
        StateError,
        StorageError,
        UntrustedFileError,
    )
    from ingot.generation import Generation, Options, Stats
    from ingot.governor import Governor
    from ingot.low_memory import LowMemory
    from ingot.model import MemoryPlan, Model, ModelInfo
    from ingot.sampling import Sampling
    from ingot.session import Session
    from ingot.stream import Stream
    from ingot.tokenizer import Tokenizer

__all__ = [
    "CanaryError",
    "CancelledError",
    "Chat",
    "ChatSettings",
    "ContextFullError",
    "FileLostError",
    "FormatError",
    "Generation",
    "Governor",
    "HardwareError",
    "IngotError",
    "InternalError",
    "InvalidArgumentError",
    "LowMemory",
    "MemoryLimitError",
    "MemoryPlan",
    "MissingExtraError",
    "Model",
    "ModelInfo",
    "Options",
    "OutOfMemoryError",
    "Sampling",
    "Session",
    "StateError",
    "Stats",
    "StorageError",
    "Stream",
    "Tokenizer",
    "UntrustedFileError",
]
__version__ = "0.1.0"

_MODULES = {
    "chat": ("Chat", "ChatSettings"),
    "generation": ("Generation", "Options", "Stats"),
    "governor": ("Governor",),
    "low_memory": ("LowMemory",),
    "model": ("MemoryPlan", "Model", "ModelInfo"),
    "sampling": ("Sampling",),
    "session": ("Session",),
    "stream": ("Stream",),
    "tokenizer": ("Tokenizer",),
}


def __getattr__(name: str) -> object:
    """Load the module of a public name; errors are where all other names are."""
    if name not in __all__:
        raise AttributeError(f"module 'ingot' has no attribute '{name}'")
    from importlib import import_module

    module = next((module for module, names in _MODULES.items() if name in names), "errors")
    value: object = getattr(import_module(f"ingot.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names, loaded or not."""
    return sorted({*globals(), *__all__})
