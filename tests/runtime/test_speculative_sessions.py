# SPDX-License-Identifier: Apache-2.0
"""Speculation changes the number of passes and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ingot import InvalidArgumentError, Model, Session
from ingot.container import Container, replace_sections
from ingot.format import Section

# Sentences that come again, so that there is something to look up.
VERSE = "The lamp was lit. The house was dark. The lamp was lit. The house was"


@pytest.fixture(scope="module")
def model(lantern_ingot: Path) -> Iterator[Model]:
    with Model(lantern_ingot) as model:
        yield model


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0])
def test_the_text_is_that_of_plain_decoding(model: Model, temperature: float) -> None:
    with model.session() as plain, model.session(speculate=8) as drafting:
        for seed in range(3):
            wanted = plain.generate(VERSE, max_tokens=60, temperature=temperature, seed=seed)
            found = drafting.generate(VERSE, max_tokens=60, temperature=temperature, seed=seed)
            assert found.token_ids == wanted.token_ids and found.text == wanted.text
            assert drafting.token_ids == plain.token_ids


def test_a_text_that_repeats_itself_takes_fewer_passes(model: Model) -> None:
    with model.session(speculate=8) as session:
        stats = session.generate(VERSE * 3, max_tokens=60, temperature=0.0).stats
        assert stats.decode_tokens == 59
        assert stats.accepted_tokens > 0
        assert stats.decode_passes == stats.decode_tokens - stats.accepted_tokens
        assert stats.accepted_tokens <= stats.drafted_tokens


def test_what_was_drafted_and_not_drawn_is_forgotten(model: Model) -> None:
    with model.session(speculate=8) as session, model.session() as plain:
        stream = session.stream(VERSE * 3, max_tokens=40)
        for _ in range(7):
            next(stream)
        stream.close()
        kept = session.token_ids
        assert session.token_count == len(kept)
        assert _rest(session, 5) == _fresh(plain, kept, 5)


def test_the_context_is_used_to_its_end_and_not_beyond(model: Model) -> None:
    with model.session(context=64) as plain, model.session(context=64, speculate=8) as drafting:
        wanted = plain.generate(VERSE)
        found = drafting.generate(VERSE)
        assert found.finish_reason == wanted.finish_reason == "context"
        assert found.token_ids == wanted.token_ids


def test_a_stop_string_inside_a_draft_ends_the_text(model: Model) -> None:
    with model.session() as plain, model.session(speculate=8) as drafting:
        wanted = plain.generate(VERSE * 3, max_tokens=60, stop=["lamp"])
        found = drafting.generate(VERSE * 3, max_tokens=60, stop=["lamp"])
        assert (found.text, found.finish_reason) == (wanted.text, wanted.finish_reason)


def test_a_draft_model_changes_no_token(model: Model, lantern_ingot: Path) -> None:
    with (
        Model(lantern_ingot, draft=lantern_ingot) as pair,
        model.session() as plain,
        pair.session(speculate=4) as session,
    ):
        for temperature in (0.0, 0.8):
            found = session.generate(VERSE, max_tokens=40, temperature=temperature, seed=5)
            wanted = plain.generate(VERSE, max_tokens=40, temperature=temperature, seed=5)
            assert found.token_ids == wanted.token_ids
        greedy = session.generate(VERSE, max_tokens=40).stats
        # It guesses with the same weights, so that every draft is right; when drawn as well,
        # because it draws with the same random numbers.
        assert greedy.accepted_tokens == greedy.drafted_tokens > 0
        session.reset()
        drawn = session.generate(VERSE, max_tokens=40, temperature=1.0, seed=5).stats
        assert drawn.accepted_tokens == drawn.drafted_tokens > 0


def test_speculation_is_switched_off_and_asked_for_by_name(model: Model) -> None:
    with model.session(speculate=8) as session, model.session() as plain:
        stats = session.generate(VERSE * 3, max_tokens=30, speculate="off").stats
        assert stats.drafted_tokens == 0 and stats.decode_passes == 29
        session.reset()
        assert session.generate(VERSE * 3, max_tokens=30, speculate="lookup").stats.drafted_tokens
        with pytest.raises(InvalidArgumentError, match=r"model.session\(speculate=7\)"):
            plain.stream(VERSE, speculate="lookup")
        with pytest.raises(InvalidArgumentError, match="auto, lookup, off"):
            plain.stream(VERSE, speculate="yes")


def test_a_draft_with_another_tokenizer_is_refused(lantern_ingot: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.ingot"
    with Container(lantern_ingot) as container:
        text = bytes(container.section(Section.TOKENIZER)).replace(
            b'"added_tokens"', b'"added_tokens" '
        )
    replace_sections(lantern_ingot, other, {Section.TOKENIZER: text})
    with pytest.raises(InvalidArgumentError, match="another tokenizer"):
        Model(lantern_ingot, draft=other)


def _rest(session: Session, count: int) -> tuple[int, ...]:
    return session.generate(" and", max_tokens=count).token_ids


def _fresh(session: Session, tokens: list[int], count: int) -> tuple[int, ...]:
    session.feed(tokens)
    return _rest(session, count)
