# SPDX-License-Identifier: Apache-2.0
"""Records behave as frozen dataclasses with slots."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from ingot import InvalidArgumentError, Options, Sampling, Stats


def test_fields_by_place_by_name_and_by_default() -> None:
    sampling = Sampling(0.5, top_p=0.9)
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.5, 0, 0.9)
    assert list(sampling.fields()) == list(Sampling.names)
    assert repr(sampling).startswith("Sampling(temperature=0.5, top_k=0, top_p=0.9, ")
    match sampling:
        case Sampling(temperature, top_k):
            assert (temperature, top_k) == (0.5, 0)


def test_equal_fields_are_equal_records() -> None:
    assert Sampling(0.5) == Sampling(temperature=0.5) != Sampling()
    assert Options() != Stats() and Options() == Options()
    assert len({Sampling(0.5), Sampling(0.5), Sampling()}) == 2
    for same in (copy.copy(Options(3)), pickle.loads(pickle.dumps(Options(3)))):
        assert same == Options(3)


def test_a_record_is_frozen_and_a_changed_copy_is_checked() -> None:
    options: Any = Options(3)
    for change in (lambda: setattr(options, "max_tokens", 4), lambda: delattr(options, "stop")):
        with pytest.raises(AttributeError, match="frozen"):
            change()
    with pytest.raises(AttributeError):
        _ = options.unknown
    assert options.replace(max_tokens=4).max_tokens == 4
    with pytest.raises(InvalidArgumentError):
        options.replace(max_tokens=0)


@pytest.mark.parametrize(
    ("values", "named", "message"),
    [
        ((1, 2, 3, 4, 5, 6, 7), {}, "takes 6 fields, not 7"),
        ((1.0,), {"temperature": 1.0}, "'temperature' twice"),
        ((), {"heat": 1}, "'heat' twice, or no field"),
    ],
)
def test_wrong_fields_are_named(values: Any, named: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Sampling(*values, **named)


def test_a_missing_field_is_named() -> None:
    from ingot.model import ModelInfo

    with pytest.raises(TypeError, match="needs 'instruction_count'"):
        ModelInfo(1)  # type: ignore[call-arg]
