# SPDX-License-Identifier: Apache-2.0
"""Takes whole parts out of a model: channels of feed-forwards, groups of heads, layers.

Each pass returns a smaller dense program and a record of what went. They run on programs as
importers make them: unfused, not quantized. `passes/fuse.py` comes after.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ingot.errors import InvalidArgumentError
from ingot.format import (
    AttentionParameters,
    LinearParameters,
    NormParameters,
    Opcode,
    Role,
)
from ingot_compressor.calibration import Statistics
from ingot_compressor.execute import TensorStore, execute_block
from ingot_compressor.ir import FloatArray, Operation, Program, Tensor, Weight
from ingot_compressor.numerics.pruning import check_share
from ingot_compressor.numerics.sparse_gpt import damped, refit_matrix
from ingot_compressor.passes.blocks import split_blocks
from ingot_compressor.passes.fuse import drop_unused

__all__ = [
    "CHANNEL_MULTIPLE",
    "Removal",
    "block_influence",
    "drop_layers",
    "least_influential",
    "prune_channels",
    "prune_head_groups",
    "select_rows",
]

CHANNEL_MULTIPLE = 16  # rows of a tile
Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Removal:
    """What one pass took out of one place.

    `removed`: channel, group or layer numbers, of `of` there were; `where`: the weight that reads
    the channels or groups, the first activation of a layer.
    """

    what: str
    where: str
    removed: tuple[int, ...]
    of: int


def prune_channels(
    program: Program,
    statistics: Statistics,
    share: float,
    hessians: Mapping[str, NDArray[np.floating]] | None = None,
    multiple: int = CHANNEL_MULTIPLE,
) -> tuple[Program, tuple[Removal, ...]]:
    """Take at most the share of channels, those that matter least, out of every feed-forward.

    A channel is a row of gate and up and a column of down; its score is the mean square that it
    adds to the output, E[z_j^2] |down_j|^2. With the moments E[z z^T] of a down's input by its
    name, the columns that stay take over what is lost. Channels that stay are a multiple of
    `multiple` where there are as many.

    Raises: InvalidArgumentError for a share outside 0 to below 1, a program without feed-forwards
        of this form, or statistics that lack one.
    Source: Wanda's score (arXiv:2306.11695) for whole channels, as in Minitron (arXiv:2407.14679).
    """
    check_share(share)
    flow = _Flow(program)
    found = [parts for op in program.operations if (parts := _feed_forward(flow, op)) is not None]
    if not found:
        raise InvalidArgumentError("no feed-forward to prune: expected an unfused gated one")
    records = []
    for parts in found:
        n = program.tensors[parts.down].shape[1]
        scores = _column_energy(program.tensors[parts.down], statistics)
        kept = _highest(scores, min(n, _least(share, n, multiple)))
        program = _without_channels(program, parts, kept, (hessians or {}).get(parts.down))
        records.append(_removal("channels", parts.down, kept, n))
    return drop_unused(program), tuple(records)


def prune_head_groups(
    program: Program, statistics: Statistics, share: float
) -> tuple[Program, tuple[Removal, ...]]:
    """Take at most the share of key-value heads, those that matter least, out of every attention.

    With each go the query heads that read it and their columns of the output projection. The score
    is the mean square that the group adds to the output, as for channels.
    Raises: InvalidArgumentError for a share outside 0 to below 1, a program without attentions of
        this form, or statistics that lack one.
    """
    check_share(share)
    flow = _Flow(program)
    found = [parts for op in program.operations if (parts := _heads(flow, op)) is not None]
    if not found:
        raise InvalidArgumentError("no attention to prune: expected an unfused one")
    records = []
    for parts in found:
        groups = parts.parameters.kv_heads
        scores = _column_energy(program.tensors[parts.out], statistics).reshape(groups, -1)
        kept = _highest(scores.sum(axis=1), _least(share, groups, 1))
        program = _without_groups(program, parts, kept)
        records.append(_removal("head groups", parts.out, kept, groups))
    return drop_unused(program), tuple(records)


def block_influence(
    program: Program, windows: Sequence[NDArray[np.int64]], store: TensorStore
) -> NDArray[np.float64]:
    """Return 1 - E[cos(x, y)] of every layer's input x and output y: little, if it does little.

    Shapes: windows each (t,), of one length; result (layers,).
    Raises: InvalidArgumentError without windows.
    Source: Men et al. 2024, ShortGPT (arXiv:2403.03853), equation 1.
    """
    if not windows:
        raise InvalidArgumentError("the influence of layers needs text: there is no window")
    blocks = split_blocks(program)
    influence = np.zeros(len(blocks) - 2)
    with torch.inference_mode():
        for window in windows:
            x = execute_block(blocks[0], torch.from_numpy(window)[None], store=store)
            for index, block in enumerate(blocks[1:-1]):
                y = execute_block(block, x, store=store)
                influence[index] += 1 - float(torch.cosine_similarity(x, y, dim=-1).mean())
                x = y
    return influence / len(windows)


def least_influential(influence: NDArray[np.float64], count: int) -> tuple[int, ...]:
    """Return the `count` layers of least influence in rising order."""
    order = np.argsort(influence, kind="stable")[:count]
    return tuple(sorted(int(index) for index in order))


def drop_layers(program: Program, layers: Sequence[int]) -> tuple[Program, tuple[Removal, ...]]:
    """Take out layers by number: what follows one reads what it read. Fused programs too.

    Raises: InvalidArgumentError for a layer that is not there, or if none would stay.
    """
    first, *inner, last = split_blocks(program)
    dropped = sorted(set(layers))
    if dropped and not 0 <= dropped[0] <= dropped[-1] < len(inner):
        raise InvalidArgumentError(f"layers {dropped} of {len(inner)} that are there")
    if len(dropped) >= len(inner):
        raise InvalidArgumentError(f"all {len(inner)} layers would go: one must stay")
    renamed: dict[str, str] = {}
    operations: list[Operation] = []
    records = []
    for number, block in enumerate([first, *inner, last], start=-1):
        if number in dropped:
            renamed[block.output] = renamed.get(block.input, block.input)
            records.append(Removal("layers", block.operations[0].outputs[0], (number,), len(inner)))
        else:
            operations += [_reading(operation, renamed) for operation in block.operations]
    return drop_unused(replace(program, operations=tuple(operations))), tuple(records)


def _reading(operation: Operation, renamed: Mapping[str, str]) -> Operation:
    return replace(operation, inputs=tuple(renamed.get(name, name) for name in operation.inputs))


def select_rows(tensor: Tensor, rows: Indices) -> Tensor:
    """Return a weight with these rows, or a constant with these elements; read when it is used.

    Raises: InvalidArgumentError for a weight that is quantized already.
    """
    if isinstance(tensor.source, np.ndarray):
        values = np.ascontiguousarray(tensor.source[rows])
        return replace(tensor, shape=values.shape, source=values)
    source = _unread(tensor)
    shape = (len(rows), source.shape[1])
    load = partial(_load_rows, source, rows)
    return replace(tensor, shape=shape, source=Weight(source.name, shape, load))


def _select_columns(tensor: Tensor, columns: Indices, hessian: Any = None) -> Tensor:
    source = _unread(tensor)
    shape = (source.shape[0], len(columns))
    if hessian is None:
        load = partial(_load_columns, source, columns)
    else:
        kept = np.isin(np.arange(source.shape[1]), columns)
        load = partial(_load_product, source, refit_matrix(kept, damped(hessian)))
    return replace(tensor, shape=shape, source=Weight(source.name, shape, load))


def _unread(tensor: Tensor) -> Weight:
    if not isinstance(tensor.source, Weight):
        raise InvalidArgumentError(f"tensor '{tensor.name}' is no weight that can still be cut")
    return tensor.source


def _load_rows(source: Weight, rows: Indices) -> FloatArray:
    return np.ascontiguousarray(source.load()[rows])


def _load_columns(source: Weight, columns: Indices) -> FloatArray:
    return np.ascontiguousarray(source.load()[:, columns])


def _load_product(source: Weight, matrix: NDArray[np.float64]) -> FloatArray:
    product: FloatArray = (source.load() @ matrix).astype(np.float32)
    return product


def _column_energy(tensor: Tensor, statistics: Statistics) -> NDArray[np.float64]:
    """Return E[x_j^2] |w_j|^2 of each input column, (k,)."""
    mean_squares = statistics.importance(tensor.name)
    if mean_squares is None or mean_squares.shape != tensor.shape[1:]:
        raise InvalidArgumentError(f"no calibration of '{tensor.name}': its inputs are unknown")
    w = _unread(tensor).load().astype(np.float64)
    return np.asarray(mean_squares * np.einsum("ij,ij->j", w, w), np.float64)


def _highest(scores: NDArray[np.float64], count: int) -> Indices:
    """Return the indices of the highest scores in rising order; of equal ones the last stay."""
    return np.sort(np.argsort(scores, kind="stable")[len(scores) - count :])


def _least(share: float, count: int, multiple: int) -> int:
    """Return how many stay so that at most the share goes, a multiple above 0."""
    if multiple < 1:
        raise InvalidArgumentError(f"what stays is a multiple of {multiple}, expected 1 or more")
    # 0.2 of 80 is 16 and not a little more
    return max(1, math.ceil((1 - share) * count / multiple - 1e-9)) * multiple


def _removal(what: str, where: str, kept: Indices, of: int) -> Removal:
    gone = np.setdiff1d(np.arange(of), kept)
    return Removal(what, where, tuple(int(index) for index in gone), of)


# Where the parts of a layer are, found from the flow of values


class _Flow:
    """Who makes and who reads each activation of a program."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.maker = {name: op for op in program.operations for name in op.outputs}
        self.readers: dict[str, list[Operation]] = {}
        for operation in program.operations:
            for name in operation.inputs:
                self.readers.setdefault(name, []).append(operation)

    def made_by(self, name: str, opcode: Opcode) -> Operation | None:
        """Return the operation behind an activation that nobody else reads."""
        operation = self.maker.get(name)
        if operation is None or operation.opcode is not opcode or len(self.readers[name]) != 1:
            return None
        return None if opcode is Opcode.LINEAR and not _single(operation) else operation

    def read_by(self, name: str) -> Operation | None:
        """Return the one linear operation that reads an activation."""
        readers = self.readers.get(name, [])
        if len(readers) != 1 or readers[0].opcode is not Opcode.LINEAR:
            return None
        return readers[0] if _single(readers[0]) and readers[0].inputs[0] == name else None


