# SPDX-License-Identifier: Apache-2.0
"""kv8 is the default format of keys and values as long as it costs next to nothing."""

from __future__ import annotations

from pathlib import Path

from ingot import Model
from tests.benchmarks.kv_formats import divergence, text_windows

# The bar under which kv8 may be the default, at the bundled model's full context.
MOST_KL = 1e-3


def test_the_default_costs_less_than_its_bar(repo_root: Path, lantern_ingot: Path) -> None:
    text = (repo_root / "examples" / "text" / "evaluation.txt").read_text(encoding="utf-8")
    with Model(lantern_ingot) as model:
        with model.session() as session:
            assert session.kv == "kv8"
        windows = text_windows(model, text, 6)
        assert len(windows) == 6 and len(windows[0]) == model.info.context == 512
        kv8, k8v4 = (float(divergence(model, windows, kv).mean()) for kv in ("kv8", "k8v4"))
    assert 1e-6 < kv8 < MOST_KL
    # The measure sees a difference: 4 bits cost several times as much.
    assert k8v4 > 3 * kv8
