# SPDX-License-Identifier: Apache-2.0
"""The tables of `ingot bench --profile`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ingot.cli.table import print_table
from ingot.errors import StorageError
from ingot.model import Model
from ingot.profiling import Pass, Profiler, chrome_trace, totals
from ingot.session_config import SessionConfig

__all__ = ["print_profile", "profile_json", "record", "write_trace"]

DECODE_PASSES = 32
Recorded = dict[str, list[Pass]]


def record(model: Model, config: SessionConfig, prefill: int) -> Recorded:
    """Run one chunk of a prompt, then tokens one by one, after a warm-up of both."""
    profiler = Profiler(model, config)
    chunk = min(prefill, config.chunk or model.info.chunk, max(model.info.context // 4, 1))
    ids = [(7919 * index + 1) % model.info.vocabulary for index in range(2 * chunk)]
    room = model.info.context - 2 * chunk - 1
    profiler.feed(ids[:chunk])
    passes = {"prefill": [profiler.feed(ids[chunk:])]}
    profiler.feed(ids[:1])
    passes["decode"] = [profiler.feed(ids[:1]) for _ in range(max(min(DECODE_PASSES, room), 1))]
    profiler.close()
    return passes


def print_profile(passes: Recorded) -> None:
    """Print one table for prefill and one for decode."""
    header = ("op", "count", "ms", "wait ms", "MB", "GB/s", "GOPS", "share")
    for name, recorded in passes.items():
        first, rows = recorded[0], totals(recorded)
        milliseconds = sum(row.seconds for row in rows) * 1e3
        print(
            f"\n{name}: {first.tokens} tokens a pass, {len(first.threads)} threads, "
            f"{milliseconds:.3f} ms, {first.barriers} barriers"
        )
        cells = [
            (
                row.name,
                f"{row.count:g}",
                f"{row.seconds * 1e3:.3f}",
                f"{row.wait * 1e3:.3f}",
                f"{row.weight_bytes / 1e6:.2f}",
                f"{row.gigabytes_per_second:.1f}",
                f"{row.giga_operations_per_second:.1f}",
                f"{row.share * 100:.1f} %",
            )
            for row in rows
        ]
        print_table(header, cells)


def profile_json(passes: Recorded) -> dict[str, Any]:
    """Return the same figures. Units: seconds, bytes."""
    return {
        name: {
            "tokens": recorded[0].tokens,
            "threads": len(recorded[0].threads),
            "barriers": recorded[0].barriers,
            "ops": [
                {
                    **asdict(row),
                    "gigabytes_per_second": row.gigabytes_per_second,
                    "giga_operations_per_second": row.giga_operations_per_second,
                }
                for row in totals(recorded)
            ],
        }
        for name, recorded in passes.items()
    }


def write_trace(passes: Recorded, path: Path) -> None:
    """Write a Chrome trace: prefill, then decode. Raises: StorageError."""
    trace = chrome_trace([one for recorded in passes.values() for one in recorded])
    try:
        path.write_text(json.dumps(trace), encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
