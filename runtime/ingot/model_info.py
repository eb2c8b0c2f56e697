# SPDX-License-Identifier: Apache-2.0
"""Sizes of a model, and the memory that its plan gives it."""

from __future__ import annotations

from ingot._native import Native
from ingot.record import Record

TYPE_CHECKING = False  # as in typing, whose import takes long
if TYPE_CHECKING:
    from typing import Any

__all__ = ["MemoryPlan", "ModelInfo", "read_model_info"]


class ModelInfo(Record):
    """Sizes of a model; the names are those of ingot_model_info."""

    tensor_count: int
    instruction_count: int
    context: int
    chunk: int
    vocabulary: int
    logits_width: int
    embedding_rows: int
    file_size: int
    weights_offset: int
    weights_size: int
    weight_bytes_per_token: int


class MemoryPlan(Record):
    """Planned bytes of a model and one session at full chunk, the threads' own buffers apart."""

    context: int
    chunk: int
    weights_bytes: int
    arena_bytes_per_token: int
    arena_bytes_per_selected: int
    scratch_bytes_per_token: int
    state_bytes_per_token: int
    peaks: tuple[tuple[int, int], ...]

    def total_bytes(self, context: int | None = None) -> int:
        """Return the bytes at a context, by default the largest."""
        positions = -(-(self.context if context is None else context) // 64) * 64
        per_token = self.arena_bytes_per_token + self.scratch_bytes_per_token
        session = per_token * self.chunk + self.arena_bytes_per_selected
        return self.weights_bytes + session + self.state_bytes_per_token * positions


def read_model_info(library: Native, handle: Any) -> ModelInfo:
    """Ask the library for a model's sizes."""
    info = library.struct("ingot_model_info")
    library.check(library.lib.ingot_model_info_get(handle, info))
    return ModelInfo(*(int(getattr(info, name)) for name in ModelInfo.names))
