# SPDX-License-Identifier: Apache-2.0
"""Lowers a decoder-only transformer to unfused operations; the importers only fill `Decoder`.

One layer, in words:
    n = rms_norm(x);  q, k, v = linear(n);  q, k = rms_norm(q), rms_norm(k) where qk_norm
    q, k = rope(q, k);  x = x + linear(attention(q, k, v))
    n = rms_norm(x);  x = x + linear(activation(linear(n)) * linear(n))
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ingot.format import (
    ActivationKind,
    ActivationParameters,
    AttentionParameters,
    Dtype,
    LinearFlag,
    LinearParameters,
    NormParameters,
    Opcode,
    Parameters,
    Role,
    RopeParameters,
    RopeStyle,
    Rows,
)
from ingot_compressor.importers.rope import Rope, rope_table
from ingot_compressor.ir import FloatArray, Operation, Program, Tensor, Weight

__all__ = ["Decoder", "TensorReader", "expected_tensors", "lower"]

ATTENTION = ("q", "k", "v", "o")
MLP = ("gate", "up", "down")


@dataclass(frozen=True, slots=True)
class Decoder:
    """The dimensions and options of a decoder."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_size: int
    table_rows: int  # of the embedding
    longest: int  # max_position_embeddings
    epsilon: float
    activation: ActivationKind
    rope: Rope
    tied: bool  # the head is the embedding
    biases: frozenset[str] = frozenset()  # projections that have one: q k v o gate up down
    qk_norm: bool = False

    def projection(self, name: str) -> tuple[int, int]:
        """Return the shape (n, k) of one projection of a layer."""
        queries = self.heads * self.head_size
        keys = self.kv_heads * self.head_size
        return {
            "q": (queries, self.hidden),
            "k": (keys, self.hidden),
            "v": (keys, self.hidden),
            "o": (self.hidden, queries),
            "gate": (self.intermediate, self.hidden),
            "up": (self.intermediate, self.hidden),
            "down": (self.hidden, self.intermediate),
        }[name]


class TensorReader(Protocol):
    """What lowering needs of a checkpoint."""

    def array(self, name: str) -> FloatArray:
        """Read one tensor."""

    def weight(self, name: str) -> Weight:
        """Return a matrix that is read later."""


def _module(layer: int, name: str) -> str:
    part = "self_attn" if name in ATTENTION else "mlp"
    return f"model.layers.{layer}.{part}.{name}_proj"


def expected_tensors(decoder: Decoder) -> dict[str, tuple[int, ...]]:
    """Return name and shape of each tensor that the checkpoint must hold."""
    hidden, table = (decoder.hidden,), (decoder.table_rows, decoder.hidden)
    expected: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": table}
    for layer in range(decoder.layers):
        prefix = f"model.layers.{layer}"
        expected[f"{prefix}.input_layernorm.weight"] = hidden
        expected[f"{prefix}.post_attention_layernorm.weight"] = hidden
        for name in ATTENTION + MLP:
            shape = decoder.projection(name)
            expected[f"{_module(layer, name)}.weight"] = shape
            if name in decoder.biases:
                expected[f"{_module(layer, name)}.bias"] = shape[:1]
        if decoder.qk_norm:
            expected[f"{prefix}.self_attn.q_norm.weight"] = (decoder.head_size,)
            expected[f"{prefix}.self_attn.k_norm.weight"] = (decoder.head_size,)
    expected["model.norm.weight"] = hidden
    if not decoder.tied:
        expected["lm_head.weight"] = table
    return expected


def lower(
    decoder: Decoder,
    reader: TensorReader,
    context: int,
    chunk: int,
    vocabulary: int,
    meta: Mapping[str, Any],
) -> Program:
    """Return the unfused program of a decoder; matrices stay unread."""
    builder = _Builder(decoder, reader)
    builder.constant("rope", rope_table(decoder.rope, decoder.head_size, context))
    logits = builder.build()
    return Program(
        tensors=builder.tensors,
        operations=tuple(builder.operations),
        input="tokens",
        output=logits,
        context=context,
        chunk=min(chunk, context),
        vocabulary=vocabulary,
        meta=meta,
    )


