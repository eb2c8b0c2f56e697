# SPDX-License-Identifier: Apache-2.0
"""A compression that goes on finds what it had: statistics, formats, blocks, and no one else's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingot.errors import InvalidArgumentError
from ingot.format import Dtype, Section
from ingot_compressor import draft as draft_module
from ingot_compressor import resuming as resuming_module
from ingot_compressor.calibration import Statistics
from ingot_compressor.choosing import Chosen, choose_encodings
from ingot_compressor.json_values import annotated_value
from ingot_compressor.passes import prune as prune_module
from ingot_compressor.resuming import kept_statistics
from ingot_compressor.work import WorkFolder
from tests.compressor.recipes.recipe_cases import made, section

BLOCKS = """
[rounding]
method = "gptq"
sequences = 4
length = 40
batch = 2
iterations = 1
sweeps = 1
"""


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("this had been finished")


def test_what_was_finished_is_not_done_again_and_the_file_is_the_same(
    checkpoint: Path, texts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"work": tmp_path / "work", "bpw": 5.0}
    given = {"calibration": texts["calibration"]}
    chosen: list[Chosen] = []

    def watched(*arguments: Any) -> Chosen:
        chosen.append(choose_encodings(*arguments))
        return chosen[-1]

    monkeypatch.setattr(draft_module, "choose_encodings", watched)
    first = made(checkpoint, given, tmp_path, BLOCKS, body="q8", **options)
    facts = WorkFolder(tmp_path / "work", _key(tmp_path / "work")).load_facts("choice")
    assert facts is not None and chosen[0].choice is not None
    assert annotated_value(Chosen, facts["chosen"]) == chosen[0]
    training, weights = (section(first.file, kind) for kind in (Section.CERTIFICATE, Section.META))
    for name in ("calibrate", "choose_encodings"):
        monkeypatch.setattr(draft_module, name, never)
    monkeypatch.setattr("ingot_compressor.passes.block_methods.gptq", never)
    again = made(checkpoint, given, tmp_path, BLOCKS, body="q8", **options)
    assert again.formats == first.formats and again.warnings == first.warnings
    assert len(training["training"]["blocks"]) == 3
    assert section(again.file, Section.CERTIFICATE) == training
    assert section(again.file, Section.META) == weights


def _key(folder: Path) -> str:
    text = (folder / "key.json").read_text(encoding="utf-8")
    return text.split('"')[3]


def test_parts_for_other_formats_are_not_taken(
    checkpoint: Path, texts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a budget chose on another day may differ: codes of one format are none of another."""
    given = {"calibration": texts["calibration"]}
    work = tmp_path / "work"
    made(checkpoint, given, tmp_path, BLOCKS, body="q8", work=work)

    def others(*arguments: Any) -> Chosen:
        chosen = choose_encodings(*arguments)
        return Chosen({name: replace(x, dtype=Dtype.C4) for name, x in chosen.encodings.items()})

    monkeypatch.setattr(draft_module, "choose_encodings", others)
    with pytest.raises(InvalidArgumentError, match="holds the work of other formats"):
        made(checkpoint, given, tmp_path, BLOCKS, body="q8", work=work)


def test_another_version_begins_anew(
    checkpoint: Path, texts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"calibration": texts["calibration"]}
    made(checkpoint, given, tmp_path, "", body="q8", work=tmp_path / "work")
    monkeypatch.setattr(resuming_module, "versions", lambda: {"ingot": "99"})
    with pytest.raises(InvalidArgumentError, match="another compression"):
        made(checkpoint, given, tmp_path, "", body="q8", work=tmp_path / "work")


def test_statistics_come_back_whole(tmp_path: Path) -> None:
    values = {"layers.0.mlp/up": np.arange(3.0), "head": np.ones(2)}
    found = Statistics(values, 7, {"head": np.zeros(2)}, {})
    work = WorkFolder(tmp_path / "work", "key")
    assert kept_statistics(work, lambda: found) is found
    kept = kept_statistics(work, never)
    assert kept.tokens == 7 and not kept.max_abs and set(kept.mean_squares) == set(values)
    assert all(np.array_equal(kept.mean_squares[name], x) for name, x in values.items())
    assert np.array_equal(kept.mean_abs["head"], np.zeros(2))


def test_pruned_blocks_are_not_pruned_again(
    checkpoint: Path, texts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, rest = {"calibration": texts["calibration"]}, "[prune]\nsuperblocks = 0.3\n"
    work = tmp_path / "work"
    whole = made(checkpoint, given, tmp_path, rest, body="q8")
    expected = section(whole.file, Section.CERTIFICATE)
    real, solved = prune_module.choose_superblocks, []

    def killed(*arguments: Any) -> Any:
        solved.append(1)
        if len(solved) == 10:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(prune_module, "choose_superblocks", killed)
    with pytest.raises(KeyboardInterrupt):
        made(checkpoint, given, tmp_path, rest, body="q8", work=work)
    made(checkpoint, given, tmp_path, rest, body="q8", work=work)
    weights = 3 * 6
    finished = 9 - 9 % 6
    assert len(solved) == 10 + weights - finished
    assert section(str(tmp_path / "x.ingot"), Section.CERTIFICATE) == expected
