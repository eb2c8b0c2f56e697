# SPDX-License-Identifier: Apache-2.0
"""A small valid ingot file that uses every op and every weight format."""

from __future__ import annotations

import random
from dataclasses import replace

from ingot.container import Contents
from ingot.format import (
    ActivationKind,
    ActivationParameters,
    AttentionParameters,
    Dtype,
    EntryRecord,
    Epilogue,
    Instruction,
    Layout,
    LinearFlag,
    LinearParameters,
    NormParameters,
    Opcode,
    Parameters,
    PeakRecord,
    PlanHeader,
    RequiredRecord,
    Role,
    RopeParameters,
    Rows,
    ScalarParameters,
    ScaleKind,
    Section,
    StateKind,
    TensorRecord,
)
from ingot.packing.sizes import packed_bytes, round_up

CONTEXT = 24
WIDTH = 64
HEADS, KV_HEADS, HEAD = 4, 2, 16
HIDDEN = 72
VOCABULARY = 40
GROUPS = {Dtype.F16: 0, Dtype.Q8: 32, Dtype.Q4: 32, Dtype.C4: 32}
SCALES = {
    Dtype.F16: ScaleKind.NONE,
    Dtype.Q8: ScaleKind.F16_GROUP,
    Dtype.Q4: ScaleKind.F16_GROUP,
    Dtype.C4: ScaleKind.SUB8_ROW16,
}


class Builder:
    """Collects tensors and instructions; activations are placed one after the other."""

    def __init__(self) -> None:
        self.tensors: list[TensorRecord] = []
        self.names: list[str] = []
        self.instructions: list[Instruction] = []
        self.operands: list[int] = []
        self.parameters = bytearray()
        self.weights_end = 0
        self.arena = {Rows.TOKENS: 0, Rows.SELECTED: 0}

    def _add(self, name: str, role: Role, dtype: Dtype, shape: tuple[int, ...]) -> int:
        padded = (*shape, 0, 0, 0, 0)[:4]
        index = len(self.tensors)
        record = TensorRecord(
            index, 0, 0, role, dtype, 0, 0, len(shape), 0, 0, 0, 0, padded, 0, 0, 0, (0,) * 32
        )
        self.tensors.append(record)
        self.names.append(name)
        return index

    def _store(self, index: int, size: int) -> None:
        offset = round_up(self.weights_end, 256)
        self.tensors[index] = replace(self.tensors[index], offset=offset, size=size)
        self.weights_end = offset + size

    def weight(self, name: str, dtype: Dtype, n: int, k: int, group: int | None = None) -> int:
        index = self._add(name, Role.WEIGHT, dtype, (n, k))
        group = GROUPS[dtype] if group is None else group
        c4 = dtype == Dtype.C4
        self.tensors[index] = replace(
            self.tensors[index],
            scale_kind=SCALES[dtype],
            layout=Layout.T16,
            group=group,
            delta=5 if c4 else 0,
            codebook=(*range(-64, 64, 8), *(0,) * 16) if c4 else (0,) * 32,
        )
        self._store(index, packed_bytes(dtype, n, k, group))
        return index

    def constant(self, name: str, *shape: int) -> int:
        index = self._add(name, Role.CONSTANT, Dtype.F32, shape)
        count = 1
        for size in shape:
            count *= size
        self._store(index, 4 * count)
        return index

    def activation(
        self, name: str, width: int, rows: Rows = Rows.TOKENS, over: int | None = None
    ) -> int:
        """Place an f32 activation at the arena's end, or where `over` lies."""
        index = self._add(name, Role.ACTIVATION, Dtype.F32, (0, width))
        size = round_up(4 * width, 64)
        offset = self.arena[rows] if over is None else self.tensors[over].offset
        self.arena[rows] = max(self.arena[rows], offset + size)
        self.tensors[index] = replace(self.tensors[index], rows=rows, offset=offset, size=size)
        return index

    def tokens(self) -> int:
        index = self._add("tokens", Role.ACTIVATION, Dtype.I32, (0,))
        self.tensors[index] = replace(self.tensors[index], rows=Rows.TOKENS, size=4)
        return index

    def state(self, name: str) -> int:
        index = self._add(name, Role.STATE, Dtype.F16, (KV_HEADS, 0, HEAD))
        size = KV_HEADS * HEAD * 2
        self.tensors[index] = replace(self.tensors[index], state_kind=StateKind.APPEND, size=size)
        return index

    def do(
        self,
        opcode: Opcode,
        inputs: list[int],
        outputs: list[int],
        parameters: Parameters | None = None,
        flags: int = 0,
    ) -> None:
        raw = b"" if parameters is None else parameters.pack()
        start = len(self.parameters) if raw else 0
        first = len(self.operands)
        counts = len(inputs), len(outputs)
        self.instructions.append(Instruction(opcode, 0, flags, first, *counts, start, len(raw)))
        self.operands += [*inputs, *outputs]
        self.parameters += raw


