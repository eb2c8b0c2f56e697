# SPDX-License-Identifier: Apache-2.0
"""Atheris targets of the importers: `checkpoint` (config, index, safetensors) and `texts`.

Atheris, because libFuzzer's corpora, merging and mutators then are those of the native targets;
hypothesis keeps no corpus. JSON is changed value by value, the header of safetensors among it.

Example:
    python -m tests.fuzz.fuzz_importer texts -max_total_time=60 CORPUS
"""

from __future__ import annotations

import logging
import os
import random
import struct
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["ingot_compressor.importers", "ingot.tokenizer"]):
    from tests.fuzz.importer_inputs import CHECKS, FILES, check, split

from tests.fuzz.json_mutation import mutate_text

INDEX = b'{"weight_map": {"model.norm.weight": "model.safetensors"}}'


def _mutate_header(weights: bytes, rng: random.Random) -> bytes:
    """Change a value of a safetensors header and repair its length."""
    if len(weights) < 9:
        return weights
    size = struct.unpack("<Q", weights[:8])[0] % (len(weights) - 7)
    header = mutate_text(weights[8 : 8 + size], rng)
    return struct.pack("<Q", len(header)) + header + weights[8 + size :]


def mutate(target: str, data: bytes, max_size: int, seed: int) -> bytes:
    """Change a value of one of the JSON texts, leave a file out, or change bytes."""
    rng = random.Random(seed)
    parts = split(target, data)
    if rng.randrange(8) == 0:
        return bytes(atheris.Mutate(data, max_size))
    at = rng.choice([place for place, part in enumerate(parts) if part] or [0])
    if rng.randrange(24) == 0:
        parts[at] = b""
    elif FILES[target][at] == "model.safetensors":
        parts[at] = _mutate_header(parts[at], rng)
    else:
        parts[at] = mutate_text(parts[at] or b"{}", rng)
    if target == "checkpoint" and rng.randrange(32) == 0:
        parts[1] = INDEX
    return b"\n".join(parts)[:max_size]


def main() -> int:
    """Run libFuzzer on one target; the other arguments are its own."""
    if len(sys.argv) < 2 or sys.argv[1] not in CHECKS:
        sys.stderr.write(f"expected a target first: {', '.join(CHECKS)}\n")
        return 2
    target = sys.argv.pop(1)
    sys.argv[0] = os.environ.get("INGOT_FUZZ_PROGRAM", sys.argv[0])  # what a merge starts again
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:

        def run_one(data: bytes) -> None:
            check(target, Path(folder), data)

        def mutate_one(data: bytes, max_size: int, seed: int) -> bytes:
            return mutate(target, data, max_size, seed)

        atheris.Setup(sys.argv, run_one, custom_mutator=mutate_one)
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
