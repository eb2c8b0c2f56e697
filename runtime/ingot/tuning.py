# SPDX-License-Identifier: Apache-2.0
"""Threads, kernels and grain chosen by a short measurement on this device, and its cache.

A cache entry is a file named by the digest of all that the measurement depends on: the CPUs, the
library, the formats and shapes of the file. One that is damaged, foreign or from another build is
measured again; one that cannot be written costs the next start another measurement, no more.
"""

from __future__ import annotations

import os

from ingot._native import Native
from ingot.environment import cache_path, environment, read_cache, write_cache
from ingot.errors import InvalidArgumentError
from ingot.record import Record
from ingot.topology import read_topology

TYPE_CHECKING = False  # as in typing, whose import takes long
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "Candidate",
    "Tuned",
    "cache_file",
    "cache_key",
    "keep",
    "load",
    "measure",
    "store",
    "tune_session",
]

BUDGET_SECONDS = 0.05
LEAST_WEIGHTS = 16 << 20  # bytes; a smaller model is fast enough before anything is measured
CACHE_VERSION = 1
FIELDS = ("threads", "prefill_threads", "grain", "prefill_grain")
KERNEL_SLOTS, MOST_CANDIDATES = 64, 128
SWITCH, KIND = "INGOT_TUNE", "tune"


class Candidate(Record):
    """One rival of a race, for people. Units: seconds of its fastest trial."""

    phase: str
    what: str
    chosen: bool
    seconds: float
    gigabytes_per_second: float
    giga_operations_per_second: float


class Tuned(Record):
    """What was chosen: the fields of ingot_tuning, and the rivals where they were measured.

    disturbed: other processes took the CPUs meanwhile; threads are not chosen, nothing is kept.
    """

    values: dict[str, Any]
    candidates: tuple[Candidate, ...] = ()
    disturbed: bool = False


def tune_session(native: Native, model: Any, session: Any) -> None:
    """Apply what is known for this device and file, or measure it first; an empty session only.

    INGOT_TUNE=0 in the environment, or weights below 16 MiB: nothing is done.
    """
    if environment(SWITCH) == "0":
        return
    info = native.struct("ingot_model_info")
    native.check(native.lib.ingot_model_info_get(model, info))
    if info.weights_size < LEAST_WEIGHTS:
        return
    key = cache_key(native, model)
    found = load(key)
    if found is None or not _apply(native, session, found):
        keep(key, measure(native, session))


def measure(native: Native, session: Any, seconds: float = BUDGET_SECONDS) -> Tuned:
    """Race the candidates on the model's own weights; the winners hold in this session.

    Raises: InvalidArgumentError for a session that holds positions.
    """
    tuning, count = native.struct("ingot_tuning"), native.ffi.new("uint32_t *")
    rivals = native.ffi.new("ingot_tune_candidate[]", MOST_CANDIDATES)
    tune = native.lib.ingot_session_tune
    native.check(tune(session, seconds, 1, tuning, rivals, MOST_CANDIDATES, count))
    values: dict[str, Any] = {name: int(getattr(tuning, name)) for name in FIELDS}
    values["kernels"] = [int(tuning.kernels[slot]) for slot in range(KERNEL_SLOTS)]
    candidates = tuple(_candidate(native, rivals[index]) for index in range(count[0]))
    return Tuned(values, candidates, bool(tuning.disturbed))


def cache_key(native: Native, model: Any) -> str:
    """Return all that a measurement depends on: device, library and kind of file."""
    return "|".join(
        (
            str(CACHE_VERSION),
            read_topology(native).key(),
            _library_key(native),
            f"{int(native.lib.ingot_model_layout(model)):08x}",
        )
    )


def cache_file(key: str) -> str:
    """Return the path of the entry of a key; "" in a set-uid process, which keeps nothing."""
    return cache_path(KIND, key) or ""


def _library_key(native: Native) -> str:
    """Name the build: another one may number its kernels otherwise, or has faster ones."""
    status = os.stat(native.path)
    mask = int(native.lib.ingot_cpu_mask())
    return f"{status.st_size}:{status.st_mtime_ns}:{mask}:{int(native.lib.ingot_kernel_count())}"


def load(key: str) -> dict[str, Any] | None:
    """Return the entry of a key, None if it is not there, not whole, or another's."""
    values = read_cache(KIND, key)
    if values is None:
        return None
    if set(values) != {*FIELDS, "kernels"}:
        return None
    kernels = values["kernels"]
    if not isinstance(kernels, list) or len(kernels) != KERNEL_SLOTS:
        return None
    numbers = [*kernels, *(values[name] for name in FIELDS)]
    return values if all(type(n) is int and 0 <= n < 1 << 32 for n in numbers) else None


def _apply(native: Native, session: Any, values: dict[str, Any]) -> bool:
    """Give a session what was chosen; False if it does not fit."""
    tuning = native.struct("ingot_tuning")
    for name in FIELDS:
        setattr(tuning, name, values[name])
    for slot, kernel in enumerate(values["kernels"]):
        tuning.kernels[slot] = kernel
    try:
        native.check(native.lib.ingot_session_apply(session, tuning))
    except InvalidArgumentError:
        return False
    return True


def keep(key: str, tuned: Tuned) -> bool:
    """Store a measurement that was not disturbed. Returns whether it was stored."""
    return not tuned.disturbed and store(key, tuned.values)


def store(key: str, values: dict[str, Any]) -> bool:
    """Write an entry; it appears whole or not at all. Returns False where it cannot be written."""
    return write_cache(KIND, key, values)


def _candidate(native: Native, rival: Any) -> Candidate:
    return Candidate(
        "prefill" if rival.phase else "decode",
        _what(native, rival),
        bool(rival.chosen),
        float(rival.seconds),
        float(rival.gigabytes_per_second),
        float(rival.giga_operations_per_second),
    )


def _what(native: Native, rival: Any) -> str:
    """Name what a rival is about: its kernel, or threads and grain."""
    from ingot.format import Dtype  # late: loading a known choice does without it

    if not rival.dtype:
        return f"{rival.threads} threads, grain {rival.grain}"
    info = native.struct("ingot_kernel_info")
    native.check(native.lib.ingot_kernel_info_get(rival.kernel - 1, info))
    return f"{Dtype(rival.dtype).name.lower()}: {native.text(info.name)}"
