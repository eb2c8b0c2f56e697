# SPDX-License-Identifier: Apache-2.0
"""What the fuzzer and readers of the importers found: each is refused with IngotError, at once."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.fuzz.importer_inputs import CHECKS, FILES, SEEDS, check, split
from tests.fuzz.json_mutation import mutate_text

INPUTS = Path(__file__).resolve().parents[1] / "must_fail" / "inputs"
FOUND = [
    (target, path.stem) for target in CHECKS for path in sorted((INPUTS / target).glob("*.bin"))
]


@pytest.mark.parametrize(("target", "name"), FOUND)
def test_a_finding_is_refused(target: str, name: str, tmp_path: Path) -> None:
    start = time.monotonic()
    assert not check(target, tmp_path, (INPUTS / target / f"{name}.bin").read_bytes())
    assert time.monotonic() - start < 20.0


@pytest.mark.parametrize("target", list(CHECKS))
def test_the_first_inputs_are_taken(target: str, tmp_path: Path) -> None:
    seeds = list(SEEDS[target]())
    assert len(seeds) >= 5
    assert all(check(target, tmp_path, seed) for seed in seeds)


def test_the_check_passes_other_errors_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finding is what the importer raises besides IngotError; the check must not hide it."""
    from tests.fuzz import importer_inputs

    def raise_key_error(folder: Path) -> None:
        raise KeyError("content")

    monkeypatch.setattr(importer_inputs, "CHECKS", {"texts": raise_key_error})
    with pytest.raises(KeyError):
        check("texts", tmp_path, b"{}")


def test_mutations_stay_json_and_change_something() -> None:
    rng = random.Random(3)
    seed = next(SEEDS["texts"]())
    text = split("texts", seed)[FILES["texts"].index("tokenizer_config.json")]
    changed = {mutate_text(text, rng) for _ in range(50)}
    assert len(changed) > 25
    assert mutate_text(b"no json", rng) == b"no json"