def _single(operation: Operation) -> bool:
    """Whether a linear has one weight and no gate."""
    return operation.parameters == LinearParameters(weights=1, epilogue=0)


@dataclass(frozen=True, slots=True)
class _FeedForward:
    """Tensors cut by rows (weights and biases), activations that narrow, the weight after them."""

    rows: tuple[str, ...]
    activations: tuple[str, ...]
    down: str


def _feed_forward(flow: _Flow, operation: Operation) -> _FeedForward | None:
    """Return the parts of act(linear(x, gate)) * linear(x, up) and the linear that reads it."""
    if operation.opcode is not Opcode.MUL:
        return None
    act = flow.made_by(operation.inputs[0], Opcode.ACTIVATION)
    up = flow.made_by(operation.inputs[1], Opcode.LINEAR)
    gate = act and flow.made_by(act.inputs[0], Opcode.LINEAR)
    down = flow.read_by(operation.outputs[0])
    if act is None or up is None or gate is None or down is None:
        return None
    rows = [name for op in (gate, up) for name in op.linear().weights + op.linear().biases]
    made = [op.outputs[0] for op in (gate, act, up, operation)]
    return _FeedForward(tuple(rows), tuple(made), down.linear().weights[0])


def _without_channels(
    program: Program, parts: _FeedForward, kept: Indices, hessian: Any
) -> Program:
    tensors = program.tensors
    changed = {name: select_rows(tensors[name], kept) for name in parts.rows}
    changed[parts.down] = _select_columns(tensors[parts.down], kept, hessian)
    changed |= {name: _narrowed(tensors[name], len(kept)) for name in parts.activations}
    return program.with_tensors(changed)