class _Builder:
    """Collects tensors and operations; each method returns the name of what it made."""

    def __init__(self, decoder: Decoder, reader: TensorReader) -> None:
        self.decoder = decoder
        self.reader = reader
        self.rows = Rows.TOKENS
        self.tensors: dict[str, Tensor] = {}
        self.operations: list[Operation] = []

    def build(self) -> str:
        """Emit the whole model and return the logits."""
        decoder = self.decoder
        tokens = Tensor("tokens", Role.ACTIVATION, (0,), Rows.TOKENS, Dtype.I32)
        self.tensors[tokens.name] = tokens
        table = self.weight("embed", "model.embed_tokens.weight")
        x = self.emit(Opcode.EMBED, (tokens.name, table), ("embed.out", decoder.hidden))
        for layer in range(decoder.layers):
            x = self.attention(x, layer)
            x = self.mlp(x, layer)
        self.rows = Rows.SELECTED
        x = self.emit(Opcode.SELECT_LAST, (x,), ("selected", decoder.hidden))
        x = self.norm(x, "norm", "model.norm.weight", decoder.hidden)
        head = table if decoder.tied else self.weight("head", "lm_head.weight")
        parameters = LinearParameters(weights=1, epilogue=0)
        return self.emit(Opcode.LINEAR, (x, head), ("logits", decoder.table_rows), parameters)

    def attention(self, x: str, layer: int) -> str:
        """Emit norm, projections, rope, attention and residual of one layer."""
        decoder = self.decoder
        prefix, stored = f"layers.{layer}.attention", f"model.layers.{layer}"
        normed = self.norm(x, f"{prefix}.norm", f"{stored}.input_layernorm.weight", decoder.hidden)
        q, k, v = (self.project(normed, layer, name) for name in "qkv")
        if decoder.qk_norm:
            size = decoder.head_size
            q = self.norm(q, f"{prefix}.q_norm", f"{stored}.self_attn.q_norm.weight", size)
            k = self.norm(k, f"{prefix}.k_norm", f"{stored}.self_attn.k_norm.weight", size)
        q, k = self.rotate(q, k, prefix)
        parameters = AttentionParameters(
            heads=decoder.heads,
            kv_heads=decoder.kv_heads,
            head_size=decoder.head_size,
            window=0,
            scale=1.0 / math.sqrt(decoder.head_size),
            soft_cap=0.0,
            sinks=0,
        )
        states = (self.state(f"{prefix}.keys"), self.state(f"{prefix}.values"))
        out = (f"{prefix}.out", self.tensors[q].width)
        mixed = self.emit(Opcode.ATTENTION, (q, k, v, *states), out, parameters)
        mixed = self.project(mixed, layer, "o")
        return self.emit(Opcode.ADD, (mixed, x), (f"{prefix}.sum", decoder.hidden))

    def mlp(self, x: str, layer: int) -> str:
        """Emit norm, gated projections and residual of one layer."""
        decoder = self.decoder
        prefix, stored = f"layers.{layer}.mlp", f"model.layers.{layer}.post_attention_layernorm"
        normed = self.norm(x, f"{prefix}.norm", f"{stored}.weight", decoder.hidden)
        gate = self.project(normed, layer, "gate")
        up = self.project(normed, layer, "up")
        kind = ActivationParameters(kind=decoder.activation)
        width = decoder.intermediate
        gate = self.emit(Opcode.ACTIVATION, (gate,), (f"{prefix}.act", width), kind)
        gated = self.emit(Opcode.MUL, (gate, up), (f"{prefix}.gated", width))
        down = self.project(gated, layer, "down")
        return self.emit(Opcode.ADD, (down, x), (f"{prefix}.sum", decoder.hidden))

    def project(self, x: str, layer: int, name: str) -> str:
        """Emit one projection of a layer, with its bias where it has one."""
        part = "attention" if name in ATTENTION else "mlp"
        own, stored = f"layers.{layer}.{part}.{name}", _module(layer, name)
        inputs = [x, self.weight(own, f"{stored}.weight")]
        biased = name in self.decoder.biases
        if biased:
            inputs.append(self.constant(f"{own}.bias", self.reader.array(f"{stored}.bias")))
        return self.emit(
            Opcode.LINEAR,
            tuple(inputs),
            (f"{own}.out", self.decoder.projection(name)[0]),
            LinearParameters(weights=1, epilogue=0),
            LinearFlag.BIAS if biased else 0,
        )

    def norm(self, x: str, name: str, stored: str, width: int) -> str:
        """Emit an rms_norm over slices of `width`."""
        weight = self.constant(name, self.reader.array(stored))
        parameters = NormParameters(epsilon=self.decoder.epsilon, width=width)
        out = (f"{name}.out", self.tensors[x].width)
        return self.emit(Opcode.RMS_NORM, (x, weight), out, parameters)

    def rotate(self, q: str, k: str, prefix: str) -> tuple[str, str]:
        """Emit rope over q and k."""
        outputs = []
        for source, name in ((q, "q"), (k, "k")):
            outputs.append(self.activation(f"{prefix}.{name}.rotated", self.tensors[source].width))
        size = self.decoder.head_size
        parameters = RopeParameters(size, size, RopeStyle.HALF_SPLIT)
        operation = Operation(Opcode.ROPE, (q, k, "rope"), tuple(outputs), parameters)
        self.operations.append(operation)
        return outputs[0], outputs[1]

    def emit(
        self,
        opcode: Opcode,
        inputs: tuple[str, ...],
        out: tuple[str, int],
        parameters: Parameters | None = None,
        flags: int = 0,
    ) -> str:
        """Append an operation with one output, given as name and width."""
        name = self.activation(*out)
        self.operations.append(Operation(opcode, inputs, (name,), parameters, int(flags)))
        return name

    def activation(self, name: str, width: int) -> str:
        """Declare an activation."""
        return self._add(Tensor(name, Role.ACTIVATION, (0, width), self.rows))

    def state(self, name: str) -> str:
        """Declare the keys or values of one layer."""
        shape = (self.decoder.kv_heads, 0, self.decoder.head_size)
        return self._add(Tensor(name, Role.STATE, shape, dtype=Dtype.F16))

    def constant(self, name: str, values: FloatArray) -> str:
        """Declare a constant."""
        return self._add(Tensor(name, Role.CONSTANT, values.shape, source=values))

    def weight(self, name: str, stored: str) -> str:
        """Declare a weight that is read later."""
        source = self.reader.weight(stored)
        return self._add(Tensor(name, Role.WEIGHT, source.shape, source=source))

    def _add(self, tensor: Tensor) -> str:
        self.tensors[tensor.name] = tensor
        return tensor.name
