# SPDX-License-Identifier: Apache-2.0
"""What is found of generated texts: loops against a brute force, answers, JSON, ends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ingot import Model
from ingot.errors import InvalidArgumentError
from ingot_compressor.evaluation.generation import (
    Generated,
    check_generation,
    has_loop,
    is_json,
    matches,
    summarize_generation,
)
from ingot_compressor.evaluation.items import Generate


def loops_by_hand(ids: list[int]) -> bool:
    """Every start, every period: as many repeats as fit, compared one by one."""
    for start in range(len(ids)):
        for period in range(1, 65):
            span = max(4 * period, 16)
            part = ids[start : start + span]
            if len(part) == span and all(part[i] == part[i % period] for i in range(span)):
                return True
    return False


def test_loops_are_those_of_a_brute_force() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(300):
        period, repeats = int(rng.integers(1, 7)), int(rng.integers(2, 8))
        before, after = (rng.integers(0, 3, rng.integers(0, 12)).tolist() for _ in range(2))
        ids = [*before, *rng.integers(0, 9, period).tolist() * repeats, *after]
        assert has_loop(ids) == loops_by_hand(ids), ids
        found.append(has_loop(ids))
    assert 60 < sum(found) < 240


@pytest.mark.parametrize(
    ("ids", "loops"),
    [
        ([], False),
        ([7] * 15, False),
        ([7] * 16, True),
        ([1, 2, 3, 4, 5] * 4, True),
        ([1, 2, 3, 4, 5] * 3 + [1, 2, 3, 4], False),
        (list(range(64)) * 4, True),
        (list(range(65)) * 4, False),
    ],
)
def test_loops_begin_where_they_say(ids: list[int], loops: bool) -> None:
    assert has_loop(ids) is loops


@pytest.mark.parametrize(
    ("text", "answer", "match", "right"),
    [
        (" Paris\n", "Paris", "text", True),
        ("Paris, of course", "Paris", "text", False),
        ("\n Paris \nand more", "Paris", "line", True),
        ("and more\nParis", "Paris", "line", False),
        ("", "Paris", "line", False),
        ("so 3 + 4 makes 7.", "7", "number", True),
        ("it costs $1,234.50 in all", "1234.5", "number", True),
        ("7 of 8", "7", "number", False),
        ("none", "7", "number", False),
        ("it is -5", "5", "number", False),
    ],
)
def test_answers(text: str, answer: str, match: str, right: bool) -> None:
    assert matches(text, answer, match) is right


def test_json() -> None:
    assert is_json(' {"a": [1, null]}\n') and is_json("3")
    assert not is_json('{"a": 1} and more') and not is_json("{'a': 1}") and not is_json("")


def test_texts_are_those_that_a_session_gives(lantern_ingot: Path) -> None:
    items = [
        Generate("mine", 1, "He went to the", max_tokens=12),
        Generate("mine", 2, "He went to the", max_tokens=12, answer="moon", json=True),
        Generate("mine", 3, "It was a dark and", max_tokens=200),
    ]
    seen: list[int] = []
    with Model(lantern_ingot) as model, model.session() as session:
        first = session.generate("He went to the", max_tokens=12)
        word = first.text.split()[1]
        items.append(Generate("mine", 4, "He went to the", stop=(word,)))
        items.append(Generate("mine", 5, "He went to the", max_tokens=12, answer=first.text))
        found = check_generation(model, items, seen.append)
        # one session after the other gives what several at a time give
        assert check_generation(model, items, lambda done: None, threads=1) == found
        assert check_generation(model, items, lambda done: None, threads=3) == found
        with pytest.raises(InvalidArgumentError, match="mine, line 9: a prompt of"):
            check_generation(model, [items[0], Generate("mine", 9, "word " * 600)], seen.append)
        with pytest.raises(InvalidArgumentError, match="no chat template"):
            check_generation(model, [Generate("mine", 9, "Hello", chat=True)], seen.append)
    assert seen == [1, 2, 3, 4, 5]
    assert found[0] == Generated("mine", 1, first.text, 12, "length", False, None, None)
    assert (found[1].exact, found[1].valid_json, found[1].stopped) == (False, False, False)
    # a small model without an end in sight comes round to what it has said
    assert found[2].tokens == 200 and found[2].looped
    assert found[3].stopped and word not in found[3].text
    assert found[4].exact is True


def test_shares_count_only_what_was_asked() -> None:
    def one(reason: str, looped: bool, exact: bool | None, valid: bool | None) -> Generated:
        return Generated("t", 1, "", 10, reason, looped, exact, valid)

    found = summarize_generation(
        [
            one("stop_id", False, True, None),
            one("stop_string", False, False, None),
            one("length", True, None, None),
            one("context", True, None, None),
        ]
    )
    assert found is not None
    assert (found.items, found.stop_rate, found.loop_rate) == (4, 0.5, 0.5)
    assert (found.exact_match, found.json_validity) == (0.5, None)
    assert summarize_generation([]) is None
