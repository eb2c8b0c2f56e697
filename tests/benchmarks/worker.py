# SPDX-License-Identifier: Apache-2.0
"""The parent's side of a worker process."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

FOLDER = Path(__file__).resolve().parent
# Threads of the side that waits are to sleep before the other side's turn.
PAUSE_SECONDS = 0.3


class Worker:
    """A process that holds one loaded model and answers one command at a time."""

    def __init__(self, python: Path, script: str, file: Path, threads: int) -> None:
        command = [str(python), str(FOLDER / script), str(file), str(threads)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answer()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait(timeout=30)

    def ask(self, command: str) -> Any:
        """Send a command and return its answer."""
        assert self._process.stdin
        time.sleep(PAUSE_SECONDS)
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"worker ended with {self._process.wait()}")
        return json.loads(line)


def start_once(python: Path, script: str, file: Path, threads: int) -> dict[str, float]:
    """Run a process to its 32nd token and return its times and its memory."""
    command = [str(python), str(FOLDER / script), str(file), str(threads), "--start"]
    environment = {**os.environ, "INGOT_BENCHMARK_BEGIN": repr(time.time())}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer
