# SPDX-License-Identifier: Apache-2.0
"""Weights, Hessians and starts that the tests of GPTQ share."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import torch

from ingot.format import Dtype
from ingot.packing import Quantized, dequantize
from ingot_compressor.numerics import Encoding, quantize_matrix
from ingot_compressor.numerics.levels import Levels

FORMATS = [
    *((Dtype.Q8, 32), (Dtype.Q6, 32), (Dtype.Q4, 32), (Dtype.Q4, 64), (Dtype.Q4, 128)),
    *((Dtype.Q4Z, 32), (Dtype.Q4Z, 128), (Dtype.C5, 32), (Dtype.C4, 32), (Dtype.C3, 32)),
    *((Dtype.C2, 32), (Dtype.T2, 0)),
]


def weight(n: int, k: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, k)).astype(np.float32) * 0.05


@cache
def hessian_of(k: int, seed: int = 0) -> torch.Tensor:
    """Return the Hessian of inputs that depend on each other and differ in power."""
    random = np.random.default_rng(seed)
    tokens = 4 * k
    x = random.standard_normal((tokens, max(1, k // 3))) @ random.standard_normal((k // 3 or 1, k))
    x += 0.3 * random.standard_normal((tokens, k))
    x *= np.exp(random.standard_normal(k))
    return torch.from_numpy(2 / tokens * x.T @ x).float()


def error(w: np.ndarray, q: np.ndarray, hessian: torch.Tensor) -> float:
    e = w.astype(np.float64) - q
    return float(np.trace(e @ hessian.double().numpy() @ e.T))


def start_of(
    w: np.ndarray, dtype: Dtype, group: int, hessian: torch.Tensor, share: float = 0.0
) -> Quantized:
    encoding = Encoding(dtype, group, sparsity=share)
    return quantize_matrix(w, encoding, hessian.diagonal().numpy())


def table_of(start: Quantized, levels: Levels) -> np.ndarray:
    codes = [np.full(start.shape, code, start.codes.dtype) for code in levels.codes]
    return np.stack([dequantize(replace(start, codes=c)) for c in codes]).astype(np.float64)
