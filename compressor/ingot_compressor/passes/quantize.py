# SPDX-License-Identifier: Apache-2.0
"""Gives every weight a format and its codes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ingot.errors import InvalidArgumentError
from ingot.format import TILE_ROWS, Dtype, Epilogue, LinearParameters
from ingot.packing import WEIGHT_FORMATS, Quantized, packed_bytes, superblock_count
from ingot.packing import stored_bytes as sparse_bytes
from ingot.packing.sizes import geometry, list_bytes
from ingot_compressor.calibration import Statistics
from ingot_compressor.ir import Program, Tensor, Weight
from ingot_compressor.numerics import Encoding, group_of, quantize_matrix

__all__ = [
    "BUDGET_FORMATS",
    "Choices",
    "Sizes",
    "assign",
    "body_elements",
    "body_names",
    "measure_sizes",
    "packed_size",
    "quantize",
    "quantize_tensor",
    "stored_bytes",
    "stored_share",
    "true_rows",
]

# What a weight may get under a budget; q4 at group 32 takes more bits than c4 and loses more.
BUDGET_FORMATS = (
    *((Dtype.C2, 32), (Dtype.C3, 32), (Dtype.Q4, 128)),
    *((Dtype.C4, 32), (Dtype.C5, 32), (Dtype.Q6, 32), (Dtype.Q8, 32)),
)
# Stored in the tensor record with the codebook, not with the weights.
DELTA_BYTES = 1


@dataclass(frozen=True, slots=True)
class Choices:
    """Encodings by kind of weight; `embedding` is for a table that is not the head's matrix."""

    body: Encoding
    head: Encoding
    embedding: Encoding


@dataclass(frozen=True, slots=True)
class Sizes:
    """Stored bytes and bits per weight, with scales, codebooks and padding.

    The body is every linear operation's weight but the head's; the total adds head and embedding.
    """

    weight_bytes: int
    bits_per_weight_body: float
    bits_per_weight_total: float


def body_names(program: Program) -> tuple[str, ...]:
    """Return the names of the weights that are neither head nor embedding."""
    apart = {program.head(), program.embedding()}
    return tuple(tensor.name for tensor in program.weights() if tensor.name not in apart)


def assign(program: Program, choices: Choices) -> dict[str, Encoding]:
    """Return the encoding of every weight by name; a tied table takes the head's."""
    encodings = {tensor.name: choices.body for tensor in program.weights()}
    encodings[program.embedding()] = choices.embedding
    encodings[program.head()] = choices.head
    return encodings


def stored_bytes(shape: tuple[int, ...], encoding: Encoding) -> int:
    """Return the bytes of a weight as stored, its codebook included."""
    return packed_size(shape, encoding) + _book_bytes(encoding)


def _book_bytes(encoding: Encoding) -> int:
    entries = WEIGHT_FORMATS[encoding.dtype].entries
    return entries + DELTA_BYTES if entries else 0


def packed_size(shape: tuple[int, ...], encoding: Encoding) -> int:
    """Return the bytes of a weight in the section of weights; without superblocks, at most.

    How the superblocks that stay are spread decides how long the lists of a sparse weight are.
    """
    (n, k), group = shape, group_of(encoding.dtype, encoding.group)
    if encoding.sparsity == 0:
        return packed_bytes(encoding.dtype, n, k, group)
    tiles, blocks = -(-n // TILE_ROWS), superblock_count(encoding.dtype, k, group)
    g = geometry(encoding.dtype, group)
    stored = tiles * blocks - int(encoding.sparsity * tiles * blocks)
    lists = tiles * (list_bytes(blocks) + g.head)
    return lists + stored * g.superblock(g.groups_per_superblock)


def stored_share(shape: tuple[int, ...], encoding: Encoding) -> float:
    """Return the share of a weight's superblocks that its encoding stores."""
    (n, k), group = shape, group_of(encoding.dtype, encoding.group)
    blocks = -(-n // TILE_ROWS) * superblock_count(encoding.dtype, k, group)
    return (blocks - int(encoding.sparsity * blocks)) / blocks


def _bytes_of(tensor: Tensor, encoding: Encoding) -> int:
    """Return what a weight takes: of a sparse one only its codes say how much."""
    if not isinstance(tensor.source, Quantized) or not tensor.source.present.size:
        return stored_bytes(tensor.shape, encoding)
    return sparse_bytes(tensor.source) + _book_bytes(encoding)


def measure_sizes(program: Program, encodings: Mapping[str, Encoding]) -> Sizes:
    """Return stored bytes and bits per weight of an assignment."""
    body = set(body_names(program))
    rows = true_rows(program)
    stored: dict[bool, int] = {True: 0, False: 0}
    counts: dict[bool, int] = {True: 0, False: 0}
    for tensor in program.weights():
        inside = tensor.name in body
        stored[inside] += _bytes_of(tensor, encodings[tensor.name])
        counts[inside] += rows.get(tensor.name, tensor.shape[0]) * tensor.shape[1]
    total = stored[True] + stored[False]
    return Sizes(
        total,
        8 * stored[True] / counts[True] if counts[True] else 0.0,
        8 * total / (counts[True] + counts[False]),
    )


def body_elements(program: Program) -> int:
    """Return the weights of the body, without the rows that only fill tiles."""
    rows = true_rows(program)
    tensors = [program.tensors[name] for name in body_names(program)]
    return sum(rows.get(one.name, one.shape[0]) * one.shape[1] for one in tensors)


def true_rows(program: Program) -> dict[str, int]:
    """Return the rows of each gate's weight without the zero rows that fill its tiles."""
    found: dict[str, int] = {}
    for operation in program.operations:
        parameters = operation.parameters
        if isinstance(parameters, LinearParameters) and parameters.epilogue != Epilogue.NONE:
            width = program.tensors[operation.outputs[0]].width
            found[operation.linear().weights[0]] = 2 * width
    return found


def quantize_tensor(
    tensor: Tensor, encoding: Encoding, statistics: Statistics, threads: int = 1
) -> Quantized:
    """Read one weight and quantize it.

    Raises: InvalidArgumentError naming the tensor if its values cannot be stored.
    """
    if not isinstance(tensor.source, Weight):
        raise InvalidArgumentError(f"tensor '{tensor.name}' is already quantized")
    w = tensor.source.load()
    try:
        return quantize_matrix(w, encoding, statistics.importance(tensor.name), threads)
    except ValueError as error:
        raise InvalidArgumentError(f"tensor '{tensor.source.name}': {error}") from error


def quantize(
    program: Program,
    encodings: Mapping[str, Encoding],
    statistics: Statistics,
    hold: Callable[[Quantized], Quantized] = lambda quantized: quantized,
    threads: int = 1,
    progress: Callable[[Tensor], None] | None = None,
) -> Program:
    """Return the program with every weight quantized, one in memory at a time.

    `hold` may move the codes elsewhere (a spool on disk) before the next tensor is read.
    """
    changed: dict[str, Tensor] = {}
    for tensor in program.weights():
        quantized = hold(quantize_tensor(tensor, encodings[tensor.name], statistics, threads))
        changed[tensor.name] = replace(tensor, dtype=quantized.dtype, source=quantized)
        if progress is not None:
            progress(tensor)
    return program.with_tensors(changed)
