# SPDX-License-Identifier: Apache-2.0
"""`rope` and `attention`. float64 inside, float32 out, keys and values kept as float16."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ingot.format import AttentionParameters, RopeParameters, RopeStyle

__all__ = ["State", "append_state", "attention", "rope", "softmax", "unseen"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
State = NDArray[np.float16] | NDArray[np.float32]


def rope(x: F32, table: F32, position: int, parameters: RopeParameters) -> F32:
    """Rotate the first rotary_size elements of every head by the angle of the row's position.

    Shapes: x (m, h * d); table (context, r): cosines of r / 2, then sines; result as x.
    Pairs are (i, i + r/2) for half_split, (2i, 2i + 1) for interleaved:
    (a, b) becomes (a cos - b sin, b cos + a sin).
    Source: Su et al. 2021 (arXiv:2104.09864), section 3.2.
    """
    m, half = x.shape[0], parameters.rotary_size // 2
    heads = x.astype(np.float64).reshape(m, -1, parameters.head_size)
    angles = table[position : position + m].astype(np.float64)
    cos, sin = angles[:, None, :half], angles[:, None, half:]
    first, second = slice(0, half), slice(half, 2 * half)
    if parameters.style == RopeStyle.INTERLEAVED:
        first, second = slice(0, 2 * half, 2), slice(1, 2 * half, 2)
    a, b = heads[:, :, first].copy(), heads[:, :, second].copy()
    heads[:, :, first] = a * cos - b * sin
    heads[:, :, second] = b * cos + a * sin
    return heads.reshape(x.shape).astype(np.float32)


def append_state(state: State, x: F32) -> State:
    """Return the state with the rows of x behind it, rounded to its type, nearest even.

    Shapes: state (kv_heads, t, d), float16 but in a session that is exact; x (m, kv_heads * d);
    result (kv_heads, t + m, d).
    """
    heads, _, size = state.shape
    rows = x.reshape(-1, heads, size).transpose(1, 0, 2).astype(state.dtype)
    return np.concatenate([state, rows], axis=1)


def softmax(scores: F64) -> F64:
    """Return exp(s) / sum(exp(s)) along the last axis."""
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    result: F64 = weights / weights.sum(axis=-1, keepdims=True)
    return result


def unseen(rows: int, total: int, window: int, sinks: int) -> NDArray[np.bool_]:
    """Return which positions each of the last `rows` ones does not see, (rows, total).

    A row sees the positions up to its own: with a window the newest `window` of them and the first
    `sinks`. Source: Beltagy et al. 2020 (arXiv:2004.05150), section 3.1; Xiao et al. 2023
    (arXiv:2309.17453) for the sinks.
    """
    positions = np.arange(total)
    own = positions[total - rows :, None]
    hidden: NDArray[np.bool_] = positions > own
    if window:
        hidden |= (positions <= own - window) & (positions >= sinks)
    return hidden


def attention(q: F32, keys: State, values: State, parameters: AttentionParameters) -> F32:
    """Return softmax(scale * q k^T) v; row i sees what unseen() leaves it.

    Shapes: q (m, h * d); keys, values (kv_heads, t, d), the rows' own included as the last m;
    result (m, h * d). Query head j reads head j / (h / kv_heads).
    Source: Vaswani et al. 2017 (arXiv:1706.03762), equation 1; Ainslie et al. 2023
    (arXiv:2305.13245) for the grouping.
    """
    m, total = q.shape[0], keys.shape[1]
    group = parameters.heads // parameters.kv_heads
    heads = q.astype(np.float64).reshape(m, parameters.heads, parameters.head_size)
    hidden = unseen(m, total, parameters.window, parameters.sinks)
    out = np.empty_like(heads)
    for j in range(parameters.heads):
        key, value = keys[j // group].astype(np.float64), values[j // group].astype(np.float64)
        scores = parameters.scale * (heads[:, j] @ key.T)
        scores[hidden] = -np.inf
        out[:, j] = softmax(scores) @ value
    return out.reshape(m, -1).astype(np.float32)
