# SPDX-License-Identifier: Apache-2.0
"""What a new version must do on this device before anything opens it.

A canary is any function from a file to a CanaryReport. The one that comes with the store runs the
vectors in the file; `isolated` runs any of them in a process of its own, because a kernel that is
wrong for this CPU may as well crash or hang.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

__all__ = [
    "Canary",
    "CanaryReport",
    "check_vectors",
    "command_check",
    "default_canary",
    "isolated",
    "no_canary",
]

_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class CanaryReport:
    """What was wrong, nothing if all was right, and what was run."""

    problems: tuple[str, ...]
    remark: str


Canary = Callable[[Path], CanaryReport]


def no_canary(path: Path) -> CanaryReport:
    """Trust a file unseen."""
    return CanaryReport((), f"{path.name}: no canary")


def check_vectors(path: Path) -> CanaryReport:
    """Run a file's conformance vectors through the native library, in this process.

    A file without vectors must give finite logits for its first token.
    Raises: IngotError if the file does not open.
    """
    import numpy as np

    from ingot.container import Container
    from ingot.format import Section
    from ingot.model import Model
    from ingot.reference.conformance import check_conformance

    with Container(path) as container, Model(path) as model, model.session(kv="f16") as session:
        output = container.entries["step"].output

        def evaluate(tokens: list[int]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
            session.reset()
            session.feed(tokens)
            row: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = session.read(output, 1)[0]
            return row

        vectors = container.json(Section.VECTORS)
        if vectors is None:
            finite = bool(np.isfinite(evaluate([0])).all())
            problems = () if finite else ("logits of the first token are not finite",)
            return CanaryReport(problems, "one token; the file has no vectors")
        found = tuple(check_conformance(vectors, evaluate))
        return CanaryReport(found, f"{len(vectors.get('prompts', []))} prompts")


def isolated(canary: Canary, timeout_s: float = _TIMEOUT_S) -> Canary:
    """Return a canary that runs another in a forked process: a crash or hang is a problem.

    It forks rather than starts a program, so that it works where there is none to start (an
    interpreter inside another program, an emulated one); the caller should have no busy threads.
    """

    def run(path: Path) -> CanaryReport:
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read_end)
            _report(canary, path, write_end)
        os.close(write_end)
        try:
            data, in_time = _collect(read_end, time.monotonic() + timeout_s)
        finally:
            os.close(read_end)
        if not in_time:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not in_time:
            return CanaryReport((f"no end after {timeout_s:g} s",), "")
        return _judged(data, os.waitstatus_to_exitcode(status))

    return run


def default_canary() -> Canary:
    """Return what `ingot store` runs: the vectors of the file, in a process of their own."""
    return isolated(check_vectors)


def command_check(command: str, timeout_s: float = _TIMEOUT_S) -> Canary:
    """Return a check that runs a command of the shell with the file in $INGOT_FILE.

    It holds if the command exits with 0; it is what follows a switch, such as a service's restart.
    """

    def run(path: Path) -> CanaryReport:
        environment = {**os.environ, "INGOT_FILE": str(path)}
        try:
            done = subprocess.run(
                command,
                shell=True,  # it is the user's own line, given as one
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return CanaryReport((f"'{command}' did not end within {timeout_s:g} s",), "")
        if done.returncode == 0:
            return CanaryReport((), f"'{command}'")
        said = done.stdout[-300:].decode("utf-8", errors="replace").strip()
        return CanaryReport((f"'{command}' exited with {done.returncode}: {said}",), "")

    return run


def _report(canary: Canary, path: Path, write_end: int) -> NoReturn:
    """Run a canary in the child, write what it found, and end without the parent's clean-up."""
    try:
        report = canary(path)
    except Exception as error:  # the child has nobody above it who could take an exception
        report = CanaryReport((f"{type(error).__name__}: {error}",), "")
    data = json.dumps([report.problems, report.remark]).encode()
    with contextlib.suppress(OSError):
        while data:
            data = data[os.write(write_end, data) :]
    os._exit(0)


def _collect(descriptor: int, deadline: float) -> tuple[bytes, bool]:
    """Read until the end; return the bytes and whether the end came in time."""
    data = b""
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([descriptor], [], [], left)[0]:
            return data, False
        block = os.read(descriptor, 65536)
        if not block:
            return data, True
        data += block


def _judged(data: bytes, exit_code: int) -> CanaryReport:
    if exit_code < 0:
        name = signal.Signals(-exit_code).name
        return CanaryReport((f"the process that tried it was ended by {name}",), "")
    try:
        problems, remark = json.loads(data)
    except ValueError:
        return CanaryReport((f"the process that tried it ended with {exit_code}",), "")
    return CanaryReport(tuple(problems), remark)
