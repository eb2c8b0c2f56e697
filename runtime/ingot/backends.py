# SPDX-License-Identifier: Apache-2.0
"""Backends besides the CPU: which devices are there, whether they are right, which is faster.

A backend is a library beside libingot that executes the same program (native/README.md). It is
loaded when it is asked for; `auto` asks for each, and takes what was measured to be the fastest of
those whose canary agrees. The outcome is kept under a fingerprint, as the canary's is.
"""

from __future__ import annotations

import os
import time

from ingot.canary import VectorRun, fingerprint, library_digest
from ingot.environment import cache_path, read_cache, write_cache
from ingot.errors import IngotError, MissingExtraError
from ingot.record import Record
from ingot.session_config import SessionConfig, open_native

TYPE_CHECKING = False  # as in typing, whose import takes long
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ingot._native import Native
    from ingot.model import Model

__all__ = [
    "ASKED",
    "NAMES",
    "Choice",
    "Device",
    "cache_folder",
    "check_backend",
    "choose",
    "devices",
    "open_on",
]

NAMES = ("cpu", "vulkan", "cuda")
ASKED = (*NAMES, "auto")
KINDS = {1: "discrete", 2: "integrated", 3: "software"}
TRUST, CHOICE = "backend-canary", "backend"
POLL_S = 0.1
PROMPT, DECODED = 64, 8  # tokens of a trial
TURN = (128, 64)  # tokens in and out of the turn that the rates are weighed by


class Device(Record):
    """A device of a backend as its driver describes it; refused: why it is not to be used."""

    backend: str
    index: int
    name: str
    driver: str
    kind: str
    memory_bytes: int
    features: str
    refused: str

    def to_json(self) -> dict[str, Any]:
        """Return it for json.dumps()."""
        return self.fields()


class Choice(Record):
    """What executes a model, and why, a line per backend that was looked at."""

    backend: str
    device: int
    reasons: tuple[str, ...]

    def describe(self) -> str:
        """Return one line for people."""
        return f"backend {self.backend}: {'; '.join(self.reasons)}"


def devices(native: Native, backend: str) -> list[Device]:
    """Return the devices of a backend, those it refuses included.

    Raises: MissingExtraError if the backend is not installed; HardwareError from its driver.
    """
    found: list[Device] = []
    count = native.ffi.new("uint32_t *")
    while True:
        info = native.struct("ingot_device_info")
        status = native.lib.ingot_backend_device_get(backend.encode(), len(found), info, count)
        try:
            native.check(status)
        except MissingExtraError as error:
            raise MissingExtraError(f"backend {backend} is not installed: {error}") from None
        if count[0] <= len(found):
            return found
        found.append(_device(native, backend, len(found), info))


def _device(native: Native, backend: str, index: int, info: Any) -> Device:
    return Device(
        backend=backend,
        index=index,
        name=native.text(info.name),
        driver=native.text(info.driver),
        kind=KINDS.get(int(info.kind), "unknown"),
        memory_bytes=int(info.memory_bytes),
        features=native.text(info.features),
        refused=native.text(info.refused),
    )


