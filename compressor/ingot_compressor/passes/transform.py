# SPDX-License-Identifier: Apache-2.0
"""Passes that change weights and not the function: folded norms, channel scales, rotations.

All of them run on the unfused program, before `fuse`: there a weight is one matrix of the model,
and `fuse` reads what they made when it interleaves. Matrices stay unread; a changed weight reads
its source and applies the change each time it is loaded. What feeds what is found from the flow of
values, never from names.

Keys and queries are not rotated here. A rotation that helps the cache mixes all channels of a head,
and the position encoding between projection and cache turns pairs of them by angles that differ:
only changes within a pair commute with it, so nothing can be folded into the projections. The
runtime rotates keys and queries after the position encoding instead (`k8v4`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ingot.errors import InternalError, InvalidArgumentError
from ingot.format import AttentionParameters, Opcode, Role
from ingot_compressor.calibration import Statistics
from ingot_compressor.ir import FloatArray, Operation, Program, Tensor, Weight
from ingot_compressor.numerics.rotation import (
    MOST_BLOCK,
    Rotation,
    block_size,
    make_rotation,
    rotate,
    tile_heads,
)
from ingot_compressor.numerics.scaling import column_largest, smoothing_scales
from ingot_compressor.passes.flow import Flow, Site, check_unfused, find_sites

__all__ = [
    "apply_scales",
    "fold_norms",
    "load_matrix",
    "rotate_residual",
    "rotate_values",
    "smooth",
    "transform_tensor",
    "untie_head",
]

# What a linear or constant tensor becomes; (n, k) or (k,) in, the same shape out.
Change = Callable[[FloatArray], FloatArray]


def load_matrix(tensor: Tensor) -> FloatArray:
    """Return the values of a weight or constant.

    Raises: InvalidArgumentError for one that is already quantized.
    """
    if isinstance(tensor.source, Weight):
        return tensor.source.load()
    if isinstance(tensor.source, np.ndarray):
        return tensor.source
    raise InvalidArgumentError(f"tensor '{tensor.name}' has no float values: transform it earlier")


def transform_tensor(tensor: Tensor, change: Change) -> Tensor:
    """Return a tensor whose values go through `change`: a weight's when it is loaded."""
    source = tensor.source
    if isinstance(source, Weight):
        changed = Weight(source.name, source.shape, partial(_load_changed, source, change))
        return replace(tensor, source=changed)
    return replace(tensor, source=change(load_matrix(tensor)))


def _load_changed(source: Weight, change: Change) -> FloatArray:
    return np.ascontiguousarray(change(source.load()), np.float32)


def _times_columns(scales: NDArray[np.float64], w: FloatArray) -> FloatArray:
    return (w * scales).astype(np.float32)


def _times_rows(scales: NDArray[np.float64], w: FloatArray) -> FloatArray:
    """Scale the first axis: rows of a matrix, or elements of a bias."""
    return (w.T * scales).T.astype(np.float32)


def _rotate_columns(rotation: Rotation, w: FloatArray) -> FloatArray:
    return rotate(w, rotation)


def _rotate_rows(rotation: Rotation, w: FloatArray) -> FloatArray:
    return rotate(w.T, rotation).T


def untie_head(program: Program) -> Program:
    """Return the program with a weight of its own for the head, read from the same place.

    Unchanged where head and embedding are different already.
    Cost: the file stores the table twice.
    """
    table = program.embedding()
    if program.head() != table:
        return program
    name = f"{table}.head"
    if name in program.tensors:
        raise InternalError(f"there is a tensor '{name}' already")
    operations = tuple(
        replace(op, inputs=tuple(name if part == table else part for part in op.inputs))
        if op.opcode is Opcode.LINEAR
        else op
        for op in program.operations
    )
    own = replace(program.tensors[table], name=name)
    return replace(program.with_tensors({name: own}), operations=operations)


def fold_norms(program: Program, untie: bool = False) -> Program:
    """Return the program with the weight of each norm over whole rows in the linears behind it.

    The norm's weight becomes ones. A norm in front of a tied head is left as it is, for the table
    would no longer be the embedding; with `untie` the head gets its own matrix, unless that norm
    has one weight for all channels, which any later rotation leaves alone. Norms of heads (q, k)
    stay: rope reads them.

    Raises: InvalidArgumentError for a fused program.
    """
    check_unfused(program)
    if untie and not _tied_norm_is_even(program):
        program = untie_head(program)
    flow = Flow.of(program)
    changed: dict[str, Tensor] = {}
    for operation in program.operations:
        if operation.opcode is not Opcode.RMS_NORM or not flow.full_norm(operation):
            continue
        weights = flow.weights_of(flow.linear_readers(operation.outputs[0]))
        constant = operation.inputs[1]
        if not weights or not flow.once(constant):
            continue
        gamma = load_matrix(program.tensors[constant])
        change = partial(_times_columns, gamma.astype(np.float64))
        for name in weights:
            changed[name] = transform_tensor(program.tensors[name], change)
        changed[constant] = replace(program.tensors[constant], source=np.ones_like(gamma))
    return program.with_tensors(changed)