def _narrowed(tensor: Tensor, width: int) -> Tensor:
    return replace(tensor, shape=(*tensor.shape[:-1], width))


@dataclass(frozen=True, slots=True)
class _Heads:
    """One attention: rows and activations of its queries and of its keys and values."""

    operation: Operation
    parameters: AttentionParameters
    queries: tuple[str, ...]
    shared: tuple[str, ...]
    out: str


def _heads(flow: _Flow, operation: Operation) -> _Heads | None:
    if not isinstance(operation.parameters, AttentionParameters):
        return None
    size = operation.parameters.head_size
    paths = [_path(flow, name, size) for name in operation.inputs[:3]]
    out = flow.read_by(operation.outputs[0])
    if out is None or any(path is None for path in paths):
        return None
    q, k, v = (path or () for path in paths)
    weight = out.linear().weights[0]
    return _Heads(operation, operation.parameters, (*q, operation.outputs[0]), k + v, weight)


def _path(flow: _Flow, name: str, head_size: int) -> tuple[str, ...] | None:
    """Return what has rows or a width by heads, from an attention's input back to its weight."""
    found: tuple[str, ...] = ()
    while True:
        made = flow.maker.get(name)
        if made is None or len(flow.readers[name]) != 1:
            return None
        found += (name,)
        if made.opcode is Opcode.LINEAR:
            operands = made.linear()
            return found + operands.weights + operands.biases if _single(made) else None
        per_head = isinstance(made.parameters, NormParameters) and (
            made.parameters.width == head_size
        )
        if made.opcode is not Opcode.ROPE and not per_head:
            return None
        name = made.inputs[made.outputs.index(name)]


def _without_groups(program: Program, parts: _Heads, kept: Indices) -> Program:
    old, count = parts.parameters, len(kept)
    queries = old.heads // old.kv_heads
    size = old.head_size
    columns = _spans(kept, queries * size)
    changed = {parts.out: _select_columns(program.tensors[parts.out], columns)}
    for names, rows in ((parts.queries, columns), (parts.shared, _spans(kept, size))):
        for name in names:
            tensor = program.tensors[name]
            cut = tensor.role is not Role.ACTIVATION
            changed[name] = select_rows(tensor, rows) if cut else _narrowed(tensor, len(rows))
    for name in parts.operation.inputs[3:]:
        state = program.tensors[name]
        changed[name] = replace(state, shape=(count, *state.shape[1:]))
    parameters = replace(old, heads=count * queries, kv_heads=count)
    operations = tuple(
        replace(op, parameters=parameters) if op is parts.operation else op
        for op in program.operations
    )
    return replace(program.with_tensors(changed), operations=operations)


def _spans(kept: Indices, width: int) -> Indices:
    """Return the elements of the kept spans of `width`."""
    return (kept[:, None] * width + np.arange(width)).ravel()
