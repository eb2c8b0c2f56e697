# SPDX-License-Identifier: Apache-2.0
"""Keys and values of a session: formats, fork, save and restore, what happens when it is full."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ingot import ContextFullError, FormatError, InvalidArgumentError, Model, Session, StorageError
from ingot.container import Container
from ingot.format import Dtype
from ingot.reference import ReferenceSession
from ingot.session_config import SessionConfig
from tests.runtime.small_program import every_op

F32 = NDArray[np.float32]
TOKENS = [int(t) for t in np.random.default_rng(4).integers(1, 512, 150)]
FORMATS = ("f16", "kv8", "k8v4")


@pytest.fixture
def model(stories: Path) -> Iterator[Model]:
    with Model(stories) as opened:
        yield opened


def fresh(model: Model, tokens: list[int], **options: object) -> F32:
    with model.session(threads=1, **options) as session:  # type: ignore[arg-type]
        return session.feed(tokens)


def same(a: F32, b: F32) -> bool:
    return bool(np.array_equal(a.view(np.uint32), b.view(np.uint32)))


@pytest.mark.parametrize("kv", FORMATS)
def test_bits_do_not_depend_on_threads_or_chunks(model: Model, kv: str) -> None:
    tokens = TOKENS + TOKENS[::-1]
    whole = fresh(model, tokens, kv=kv)
    for threads, chunk in ((1, 7), (2, 0), (3, 1)):
        with model.session(threads=threads, chunk=chunk, kv=kv) as session:
            assert session.kv == kv
            assert same(session.feed(tokens), whole)


def test_integer_formats_are_close_to_f16_and_smaller(model: Model) -> None:
    exact = fresh(model, TOKENS, kv="f16")
    sizes = []
    for kv, bound in (("f16", 0.0), ("kv8", 0.5), ("k8v4", 2.5)):
        with model.session(kv=kv) as session:
            assert np.abs(session.feed(TOKENS) - exact).max() <= bound
            sizes.append(session.memory().state_bytes)
    # A head of 8 is padded to 16: less is saved than with those of a real model.
    assert sizes[0] > 1.3 * sizes[1] > 1.3 * 1.25 * sizes[2]
    assert same(fresh(model, TOKENS), fresh(model, TOKENS, kv="kv8"))
    with pytest.raises(InvalidArgumentError, match="expected one of auto, f16, kv8, k8v4"):
        model.session(kv="q4")


@pytest.mark.parametrize("kv", ["f16", "kv8"])
@pytest.mark.parametrize("at", [0, 10, 64, 150, None])
def test_a_fork_goes_on_as_a_session_of_its_own(model: Model, at: int | None, kv: str) -> None:
    with model.session(kv=kv) as parent:
        parent.feed(TOKENS)
        with parent.fork(at) as child:
            kept = TOKENS[: len(TOKENS) if at is None else at]
            assert child.token_ids == kept
            assert same(child.feed([3, 5, 7]), fresh(model, [*kept, 3, 5, 7], kv=kv))
            assert same(parent.feed([9]), fresh(model, [*TOKENS, 9], kv=kv))
        with pytest.raises(InvalidArgumentError, match="holds 151 tokens"):
            parent.fork(152)


def test_forks_run_on_threads_of_their_own(model: Model) -> None:
    found: dict[int, F32] = {}
    with model.session(threads=1) as parent:
        parent.feed(TOKENS)
        forks = [parent.fork(100 + i) for i in range(3)]

        def run(index: int, session: Session) -> None:
            with session:
                found[index] = session.feed([index + 1] * 60)

        threads = [threading.Thread(target=run, args=pair) for pair in enumerate(forks)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for index, logits in found.items():
        assert same(logits, fresh(model, TOKENS[: 100 + index] + [index + 1] * 60))
    assert len(found) == 3


def test_a_fork_keeps_the_token_that_is_not_fed_yet(model: Model) -> None:
    with model.session() as session:
        session.generate(TOKENS[:5], max_tokens=6)
        with session.fork() as child:
            assert child.token_ids == session.token_ids
            assert same(child.feed([4]), session.feed([4]))


@pytest.mark.parametrize("kv", FORMATS)
def test_a_restored_session_goes_on_as_the_saved_one(model: Model, tmp_path: Path, kv: str) -> None:
    path = tmp_path / "state"
    with model.session(kv=kv) as session:
        session.generate(TOKENS, max_tokens=5)
        session.save(path)
        expected, ids = session.feed([3]), session.token_ids
    with model.restore(path) as session:
        assert (session.kv, session.token_ids) == (kv, ids[:-1])
        assert same(session.feed([3]), expected)
    assert [p.name for p in tmp_path.iterdir()] == ["state"]
    with pytest.raises(InvalidArgumentError, match="holds 155 tokens"):
        model.restore(path, SessionConfig(context=128))


def flip(at: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-1], "bytes, expected"),
        (lambda data: data[:100], "cannot be read|bytes"),
        (lambda data: b"", "no saved session"),
        (lambda data: b"X" + data[1:], "no saved session"),
        (lambda data: data + b"x", "bytes, expected"),
        (flip(15), "header"),
        (flip(-40), "digest is wrong"),
        (lambda data: data.replace(b'"fed": 150', b'"fed": 151'), "header makes no sense"),
        (lambda data: data.replace(b'"tokens": 150', b'"tokens": -50'), "header makes no sense"),
        (lambda data: data.replace(b'"kv": "kv8"', b'"kv": "kv9"'), "digest is wrong"),
    ],
)
def test_a_damaged_file_is_refused(
    model: Model, tmp_path: Path, change: Callable[[bytes], bytes], message: str
) -> None:
    path = tmp_path / "state"
    with model.session() as session:
        session.feed(TOKENS)
        session.save(path)
    changed = change(path.read_bytes())
    assert changed != path.read_bytes()
    path.write_bytes(changed)
    with pytest.raises(FormatError, match=message):
        model.restore(path)


def test_a_foreign_file_is_refused(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "state"
    for change in (0.0, 0.5):
        every_op(tmp_path / f"{change}.ingot", Dtype.Q8, 32, change=change)
    with Model(tmp_path / "0.0.ingot") as other, other.session() as session:
        session.feed([1, 2])
        session.save(path)
        other.restore(path).close()
    with pytest.raises(FormatError, match="another model"):
        model.restore(path)
    with Model(tmp_path / "0.5.ingot") as changed, pytest.raises(FormatError, match="weights"):
        changed.restore(path)
    with pytest.raises(StorageError, match="No such file"):
        model.restore(tmp_path / "none")
    with model.session() as session, pytest.raises(StorageError):
        session.save(tmp_path / "no" / "folder")


def test_a_full_session_is_an_error_unless_it_shifts(model: Model) -> None:
    with model.session(context=64) as session:
        session.feed(TOKENS[:60])
        with pytest.raises(ContextFullError, match="shift"):
            session.feed(TOKENS[60:70])
        assert session.token_count == 60
    with pytest.raises(InvalidArgumentError, match="on_full"):
        model.session(on_full="drop")


def test_a_shift_is_a_fresh_session_of_what_is_kept(model: Model) -> None:
    with model.session(context=64, on_full="shift", sinks=4) as session:
        session.feed(TOKENS[:60])
        logits = session.feed(TOKENS[60:70])
        kept = TOKENS[:4] + TOKENS[32:70]
        assert session.token_ids == kept
        assert same(logits, fresh(model, kept))
        with pytest.raises(ContextFullError, match="4 sinks"):
            session.feed(TOKENS[:61])


def test_a_generation_shifts_and_goes_on(model: Model) -> None:
    with model.session(context=64, on_full="shift", sinks=4) as session:
        found = session.generate(TOKENS[:50], max_tokens=100, stop_ids=())
        assert session.token_count <= 65 and session.token_ids[:4] == TOKENS[:4]
        assert len(found.token_ids) == 100 or found.finish_reason == "stop_id"
    with model.session(context=64) as session:
        assert session.generate(TOKENS[:50], max_tokens=100).finish_reason in ("context", "stop_id")


@pytest.mark.parametrize(("kv", "bound"), [("f16", 2e-4), ("kv8", 0.05)])
@pytest.mark.parametrize(("window", "sinks"), [(0, 0), (5, 0), (70, 3), (64, 64), (1, 1)])
def test_windows_and_formats_equal_the_numpy_reference(
    tmp_path: Path, window: int, sinks: int, kv: str, bound: float
) -> None:
    path = every_op(tmp_path / "m.ingot", Dtype.F16, 0, window=window, sinks=sinks, context=300)
    tokens = [int(t) for t in np.random.default_rng(1).integers(0, 20, 290)]
    with Container(path) as container:
        expected = ReferenceSession(container, kv=kv).eval(tokens, len(tokens))
    with Model(path) as model:
        with model.session(kv=kv, logits_rows=16, threads=2) as session:
            found = session.logits(tokens)
        with model.session(kv=kv, threads=1, chunk=1) as session:
            assert same(session.feed(tokens), found[-1])
    assert np.abs(found - expected[:, : found.shape[1]]).max() <= bound


def test_k8v4_equals_the_numpy_reference(model: Model, stories: Path) -> None:
    with Container(stories) as container:
        expected = ReferenceSession(container, kv="k8v4").eval(TOKENS, 1)
        exact = ReferenceSession(container).eval(TOKENS, 1)
    found = fresh(model, TOKENS, kv="k8v4")
    error = np.abs(found - expected[0, : len(found)]).max()
    assert error < 0.3 * np.abs(expected - exact).max()


def test_k8v4_needs_heads_that_can_be_rotated(tmp_path: Path) -> None:
    path = every_op(tmp_path / "m.ingot", Dtype.Q8, 32)
    with Model(path) as model, pytest.raises(InvalidArgumentError, match="power of two"):
        model.session(kv="k8v4")
    with Container(path) as container, pytest.raises(InvalidArgumentError, match="power of two"):
        ReferenceSession(container, kv="k8v4").eval([1])


def test_a_window_gives_its_blocks_back(tmp_path: Path) -> None:
    path = every_op(tmp_path / "m.ingot", Dtype.Q8, 32, window=70, sinks=3, context=1024)
    tokens = [int(t) for t in np.random.default_rng(1).integers(0, 20, 900)]
    with Model(path) as model, model.session(context=1024) as session:
        held = session.memory().state_bytes
        logits = session.feed(tokens)
        with model.session(context=1024, chunk=5) as other:
            assert same(other.feed(tokens), logits)
            assert other.memory().state_bytes <= held < model.plan.state_bytes_per_token * 1024 / 2
        session.truncate(880)
        assert same(session.feed(tokens[880:]), logits)
        session.save(tmp_path / "state")
        with model.restore(tmp_path / "state") as again:
            assert same(again.feed([1]), session.feed([1]))
        with pytest.raises(RuntimeError, match="the window of 70 positions"):
            session.truncate(300)
