# SPDX-License-Identifier: Apache-2.0
"""CRC32C (Castagnoli), reflected, as in RFC 3720 appendix B.4; made for a few kilobytes."""

from __future__ import annotations

__all__ = ["crc32c"]

_POLYNOMIAL = 0x82F63B78


def _entry(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
    return byte


_TABLE = tuple(_entry(byte) for byte in range(256))


def crc32c(data: bytes | bytearray | memoryview) -> int:
    """Return the CRC32C of the bytes."""
    value = 0xFFFFFFFF
    for byte in bytes(data):
        value = value >> 8 ^ _TABLE[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF
