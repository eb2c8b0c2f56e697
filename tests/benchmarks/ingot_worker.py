# SPDX-License-Identifier: Apache-2.0
"""Ingot through its native eval call, without sampling; a process start through the Python API.

python tests/benchmarks/ingot_worker.py FILE.ingot THREADS [--start]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from worker_loop import START_PROMPT, START_TOKENS, print_start, serve

from ingot import Model, Options
from ingot._native import native

CONTEXT = 1024
PATTERNS = 3
READS = 3


class Ingot:
    """One native session over one file."""

    def __init__(self, path: str, threads: int) -> None:
        self._native = native()
        self._model = Model(path)
        lib, ffi = self._native.lib, self._native.ffi
        config = self._native.struct("ingot_session_config")
        config.context = min(CONTEXT, self._model.info.context)
        config.threads = threads
        handle = ffi.new("ingot_session **")
        self._native.check(lib.ingot_session_create(self._model.handle, config, handle))
        self._session = ffi.gc(handle[0], lib.ingot_session_destroy)

    def reset(self) -> None:
        self._native.check(self._native.lib.ingot_session_truncate(self._session, 0))

    def feed(self, tokens: list[int]) -> None:
        array = self._native.ffi.new("int32_t[]", tokens)
        lib = self._native.lib
        self._native.check(lib.ingot_session_eval(self._session, array, len(tokens), 1))

    def ceiling(self) -> float:
        """Return GB/s of reading the weights with the best of the three patterns."""
        best = 0.0
        for pattern in range(PATTERNS):
            rates = sorted(self._read(pattern) for _ in range(READS))
            best = max(best, rates[READS // 2])
        return best

    def _read(self, pattern: int) -> float:
        rate = self._native.ffi.new("double *")
        self._native.check(self._native.lib.ingot_session_stream(self._session, pattern, rate))
        return float(rate[0])

    def bytes_per_token(self) -> int:
        """Return the weight bytes that one token reads, without padding."""
        return self._model.info.weight_bytes_per_token

    def tokenizer_seconds(self) -> float:
        """Return how long the tokenizer alone takes to load."""
        begin = time.perf_counter()
        self._model.tokenizer.encode("a")
        return time.perf_counter() - begin


def report_start(path: str, threads: int) -> None:
    """Do what a user does who has token ids: open, stream 32 tokens, choosing each."""
    prompt = list(range(START_PROMPT))
    model = Model(path)
    with model, model.session(min(CONTEXT, model.info.context), threads) as session:
        begin = time.time()
        options = Options(max_tokens=START_TOKENS, text=False)
        found = session.begin(prompt, options).result()
        if len(found.token_ids) != START_TOKENS:
            raise SystemExit(f"the model stopped after {len(found.token_ids)} tokens")
        print_start(begin + found.stats.first_token_seconds)


def int8_peak(threads: int) -> float:
    """Return GOPS of a loop of vpdpbusd on registers only; needs a C compiler and AVX-512 VNNI."""
    source = Path(__file__).with_name("int8_peak.c")
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "int8_peak"
        subprocess.run(["cc", "-O2", "-pthread", str(source), "-o", str(program)], check=True)
        done = subprocess.run(
            [str(program), str(threads)], check=True, capture_output=True, text=True
        )
    return float(done.stdout)


if __name__ == "__main__":
    if "--start" in sys.argv:
        report_start(sys.argv[1], int(sys.argv[2]))
    else:
        engine = Ingot(sys.argv[1], int(sys.argv[2]))
        extra = {
            "ceiling": engine.ceiling,
            "bytes": engine.bytes_per_token,
            "peak": lambda: int8_peak(int(sys.argv[2])),
        }
        serve(engine, {**extra, "tokenizer": engine.tokenizer_seconds})
