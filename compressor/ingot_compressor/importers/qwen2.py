# SPDX-License-Identifier: Apache-2.0
"""Qwen2 and Qwen2.5: LLaMA with biases on queries, keys and values."""

from __future__ import annotations

from ingot_compressor.importers.configuration import Configuration
from ingot_compressor.importers.decoder import Decoder
from ingot_compressor.importers.settings import read_decoder

__all__ = ["read"]


def read(config: Configuration) -> Decoder:
    """Return the decoder of a `qwen2` configuration.

    Raises: IngotError naming an option that is not supported.
    """
    # `sliding_window` has a value in every Qwen2 file; only `use_sliding_window` turns it on
    return read_decoder(config, biases=frozenset("qkv"))
