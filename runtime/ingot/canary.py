# SPDX-License-Identifier: Apache-2.0
"""The canary: a file's own vectors, run on each kernel level of each backend before first trust.

A level whose logits are not those of the file is left out, and the next best takes its place. The
outcome is kept under a fingerprint of device, driver, library and file: any of them new, and the
canary runs again. INGOT_CANARY=0 turns it off; a file without vectors cannot be checked.
"""

from __future__ import annotations

import json
import os
import zlib

from ingot.environment import read_cache, write_cache
from ingot.errors import CanaryError, StorageError
from ingot.record import Record
from ingot.session_config import SessionConfig, open_native
from ingot.topology import read_topology

TYPE_CHECKING = False  # as in typing, whose import takes long
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from ingot.model import Model

__all__ = [
    "LEVELS",
    "CanaryReport",
    "LevelResult",
    "VectorRun",
    "check",
    "fingerprint",
    "known",
    "library_digest",
    "settle",
]

KIND, VERSION = "canary", 1
REFERENCE = 1
LEVELS = {
    1: "ref",
    2: "avx2",
    4: "avxvnni",
    8: "avx512vnni",
    16: "neon",
    32: "neon_dotprod",
    64: "neon_i8mm",
}
SMALL = 16 << 20  # bytes of weights up to which the scalar reference is run as well
# Of the spread of the logits: how far int8 keys and values may move them. On the bundled model it
# is 0.01 to 0.02; an attention that is wrong moves them by 0.5 and more.
MOST_MOVED = 0.15


class LevelResult(Record):
    """What the vectors said of one level of one backend; no problems: it may be trusted."""

    backend: str
    level: str
    problems: tuple[str, ...]


class CanaryReport(Record):
    """mask: the levels to be used, bits of ingot_isa. verdict: passed, replaced or unchecked."""

    verdict: str
    mask: int
    results: tuple[LevelResult, ...]
    cached: bool = False

    def describe(self) -> str:
        """Return one line for people."""
        failed = [result for result in self.results if result.problems]
        if self.verdict == "unchecked":
            return "canary: the file has no vectors, its kernels are not checked here"
        if not failed:
            return f"canary: {', '.join(result.level for result in self.results)} agree"
        texts = "; ".join(f"{result.level} is wrong ({result.problems[0]})" for result in failed)
        best = LEVELS[1 << self.mask.bit_length() - 1]
        return f"canary: {texts}; {best} is used instead. Report it with `ingot doctor --json`"

    def to_json(self) -> dict[str, Any]:
        """Return it for json.dumps()."""
        results = [
            {"backend": r.backend, "level": r.level, "problems": list(r.problems)}
            for r in self.results
        ]
        return {
            "verdict": self.verdict,
            "mask": self.mask,
            "cached": self.cached,
            "results": results,
        }


def settle(model: Model) -> CanaryReport:
    """Return what is known of this file on this device, or run the canary and keep the outcome.

    Raises: CanaryError if no level gives the file's logits.
    """
    key = fingerprint(model)
    report = known(model, key)
    if report is None:
        report = check(model)
        write_cache(KIND, key, report.to_json())
    if report.verdict == "replaced":
        import logging

        logging.getLogger(__name__).warning("%s: %s", model.path.name, report.describe())
    return report


def fingerprint(model: Model) -> str:
    """Return all that the outcome depends on: device, driver, library, kernel levels and file."""
    native = model.native
    system = os.uname()
    digest = native.ffi.new("uint8_t[32]")
    native.check(native.lib.ingot_model_digest(model.handle, digest))
    return "|".join(
        (
            str(VERSION),
            "cpu",  # the driver of this backend is the kernel, which saves the vector registers
            read_topology(native).name,
            f"{int(native.lib.ingot_cpu_features()):x}:{int(native.lib.ingot_cpu_mask()):x}",
            f"{system.sysname} {system.release} {system.version} {system.machine}",
            library_digest(native.path),
            bytes(native.ffi.buffer(digest)).hex(),
        )
    )


