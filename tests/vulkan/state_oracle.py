# SPDX-License-Identifier: Apache-2.0
"""Keys and values as bytes, and attention over them, in NumPy from attention.h alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ingot.format import AttentionParameters
from ingot.reference.attention import unseen

BLOCK = 64
F32 = NDArray[np.float32]


def coded(rows: F32, limit: int) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
    """Return codes and the float16 scale of each row."""
    largest = np.abs(rows).max(axis=1)
    scale = (largest / np.float32(limit)).astype(np.float16)
    wide = scale.astype(np.float32)
    inverse = np.divide(np.float32(1), wide, out=np.zeros_like(wide), where=wide > 0)
    codes = np.clip(np.rint(rows * inverse[:, None]), -limit, limit)
    return codes.astype(np.int64), scale


def turned(rows: F32) -> F32:
    """Return rows times the Hadamard matrix, in float32 and in the kernels' order.

    Source: attention.h; the order decides roundings, and those decide a code now and then.
    """
    out = rows.astype(np.float32)
    half = 1
    while half < out.shape[1]:
        pairs = out.reshape(len(out), -1, 2, half)
        out = np.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], axis=2)
        out = out.reshape(len(rows), -1)
        half *= 2
    return out


def padded(rows: F32) -> F32:
    """Return rows with zeros up to a multiple of 16."""
    width = -(-rows.shape[1] // 16) * 16
    out = np.zeros((rows.shape[0], width), np.float32)
    out[:, : rows.shape[1]] = rows
    return out


def head_bytes(keys: F32, values: F32, kv: str) -> tuple[bytes, bytes]:
    """Return the keys and values of one head in a block; positions not given are zero.

    Shapes: keys and values (positions, d), at most 64 positions.
    """
    count, size = keys.shape
    full = np.zeros((2, BLOCK, size), np.float32)
    full[0, :count], full[1, :count] = keys, values
    if kv == "f16":
        groups = full[0].reshape(4, 16, size).transpose(0, 2, 1).astype(np.float16)
        return groups.tobytes(), padded(full[1]).astype(np.float16).tobytes()
    rows = turned(full[0]) if kv == "k8v4" else full[0]
    codes, scales = coded(padded(rows), 127)
    quads = codes.astype(np.int8).reshape(4, 16, -1, 4).transpose(0, 2, 1, 3)
    value_codes, value_scales = coded(padded(full[1]), 127 if kv == "kv8" else 7)
    if kv == "kv8":
        packed = value_codes.astype(np.int8).tobytes()
    else:
        sixteen = (value_codes + 8).reshape(BLOCK, -1, 2, 8)
        packed = (sixteen[:, :, 0] | sixteen[:, :, 1] << 4).astype(np.uint8).tobytes()
    return quads.tobytes() + scales.tobytes(), packed + value_scales.tobytes()


def block_bytes(keys: F32, values: F32, heads: int, kv: str) -> bytes:
    """Return a block of one attention. Shapes: keys and values (positions, heads * d)."""
    parts = []
    for k, v in zip(np.split(keys, heads, axis=1), np.split(values, heads, axis=1), strict=True):
        parts += head_bytes(k, v, kv)
    return b"".join(parts)


def quantized_attention(
    q: F32, keys: F32, values: F32, parameters: AttentionParameters, kv: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return attention over coded keys and values with coded queries, and the mean |v| it weighs.

    Shapes: q (m, h * d); keys, values (t, kv_heads * d) as they were appended; results as q.
    """
    m, total, d = q.shape[0], keys.shape[0], parameters.head_size
    group = parameters.heads // parameters.kv_heads
    hidden = unseen(m, total, parameters.window, parameters.sinks)
    out = np.zeros((2, m, parameters.heads, d))
    factor = parameters.scale / (d if kv == "k8v4" else 1)
    for h in range(parameters.heads):
        at = slice(h // group * d, (h // group + 1) * d)
        key_codes, key_scales = coded(
            padded(turned(keys[:, at]) if kv == "k8v4" else keys[:, at]), 127
        )
        value_codes, value_scales = coded(values[:, at], 127 if kv == "kv8" else 7)
        own = q[:, h * d : (h + 1) * d]
        rows = padded(turned(own) if kv == "k8v4" else own)
        largest = np.abs(rows).max(axis=1, keepdims=True)
        query_codes = np.rint(rows * (np.float32(127) / largest)).astype(np.int64)
        scores = (query_codes @ key_codes.T) * (largest.astype(np.float64) / 127 * factor)
        scores = scores * key_scales.astype(np.float64)
        scores[hidden] = -np.inf
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        read = value_codes * value_scales.astype(np.float64)[:, None]
        out[0, :, h], out[1, :, h] = weights @ read, weights @ np.abs(read)
    return out[0].reshape(m, -1), out[1].reshape(m, -1)
