# SPDX-License-Identifier: Apache-2.0
"""What both workers share: commands as JSON lines on standard input, figures on standard output.

Only the standard library, because the peer's Python has nothing of ours.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable

TYPE_CHECKING = False  # as in typing, whose import takes longer than the rest of a start
if TYPE_CHECKING:
    from typing import Any, Protocol
else:
    Protocol = object

START_PROMPT, START_TOKENS = 8, 32


class Engine(Protocol):
    """A loaded model that feeds token ids without sampling."""

    def reset(self) -> None:
        """Forget all positions."""

    def feed(self, tokens: list[int]) -> None:
        """Feed tokens as one call of the engine; the logits of the last one are computed."""


def resident_bytes() -> int:
    """Return the most memory that this process had resident (Linux)."""
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    raise RuntimeError("no VmHWM in the process status")


def decode_seconds(engine: Engine, tokens: int) -> float:
    """Return the time of feeding so many single tokens from an empty state."""
    engine.reset()
    begin = time.perf_counter()
    for token in range(tokens):
        engine.feed([token])
    return time.perf_counter() - begin


def prefill_seconds(engine: Engine, tokens: int) -> float:
    """Return the time of one prompt from an empty state."""
    engine.reset()
    prompt = list(range(tokens))
    begin = time.perf_counter()
    engine.feed(prompt)
    return time.perf_counter() - begin


def report_start(engine: Engine) -> None:
    """Answer a prompt of eight tokens with 32, and tell when the first and the last came.

    The parent gives the time at which it started us; both clocks are the system's.
    """
    engine.feed(list(range(START_PROMPT)))
    first = time.time()
    for token in range(START_TOKENS - 1):
        engine.feed([token])
    print_start(first)


def print_start(first: float) -> None:
    """Print when the first token came and that the last one came now, since the parent's start."""
    begin = float(os.environ["INGOT_BENCHMARK_BEGIN"])
    seconds = {"first_s": first - begin, "seconds": time.time() - begin}
    answer = {**seconds, "resident_bytes": resident_bytes()}
    print(json.dumps(answer), flush=True)


def serve(engine: Engine, extra: dict[str, Callable[[], Any]]) -> None:
    """Answer commands until standard input ends."""
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        command = line.strip()
        name, _, count = command.partition(" ")
        if name == "decode":
            answer: Any = decode_seconds(engine, int(count))
        elif name == "prefill":
            answer = prefill_seconds(engine, int(count))
        elif name == "resident":
            answer = resident_bytes()
        else:
            answer = extra[command]()
        print(json.dumps(answer), flush=True)
