# SPDX-License-Identifier: Apache-2.0
"""First inputs of the targets `session` and `plan`: plausible calls and edits from a fixed seed."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

__all__ = ["plan_seeds", "session_seeds"]

_CREATE, _PREFILL, _DECODE, _STEP, _SAMPLE, _FORK, _CUT, _RESTORE = 1, 3, 5, 7, 9, 10, 11, 12
_OTHERS = (2, 13, 14, 15, 16, 17, 18, 19, 0)


def session_seeds(count: int = 24) -> Iterator[bytes]:
    """Yield call sequences: sessions are opened, fed, forked, cut, restored, closed."""
    rng = random.Random(12)
    for _ in range(count):
        calls = bytearray()
        for slot in range(2):
            config = (0, 1 + rng.randrange(6), 4, 8, rng.randrange(4), rng.randrange(4))
            calls += bytes((_CREATE, slot, rng.randrange(2), *config))
            calls += bytes((_PREFILL, slot, rng.randrange(80), 1, rng.randrange(256), 5))
        for _ in range(rng.randrange(4, 30)):
            usual = (_PREFILL, _DECODE, _STEP, _SAMPLE, _FORK, _CUT, _RESTORE)
            call = rng.choice(usual if rng.random() < 0.8 else _OTHERS)
            call += 20 * rng.randrange(12)  # from 240 on the logits are compared as well
            calls += bytes((call, rng.randrange(16))) + rng.randbytes(rng.randrange(2, 7))
        yield bytes(calls)


def plan_seeds(count: int = 48) -> Iterator[bytes]:
    """Yield a base file with up to three edits: tables, records, fields and values at random."""
    rng = random.Random(13)
    for index in range(count):
        edits = bytearray((index % 26,))
        for _ in range(rng.randrange(4)):
            place = (rng.randrange(10), rng.randrange(8), rng.randrange(64), rng.randrange(64))
            field = (rng.randrange(128), rng.randrange(4), rng.randrange(1 << rng.randrange(1, 33)))
            edits += struct.pack("<BBHHBBI", *place, *field)
        yield bytes(edits)
