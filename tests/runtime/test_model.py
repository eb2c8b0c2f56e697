# SPDX-License-Identifier: Apache-2.0
"""A real file through the native library."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot import Model, Sampling, Session
from ingot.container import Container, replace_sections
from ingot.errors import (
    CancelledError,
    FormatError,
    InvalidArgumentError,
    MemoryLimitError,
    StateError,
    StorageError,
)
from ingot.format import Section
from ingot.reference import ReferenceSession


@pytest.fixture
def model(stories: Path) -> Iterator[Model]:
    with Model(stories) as opened:
        yield opened


def test_greedy_text_is_the_expected_one(model: Model, expected_greedy: dict[str, Any]) -> None:
    prompts = [prompt for prompt in expected_greedy if not prompt.startswith("_")]
    assert len(prompts) == 3
    for prompt in prompts:
        expected = expected_greedy[prompt]
        with model.session(threads=1, kv="f16") as session:
            found = session.generate(prompt, max_tokens=len(expected["greedy_ids"]))
        assert list(found.prompt_token_ids) == expected["prompt_ids"]
        assert list(found.token_ids) == expected["greedy_ids"]
        assert found.text == expected["text"]


def test_logits_equal_the_numpy_reference_for_any_chunking(model: Model, stories: Path) -> None:
    tokens = [1, *np.random.default_rng(3).integers(3, 512, 20).tolist()]
    with Container(stories) as container:
        expected = ReferenceSession(container).eval(tokens, len(tokens))
    found = []
    for chunk, rows in ((0, 1), (0, 32), (7, 7)):
        with model.session(chunk=chunk, logits_rows=rows, threads=2, kv="f16") as session:
            found.append(session.logits(tokens))
            assert session.token_count == len(tokens)
    for logits in found:
        assert logits.shape == (21, model.info.vocabulary) and logits.dtype == np.float32
        np.testing.assert_allclose(logits, expected[:, : model.info.vocabulary], atol=2e-4)


def test_sampled_text_depends_on_the_seed_alone(model: Model) -> None:
    def text(seed: int, threads: int) -> str:
        with model.session(threads=threads) as session:
            sampling = {"temperature": 1.0, "top_p": 0.95, "seed": seed}
            return session.generate("Once", max_tokens=40, **sampling).text

    assert text(1, 1) == text(1, 2) != text(2, 1)
    assert Sampling(seed=1).temperature == 0


def test_an_unnamed_seed_is_reported_and_repeats_the_text(model: Model) -> None:
    with model.session() as session:
        first = session.generate("Once", max_tokens=30, temperature=1.5)
        session.reset()
        assert first.seed is not None
        again = session.generate("Once", max_tokens=30, temperature=1.5, seed=first.seed)
    assert again.text == first.text


def test_going_back_gives_the_same_text(model: Model) -> None:
    with model.session() as session:
        whole = session.generate("Once", max_tokens=20)
        session.truncate(len(whole.prompt_token_ids) + 5)
        rest = session.generate([whole.token_ids[5]], max_tokens=14)
    assert rest.token_ids == whole.token_ids[6:]


def test_what_a_model_says_of_itself(model: Model, stories: Path) -> None:
    assert model.info.context == 512 and model.info.vocabulary == 512
    assert model.info.file_size == stories.stat().st_size
    assert model.plan.total_bytes(64) < model.plan.total_bytes()
    assert model.plan.total_bytes() == model.plan.peaks[-1][1]
    assert model.certificate is None and model.chat_template is None
    assert model.meta["name"] and len(model.tokenizer) == 512
    row = model.dequantize(_embedding(stories), 5, 7)
    assert row.shape == (2, 64) and np.isfinite(row).all() and row.any()


def test_the_library_knows_every_section_by_its_name(model: Model, stories: Path) -> None:
    with Container(stories) as container:
        for kind in Section:
            if kind is not Section.WEIGHTS:
                assert model.section(kind) == bytes(container.section(kind))
    with pytest.raises(InvalidArgumentError, match="no section is called 'weights'"):
        model.section(Section.WEIGHTS)


def _embedding(path: Path) -> int:
    with Container(path) as container:
        return next(i for i, name in enumerate(container.names) if "embed" in name)


def test_cancel_of_a_long_prefill_takes_effect_soon(model: Model) -> None:
    done = threading.Event()

    def cancel(session: Session) -> None:
        while not done.wait(0.005):  # one alone may come between two calls, where it means nothing
            session.cancel()

    with model.session(chunk=1, threads=1) as session:
        thread = threading.Thread(target=cancel, args=(session,))
        thread.start()
        try:
            with pytest.raises(CancelledError):
                for _ in range(10_000):
                    session.reset()
                    session.feed([1, *[403] * 500])
        finally:
            done.set()
            thread.join()
        kept = session.token_count
        assert kept <= 501
        assert session.generate([403], max_tokens=2).finish_reason == "length"


def test_sessions_of_one_model_run_side_by_side(
    model: Model, expected_greedy: dict[str, Any]
) -> None:
    prompts = [prompt for prompt in expected_greedy if not prompt.startswith("_")]
    found: dict[str, str] = {}

    def answer(prompt: str) -> None:
        with model.session(threads=1, kv="f16") as session:
            found[prompt] = session.generate(prompt, max_tokens=120).text

    threads = [threading.Thread(target=answer, args=(prompt,)) for prompt in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {prompt: expected_greedy[prompt]["text"] for prompt in prompts}


def test_a_session_outlives_its_models_close(stories: Path) -> None:
    model = Model(stories)
    session = model.session()
    model.close()
    model.close()
    assert session.generate([1, 403], max_tokens=3).finish_reason == "length"
    with pytest.raises(StateError, match="closed"):
        model.session()
    session.close()


def test_limits_are_refused_with_numbers(model: Model) -> None:
    with pytest.raises(MemoryLimitError, match="context"):
        model.session(memory_limit=1000)
    with model.session(threads=1, context=512) as session:
        needed = session.memory().total_bytes
    with pytest.raises(MemoryLimitError, match=r"context \d+ fits"):
        model.session(memory_limit=needed - 1, threads=1, context=512)
    with pytest.raises(InvalidArgumentError, match="512"):
        model.session(context=513)
    with pytest.raises(InvalidArgumentError, match="threads"):
        model.session(threads=65)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_is_told_so(model: Model) -> None:
    with model.session(threads=1) as session:
        session.feed([1])
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                session.feed([1])
            except StateError as error:
                os.write(writer, str(error).encode())
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert b"forked" in os.read(reader, 1000)


def test_a_damaged_section_is_found_when_it_is_read(stories: Path, tmp_path: Path) -> None:
    with Container(stories) as container:
        record = next(r for r in container.sections if r.kind == Section.TOKENIZER)
    data = bytearray(stories.read_bytes())
    data[record.offset + 10] ^= 1
    path = tmp_path / "damaged.ingot"
    path.write_bytes(data)
    with Model(path) as model, pytest.raises(FormatError, match="digest of section tokenizer"):
        _ = model.tokenizer


def test_bad_files_are_named(tmp_path: Path, stories: Path) -> None:
    with pytest.raises(StorageError, match=r"nothing\.ingot"):
        Model(tmp_path / "nothing.ingot")
    short = tmp_path / "short.ingot"
    short.write_bytes(stories.read_bytes()[:5000])
    with pytest.raises(FormatError) as found:
        Model(short)
    assert found.value.rule is not None and found.value.rule.name == "FILE_SIZE"
    broken = tmp_path / "chat.ingot"
    replace_sections(stories, broken, {Section.CHAT: json.dumps([1]).encode()})
    with Model(broken) as model, pytest.raises(FormatError, match="chat section"):
        _ = model.chat


def test_opening_takes_milliseconds(stories: Path) -> None:
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        Model(stories).close()
        times.append(time.perf_counter() - begin)
    assert min(times) < 0.05
