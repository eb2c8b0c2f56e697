# SPDX-License-Identifier: Apache-2.0
"""Activations rounded to 8 bits in PyTorch: by token, by 32 elements, or with fixed scales.

The runtime rounds by 32 elements; the others are what hardware with one scale per token or tensor
would do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

__all__ = [
    "ActivationScale",
    "make_rounding",
    "round_by_block",
    "round_by_tensor",
    "round_by_token",
]

TOP = 127.0
BLOCK = 32


class ActivationScale(Enum):
    """What shares a scale."""

    TOKEN = "token"
    BLOCK = "block"
    TENSOR = "tensor"


def round_by_token(x: torch.Tensor) -> torch.Tensor:
    """Round to whole multiples of max |x| / 127 of each row.

    Shapes: x (..., k); result alike.
    """
    return _rounded(x, x.abs().amax(dim=-1, keepdim=True))


def round_by_block(x: torch.Tensor, block: int = BLOCK) -> torch.Tensor:
    """Round to whole multiples of max |x| / 127 of each `block` elements of a row.

    Shapes: x (..., k); result alike; a last shorter block has its own scale.
    """
    k = x.shape[-1]
    padded = functional.pad(x, (0, -k % block))
    parts = padded.reshape(*padded.shape[:-1], -1, block)
    rounded = _rounded(parts, parts.abs().amax(dim=-1, keepdim=True))
    return rounded.flatten(-2)[..., :k]


def round_by_tensor(x: torch.Tensor, largest: float) -> torch.Tensor:
    """Round to whole multiples of largest / 127, known before x is; what is beyond saturates.

    Shapes: x any; result alike.
    """
    return _rounded(x, torch.tensor(largest, dtype=x.dtype))


def _rounded(x: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    inverse = torch.where(largest > 0, TOP / largest, 0.0)
    codes = torch.clamp(torch.round(x * inverse), -TOP, TOP)
    return codes * (largest / TOP)


def make_rounding(
    scale: ActivationScale, largest: Mapping[str, NDArray[np.float64]] | None = None
) -> Callable[[str, torch.Tensor], torch.Tensor]:
    """Return what `execute` takes as `activation`.

    `largest` are the largest magnitudes of each weight's input columns on calibration text, for
    fixed scales; a weight without them (the text never reached it) rounds by token.

    Shapes: largest each (k,).
    Raises: ValueError for fixed scales without `largest`.
    """
    if scale is ActivationScale.BLOCK:
        return lambda name, x: round_by_block(x)
    if scale is ActivationScale.TOKEN:
        return lambda name, x: round_by_token(x)
    if largest is None:
        raise ValueError("fixed scales come from calibration: give the largest magnitudes")
    known = {name: float(values.max()) for name, values in largest.items()}

    def fixed(name: str, x: torch.Tensor) -> torch.Tensor:
        return round_by_tensor(x, known[name]) if name in known else round_by_token(x)

    return fixed
