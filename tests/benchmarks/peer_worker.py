# SPDX-License-Identifier: Apache-2.0
"""llama.cpp through its low-level decode call; run by the peer's Python.

PEER_PYTHON tests/benchmarks/peer_worker.py FILE.gguf THREADS [--start]
"""

from __future__ import annotations

import sys

import llama_cpp
from worker_loop import report_start, serve

CONTEXT = 1024


class LlamaCpp:
    """One context over one model."""

    def __init__(self, path: str, threads: int) -> None:
        llama_cpp.llama_backend_init()
        silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(silent, None)
        self._silent = silent
        model = llama_cpp.llama_model_load_from_file(
            path.encode(), llama_cpp.llama_model_default_params()
        )
        if not model:
            raise RuntimeError(f"llama.cpp does not load {path}")
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = CONTEXT
        parameters.n_batch = parameters.n_ubatch = 512
        parameters.n_threads = parameters.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(model, parameters)
        if not self._context:
            raise RuntimeError("llama.cpp makes no context")

    def reset(self) -> None:
        memory = llama_cpp.llama_get_memory(self._context)
        llama_cpp.llama_memory_clear(memory, True)

    def feed(self, tokens: list[int]) -> None:
        buffer = (llama_cpp.llama_token * len(tokens))(*tokens)
        batch = llama_cpp.llama_batch_get_one(buffer, len(tokens))
        status = llama_cpp.llama_decode(self._context, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode: status {status}")


if __name__ == "__main__":
    engine = LlamaCpp(sys.argv[1], int(sys.argv[2]))
    if "--start" in sys.argv:
        report_start(engine)
    else:
        serve(engine, {})
