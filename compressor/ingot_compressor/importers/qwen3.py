# SPDX-License-Identifier: Apache-2.0
"""Qwen3 (dense): LLaMA with a norm over each head of queries and keys, and its own head size."""

from __future__ import annotations

from ingot_compressor.importers.configuration import Configuration
from ingot_compressor.importers.decoder import Decoder
from ingot_compressor.importers.settings import read_decoder

__all__ = ["read"]

HEAD_SIZE = 128  # where config.json has no head_dim


def read(config: Configuration) -> Decoder:
    """Return the decoder of a `qwen3` configuration.

    Raises: IngotError naming an option that is not supported.
    """
    biases = frozenset("qkvo") if config.flag("attention_bias", False) else frozenset()
    return read_decoder(config, biases=biases, qk_norm=True, head_size=HEAD_SIZE)
