# SPDX-License-Identifier: Apache-2.0
"""The library's choice of tokens against the NumPy reference, to the id, and its distribution."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ingot import InternalError, InvalidArgumentError, Model, Sampling, Session, StateError
from ingot._native import native
from ingot.reference.sampling import candidates, choose, philox, weights_of
from ingot.session_config import sampling_struct

PROMPT = [1, 403, 407, 261, 378]
SETTINGS = [
    Sampling(),
    Sampling(repetition_penalty=1.3),
    Sampling(temperature=1.0),
    Sampling(temperature=0.7, top_k=40),
    Sampling(temperature=1.0, top_k=1),
    Sampling(temperature=1.4, top_k=200, top_p=0.9),
    Sampling(temperature=1.0, top_p=0.5),
    Sampling(temperature=1.0, top_p=0.999),
    Sampling(temperature=1.0, min_p=0.1),
    Sampling(temperature=0.9, top_k=64, top_p=0.95, min_p=0.05),
    Sampling(temperature=2.0, top_k=60, top_p=0.95, min_p=0.01, repetition_penalty=1.2),
    Sampling(temperature=1e-9),
]


@pytest.fixture(scope="module")
def model(stories: Path) -> Iterator[Model]:
    with Model(stories) as opened:
        yield opened


def sample(session: Session, sampling: Sampling, history: list[int], position: int) -> int:
    """Choose from the logits of the last pass."""
    library, token = native(), native().ffi.new("int32_t *")
    config = sampling_struct(library, sampling)
    call = library.lib.ingot_session_sample
    arguments = (0, config, history, len(history), position, token)
    library.check(call(session._passes.handle, *arguments))
    return int(token[0])


def replace_logits(session: Session, values: NDArray[np.float32]) -> None:
    """Write other logits where those of the last pass are."""
    library = native()
    row = library.lib.ingot_session_logits(session._passes.handle, 0)
    library.ffi.memmove(library.ffi.cast("float *", row), values.tobytes(), values.nbytes)


def test_weights_are_those_of_the_exponential() -> None:
    x = np.linspace(-86, 0, 100_001, dtype=np.float32)
    exact = np.exp(x.astype(np.float64))
    assert float(np.abs(weights_of(x) / exact - 1).max()) < 1e-6
    assert weights_of(np.float32([0, -86.1, -1e30, -np.inf])).tolist() == [1, 0, 0, 0]


def test_philox_gives_the_published_known_answers() -> None:
    # Random123, kat_vectors, philox4x32 with 10 rounds.
    ones = 0xFFFFFFFF
    assert philox((0, 0, 0, 0), (0, 0)) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    assert philox((ones,) * 4, (ones, ones)) == (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)
    pi = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
    found = philox(pi, (0xA4093822, 0x299F31D0))
    assert found == (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)


@pytest.mark.parametrize("sampling", SETTINGS)
def test_the_library_chooses_as_the_reference(model: Model, sampling: Sampling) -> None:
    generator = np.random.default_rng(2)
    with model.session(threads=1) as session:
        session.feed(PROMPT)
        for case in range(60):
            spread = [0.1, 1.0, 4.0, 30.0][case % 4]
            logits = generator.normal(0, spread, model.info.vocabulary).astype(np.float32)
            if case % 3 == 0:
                logits = np.round(logits)  # many are equal
            replace_logits(session, logits)
            seed = int(generator.integers(0, 1 << 64, dtype=np.uint64))
            settings = sampling.replace(seed=seed)
            history = generator.integers(0, 600, 40).tolist()
            position = int(generator.integers(0, 1 << 40))
            wanted = choose(logits, settings, history, position)
            assert sample(session, settings, history, position) == wanted


@pytest.mark.parametrize("sampling", SETTINGS)
def test_a_step_chooses_from_the_logits_that_it_does_not_keep(
    model: Model, sampling: Sampling
) -> None:
    with model.session(threads=1) as session:
        expected = [session.feed(PROMPT)]
        settings = sampling.replace(seed=4)
        wanted = [choose(expected[0], settings, PROMPT, 5)]
        for position in range(6, 12):
            logits = session.feed([wanted[-1]])
            wanted.append(choose(logits, settings, [*PROMPT, *wanted], position))
    for threads in (1, 2, 3):
        with model.session(threads=threads, chunk=3) as session:
            found = session.begin(PROMPT, _options(settings)).result()
            assert list(found.token_ids) == wanted
            with pytest.raises(StateError, match="row 0"):
                sample(session, settings, [], 0)


def _options(settings: Sampling) -> Any:
    from ingot import Options

    return Options(max_tokens=7, sampling=settings)


def test_the_text_is_the_same_on_every_level_of_the_cpu(stories: Path) -> None:
    lib = native().lib
    features, before = int(lib.ingot_cpu_features()), int(lib.ingot_cpu_mask())
    levels = [1 << bit for bit in range(6) if features >> bit & 1]
    texts = set()
    try:
        for level in levels:
            native().check(lib.ingot_cpu_set_mask(level))
            with Model(stories) as model:
                for threads, chunk in ((1, 0), (2, 1)):
                    with model.session(threads=threads, chunk=chunk) as session:
                        drawn = {"temperature": 1.0, "seed": 9, "repetition_penalty": 1.1}
                        few = {"temperature": 1.0, "top_k": 50, "top_p": 0.95, "seed": 9}
                        first = session.generate("Once", max_tokens=40, **drawn)  # type: ignore[arg-type]
                        session.reset()
                        second = session.generate("Once", max_tokens=40, **few)  # type: ignore[arg-type]
                        texts.add((first.token_ids, second.token_ids))
    finally:
        native().check(lib.ingot_cpu_set_mask(before))
    assert len(levels) > 1 and len(texts) == 1


def test_logits_that_are_no_numbers_and_bad_settings_are_errors(model: Model) -> None:
    with model.session(threads=1) as session:
        logits = session.feed(PROMPT)
        for bad in (np.nan, np.inf):
            broken = logits.copy()
            broken[17] = bad
            replace_logits(session, broken)
            for sampling in SETTINGS:
                settings = sampling.replace(seed=1)
                with pytest.raises(InternalError, match="token 17"):
                    sample(session, settings, [], 0)
        config = sampling_struct(native(), Sampling())
        token = native().ffi.new("int32_t *")
        for field, value in (("temperature", -1), ("top_p", 0), ("min_p", 2)):
            config = sampling_struct(native(), Sampling())
            setattr(config, field, value)
            call = native().lib.ingot_session_sample
            with pytest.raises(InvalidArgumentError, match=field):
                native().check(call(session._passes.handle, 0, config, [], 0, 0, token))


def chi_square(counts: NDArray[np.int64], probabilities: NDArray[np.float64]) -> tuple[float, int]:
    """Return the statistic over the ids that are expected five times or more, and its freedom."""
    expected = probabilities * counts.sum()
    often = expected >= 5
    pooled = np.append(counts[often], counts[~often].sum())
    wanted = np.append(expected[often], expected[~often].sum())
    return float(((pooled - wanted) ** 2 / wanted).sum()), len(pooled) - 1


def test_speculation_draws_from_the_models_distribution(model: Model) -> None:
    draws, sampling = 3000, Sampling(temperature=1.0)
    size = model.info.vocabulary
    with model.session(threads=1, speculate=1) as session:
        first = candidates(session.feed(PROMPT), sampling, ())[1]
        guess = int(first.argmax())
        second = candidates(session.feed([guess]), sampling, ())[1]
        firsts, seconds = np.zeros(size, np.int64), np.zeros(size, np.int64)
        for seed in range(draws):
            session.truncate(len(PROMPT) - 1)
            settings = sampling.replace(seed=seed)
            chosen = session.step(PROMPT[-1:], [guess], settings)[1]
            firsts[chosen[0]] += 1
            if len(chosen) > 1:
                seconds[chosen[1]] += 1
            for token in chosen:
                session.keep(token)
    assert seconds.sum() == firsts[guess] > 100
    for counts, probabilities in ((firsts, first), (seconds, second)):
        statistic, freedom = chi_square(counts, probabilities)
        # Three standard deviations of chi-square above its mean.
        assert statistic < freedom + 3 * (2 * freedom) ** 0.5