def _attention_block(b: Builder, x: int) -> int:
    """Add norm, q k v with bias, QK norm, rope and attention; return the new residual."""
    normed = b.activation("attn.norm", WIDTH)
    b.do(
        Opcode.RMS_NORM,
        [x, b.constant("attn.norm.weight", WIDTH)],
        [normed],
        NormParameters(1e-5, WIDTH),
    )
    widths = {"q": HEADS * HEAD, "k": KV_HEADS * HEAD, "v": KV_HEADS * HEAD}
    weights = [b.weight(f"attn.{n}.weight", Dtype.Q4, w, WIDTH) for n, w in widths.items()]
    biases = [b.constant(f"attn.{n}.bias", w) for n, w in widths.items()]
    q, k, v = (b.activation(f"attn.{n}", w) for n, w in widths.items())
    b.do(
        Opcode.LINEAR,
        [normed, *weights, *biases],
        [q, k, v],
        LinearParameters(3, 0),
        LinearFlag.BIAS,
    )
    q_normed = b.activation("attn.q.normed", HEADS * HEAD, over=q)
    b.do(
        Opcode.RMS_NORM,
        [q, b.constant("attn.q.norm", HEAD)],
        [q_normed],
        NormParameters(1e-6, HEAD),
    )
    q_turned = b.activation("attn.q.turned", HEADS * HEAD, over=q)
    k_turned = b.activation("attn.k.turned", KV_HEADS * HEAD)
    table = b.constant("rope.table", CONTEXT, HEAD)
    b.do(Opcode.ROPE, [q_normed, k, table], [q_turned, k_turned], RopeParameters(HEAD, HEAD, 0))
    mixed = b.activation("attn.mixed", HEADS * HEAD)
    states = [b.state("attn.k.state"), b.state("attn.v.state")]
    record = AttentionParameters(HEADS, KV_HEADS, HEAD, 0, HEAD**-0.5, 0.0, 0)
    b.do(Opcode.ATTENTION, [q_turned, k_turned, v, *states], [mixed], record)
    out = b.activation("attn.out", WIDTH, over=x)
    weight = b.weight("attn.o.weight", Dtype.C4, WIDTH, HEADS * HEAD)
    b.do(Opcode.LINEAR, [mixed, weight, x], [out], LinearParameters(1, 0), LinearFlag.RESIDUAL)
    return out


