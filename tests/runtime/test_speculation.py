# SPDX-License-Identifier: Apache-2.0
"""Prompt lookup and the choice of how much to draft, without a model."""

from __future__ import annotations

import random

from ingot.speculation import LookupDrafter, Speculator

# What a pass of so many tokens costs on a machine that is bound by its memory.
SECONDS = {size: 1.0 + 0.05 * (size - 1) for size in range(1, 20)}


def decode(prompt: list[int], output: list[int], most: int, slope: float = 0.05) -> float:
    """Play an output through a speculator; return its gain over one token per pass."""
    speculator = Speculator(LookupDrafter(), most)
    tokens, spent, done = [*prompt, output[0]], 0.0, 1
    while done < len(output):
        drafts = speculator.draft(tokens, len(output) - done - 1)
        right = 0
        while right < len(drafts) and drafts[right] == output[done + right]:
            right += 1
        seconds = 1.0 + slope * len(drafts)
        speculator.record(len(drafts), right, seconds)
        tokens += output[done : done + right + 1]
        spent, done = spent + seconds, done + right + 1
    return (len(output) - 1) / spent


def test_lookup_copies_what_followed_last_time() -> None:
    drafter = LookupDrafter()
    assert drafter.propose([1, 2, 3, 4, 5, 1, 2], 3) == [3, 4, 5]
    assert drafter.propose([1, 2, 3, 4, 5, 1, 2, 9, 9, 3, 4], 2) == [5, 1]


def test_the_longest_match_wins_and_then_the_latest() -> None:
    tokens = [7, 1, 2, 50, 8, 1, 2, 60, 9, 9, 7, 1, 2]
    assert LookupDrafter().propose(tokens, 1) == [50]
    assert LookupDrafter().propose([*tokens[1:-3], 1, 2], 1) == [60]


def test_an_unknown_text_gets_no_proposal() -> None:
    assert LookupDrafter().propose([1, 2, 3, 4], 4) == []
    assert LookupDrafter().propose([1], 4) == []


def test_a_changed_word_does_not_end_the_copy() -> None:
    source = list(range(100, 120))
    drafter = LookupDrafter()
    assert drafter.propose([*source, 100, 101, 102], 2) == [103, 104]
    drafter.learn(2)
    assert drafter.propose([*source, 100, 101, 102, 103, 104, 999], 2) == [106, 107]
    drafter.learn(0)
    assert drafter.propose([*source, 100, 101, 102, 103, 104, 999, 998], 2) == []


def test_copying_pays_and_prose_costs_next_to_nothing() -> None:
    generator = random.Random(1)
    source = [generator.randrange(5000) for _ in range(400)]
    edited = [token if generator.random() > 0.05 else 5000 + token for token in source]
    assert decode(source, edited, 8) > 2.5
    # Words as common as in a language: pairs recur, but what follows them differs.
    prose = [int(generator.paretovariate(0.7)) % 5000 for _ in range(3000)]
    assert decode(prose[:1000], prose[1000:], 8) > 0.97


def test_drafts_stop_where_passes_cost_as_much_as_their_tokens() -> None:
    source = list(range(1000))
    assert decode(source, source, 8, slope=1.0) > 0.95
    assert decode(source, source, 8, slope=0.0) > 7.0