def library_digest(path: str) -> str:
    """Name a library by its content: a copy that was damaged is another one.

    Raises: StorageError if it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
    return f"{len(data)}:{zlib.crc32(data):08x}"


def known(model: Model, key: str) -> CanaryReport | None:
    """Return the kept outcome of a fingerprint; None without one that makes sense."""
    values = read_cache(KIND, key)
    if values is None or values.get("verdict") not in ("passed", "replaced", "unchecked"):
        return None
    mask, results = values.get("mask"), values.get("results")
    allowed = int(model.native.lib.ingot_cpu_mask())
    if type(mask) is not int or mask & ~allowed or not mask & REFERENCE:
        return None
    try:
        found = tuple(_parsed(entry) for entry in results or ())
    except (KeyError, TypeError, ValueError):
        return None
    return CanaryReport(values["verdict"], mask, found, cached=True)


def _parsed(entry: Mapping[str, Any]) -> LevelResult:
    problems = tuple(str(problem) for problem in entry["problems"])
    return LevelResult(str(entry["backend"]), str(entry["level"]), problems)


def check(model: Model, every: bool = False) -> CanaryReport:
    """Run the vectors on each level that dispatch may take; the reference too where it is quick.

    every: the reference too, however large the file is.
    Raises: CanaryError if no level gives the file's logits.
    Cost: three evaluations per prompt and level, on one thread.
    """
    native = model.native
    allowed = int(native.lib.ingot_cpu_mask()) | REFERENCE
    data = model.section_by_name("vectors")
    if not data:
        return CanaryReport("unchecked", allowed, ())
    run = VectorRun(model, json.loads(data))
    bits = [bit for bit in sorted(LEVELS, reverse=True) if bit & allowed and bit != REFERENCE]
    results = {bit: run.problems(allowed & (2 * bit - 1)) for bit in bits}
    if every or model.info.weights_size <= SMALL or all(results.values()):
        results[REFERENCE] = run.problems(REFERENCE)
    named = tuple(LevelResult("cpu", LEVELS[bit], tuple(found)) for bit, found in results.items())
    if all(results.values()):
        raise CanaryError(
            f"{model.path.name}: no kernel level gives the file's own logits "
            f"({named[0].level}: {named[0].problems[0]}): the file or the library is damaged, "
            "copy both again; `ingot verify FILE` says more"
        )
    wrong = sum(bit for bit, found in results.items() if found and bit != REFERENCE)
    mask = run.combine(allowed & ~wrong, allowed)
    return CanaryReport("replaced" if wrong else "passed", mask, named)


class VectorRun:
    """The vectors of one file and what evaluates them."""

    def __init__(self, model: Model, vectors: Mapping[str, Any]) -> None:
        """Take a model and what its section `vectors` says."""
        self._model, self._vectors = model, vectors

    def combine(self, mask: int, tested: int) -> int:
        """Return levels that also agree together: without one, another fills its gaps."""
        while mask != REFERENCE and mask != tested & ((1 << mask.bit_length()) - 1):
            if not self.problems(mask):
                break
            mask &= ~(1 << mask.bit_length() - 1)
        return mask | REFERENCE

    def problems(self, mask: int, backend: str = "cpu", device: int = 0) -> list[str]:
        """Return what is wrong on the levels of a mask (0: all), or on a backend's device."""
        from ingot.reference import check_conformance

        native, handle = self._model.native, self._model.open_handle(mask, backend, device)
        try:
            whole = check_conformance(self._vectors, lambda ids: self._logits(handle, [ids], "f16"))
            return whole or self._decode_problems(handle)
        finally:
            native.ffi.release(handle)

    def _decode_problems(self, handle: Any) -> list[str]:
        """Run the last two tokens alone, as in decoding, with keys and values as sessions do."""
        from ingot.reference import check_conformance

        found: list[NDArray[np.float32]] = []

        def decode(ids: list[int]) -> NDArray[np.float32]:
            found.append(self._logits(handle, _parts(ids), "f16"))
            return found[-1]

        problems = check_conformance(self._vectors, decode)
        pairs = zip(self._vectors["prompts"], found, strict=False)
        for number, (entry, exact) in enumerate(pairs if not problems else ()):
            ids = [int(token) for token in entry["token_ids"]]
            moved = float(abs(self._logits(handle, _parts(ids), "auto") - exact).max())
            if not moved <= MOST_MOVED * float(exact.max() - exact.min()):
                problems.append(
                    f"prompt {number}: int8 keys and values move a logit by {moved:.3g}"
                )
        return problems

    def _logits(self, handle: Any, parts: list[list[int]], kv: str) -> NDArray[np.float32]:
        """Return the logits after the last part, surplus ids included. Shapes: (width,) float32."""
        from ingot._numpy_start import np

        native, info = self._model.native, self._model.info
        length = sum(len(part) for part in parts)
        context = min(info.context, max(-(-length // 64) * 64, 64))
        session = open_native(
            native, handle, SessionConfig(context, min(info.chunk, context), kv=kv)
        )
        try:
            for part in parts:
                native.check(native.lib.ingot_session_eval(session, part, len(part), 1))
            row = native.lib.ingot_session_logits(session, 0)
            view = np.frombuffer(native.ffi.buffer(row, 4 * info.logits_width), np.float32)
            return view.copy()
        finally:
            native.ffi.release(session)


def _parts(ids: list[int]) -> list[list[int]]:
    """Cut a prompt so that its last two tokens are fed alone."""
    head = [ids[:-2]] if len(ids) > 2 else []
    return [*head, *([token] for token in ids[-2:])]
