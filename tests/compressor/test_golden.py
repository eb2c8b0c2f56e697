# SPDX-License-Identifier: Apache-2.0
"""The default compression of the bundled model gives what tests/golden/results.csv says."""

from __future__ import annotations

import pytest
import torch

from tests.golden.golden import MIXES, Row, measure, read

# Another order of additions in PyTorch moves the last digits; a change of a method moves more.
TOLERANCE = 0.05


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Row:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    row = measure("lantern", *MIXES[0], tmp_path_factory.mktemp("golden"))
    torch.set_num_threads(before)
    return row


def test_every_mix_has_a_row() -> None:
    assert tuple(read()) == MIXES


def test_size_and_bits_are_those_of_the_table(measured: Row) -> None:
    row = read()[MIXES[0]]
    assert measured.bits_per_weight_body == pytest.approx(float(row["bits_per_weight_body"]), 1e-5)
    assert measured.bits_per_weight_total == pytest.approx(
        float(row["bits_per_weight_total"]), 1e-5
    )
    # Certificate and provenance name versions and times, whose length may differ a little.
    assert abs(measured.bytes - int(row["bytes"])) < 1024


def test_quality_is_that_of_the_table(measured: Row) -> None:
    row = read()[MIXES[0]]
    assert measured.mean_kl == pytest.approx(float(row["mean_kl"]), rel=TOLERANCE)
    assert measured.perplexity == pytest.approx(float(row["perplexity"]), rel=1e-3)
    assert measured.top1_agreement == pytest.approx(float(row["top1_agreement"]), abs=5e-3)
