# SPDX-License-Identifier: Apache-2.0
"""The per-op profile: it adds up, it names what it read, it changes nothing."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from ingot import Model
from ingot.cli import main
from ingot.errors import StateError
from ingot.profiling import Pass, Profiler, chrome_trace, totals
from ingot.session_config import SessionConfig, create

PROMPT = list(range(1, 21))


@pytest.fixture(scope="module")
def passes(lantern_ingot: Path) -> dict[str, Pass]:
    with Model(lantern_ingot) as model:
        profiler = Profiler(model, SessionConfig(threads=2, prefill_threads=3))
        prefill = profiler.feed(PROMPT)
        decode = profiler.feed([7])
        profiler.close()
    return {"prefill": prefill, "decode": decode}


def overlaps(one: Pass) -> list[str]:
    """Return events of a thread that begin before the one before them has ended."""
    found = []
    for lane in one.threads:
        for before, after in itertools.pairwise(lane):
            if after.begin < before.end or before.end < before.begin or before.wait < 0:
                found.append(f"{before} {after}")
    return found


@pytest.mark.parametrize("kind", ["prefill", "decode"])
def test_events_follow_each_other_and_shares_add_up(passes: dict[str, Pass], kind: str) -> None:
    one = passes[kind]
    assert overlaps(one) == []
    rows = totals([one])
    assert abs(sum(row.share for row in rows) - 1) < 1e-9
    first, last = one.threads[0][0].begin, one.threads[0][-1].end  # threads start before the first
    assert 0.8 * (last - first) < sum(row.seconds for row in rows) <= last
    assert all(0 <= row.wait <= row.seconds for row in rows)


def test_an_overlap_would_be_seen(passes: dict[str, Pass]) -> None:
    first, second, *rest = passes["decode"].threads[0]
    moved = dataclasses.replace(second, begin=first.begin)
    assert overlaps(Pass(1, ((first, moved, *rest),)))


def test_bytes_are_those_of_the_plan(passes: dict[str, Pass], lantern_ingot: Path) -> None:
    with Model(lantern_ingot) as model:
        expected = model.info.weight_bytes_per_token
    read = sum(event.weight_bytes for event in passes["decode"].threads[0])
    assert read == pytest.approx(expected, rel=0.02)  # norms are read, but are no weights


def test_threads_and_barriers(passes: dict[str, Pass]) -> None:
    assert len(passes["prefill"].threads) <= 3 and len(passes["decode"].threads) <= 2
    for one in passes.values():
        caller, *others = (sum(event.barriers for event in lane) for lane in one.threads)
        # A thread that another process took the CPU from may leave the pass early.
        assert caller > 0 and all(0 < count <= caller for count in others)


def test_the_trace_has_a_lane_per_thread(passes: dict[str, Pass]) -> None:
    trace = chrome_trace(list(passes.values()))
    events = json.loads(json.dumps(trace))["traceEvents"]
    assert {event["tid"] for event in events} == set(range(len(passes["prefill"].threads)))
    assert all(event["ph"] == "X" and event["dur"] > 0 for event in events)


def test_a_profile_changes_no_bit_and_is_refused_while_off(lantern_ingot: Path) -> None:
    with Model(lantern_ingot) as model:
        lib, ffi = model.native.lib, model.native.ffi
        handle = create(model.native, model.handle, SessionConfig(threads=2))
        entries, count = ffi.new("ingot_profile_entry[1]"), ffi.new("uint32_t *")
        with pytest.raises(StateError, match="no profile"):
            model.native.check(lib.ingot_session_profile_read(handle, 0, entries, 1, count))
        results = []
        for enable in (0, 1):
            model.native.check(lib.ingot_session_profile(handle, enable))
            model.native.check(lib.ingot_session_truncate(handle, 0))
            model.native.check(lib.ingot_session_eval(handle, PROMPT, len(PROMPT), 1))
            logits = lib.ingot_session_logits(handle, 0)
            size = 4 * model.info.vocabulary
            results.append(np.frombuffer(ffi.buffer(logits, size), np.uint32).copy())
        ffi.release(handle)
        assert np.array_equal(*results)


def test_bench_prints_it(
    lantern_ingot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "trace.json"
    sizes = ["--repeat", "1", "--prefill", "16", "--decode", "12"]
    main(["bench", str(lantern_ingot), *sizes, "--json", "--trace", str(trace)])
    report = json.loads(capsys.readouterr().out)
    assert set(report["profile"]) == {"prefill", "decode"}
    assert json.loads(trace.read_text("utf-8"))["traceEvents"]
    main(["bench", str(lantern_ingot), *sizes, "--profile"])
    shown = capsys.readouterr().out
    assert "attention" in shown and "barriers" in shown and "GOPS" in shown
