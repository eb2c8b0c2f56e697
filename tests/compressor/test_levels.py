# SPDX-License-Identifier: Apache-2.0
"""What codes stand for, against what the runtime makes of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ingot.errors import InvalidArgumentError
from ingot.format import Dtype
from ingot.packing import dequantize
from ingot_compressor.numerics import Encoding, quantize_matrix
from ingot_compressor.numerics.levels import levels_of
from tests.compressor.hessian_cases import FORMATS, hessian_of, start_of, weight


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize(("dtype", "group"), FORMATS)
def test_levels_stand_for_what_the_runtime_makes_of_the_codes(
    dtype: Dtype, group: int, share: float
) -> None:
    """Every code of every element, to the bit, and the nearest against a look at all of them."""
    n, k = 33, 300
    w = weight(n, k)
    start = start_of(w, dtype, group, hessian_of(k), share)
    start.sub_scales[2:4] = 0
    levels = levels_of(start)
    table = np.stack(
        [
            dequantize(replace(start, codes=np.full((n, k), code, start.codes.dtype)))
            for code in levels.codes
        ]
    )
    for column in (0, 31, 32, 130, 299):
        for position in range(len(levels.codes)):
            found = levels.values(column, torch.full((n,), position))
            assert np.array_equal(found.numpy(), table[position, :, column])
        aims = torch.from_numpy(3 * weight(n, k, 9)[:, column])
        near = levels.values(column, levels.nearest(column, aims)).numpy()
        least = np.abs(table[:, :, column] - aims.numpy()).min(axis=0)
        np.testing.assert_allclose(np.abs(near - aims.numpy()), least, rtol=1e-4, atol=1e-7)
    assert len(set(levels.codes.tolist())) == len(levels.codes) == len(levels.grid)


def test_half_has_none() -> None:
    with pytest.raises(InvalidArgumentError, match="no levels"):
        levels_of(quantize_matrix(weight(4, 32), Encoding(Dtype.F16)))
