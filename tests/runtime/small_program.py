# SPDX-License-Identifier: Apache-2.0
"""Builds small containers op by op, and a decoder that uses every op of version 0 at odd widths."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot.container import Contents, write_container
from ingot.format import (
    OPS,
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
    PlanHeader,
    RequiredRecord,
    Role,
    RopeParameters,
    RopeStyle,
    Rows,
    ScalarParameters,
    StateKind,
    TensorRecord,
)
from ingot.packing import WEIGHT_FORMATS, Quantized, pack, round_up

CODEBOOK = np.array(
    [-127, -90, -70, -50, -35, -20, -9, 2, 12, 21, 33, 46, 61, 79, 101, 127], np.int8
)


def random_weight(rng: np.random.Generator, dtype: Dtype, group: int, n: int, k: int) -> Quantized:
    """Return a random weight whose outputs are about as large as its inputs."""
    std = 0.7 / np.sqrt(k)
    groups = -(-k // group) if group else 0
    spread = rng.uniform(0.5, 1.5, (n, groups))
    if dtype == Dtype.F16:
        return Quantized(dtype, (n, k), 0, (std * rng.normal(size=(n, k))).astype(np.float16))
    if dtype == Dtype.Q8:
        codes = rng.integers(-127, 128, (n, k), np.int8)
        return Quantized(dtype, (n, k), 32, codes, (std / 73 * spread).astype(np.float16))
    codes = rng.integers(0, 16, (n, k), np.uint8)
    if dtype == Dtype.Q4:
        scales = (std / 4.6 * spread).astype(np.float16)
        return Quantized(dtype, (n, k), group, codes, scales)
    return Quantized(
        dtype,
        (n, k),
        32,
        codes,
        row_scales=(std / 70 / 32 * rng.uniform(0.5, 1.5, n)).astype(np.float16),
        sub_scales=rng.integers(-64, 64, (n, groups), np.int8),
        shifts=rng.integers(0, 2, (n, groups)).astype(np.bool_),
        codebook=CODEBOOK,
        delta=6,
    )


@dataclass
class ProgramBuilder:
    """Collects tensors and instructions; every activation has a place of its own."""

    context: int = 64
    chunk: int = 16
    records: list[TensorRecord] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    data: list[tuple[int, bytes]] = field(default_factory=list)
    instructions: list[Instruction] = field(default_factory=list)
    operands: list[int] = field(default_factory=list)
    parameters: bytes = b""
    required: set[RequiredRecord] = field(default_factory=set)
    stored: int = 0
    arenas: dict[Rows, int] = field(default_factory=lambda: {Rows.TOKENS: 0, Rows.SELECTED: 0})

    def _add(
        self,
        name: str,
        role: Role,
        dtype: Dtype,
        shape: tuple[int, ...],
        *,
        offset: int = 0,
        size: int,
        rows: Rows = Rows.NONE,
        weight: Quantized | None = None,
    ) -> str:
        codebook = weight.codebook.tolist() if weight is not None else []
        record = TensorRecord(
            id=len(self.records),
            name_offset=0,
            name_size=0,
            role=role,
            dtype=dtype,
            scale_kind=WEIGHT_FORMATS[dtype].scale_kind if weight is not None else 0,
            layout=Layout.PLAIN if weight is None else weight.layout,
            rank=len(shape),
            sparsity=int(weight is not None and weight.present.size > 0),
            state_kind=StateKind.APPEND if role == Role.STATE else StateKind.NONE,
            rows=rows,
            group=0 if weight is None else weight.group,
            shape=(*shape, 0, 0, 0, 0)[:4],
            offset=offset,
            size=size,
            delta=0 if weight is None else weight.delta,
            codebook=(*codebook, *[0] * 32)[:32],
        )
        self.records.append(record)
        self.names.append(name)
        return name

    def _store(self, raw: bytes) -> int:
        offset = round_up(self.stored, 256)
        self.data.append((offset, raw))
        self.stored = offset + len(raw)
        return offset

    def weight(self, name: str, weight: Quantized) -> str:
        raw = pack(weight).tobytes()
        offset = self._store(raw)
        return self._add(
            name,
            Role.WEIGHT,
            weight.dtype,
            weight.shape,
            offset=offset,
            size=len(raw),
            weight=weight,
        )

    def constant(self, name: str, values: NDArray[np.float32]) -> str:
        raw = values.astype("<f4").tobytes()
        offset = self._store(raw)
        return self._add(name, Role.CONSTANT, Dtype.F32, values.shape, offset=offset, size=len(raw))

    def activation(self, name: str, width: int, rows: Rows = Rows.TOKENS) -> str:
        size = round_up(4 * width, 64)
        offset = self.arenas[rows]
        self.arenas[rows] += size
        return self._add(
            name, Role.ACTIVATION, Dtype.F32, (0, width), offset=offset, size=size, rows=rows
        )

    def tokens(self, name: str) -> str:
        return self._add(name, Role.ACTIVATION, Dtype.I32, (0,), size=4, rows=Rows.TOKENS)

    def state(self, name: str, heads: int, size: int) -> str:
        return self._add(name, Role.STATE, Dtype.F16, (heads, 0, size), size=heads * size * 2)

    def op(
        self,
        opcode: Opcode,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        parameters: Parameters | None = None,
        flags: int = 0,
    ) -> str:
        """Append an instruction and return the name of its first output."""
        ids = [self.names.index(name) for name in (*inputs, *outputs)]
        raw = b"" if parameters is None else parameters.pack()
        offset = len(self.parameters) if raw else 0
        self.instructions.append(
            Instruction(
                opcode, 0, flags, len(self.operands), len(inputs), len(outputs), offset, len(raw)
            )
        )
        weights = [self.records[i] for i in ids if self.records[i].role == Role.WEIGHT]
        for dtype, kind, layout in {(w.dtype, w.scale_kind, w.layout) for w in weights} or {
            (0, 0, 0)
        }:
            self.required.add(RequiredRecord(opcode, OPS[opcode].version, dtype, kind, layout))
        self.operands += ids
        self.parameters += raw
        return outputs[0]

    def write(self, path: Path, source: str, output: str, vocabulary: int) -> Path:
        widths = [r.shape[1] for r in self.records if r.role == Role.WEIGHT]
        padded = round_up(max(widths), 128)
        states = [r.size for r in self.records if r.role == Role.STATE]
        plan = PlanHeader(
            self.context,
            self.chunk,
            vocabulary,
            0,
            self.arenas[Rows.TOKENS],
            self.arenas[Rows.SELECTED],
            round_up(padded + padded // 4, 64),
            sum(states),
            sum(len(raw) for _, raw in self.data),
        )
        ids = self.names.index(source), self.names.index(output)
        entry = EntryRecord(b"step".ljust(16, b"\0"), 0, len(self.instructions), *ids)
        contents = Contents(
            tensors=self.records,
            names=self.names,
            entries=[entry],
            instructions=self.instructions,
            operands=self.operands,
            parameters=self.parameters,
            required=sorted(self.required, key=RequiredRecord.pack),
            plan=plan,
            peaks=[],
            weights=self.data,
            weights_size=self.stored,
            blobs={},
        )
        write_container(path, contents)
        return path


VOCABULARY, HIDDEN, HEADS, KV_HEADS, HEAD, ROTARY, FFN = 50, 40, 4, 2, 10, 8, 24
WIDE, NARROW = HEADS * HEAD, KV_HEADS * HEAD
ONE = LinearParameters(1, Epilogue.NONE)


class EveryOp:
    """A decoder of one block; `change` is added to one element of a bias."""

    def __init__(self, dtype: Dtype, group: int, seed: int, change: float) -> None:
        self.b = ProgramBuilder()
        self.rng = np.random.default_rng(seed)
        self.dtype, self.group, self.change = dtype, group, change
        self.window = self.sinks = 0

    def weight(self, name: str, n: int, k: int) -> str:
        return self.b.weight(name, random_weight(self.rng, self.dtype, self.group, n, k))

    def vector(self, name: str, width: int, around: float = 0.0) -> str:
        values = around + 0.2 * self.rng.normal(size=width)
        return self.b.constant(name, values.astype(np.float32))

    def one(self, opcode: Opcode, inputs: tuple[str, ...], out: str, width: int, *rest: Any) -> str:
        """Append an op with one new output of that width."""
        return self.b.op(opcode, inputs, (self.b.activation(out, width),), *rest)

    def embed(self) -> tuple[str, str]:
        table = self.weight("embed", VOCABULARY, HIDDEN)
        self.b.tokens("ids")
        x = self.one(Opcode.EMBED, ("ids", table), "x", HIDDEN)
        return table, self.one(Opcode.SCALE, (x,), "x.scaled", HIDDEN, ScalarParameters(1.5))

    def query_key_value(self, x: str) -> None:
        inputs = (x, self.vector("norm1", HIDDEN, 1.0))
        x = self.one(Opcode.RMS_NORM, inputs, "normal", HIDDEN, NormParameters(1e-5, HIDDEN))
        sizes = {"q": WIDE, "k": NARROW, "v": NARROW}
        weights = tuple(self.weight(f"{name}.weight", n, HIDDEN) for name, n in sizes.items())
        changed = np.zeros(WIDE, np.float32)
        changed[3] = self.change
        biases = (
            self.b.constant("q.bias", changed),
            self.vector("k.bias", NARROW),
            self.vector("v.bias", NARROW),
        )
        outs = tuple(self.b.activation(name, n) for name, n in sizes.items())
        three = LinearParameters(3, Epilogue.NONE)
        self.b.op(Opcode.LINEAR, (x, *weights, *biases), outs, three, LinearFlag.BIAS)

    def turn(self, style: RopeStyle) -> tuple[str, str]:
        angle = np.arange(self.b.context)[:, None] / 100.0 ** (np.arange(ROTARY // 2) * 2 / ROTARY)
        table = np.hstack([np.cos(angle), np.sin(angle)]).astype(np.float32)
        rope = self.b.constant("rope", table)
        inputs = ("q", self.vector("q.norm", HEAD, 1.0))
        q = self.one(Opcode.RMS_NORM, inputs, "q.normal", WIDE, NormParameters(1e-6, HEAD))
        turned = self.b.activation("q.turned", WIDE), self.b.activation("k.turned", NARROW)
        self.b.op(Opcode.ROPE, (q, "k", rope), turned, RopeParameters(HEAD, ROTARY, style))
        return turned

    def attend(self, x: str, turned: tuple[str, str]) -> str:
        states = (
            self.b.state("k.state", KV_HEADS, HEAD),
            self.b.state("v.state", KV_HEADS, HEAD),
        )
        parameters = AttentionParameters(
            HEADS, KV_HEADS, HEAD, self.window, HEAD**-0.5, 0.0, self.sinks
        )
        inputs = (*turned, "v", *states)
        mixed = self.one(Opcode.ATTENTION, inputs, "mixed", WIDE, parameters)
        inputs = (mixed, self.weight("o.weight", HIDDEN, WIDE), x)
        return self.one(Opcode.LINEAR, inputs, "x.attended", HIDDEN, ONE, LinearFlag.RESIDUAL)

    def feed_forward(self, x: str) -> str:
        inputs = (x, self.vector("norm2", HIDDEN, 1.0), self.vector("norm2.bias", HIDDEN))
        normal = self.one(
            Opcode.LAYER_NORM, inputs, "normal2", HIDDEN, NormParameters(1e-5, HIDDEN)
        )
        gated = []
        for epilogue in (Epilogue.SILU_GATE, Epilogue.GELU_TANH_GATE):
            weight = self.weight(f"gate{int(epilogue)}", 2 * round_up(FFN, 16), HIDDEN)
            out, parameters = f"gated{int(epilogue)}", LinearParameters(1, epilogue)
            gated.append(self.one(Opcode.LINEAR, (normal, weight), out, FFN, parameters))
        y = self.one(Opcode.ADD, (gated[0], gated[1]), "both", FFN)
        for kind in ActivationKind:
            y = self.one(
                Opcode.ACTIVATION, (y,), f"act{int(kind)}", FFN, ActivationParameters(kind)
            )
        y = self.one(Opcode.MUL, (y, gated[0]), "product", FFN)
        inputs = (y, self.weight("down", HIDDEN, FFN), x)
        return self.one(Opcode.LINEAR, inputs, "x.out", HIDDEN, ONE, LinearFlag.RESIDUAL)

    def head(self, x: str, table: str) -> str:
        outs = [
            self.b.activation(name, width, Rows.SELECTED)
            for name, width in (("last", HIDDEN), ("raw", VOCABULARY), ("logits", VOCABULARY))
        ]
        last = self.b.op(Opcode.SELECT_LAST, (x,), (outs[0],))
        raw = self.b.op(Opcode.LINEAR, (last, table), (outs[1],), ONE)
        return self.b.op(Opcode.SOFT_CAP, (raw,), (outs[2],), ScalarParameters(30.0))


def every_op(
    path: Path,
    dtype: Dtype,
    group: int,
    seed: int = 0,
    change: float = 0.0,
    style: RopeStyle = RopeStyle.HALF_SPLIT,
    window: int = 0,
    sinks: int = 0,
    context: int = 64,
) -> Path:
    """Write a decoder that uses every op of version 0 with weights of one format."""
    model = EveryOp(dtype, group, seed, change)
    model.window, model.sinks, model.b.context = window, sinks, context
    table, x = model.embed()
    model.query_key_value(x)
    x = model.attend(x, model.turn(style))
    logits = model.head(model.feed_forward(x), table)
    return model.b.write(path, "ids", logits, VOCABULARY)
