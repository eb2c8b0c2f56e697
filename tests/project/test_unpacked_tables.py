# SPDX-License-Identifier: Apache-2.0
"""The compressor's README shows the committed measurements of what is not packed, and of files."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.benchmarks.unpacked_tables import (
    GRIDS,
    KEYS_AND_VALUES,
    METHODS,
    README,
    SPARSE,
    GridRow,
    KvRow,
    MethodRow,
    SparseRow,
    read_rows,
    renew,
)


def test_readme_shows_the_committed_tables() -> None:
    page = README.read_text(encoding="utf-8")
    grids, kv = read_rows(GRIDS, GridRow), read_rows(KEYS_AND_VALUES, KvRow)
    sparse = read_rows(SPARSE, SparseRow)
    methods = read_rows(METHODS, MethodRow)
    renewed = renew(page, grids, kv, sparse, methods)
    assert page == renewed, "run python tests/benchmarks/unpacked_tables.py"
    assert page != renew(page, [replace(grids[0], mean_kl=7.0), *grids[1:]], kv, sparse, methods)
    assert page != renew(page, grids, kv, sparse, [replace(methods[0], bits=7.0), *methods[1:]])


@pytest.mark.parametrize("kind", ["hqq", "nf4", "fp8_e4m3", "nvfp4"])
def test_grids_of_others_are_measured_and_labelled(kind: str) -> None:
    rows = read_rows(GRIDS, GridRow)
    found = [row for row in rows if row.body.startswith(kind)]
    assert found and all(row.stored == "not packed" and row.mean_kl > 0 for row in found)
    assert {row.stored for row in rows if row.body.startswith("c4")} == {"format of record"}


def test_static_scales_stand_beside_dynamic_ones() -> None:
    rows = {row.activations: row for row in read_rows(GRIDS, GridRow) if row.body == "W8A8"}
    assert set(rows) == {"int8 by block", "int8 by token", "int8 by tensor"}
    weights = next(r for r in read_rows(GRIDS, GridRow) if r.body == "int8_symmetric_row")
    assert all(row.mean_kl > weights.mean_kl for row in rows.values())


def test_half_quadratic_scales_beat_plain_ones_without_data() -> None:
    rows = read_rows(METHODS, MethodRow)
    kl = {(row.method, row.weights): row.weight_only for row in rows if row.method[0] in "aH"}
    bodies = {weights for _, weights in kl}
    assert bodies == {"q6", "q4", "q4z", "c5", "c4", "c3", "c2"}
    assert all(0 < kl["HQQ", body] < kl["absmax", body] for body in bodies)
    assert {row.stored for row in rows if row.method == "HQQ"} == {"format of record"}


@pytest.mark.parametrize("weights", ["q8", "int8_symmetric_row", "int8_symmetric_tensor"])
def test_static_scales_stand_beside_dynamic_and_float_ones_in_recipes(weights: str) -> None:
    rows = [one for one in read_rows(METHODS, MethodRow) if one.weights == weights]
    plain = {row.inputs: row for row in rows if row.method == "W8A8"}
    assert set(plain) == {"dynamic", "token", "static"}
    static, dynamic = plain["static"], plain["dynamic"]
    assert 0 < static.weight_only < dynamic.mean_kl < plain["token"].mean_kl < static.mean_kl
    smoothed = [row for row in rows if row.method.startswith("W8A8 smoothed")]
    assert len(smoothed) == 2 and all(row.mean_kl < static.mean_kl for row in smoothed)
    packed = {row.inputs for row in rows if row.stored == "format of record"}
    assert packed == ({"dynamic"} if weights == "q8" else set())


def test_keys_and_values_are_measured_at_a_long_context() -> None:
    rows = read_rows(KEYS_AND_VALUES, KvRow)
    assert {(row.context, row.kv) for row in rows} == {
        (context, kv) for context in (512, 2048) for kv in ("kv8", "k8v4")
    }