def open_on(
    native: Native,
    file: str,
    backend: str,
    config: Any,
    handle: Any,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Open a file on a backend's device; what is open stands in `handle`.

    config: an ingot_open_config; backend, cache_folder and progress are set here.
    progress(done, total): called with bytes about ten times a second while weights are copied.
    Raises: MissingExtraError if the backend is not installed; as Model().
    """
    devices(native, backend)  # says clearly what is not installed
    new, folder = native.ffi.new, cache_folder()
    name, counts = new("char[]", backend.encode()), new("uint64_t[2]")
    place = native.ffi.NULL if folder is None else new("char[]", os.fsencode(folder))
    config.backend, config.cache_folder, config.progress = name, place, counts
    open_with = native.lib.ingot_model_open_with
    if progress is None:
        native.check(open_with(os.fsencode(file), config, handle))
        return
    from concurrent.futures import ThreadPoolExecutor, wait

    # The message of a failure belongs to the thread that met it, hence check() over there.
    def work() -> None:
        native.check(open_with(os.fsencode(file), config, handle))

    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(work)
        while wait([opening], POLL_S).not_done:
            if counts[1] != 0:
                progress(int(counts[0]), int(counts[1]))
    opening.result()
    if counts[1] != 0:
        progress(int(counts[0]), int(counts[1]))


def cache_folder() -> str | None:
    """Return where drivers may keep what they compiled; None in a privileged process."""
    path = cache_path("pipelines", "")
    return None if path is None else os.path.dirname(path)


def check_backend(model: Model, device: Device) -> tuple[str, ...]:
    """Return what the file's vectors say is wrong on a device; kept once it is known.

    A file without vectors cannot be checked: that is a problem too, the CPU needs no such trust.
    """
    key = f"{fingerprint(model)}|{_key(model.native, device)}"
    values = read_cache(TRUST, key)
    if values is not None and isinstance(values.get("problems"), list):
        return tuple(str(problem) for problem in values["problems"])
    data = model.section_by_name("vectors")
    if not data:
        return ("the file has no vectors to check it with",)
    import json

    problems = tuple(VectorRun(model, json.loads(data)).problems(0, device.backend, device.index))
    write_cache(TRUST, key, {"problems": list(problems)})
    return problems


def _key(native: Native, device: Device) -> str:
    """Return what a measurement on a device depends on: its driver, and the backend's library."""
    path = device.backend
    if "/" not in path:
        path = os.path.join(os.path.dirname(native.path), f"libingot_{path}.so")
    texts = (device.name, device.driver, device.features, library_digest(path))
    return "|".join((device.backend, str(device.index), *texts))


def choose(model: Model, software: bool = False) -> Choice:
    """Return the backend that is right and fastest for this file here; measured once, then kept.

    software: devices that are the CPU under another name take part too, for tests.
    Cost: the canary and a trial of 72 tokens on the CPU and on each device.
    """
    found, reasons = _usable(model, software)
    if not found:
        return Choice("cpu", 0, (*reasons, "no other device can be used"))
    key = "|".join([fingerprint(model), *(_key(model.native, device) for device in found)])
    kept = _kept(key, found)
    if kept is not None:
        return kept
    choice, whole = _measured(model, found, reasons)
    if whole:  # what failed may have lacked memory for a moment: the next time tries it again
        values = {"backend": choice.backend, "device": choice.device}
        write_cache(CHOICE, key, {**values, "reasons": list(choice.reasons)})
    return choice


def _usable(model: Model, software: bool) -> tuple[list[Device], tuple[str, ...]]:
    """Return the devices that may take part, and why the others may not."""
    found, reasons = [], []
    for backend in NAMES[1:]:
        try:
            listed = devices(model.native, backend)
        except MissingExtraError:
            reasons.append(f"{backend} is not installed")
            continue
        except IngotError as error:
            reasons.append(f"{backend}: {str(error).splitlines()[0]}")
            continue
        for device in listed:
            if device.refused:
                reasons.append(f"{backend} {device.name}: {device.refused}")
            elif device.kind == "software" and not software:
                reasons.append(f"{backend} {device.name}: the CPU itself")
            else:
                found.append(device)
    return found, tuple(reasons)


def _kept(key: str, found: list[Device]) -> Choice | None:
    values = read_cache(CHOICE, key)
    if values is None or not isinstance(values.get("reasons"), list):
        return None
    possible = {("cpu", 0), *((device.backend, device.index) for device in found)}
    if (values.get("backend"), values.get("device")) not in possible:
        return None
    reasons = tuple(str(reason) for reason in values["reasons"])
    return Choice(str(values["backend"]), int(values["device"]), reasons)


def _measured(model: Model, found: list[Device], reasons: tuple[str, ...]) -> tuple[Choice, bool]:
    """Race the CPU and the devices that agree with the file's vectors; False: a trial failed."""
    whole = True
    seconds = {("cpu", 0): _turn_seconds(model, "cpu", 0)}
    lines = [*reasons, f"cpu {1e3 * seconds['cpu', 0]:.1f} ms a turn"]
    for device in found:
        place = (device.backend, device.index)
        try:
            problems = check_backend(model, device)
            if not problems:
                seconds[place] = _turn_seconds(model, *place)
        except IngotError as error:
            problems, whole = (str(error).splitlines()[0],), False
        text = problems[0] if problems else f"{1e3 * seconds[place]:.1f} ms a turn"
        lines.append(f"{device.backend} {device.name}: {text}")
    backend, index = min(seconds, key=lambda place: seconds[place])
    return Choice(backend, index, tuple(lines)), whole


def _turn_seconds(model: Model, backend: str, device: int) -> float:
    """Return the seconds of a turn by the rates of one short trial, the first pass not counted."""
    native, info = model.native, model.info
    handle = model.open_handle(0, backend, device)
    prompt = max(1, min(PROMPT, info.chunk, info.context // 2))
    decoded = max(1, min(DECODED, info.context - prompt))
    session = open_native(native, handle, SessionConfig(min(info.context, 2 * PROMPT)))
    try:
        ids = [(7 * i) % info.vocabulary for i in range(prompt)]
        evaluate = native.lib.ingot_session_eval
        native.check(evaluate(session, ids, len(ids), 1))
        native.check(native.lib.ingot_session_truncate(session, 0))
        begin = time.perf_counter()
        native.check(evaluate(session, ids, len(ids), 1))
        middle = time.perf_counter()
        for token in (ids * DECODED)[:decoded]:
            native.check(evaluate(session, [token], 1, 1))
        end = time.perf_counter()
    finally:
        native.ffi.release(session)
        native.ffi.release(handle)
    return TURN[0] * (middle - begin) / prompt + TURN[1] * (end - middle) / decoded
