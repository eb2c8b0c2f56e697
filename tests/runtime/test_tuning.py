# SPDX-License-Identifier: Apache-2.0
"""Tuning: the cache is never trusted, never fatal; what is chosen changes no bit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot import Model, tuning
from ingot.cli import main
from ingot.errors import InvalidArgumentError
from ingot.session_config import SessionConfig, open_native
from ingot.tuning import Tuned, cache_file, cache_key, keep, load, measure, store, tune_session

PROMPT = list(range(1, 31))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("INGOT_CACHE_DIR", str(folder))
    monkeypatch.delenv("INGOT_TUNE", raising=False)
    monkeypatch.setattr(tuning, "LEAST_WEIGHTS", 0)
    return folder


@pytest.fixture
def model(lantern_ingot: Path) -> Iterator[Model]:
    with Model(lantern_ingot) as opened:
        yield opened


def values(threads: int = 1) -> dict[str, Any]:
    fields = {"threads": threads, "prefill_threads": 1, "grain": 2, "prefill_grain": 0}
    return {**fields, "kernels": [0] * 64}


def opened(model: Model, threads: int = 2) -> Any:
    return open_native(model.native, model.handle, SessionConfig(threads=threads))


def logits(model: Model, session: Any) -> Any:
    lib, ffi = model.native.lib, model.native.ffi
    found = []
    for block in (PROMPT, [3], [4]):
        model.native.check(lib.ingot_session_eval(session, block, len(block), 1))
        row = lib.ingot_session_logits(session, 0)
        found.append(np.frombuffer(ffi.buffer(row, 4 * model.info.vocabulary), np.uint32).copy())
    return np.stack(found)


def test_no_choice_changes_a_bit(model: Model) -> None:
    native, plain = model.native, opened(model)
    expected = logits(model, plain)
    session = opened(model)
    tuned = measure(native, session, 1.0)
    assert np.array_equal(logits(model, session), expected)
    assert {one.phase for one in tuned.candidates} <= {"decode", "prefill"}
    assert tuned.candidates and all(one.seconds > 0 for one in tuned.candidates)
    for index in range(native.lib.ingot_kernel_count()):
        native.check(native.lib.ingot_session_truncate(session, 0))
        choice = native.struct("ingot_tuning")
        choice.threads, choice.prefill_threads, choice.grain = 1, 2, 4
        for slot in range(64):
            choice.kernels[slot] = 1 + index
            if native.lib.ingot_session_apply(session, choice) != 0:
                choice.kernels[slot] = 0
        native.check(native.lib.ingot_session_apply(session, choice))
        assert np.array_equal(logits(model, session), expected), index


def test_a_session_with_positions_is_refused(model: Model) -> None:
    session = opened(model)
    logits(model, session)
    with pytest.raises(InvalidArgumentError, match="empty"):
        measure(model.native, session)


@pytest.mark.parametrize(
    "change",
    [{"threads": 65}, {"grain": 65}, {"kernels": [999] + [0] * 63}],
    ids=["threads", "grain", "kernel"],
)
def test_what_does_not_fit_is_measured_again(
    cache: Path, model: Model, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    key = cache_key(model.native, model.handle)
    assert store(key, {**values(), **change})
    monkeypatch.setattr(tuning, "measure", lambda *_: Tuned(values()))
    tune_session(model.native, model.handle, opened(model))
    assert load(key) == values()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"key": KEY, "threads": 1}',
        b'{"key": KEY, "x": 1, ' + json.dumps(values()).encode()[1:],
        b'{"key": "another device", ' + json.dumps(values()).encode()[1:],
        json.dumps(values()).encode(),
    ],
)
def test_a_damaged_entry_is_rebuilt(
    cache: Path, model: Model, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    key = cache_key(model.native, model.handle)
    path = Path(cache_file(key))
    path.parent.mkdir(parents=True)
    path.write_bytes(content.replace(b"KEY", json.dumps(key).encode()))
    assert load(key) is None
    monkeypatch.setattr(tuning, "measure", lambda *_: Tuned(values(2)))
    tune_session(model.native, model.handle, opened(model))
    assert load(key) == values(2)
    assert [entry.name for entry in cache.iterdir()] == [path.name], "no partial file is left"


@pytest.mark.parametrize("field", ["threads", "grain"])
@pytest.mark.parametrize("value", [True, -1, 1.5, "2", None, 1 << 40])
def test_an_entry_of_wrong_types_is_no_entry(cache: Path, field: str, value: Any) -> None:
    assert store("key", {**values(), field: value}) and Path(cache_file("key")).exists()
    assert load("key") is None
    assert store("key", values()) and load("key") == values()


def test_a_known_device_measures_nothing(
    cache: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(cache_key(model.native, model.handle), values())

    def refuse(*_: object) -> Tuned:
        raise AssertionError("measured although it was known")

    monkeypatch.setattr(tuning, "measure", refuse)
    with model.session():
        pass


def test_the_switch_explicit_threads_and_tiny_models_measure_nothing(
    cache: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    with model.session(threads=1), model.session(prefill_threads=1):
        pass
    monkeypatch.setenv("INGOT_TUNE", "0")
    with model.session():
        pass
    monkeypatch.delenv("INGOT_TUNE")
    monkeypatch.setattr(tuning, "LEAST_WEIGHTS", 1 << 40)
    with model.session():
        pass
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_costs_nothing_else(
    tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder", encoding="utf-8")
    monkeypatch.setenv("INGOT_CACHE_DIR", str(blocked))
    monkeypatch.setattr(tuning, "LEAST_WEIGHTS", 0)
    with model.session() as session:
        assert session.logits([1]).shape[0] == 1
    assert not store("key", values())


def test_a_disturbed_measurement_is_not_kept(cache: Path) -> None:
    assert not keep("key", Tuned(values(), disturbed=True)) and not cache.exists()
    assert keep("key", Tuned(values()))


def test_the_key_depends_on_the_layout(model: Model, lantern_ingot: Path, stories: Path) -> None:
    native = model.native
    with Model(stories) as other, Model(lantern_ingot) as same:
        assert cache_key(native, other.handle) != cache_key(native, model.handle)
        assert cache_key(native, same.handle) == cache_key(native, model.handle)


def test_the_command(cache: Path, lantern_ingot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["tune", str(lantern_ingot), "--seconds", "1"]
    assert main([*arguments, "--json", "--force"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["measured"] and report["candidates"] and report["topology"]["threads"] >= 1
    assert main(arguments) == 0
    assert "threads by default" in capsys.readouterr().out
    assert main([*arguments[:2], "--seconds", "0"]) == 2
