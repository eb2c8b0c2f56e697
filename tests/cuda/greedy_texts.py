# SPDX-License-Identifier: Apache-2.0
"""Greedy text of files on the CPU and on the CUDA backend: the same, or a difference explained.

Example:
    python tests/cuda/greedy_texts.py 200 lantern.ingot
"""

from __future__ import annotations

import sys
import time

import numpy as np
from numpy.typing import NDArray

from ingot import Model

PROMPT = [1, 50, 60, 70, 80, 90, 100, 110, 120, 130, 140, 150]
F32 = NDArray[np.float32]


def greedy(path: str, backend: str, count: int) -> tuple[list[int], list[F32]]:
    """Return the tokens and the logits that each was chosen from."""
    tokens: list[int] = []
    chosen: list[F32] = []
    with Model(path, backend=backend) as model, model.session() as session:
        logits = session.feed(PROMPT)
        for _ in range(count):
            chosen.append(np.array(logits, np.float32).reshape(-1))
            tokens.append(int(chosen[-1].argmax()))
            logits = session.feed(tokens[-1:])
        if backend != "cpu" and session.executed("cpu") != 0:
            raise SystemExit(f"{path}: some ops ran on the CPU")
    return tokens, chosen


def main(count: int, paths: list[str]) -> int:
    """Exit with 1 where texts differ and the two best logits were further apart than both sides."""
    wrong = 0
    for path in paths:
        start = time.monotonic()
        cpu, cpu_logits = greedy(path, "cpu", count)
        cuda, cuda_logits = greedy(path, "cuda", count)
        same = next((i for i in range(count) if cpu[i] != cuda[i]), count)
        last = min(same, count - 1)
        difference = float(np.abs(cpu_logits[last] - cuda_logits[last]).max())
        line = f"{path}: {same} of {count} tokens are the same, {time.monotonic() - start:.1f} s"
        if same < count:
            best, second = np.sort(cpu_logits[same])[:-3:-1]
            line += (
                f"; then the best logits are {best - second:.3g} apart, the sides {difference:.3g}"
            )
            wrong += best - second > 2 * difference
        print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
