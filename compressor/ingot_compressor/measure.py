# SPDX-License-Identifier: Apache-2.0
"""What an evaluation compares: the checkpoint in PyTorch, the file in the native runtime."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ingot import Model
from ingot._native import native
from ingot.canary import LEVELS
from ingot.errors import InvalidArgumentError
from ingot.session import Session
from ingot_compressor.evaluate import Logits, Scores, Window, evaluate
from ingot_compressor.evaluation.sessions import open_sessions, session_count, spread
from ingot_compressor.execute import TensorStore, execute
from ingot_compressor.ir import Program

__all__ = [
    "measure_file",
    "open_store",
    "packed_logits",
    "packed_windows",
    "reference_logits",
    "used_isa",
]

# The reference's float32 weights stay in memory if they take at most this share of what is free.
KEPT_SHARE = 0.5


def open_store(program: Program) -> TensorStore:
    """Return a store that keeps the weights where memory allows, else reads them for each use."""
    needed = 4 * sum(tensor.shape[0] * tensor.shape[1] for tensor in program.weights())
    return TensorStore(keep=needed <= KEPT_SHARE * _free_bytes())


def _free_bytes() -> int:
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        line = next(x for x in text.splitlines() if x.startswith("MemAvailable:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def reference_logits(program: Program, store: TensorStore) -> Logits:
    """Return the full-precision model; logits of ids that are never sampled are left out."""

    def run(tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits = execute(program, torch.from_numpy(tokens)[None], store=store)[0]
        result: NDArray[np.float32] = logits[:, : program.vocabulary].numpy()
        return result

    return run


def packed_logits(session: Session, vocabulary: int) -> Logits:
    """Return the packed model: each window from an empty session."""

    def run(tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        session.reset()
        return session.logits(tokens)[:, :vocabulary]

    return run


def packed_windows(
    model: Model,
    windows: Sequence[NDArray[np.int64]],
    vocabulary: int,
    threads: int = 0,
    kv: str = "f16",
) -> Iterator[NDArray[np.float32]]:
    """Yield the logits of every window from an empty session; several windows run at a time.

    `kv` is the format of keys and values. The figures do not depend on how many sessions there
    are, nor on `threads`, which they share (0: one per CPU).
    Shapes: windows each (t,) int64; results (t, vocabulary).
    """
    longest = max(len(window) for window in windows)
    count = session_count(len(windows), threads, 4 * longest * model.info.vocabulary)
    rows = min(longest, model.info.chunk)

    def run(session: Session, window: NDArray[np.int64]) -> NDArray[np.float32]:
        return packed_logits(session, vocabulary)(window)

    with open_sessions(model, count, threads, longest, rows, kv) as sessions:
        yield from spread(sessions, run, windows, together=True)


def measure_file(
    path: Path,
    program: Program,
    store: TensorStore,
    windows: Sequence[NDArray[np.int64] | Window],
    progress: Callable[[int], None] | None = None,
    threads: int = 0,
    kv: str = "f16",
) -> Scores:
    """Compare a file with the checkpoint's program on windows of token ids.

    `threads` are those of the native sessions together, 0 for every CPU; `kv` is the format of
    their keys and values.

    Raises: InvalidArgumentError if the file is of another vocabulary or its context too short.
    """
    longest = max((len(window) for window in windows), default=0)
    with Model(path) as model:
        if model.info.vocabulary != program.vocabulary:
            raise InvalidArgumentError(
                f"{path.name} has {model.info.vocabulary} ids, the checkpoint {program.vocabulary}:"
                " not the same model"
            )
        if longest > model.info.context:
            raise InvalidArgumentError(
                f"windows of {longest} tokens do not fit the file's context {model.info.context}"
            )
        tokens = [one.tokens if isinstance(one, Window) else one for one in windows]
        found = (
            packed_windows(model, tokens, program.vocabulary, threads, kv) if tokens else iter(())
        )
        reference = reference_logits(program, store)
        # `evaluate` asks for the windows in their order
        return evaluate(windows, reference, lambda window: next(found), progress)


def used_isa() -> str:
    """Return the strongest instruction set that the native kernels may use here."""
    mask = int(native().lib.ingot_cpu_mask())
    return next((LEVELS[bit] for bit in sorted(LEVELS, reverse=True) if mask & bit), "ref")
