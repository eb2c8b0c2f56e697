# SPDX-License-Identifier: Apache-2.0
"""Layout T16 byte by byte, round trips at odd sizes, sizes, dequantization, int8 activations."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingot.errors import InvalidArgumentError
from ingot.format import Dtype
from ingot.packing import (
    WEIGHT_DTYPES,
    WEIGHT_FORMATS,
    Quantized,
    dequantize,
    pack,
    packed_bytes,
    payload_bytes,
    quantize_activations,
    tile_bytes,
    unpack,
    zero_code,
)
from tests.runtime.random_weights import make, same

FORMATS = [(dtype, group) for dtype in WEIGHT_DTYPES for group in WEIGHT_FORMATS[dtype].groups]
CODEBOOK = np.array(
    [-127, -90, -70, -50, -35, -20, -9, 2, 12, 21, 33, 46, 61, 79, 101, 127], np.int8
)


@pytest.mark.parametrize(("dtype", "group"), FORMATS)
@settings(max_examples=40)
@given(n=st.integers(1, 50), k=st.integers(1, 600), seed=st.integers(0, 9))
def test_round_trip(dtype: Dtype, group: int, n: int, k: int, seed: int) -> None:
    for layout in WEIGHT_FORMATS[dtype].layouts:
        weight = make(dtype, group, n, k, seed, layout)
        data = pack(weight)
        back = unpack(data, dtype, (n, k), group, weight.codebook, weight.delta, layout)
        assert data.size == packed_bytes(dtype, n, k, group)
        assert same(weight, back)
        assert np.array_equal(pack(back), data)


@pytest.mark.parametrize(("dtype", "group"), FORMATS)
@settings(max_examples=20)
@given(n=st.integers(1, 50), k=st.integers(1, 900), seed=st.integers(0, 9))
def test_sparse_round_trip(dtype: Dtype, group: int, n: int, k: int, seed: int) -> None:
    weight = make(dtype, group, n, k, seed, sparse=True)
    data = pack(weight)
    back = unpack(data, dtype, (n, k), group, weight.codebook, weight.delta, sparse=True)
    assert np.array_equal(back.present, weight.present)
    assert np.array_equal(dequantize(back), dequantize(weight))
    assert np.array_equal(pack(back), data)


@pytest.mark.parametrize("place", [0, 4, 6, 40, -1])
def test_a_damaged_list_is_refused(place: int) -> None:
    weight = make(Dtype.C4, 32, 32, 600, 1, sparse=True)
    weight.present[:] = True
    data = pack(weight).copy()
    if place < 0:
        data = data[:-64]
    else:
        data[place] ^= 0x80
    with pytest.raises(InvalidArgumentError, match=r"superblocks|take"):
        unpack(data, Dtype.C4, (32, 600), 32, weight.codebook, weight.delta, sparse=True)


def test_golden_planes() -> None:
    """One code of row 3 at k 77 of q6, c5, c3 and c2: block 2, quad 3, byte 1."""
    at = {Dtype.Q6: 5, Dtype.C5: 5, Dtype.C3: 5, Dtype.C2: 3}
    blocks = {dtype: 64 + 64 + 2 * 16 * 32 * WEIGHT_FORMATS[dtype].bits // 8 for dtype in at}
    found = {}
    for dtype in at:
        weight = make(dtype, 32, 16, 128)
        weight.codes[:] = 0
        plain = pack(weight)
        weight.codes[3, 77] = (1 << WEIGHT_FORMATS[dtype].bits) - 1
        changed = pack(weight) ^ plain
        places = np.flatnonzero(changed)
        found[dtype] = [(int(p) - blocks[dtype], int(changed[p])) for p in places]
    # Nibbles: chunk 1, high; pairs: chunk 0, bits 6 and 7; bits: bit 3; triples: B1 from bit 3.
    nibble, byte = (64 + 4 * 3 + 1, 0xF0), 4 * 3 + 1
    assert found[Dtype.Q6] == [nibble, (256 + byte, 0xC0)]
    assert found[Dtype.C5] == [nibble, (256 + byte, 0x08)]
    assert found[Dtype.C3] == [(64 + byte, 0x38)]
    assert found[Dtype.C2] == [(byte, 0xC0)]


def test_golden_last_triples() -> None:
    """Quads 6 and 7 of c3 lie across the tops of three bytes."""
    weight = make(Dtype.C3, 32, 16, 32)
    weight.codes[:] = 0
    plain = pack(weight)
    weight.codes[0, 24], weight.codes[0, 28] = 0b110, 0b101
    changed = pack(weight) ^ plain
    places = {int(p) - 128: int(changed[p]) for p in np.flatnonzero(changed)}
    assert places == {0: 0b10 << 6, 64: 0b01 << 6, 128: 1 << 6 | 1 << 7}


@pytest.mark.parametrize(("dtype", "group"), FORMATS)
def test_padding_is_canonical(dtype: Dtype, group: int) -> None:
    """Read as if rows and columns were not padded, padding is zero codes and zero scales."""
    weight = make(dtype, group, 5, 40)
    width = 128 if group == 128 else 64
    whole = unpack(pack(weight), dtype, (16, width), group, weight.codebook, weight.delta)
    code = zero_code(weight)
    assert (whole.codes[5:] == code).all()
    assert (whole.codes[:, 40:] == code).all()
    assert not whole.scales[5:].any()
    assert not whole.row_scales[5:].any()
    assert not whole.sub_scales[5:].any()
    assert not whole.shifts[5:].any()


def zeros(dtype: Dtype, group: int, n: int, k: int) -> dict[str, Any]:
    """Return the fields of a weight whose packed bytes are all zero but for codes of value zero."""
    groups = -(-k // group)
    code_type = np.int8 if dtype == Dtype.Q8 else np.uint8
    return {
        "dtype": dtype,
        "shape": (n, k),
        "group": group,
        "codes": np.full((n, k), 8 if dtype == Dtype.Q4 else 0, code_type),
        "scales": np.zeros((n, groups), np.float16),
    }


def test_golden_q8() -> None:
    fields = zeros(Dtype.Q8, 32, 17, 96)
    fields["codes"][2, 5] = 7
    fields["codes"][2, 69] = -3
    fields["codes"][16, 0] = 9
    fields["scales"][2, 1] = 1.0
    data = pack(Quantized(**fields))
    expected = np.zeros(2 * 1664, np.uint8)
    # k = 5 is chunk 1, j = 1: 64 bytes of scales + 64 * 1 + 4 * row 2 + 1.
    expected[137] = 7
    # Superblock 0 takes 64 + 16 * 64 = 1088. k = 69 is k 5 of the short superblock 1, whose one
    # group of scales is padded to 64 bytes: 1088 + 64 + 64 + 8 + 1.
    expected[1225] = 0xFD
    # A tile is 1088 + 64 + 8 * 64 = 1664; row 16 is lane 0 of tile 1: 1664 + 64.
    expected[1728] = 9
    # Scale of group 1, row 2: 32 bytes of group 0, then 2 bytes a row; 1.0 is 0x3C00.
    expected[36:38] = 0x00, 0x3C
    assert np.array_equal(data, expected)


def test_golden_q4() -> None:
    fields = zeros(Dtype.Q4, 64, 1, 192)
    fields["codes"][0, 2] = 1
    fields["codes"][0, 6] = 15
    fields["codes"][0, 131] = 3
    fields["scales"][0, 2] = -2.0
    data = pack(Quantized(**fields))
    # Superblock 0: 64 + 2 groups * 64 k * 16 rows / 2 = 1088; superblock 1, one group: 64 + 512.
    assert data.size == 1664
    # k = 2 is the low nibble of chunk 0, j = 2; k = 6 = 4 + 2 is the high nibble of that byte.
    assert data[66] == 0xF1
    # k = 131 is k 3 of superblock 1: 1088 + 64 + 3; its high nibble is k 7, code 8 (zero).
    assert data[1155] == 0x83
    # Group 2 is the first of superblock 1; -2.0 is 0xC000.
    assert (data[1088], data[1089]) == (0x00, 0xC0)
    # All other code bytes hold two zeros: 0x88.
    assert np.count_nonzero(data == 0x88) == 1024 + 512 - 2


def test_golden_c4() -> None:
    codes = np.full((2, 160), 7, np.uint8)
    codes[1, 0] = 10
    codes[1, 4] = 12
    codes[1, 130] = 14
    sub_scales = np.zeros((2, 5), np.int8)
    sub_scales[1, 3] = -64
    sub_scales[1, 4] = 63
    shifts = np.zeros((2, 5), np.bool_)
    shifts[1, 4] = True
    weight = Quantized(
        Dtype.C4,
        (2, 160),
        32,
        codes,
        row_scales=np.array([0.5, -1.0], np.float16),
        sub_scales=sub_scales,
        shifts=shifts,
        codebook=CODEBOOK,
        delta=4,
    )
    data = pack(weight)
    # Head 64, superblock 0 (128 k) 64 + 16 * 64, short superblock 1 (32 k) 64 + 4 * 64.
    assert data.size == 64 + 1088 + 320
    # Row scales: 0.5 is 0x3800, -1.0 is 0xBC00; then rows 2..15 and 32 bytes, all zero.
    assert data[:4].tolist() == [0x00, 0x38, 0x00, 0xBC]
    assert not data[4:64].any()
    # Group 3, row 1: 64 + 3 * 16 + 1; -64 in bits 7..1 without shift is 1000_0000.
    assert data[113] == 0x80
    # Group 4 is group 0 of superblock 1 at 64 + 1088: row 1; 63 with shift is 0111_1111.
    assert data[1153] == 0x7F
    # k = 0 low, k = 4 high nibble of row 1's byte 0 in chunk 0: 64 + 64 + 4.
    assert data[132] == 0xCA
    # k = 130 is k 2 of superblock 1: 1152 + 64 + 4 * 1 + 2; its high nibble is k 6, code 7.
    assert data[1222] == 0x7E
    # Padding rows have the code whose value is nearest 0 (2, at code 7).
    assert data[1214 + 40] == 0x77


def test_golden_f16() -> None:
    codes = np.zeros((3, 40), np.float16)
    codes[2, 1] = 1.0
    codes[1, 34] = -2.0
    data = pack(Quantized(Dtype.F16, (3, 40), 0, codes))
    expected = np.zeros(2048, np.uint8)
    # Half 2 * row + j of chunk c is k = 2c + j: row 2, k 1 is half 5 of chunk 0.
    expected[10:12] = 0x00, 0x3C
    # k 34 is chunk 17, j 0: 17 * 64 + 2 * (2 * 1).
    expected[1092:1094] = 0x00, 0xC0
    assert np.array_equal(data, expected)


@pytest.mark.parametrize(
    ("dtype", "group", "k", "expected"),
    [
        # 576 k, the hidden size of a 135M model: no format pays for the rest of a superblock.
        (Dtype.F16, 0, 576, 576 * 32),
        (Dtype.Q8, 32, 576, 9 * (64 + 1024)),
        (Dtype.Q4, 64, 576, 4 * (64 + 1024) + 64 + 512),
        (Dtype.Q4, 128, 576, 2 * (64 + 2048) + 64 + 1024),
        (Dtype.C4, 32, 576, 64 + 4 * (64 + 1024) + 64 + 512),
    ],
)
def test_tile_bytes(dtype: Dtype, group: int, k: int, expected: int) -> None:
    assert tile_bytes(dtype, k, group) == expected
    assert packed_bytes(dtype, 17, k, group) == 2 * expected


def test_payload_counts_no_padding() -> None:
    assert payload_bytes(Dtype.Q8, 3, 40, 32) == 3 * (40 + 2 * 2)
    assert payload_bytes(Dtype.Q4, 3, 41, 64) == 3 * (21 + 2)
    assert payload_bytes(Dtype.C4, 3, 40, 32) == 3 * (20 + 2 + 2)
    assert payload_bytes(Dtype.F16, 3, 40, 0) == 240
    # Whole superblocks and tiles store nothing else but the zero bytes of a c4 head.
    assert payload_bytes(Dtype.Q8, 32, 128, 32) == packed_bytes(Dtype.Q8, 32, 128, 32)
    assert payload_bytes(Dtype.C4, 32, 256, 32) == packed_bytes(Dtype.C4, 32, 256, 32) - 2 * 32


@pytest.mark.parametrize(("dtype", "group"), FORMATS)
def test_dequantize_by_formula(dtype: Dtype, group: int) -> None:
    weight = make(dtype, group, 3, 150, seed=3)
    values = dequantize(weight)
    zero = {Dtype.Q6: 32, Dtype.Q4: 8, Dtype.T2: 1}.get(dtype, 0)
    for row in range(3):
        for j in range(150):
            g = j // (group or 150)
            code = float(weight.codes[row, j])
            if weight.codebook.size:
                code = int(weight.codebook[weight.codes[row, j]]) - 5 * int(weight.shifts[row, g])
            elif weight.zeros.size:
                zero = int(weight.zeros[row, g])
            integer = code - zero
            if weight.sub_scales.size:
                integer *= int(weight.sub_scales[row, g])
            if dtype == Dtype.F16:
                scale = 1.0
            elif weight.row_scales.size:
                scale = float(weight.row_scales[row])
            else:
                scale = float(weight.scales[row, g])
            assert float(values[row, j]) == float(np.float32(integer * scale))


def test_packing_is_fast() -> None:
    """A Python loop over rows or groups would take many times this bound."""
    weight = make(Dtype.C4, 32, 2 * 4864, 896)
    start = time.perf_counter()
    data = pack(weight)
    unpack(data, Dtype.C4, weight.shape, 32, weight.codebook, weight.delta)
    assert time.perf_counter() - start < 2.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codes": np.full((1, 32), 16, np.uint8)}, "code 16"),
        ({"codes": np.zeros((1, 32), np.int8)}, "codes: found int8"),
        ({"scales": np.full((1, 1), np.inf, np.float16)}, "not finite"),
        ({"scales": np.zeros((1, 2), np.float16)}, "scales: found float16"),
        ({"group": 48}, "group 48"),
        ({"delta": 3}, "delta 3"),
        ({"shape": (0, 32)}, "two positive sizes"),
        ({"dtype": Dtype.F32}, "no weight format"),
    ],
)
def test_impossible_weight_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        Quantized(**{**zeros(Dtype.Q4, 32, 1, 32), **change})


@pytest.mark.parametrize("value", [-65, 64])
def test_sub_scale_out_of_range_is_refused(value: int) -> None:
    weight = make(Dtype.C4, 32, 1, 32)
    with pytest.raises(InvalidArgumentError, match="sub-scale"):
        Quantized(
            Dtype.C4,
            (1, 32),
            32,
            weight.codes,
            row_scales=weight.row_scales,
            sub_scales=np.full((1, 1), value, np.int8),
            shifts=weight.shifts,
            codebook=CODEBOOK,
        )


def test_unpack_refuses_other_sizes() -> None:
    data = pack(make(Dtype.Q8, 32, 4, 64))
    with pytest.raises(InvalidArgumentError, match="1087 bytes, expected 1088"):
        unpack(data[:-1], Dtype.Q8, (4, 64), 32)


def test_activations_by_hand() -> None:
    x = np.zeros((2, 40), np.float32)
    x[0, :4] = 127.0, 63.5, 62.5, -127.0
    x[0, 35] = -0.25
    codes, scales = quantize_activations(x)
    assert codes.shape == (2, 64)
    assert scales.shape == (2, 2)
    assert scales.dtype == np.float32
    # Halves round to even: 63.5 to 64, 62.5 to 62.
    assert codes[0, :4].tolist() == [127, 64, 62, -127]
    assert scales[0].tolist() == [1.0, np.float32(0.25) / np.float32(127)]
    assert codes[0, 35] == -127
    assert not codes[1].any()
    assert not scales[1].any()


def test_activations_are_close_and_never_minus_128() -> None:
    x = np.random.default_rng(1).normal(size=(50, 96)).astype(np.float32)
    codes, scales = quantize_activations(x)
    assert codes.min() == -127
    assert codes.max() == 127
    back = codes * np.repeat(scales, 32, axis=1)
    # Half a step, plus two roundings of the reciprocal and the product.
    assert (np.abs(back - x) <= np.repeat(scales, 32, axis=1) * (0.5 + 127 * 2**-22)).all()


def test_activations_at_the_ends_of_the_range() -> None:
    x = np.zeros((1, 96), np.float32)
    x[0, 0] = 9e-31
    x[0, 32] = np.finfo(np.float32).max
    x[0, 64] = np.nan
    codes, scales = quantize_activations(x)
    assert scales[0, 0] == 0.0
    assert codes[0, 0] == 0
    assert codes[0, 32] == 127
    assert np.isnan(scales[0, 2])
    assert not codes[0, 64:].any()
