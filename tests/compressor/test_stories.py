# SPDX-License-Identifier: Apache-2.0
"""The whole way over a trained model with odd sizes: its greedy text is known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ingot import Model
from tests.conftest import compress

TOKENS = 100


@pytest.mark.parametrize("name", ["f16", "q8"])
def test_greedy_text_of_stories_is_the_expected_one(
    name: str, shared_dir: Path, tmp_path: Path
) -> None:
    source = shared_dir / "models" / "stories260k"
    options = ("--preset", "draft", "--format", name, "--head-format", name)
    file = compress(source, tmp_path / "stories.ingot", *options)
    expected = json.loads((source / "expected_greedy.json").read_text(encoding="utf-8"))
    prompts = [prompt for prompt in expected if not prompt.startswith("_")]
    assert len(prompts) == 3
    with Model(file) as model:
        for prompt in prompts:
            known = expected[prompt]
            with model.session(kv="f16") as session:
                found = session.generate(known["prompt_ids"], max_tokens=TOKENS)
            assert list(found.token_ids) == known["greedy_ids"][:TOKENS], prompt
