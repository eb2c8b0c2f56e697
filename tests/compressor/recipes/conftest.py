# SPDX-License-Identifier: Apache-2.0
"""Checkpoints and texts for tests of recipes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.compressor.recipes.recipe_cases import (
    SHAPE,
    WORDS,
)
from tests.compressor.tiny_models import write_checkpoint


@pytest.fixture(autouse=True)
def one_torch_thread() -> Iterator[None]:
    """Keep torch to one thread: on a busy machine its threads slow each other down many times."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("source") / "tiny", SHAPE, deviation=0.1)


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    values = {**SHAPE, "tie_word_embeddings": True, "num_hidden_layers": 1}
    return write_checkpoint(tmp_path_factory.mktemp("source") / "tied", values, deviation=0.1)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("texts")
    for index, name in enumerate(("calibration", "evaluation")):
        lines = [f"{index} {number} {WORDS[(number + index) % 3]}" for number in range(40)]
        (folder / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
    return {name: folder / f"{name}.txt" for name in ("calibration", "evaluation")}
