# SPDX-License-Identifier: Apache-2.0
"""What the configurations of all decoders have in common, and what none of them may ask for."""

from __future__ import annotations

from ingot.errors import IngotError
from ingot.format import ActivationKind
from ingot_compressor.importers.configuration import Configuration
from ingot_compressor.importers.decoder import Decoder
from ingot_compressor.importers.rope import read_rope

__all__ = ["read_decoder"]

ACTIVATIONS = {
    "silu": ActivationKind.SILU,
    "swish": ActivationKind.SILU,
    "gelu_pytorch_tanh": ActivationKind.GELU_TANH,
    "gelu_new": ActivationKind.GELU_TANH,
    "relu": ActivationKind.RELU,
}

MOST_LAYERS = 4096  # each is named before the checkpoint is looked at

REFUSED = {
    "quantization_config": "compress from the checkpoint before quantization",
    "use_sliding_window": "sliding-window attention is not supported",
    "num_experts": "mixtures of experts are not supported",
    "num_local_experts": "mixtures of experts are not supported",
    "use_mrope": "multi-axis rotary positions are not supported",
    "rope_interleaved": "interleaved rotary weights are not supported",
    "attn_logit_softcapping": "soft caps are not supported",
    "final_logit_softcapping": "soft caps are not supported",
}


def read_decoder(
    config: Configuration,
    *,
    biases: frozenset[str] = frozenset(),
    qk_norm: bool = False,
    head_size: int | None = None,
) -> Decoder:
    """Return the decoder that config.json describes; the arguments are what the family fixes.

    Raises: IngotError naming the option that is not supported or does not fit.
    """
    _refuse(config)
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    longest = config.integer("max_position_embeddings", 2048)
    decoder = Decoder(
        layers=config.integer("num_hidden_layers", most=MOST_LAYERS),
        hidden=hidden,
        intermediate=config.integer("intermediate_size"),
        heads=heads,
        kv_heads=config.integer("num_key_value_heads", heads),
        head_size=config.integer("head_dim", head_size or max(1, hidden // heads)),
        table_rows=config.integer("vocab_size"),
        longest=longest,
        epsilon=config.number("rms_norm_eps", 1e-6),
        activation=_activation(config),
        rope=read_rope(config, longest),
        tied=config.flag("tie_word_embeddings", False),
        biases=biases,
        qk_norm=qk_norm,
    )
    if decoder.heads % decoder.kv_heads:
        raise IngotError(
            f"config.json: {heads} attention heads do not share {decoder.kv_heads} "
            "key-value heads evenly"
        )
    if decoder.head_size % 2:
        raise IngotError(f"config.json: head size {decoder.head_size} is odd; rope needs pairs")
    return decoder


def _refuse(config: Configuration) -> None:
    for key, why in REFUSED.items():
        config.refuse(key, why=why)
    kinds = config.values.get("layer_types") or []
    if not isinstance(kinds, list):
        raise IngotError(f"config.json: layer_types is {kinds!r}, expected a list")
    other = [kind for kind in kinds if kind != "full_attention"]
    if other:
        raise IngotError(
            f"config.json: layer_types has {other[0]!r}; only full_attention is supported"
        )


def _activation(config: Configuration) -> ActivationKind:
    name = config.text("hidden_act", "silu")
    if name not in ACTIVATIONS:
        raise IngotError(
            f"config.json: hidden_act {name!r} is not supported; "
            f"supported: {', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[name]