def _tied_norm_is_even(program: Program) -> bool:
    """Whether the norm before the head has one weight for all channels, or nothing is tied."""
    flow, table = Flow.of(program), program.embedding()
    readers = [op for op in flow.readers[table] if op.opcode is Opcode.LINEAR]
    makers = [flow.maker[op.linear().x] for op in readers]
    gammas = [
        load_matrix(program.tensors[op.inputs[1]]) for op in makers if op.opcode is Opcode.RMS_NORM
    ]
    return all(bool((gamma == gamma[0]).all()) for gamma in gammas)


def apply_scales(program: Program, scales: Mapping[str, NDArray[np.float64]]) -> Program:
    """Return the program with channels of activations divided, their readers' columns multiplied.

    `scales` by the activation's name: each the `x` of one of `find_sites`.

    Shapes: scales (channels,) of what makes the activation: fewer than its columns where
    key-value heads are shared.
    Raises: InvalidArgumentError for an activation that is no site, or scales that are not positive
        numbers of its channels.
    """
    sites = {site.x: site for site in find_sites(program)}
    for x, given in scales.items():
        if x not in sites:
            raise InvalidArgumentError(f"the channels of '{x}' cannot be scaled")
        program = program.with_tensors(_scaled(program, sites[x], np.asarray(given, np.float64)))
    return program


def _scaled(program: Program, site: Site, scales: NDArray[np.float64]) -> dict[str, Tensor]:
    channels = program.tensors[site.x].width // site.shared
    if scales.shape != (channels,):
        raise InvalidArgumentError(
            f"'{site.x}': scales have shape {scales.shape}, expected ({channels},)"
        )
    if not np.isfinite(scales).all() or float(scales.min()) <= 0:
        raise InvalidArgumentError(f"'{site.x}': scales must be positive and finite")
    columns, rows = site.columns(scales), 1 / scales
    changed = {
        name: transform_tensor(program.tensors[name], partial(_times_columns, columns))
        for name in site.weights
    }
    for name in site.divided:
        changed[name] = transform_tensor(program.tensors[name], partial(_times_rows, rows))
    return changed


def smooth(
    program: Program, statistics: Statistics, alpha: float = 0.5, norms_only: bool = False
) -> Program:
    """Return the program smoothed for rounded activations: SmoothQuant at every site.

    `statistics` are of this program, with `max_abs`. `norms_only` leaves the values of attentions
    and the inner activations of gates alone, as the paper does.

    Raises: InvalidArgumentError for a fused program or statistics that lack a weight.
    Source: SmoothQuant (Xiao et al. 2022, arXiv:2211.10438).
    Cost: every weight is read once.
    """
    flow = Flow.of(program)
    scales = {}
    for site in find_sites(program):
        if norms_only and not flow.full_norm(flow.maker[site.x]):
            continue
        largest = statistics.max_abs.get(site.weights[0])
        if largest is None:
            raise InvalidArgumentError(f"no statistics of '{site.weights[0]}': calibrate first")
        matrices = [load_matrix(program.tensors[name]) for name in site.weights]
        x = site.by_channel(largest).max(axis=0)
        w = site.by_channel(column_largest(matrices)).max(axis=0)
        scales[site.x] = smoothing_scales(x, w, alpha)
    return apply_scales(program, scales)