def _feed_forward(b: Builder, x: int) -> int:
    """Add layer norm, a gated linear, the elementwise ops and the way down."""
    normed = b.activation("ffn.norm", WIDTH)
    constants = [b.constant("ffn.norm.weight", WIDTH), b.constant("ffn.norm.bias", WIDTH)]
    b.do(Opcode.LAYER_NORM, [x, *constants], [normed], NormParameters(1e-5, WIDTH))
    hidden = b.activation("ffn.hidden", HIDDEN)
    gate_up = b.weight("ffn.gate_up.weight", Dtype.Q4, 2 * round_up(HIDDEN, 16), WIDTH, 64)
    record = LinearParameters(1, Epilogue.SILU_GATE)
    b.do(Opcode.LINEAR, [normed, gate_up], [hidden], record)
    other = b.activation("ffn.other", HIDDEN)
    b.do(Opcode.ACTIVATION, [hidden], [other], ActivationParameters(ActivationKind.GELU_TANH))
    scaled = b.activation("ffn.scaled", HIDDEN, over=other)
    b.do(Opcode.SCALE, [other], [scaled], ScalarParameters(0.5))
    product = b.activation("ffn.product", HIDDEN, over=scaled)
    b.do(Opcode.MUL, [hidden, scaled], [product])
    down = b.activation("ffn.down", WIDTH)
    weight = b.weight("ffn.down.weight", Dtype.F16, WIDTH, HIDDEN)
    b.do(Opcode.LINEAR, [product, weight], [down], LinearParameters(1, 0))
    out = b.activation("ffn.out", WIDTH)
    b.do(Opcode.ADD, [x, down], [out])
    return out


def build() -> Builder:
    """Return the program: embed, one block, select_last, norm, head, soft cap."""
    b = Builder()
    tokens = b.tokens()
    x = b.activation("embedding", WIDTH)
    table = b.weight("embedding.weight", Dtype.Q8, VOCABULARY, WIDTH)
    b.do(Opcode.EMBED, [tokens, table], [x])
    last = b.activation("last", WIDTH, Rows.SELECTED)
    b.do(Opcode.SELECT_LAST, [_feed_forward(b, _attention_block(b, x))], [last])
    normed = b.activation("last.norm", WIDTH, Rows.SELECTED)
    weight = b.constant("last.norm.weight", WIDTH)
    b.do(Opcode.RMS_NORM, [last, weight], [normed], NormParameters(1e-5, WIDTH))
    raw = b.activation("logits.raw", VOCABULARY, Rows.SELECTED)
    b.do(Opcode.LINEAR, [normed, table], [raw], LinearParameters(1, 0))
    logits = b.activation("logits", VOCABULARY, Rows.SELECTED, over=raw)
    b.do(Opcode.SOFT_CAP, [raw], [logits], ScalarParameters(30.0))
    return b


def required_of(b: Builder) -> list[RequiredRecord]:
    """Return one record per op, or per weight format of an op."""
    found: dict[RequiredRecord, None] = {}
    for item in b.instructions:
        inputs = b.operands[item.first_operand : item.first_operand + item.inputs]
        weights = [b.tensors[i] for i in inputs if b.tensors[i].role == Role.WEIGHT]
        uses = [(w.dtype, w.scale_kind, w.layout) for w in weights] or [(0, 0, 0)]
        found |= {RequiredRecord(item.opcode, item.version, *use): None for use in uses}
    return list(found)


def contents(program: Builder | None = None) -> Contents:
    """Return the contents of the tiny file, or of another program, whose last tensor is its output.

    The weights are noise with a fixed seed.
    """
    b = program or build()
    noise = random.Random(7)
    stored = [t for t in b.tensors if t.role in (Role.WEIGHT, Role.CONSTANT)]
    weights = [(t.offset, noise.randbytes(t.size)) for t in stored]
    scratch = round_up(128 + 128 // 32 * 8, 64)
    state = sum(t.size for t in b.tensors if t.role == Role.STATE)
    arena = b.arena[Rows.TOKENS], b.arena[Rows.SELECTED]
    plan = PlanHeader(CONTEXT, 8, VOCABULARY, 1, *arena, scratch, state, b.weights_end)
    blobs = {Section.TOKENIZER: b'{"model": null}', Section.CHAT: b"{}", Section.META: b"{}"}
    return Contents(
        tensors=b.tensors,
        names=b.names,
        entries=[
            EntryRecord(b"step".ljust(16, b"\0"), 0, len(b.instructions), 0, len(b.tensors) - 1)
        ],
        instructions=b.instructions,
        operands=b.operands,
        parameters=bytes(b.parameters),
        required=required_of(b),
        plan=plan,
        peaks=[PeakRecord(CONTEXT, 8, b.weights_end + 65536)],
        weights=weights,
        weights_size=b.weights_end,
        blobs=blobs,
    )
