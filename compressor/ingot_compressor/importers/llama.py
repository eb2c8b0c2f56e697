# SPDX-License-Identifier: Apache-2.0
"""LLaMA, and what shares its architecture: TinyLlama, SmolLM, SmolLM2."""

from __future__ import annotations

from ingot_compressor.importers.configuration import Configuration
from ingot_compressor.importers.decoder import Decoder
from ingot_compressor.importers.settings import read_decoder

__all__ = ["read"]


def read(config: Configuration) -> Decoder:
    """Return the decoder of a `llama` configuration.

    Raises: IngotError naming an option that is not supported.
    """
    config.refuse("sliding_window", why="sliding-window attention is not supported")
    attention = frozenset("qkvo") if config.flag("attention_bias", False) else frozenset()
    mlp = frozenset(("gate", "up", "down")) if config.flag("mlp_bias", False) else frozenset()
    return read_decoder(config, biases=attention | mlp)