def rotate_residual(program: Program, seed: int = 0, most_block: int = MOST_BLOCK) -> Program:
    """Return the program with its residual stream rotated (R1), norms folded first.

    With x' = x Q, what reads the stream gets W Q, what writes it Q^T W (a bias b Q), the embedding
    E Q. A norm without weight commutes with Q. The head then is H diag(gamma) Q and the embedding
    E Q: a tied table stays one matrix only if the last norm's gamma is the same for all channels,
    and is untied otherwise, which stores it twice. Q is blocks of Hadamard of the largest power of
    two that divides the width, at most `most_block`.

    Raises: InvalidArgumentError for a fused program, or one whose stream is read by what a rotation
        does not pass through (a layer norm, an activation function).
    Source: SpinQuant (Liu et al. 2024, arXiv:2405.16406) and QuaRot (arXiv:2404.00456).
    """
    program = fold_norms(program, untie=True)
    stream = _residual_stream(program)
    width = program.tensors[program.embedding()].width
    rotation = make_rotation(width, (seed, 1), most_block)
    columns: Change = partial(_rotate_columns, rotation)
    rows: Change = partial(_rotate_rows, rotation)
    changes: dict[str, list[Change]] = {}
    tied: dict[str, list[Change]] = {program.embedding(): [columns]}
    for operation in program.operations:
        if operation.opcode is not Opcode.LINEAR:
            continue
        operands = operation.linear()
        for index, (name, out) in enumerate(zip(operands.weights, operation.outputs, strict=True)):
            wanted = [columns] if operands.x in stream else []
            wanted += [rows] if out in stream else []
            if tied.setdefault(name, wanted) != wanted:
                raise InternalError(f"weight '{name}' would need two different rotations")
            if out in stream and operands.biases:
                changes[operands.biases[index]] = [columns]
    return _with_changes(program, {**changes, **tied})


def _with_changes(program: Program, changes: Mapping[str, list[Change]]) -> Program:
    changed = {}
    for name, steps in changes.items():
        tensor = program.tensors[name]
        for step in steps:
            tensor = transform_tensor(tensor, step)
        changed[name] = tensor
    return program.with_tensors(changed)


def _residual_stream(program: Program) -> set[str]:
    """Return the activations that turn with the embedding.

    Raises: InvalidArgumentError naming what cannot turn.
    """
    flow = Flow.of(program)
    passing = (Opcode.ADD, Opcode.SELECT_LAST, Opcode.SCALE, Opcode.RMS_NORM)
    stream = {op.outputs[0] for op in program.operations if op.opcode is Opcode.EMBED}
    grown = True
    while grown:
        before = len(stream)
        for operation in program.operations:
            ends = _activations(program, operation)
            if operation.opcode in passing and stream & ends:
                stream |= ends
        grown = len(stream) > before
    for operation in program.operations:
        outside = operation.opcode not in (*passing, Opcode.EMBED, Opcode.LINEAR)
        uneven = operation.opcode is Opcode.RMS_NORM and not _turns(flow, operation)
        if (outside or uneven) and stream & _activations(program, operation):
            raise InvalidArgumentError(
                f"the residual stream cannot be rotated: {operation.opcode.name.lower()} makes"
                f" '{operation.outputs[0]}' channel by channel"
            )
    if program.output in stream:
        raise InvalidArgumentError("the residual stream is the output: nothing turns it back")
    return stream


def _activations(program: Program, operation: Operation) -> set[str]:
    names = operation.inputs + operation.outputs
    return {name for name in names if program.tensors[name].role is Role.ACTIVATION}


def _turns(flow: Flow, operation: Operation) -> bool:
    """Whether an rms_norm gives the rotated result for a rotated input."""
    gamma = load_matrix(flow.program.tensors[operation.inputs[1]])
    return flow.full_norm(operation) and bool((gamma == gamma[0]).all())


def rotate_values(program: Program, seed: int = 0) -> Program:
    """Return the program with the values of each key-value head rotated (R2).

    Rows of the linear that makes the values, and columns of those that read the attention: a head
    of queries turns with the key-value head it reads. Attentions whose values are made or read
    otherwise are left.

    Raises: InvalidArgumentError for a fused program.
    Source: SpinQuant (Liu et al. 2024, arXiv:2405.16406), R2.
    """
    made = {op.outputs[0]: op for op in program.operations if op.opcode is Opcode.ATTENTION}
    sites = [site for site in find_sites(program) if site.x in made]
    changes: dict[str, list[Change]] = {}
    for index, site in enumerate(sites):
        parameters = made[site.x].parameters
        if not isinstance(parameters, AttentionParameters):
            raise InternalError("attention needs AttentionParameters")
        size = parameters.head_size
        rotation = make_rotation(site.heads * size, (seed, 2, index), block_size(size))
        heads = tile_heads(rotation, site.heads, site.shared)
        for name in site.weights:
            changes[name] = [partial(_rotate_columns, heads)]
        for name in site.divided:
            changes[name] = [partial(_rotate_rows, rotation)]
    return _with_changes(program, changes)
