# SPDX-License-Identifier: Apache-2.0
"""What a user does who has token ids: open a file and stream 32 tokens, choosing each.

python tests/benchmarks/start_worker.py FILE.ingot THREADS --start
"""

from __future__ import annotations

import sys
import time

from worker_loop import START_PROMPT, START_TOKENS, print_start

from ingot import Model, Options

CONTEXT = 1024


def report_start(path: str, threads: int) -> None:
    """Print when the first and the last token came."""
    model = Model(path)
    with model, model.session(min(CONTEXT, model.info.context), threads) as session:
        begin = time.time()
        options = Options(max_tokens=START_TOKENS, text=False)
        found = session.begin(list(range(START_PROMPT)), options).result()
        if len(found.token_ids) != START_TOKENS:
            raise SystemExit(f"the model stopped after {len(found.token_ids)} tokens")
        print_start(begin + found.stats.first_token_seconds)


if __name__ == "__main__":
    report_start(sys.argv[1], int(sys.argv[2]))
