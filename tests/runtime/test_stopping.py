# SPDX-License-Identifier: Apache-2.0
"""Stop strings over every way to cut a text into pieces."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingot.errors import InvalidArgumentError
from ingot.stopping import StopStrings


def _passed(pieces: list[str], stops: list[str]) -> tuple[str, str | None]:
    matcher = StopStrings(stops)
    text = "".join(matcher.push(piece) for piece in pieces)
    return text + matcher.flush(), matcher.matched


def test_a_stop_across_three_pieces() -> None:
    assert _passed(["say S", "TO", "P now"], ["STOP"]) == ("say ", "STOP")


def test_text_is_held_only_while_a_stop_is_possible() -> None:
    matcher = StopStrings(["</s>"])
    assert matcher.push("a<") == "a"
    assert matcher.push("/") == ""
    assert matcher.push("b") == "</b"
    assert matcher.flush() == ""


def test_the_stop_that_ends_first_wins_and_then_the_longest() -> None:
    assert _passed(["xabcd"], ["d", "abc", "bc"]) == ("x", "abc")
    assert _passed(["xabcd"], ["abcd", "b"]) == ("xa", "b")


@settings(max_examples=300)
@given(
    st.text("ab", max_size=12),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(0, 12), max_size=4),
)
def test_how_the_text_is_cut_does_not_matter(text: str, stops: list[str], cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(text)]
    pieces = [text[a:b] for a, b in pairwise(edges)]
    passed, matched = _passed(pieces, stops)
    assert (passed, matched) == _passed(list(text), stops) == _passed([text], stops)
    assert not any(stop in passed for stop in stops)
    assert passed == text if matched is None else text[len(passed) :].startswith(matched)


@pytest.mark.parametrize("stop", ["", 3])
def test_an_empty_stop_is_refused(stop: object) -> None:
    with pytest.raises(InvalidArgumentError, match="stop string"):
        StopStrings([stop])  # type: ignore[list-item]
