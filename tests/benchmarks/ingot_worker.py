# SPDX-License-Identifier: Apache-2.0
"""Ingot through its native eval call, without sampling.

python tests/benchmarks/ingot_worker.py FILE.ingot THREADS
"""

from __future__ import annotations

import mmap
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from worker_loop import serve

from ingot import Model
from ingot._native import native

CONTEXT = 1024
PATTERNS, READS, OPENS = 3, 3, 9
SHORT, STRETCH, ROUNDS = 128, 32, 5


class Ingot:
    """One native session over one file."""

    def __init__(self, path: str, threads: int) -> None:
        self._native = native()
        self._path, self._threads = path, threads
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

    def planned(self) -> int:
        """Return the bytes of the weights and of what the session took."""
        info = self._native.struct("ingot_memory_info")
        self._native.check(self._native.lib.ingot_session_memory(self._session, info))
        return int(info.total_bytes)

    def operations(self) -> float:
        """Return the integer operations of one prefilled token: 2 n k of each linear but the head.

        The head's are left out, since a prompt needs it for its last token only.
        """
        from ingot.container import Container
        from ingot.format import Opcode

        total = 0
        with Container(Path(self._path)) as file:
            head = file.entries["step"].output
            for index, item in enumerate(file.instructions):
                if item.opcode != Opcode.LINEAR or head in file.outputs(index):
                    continue
                parts = file.inputs(index)[1 : 1 + len(file.outputs(index))]
                total += sum(2 * n * k for n, k in (file.tensors[i].shape[:2] for i in parts))
        return float(total)

    def tokenizer_seconds(self) -> float:
        """Return how long the tokenizer alone takes to load."""
        begin = time.perf_counter()
        self._model.tokenizer.encode("a")
        return time.perf_counter() - begin

    def open_again(self) -> dict[str, Any]:
        """Open the file natively some times; say how long, and what of its weights got mapped."""
        lib, ffi = self._native.lib, self._native.ffi
        seconds, pages = [], []
        for _ in range(OPENS):
            handle = ffi.new("ingot_model **")
            before = _mapped_pages(self._path)
            begin = time.perf_counter()
            self._native.check(lib.ingot_model_open(os.fsencode(self._path), handle))
            seconds.append(time.perf_counter() - begin)
            pages.append(_mapped_pages(self._path) - before)
            lib.ingot_model_close(handle[0])
        # What the system maps around a page that was read is not touched by anybody.
        around = (self._model.info.weights_offset + FAULT_AROUND) // mmap.PAGESIZE + 1
        return {"seconds": seconds, "weight_pages": max(0, statistics.median(pages) - around)}

    def context(self, kv: str) -> dict[str, Any]:
        """Decode behind a full context and behind a short one, in turn."""
        length = self._model.info.context - STRETCH
        rates: dict[str, list[float]] = {"short": [], "long": []}
        starts = {"short": SHORT, "long": length}
        sessions = {name: self._model.session(threads=self._threads, kv=kv) for name in starts}
        for name, session in sessions.items():
            session.feed([index % 1000 for index in range(starts[name])])
        for _ in range(ROUNDS):
            for name, session in sessions.items():
                session.truncate(starts[name])
                begin = time.perf_counter()
                for token in range(STRETCH):
                    session.feed([token])
                rates[name].append(STRETCH / (time.perf_counter() - begin))
        for session in sessions.values():
            session.close()
        return {**rates, "positions": length}


FAULT_AROUND = 1 << 16


def _mapped_pages(path: str) -> int:
    """Return the resident pages of all mappings of a file in this process (Linux)."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if "-" in line.split(" ", 1)[0]:
            inside = line.endswith(os.path.realpath(path))
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024 // mmap.PAGESIZE
    return total


if __name__ == "__main__":
    engine = Ingot(sys.argv[1], int(sys.argv[2]))
    extra = {
        "ceiling": engine.ceiling,
        "bytes": engine.bytes_per_token,
        "planned": engine.planned,
        "operations": engine.operations,
        "tokenizer": engine.tokenizer_seconds,
        "open": engine.open_again,
        "context kv8": lambda: engine.context("kv8"),
        "context f16": lambda: engine.context("f16"),
    }
    serve(engine, extra)
