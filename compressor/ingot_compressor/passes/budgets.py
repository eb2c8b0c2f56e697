# SPDX-License-Identifier: Apache-2.0
"""Budgets of size, memory and speed as limits on the sum of what every weight takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ingot.errors import InvalidArgumentError
from ingot.format import TENSOR_ALIGNMENT, Dtype, Opcode, Role
from ingot.packing import payload_bytes, round_up
from ingot.prediction import WEIGHT_TIME_SHARE, Stream, weight_seconds
from ingot_compressor.ir import Program, Tensor
from ingot_compressor.numerics import Encoding, group_of
from ingot_compressor.numerics.knapsack import InfeasibleError, Row
from ingot_compressor.passes.fuse import drop_unused
from ingot_compressor.passes.plan import plan
from ingot_compressor.passes.quantize import (
    body_elements,
    body_names,
    packed_size,
    stored_bytes,
    stored_share,
    true_rows,
)

__all__ = [
    "WEIGHT_TIME_SHARE",
    "Budgets",
    "Options",
    "limit_rows",
    "section_bytes",
    "streams",
    "token_seconds",
    "weights_section_bytes",
]

# What each weight may be stored as, by name.
Options = Mapping[str, Sequence[Encoding]]
Amount = Callable[[Tensor, Encoding], float]


@dataclass(frozen=True, slots=True)
class Budgets:
    """What the result may take at most; None where there is no limit.

    `bits` counts stored bits per weight of the body. `file_bytes` is the whole file, of which
    `beside_weights` are not weights. `ram_bytes` is the plan's figure at the program's context.
    `mean_kl` is measured, in nats. Units: `decode` and `prefill` tokens per second, at least, from
    `decode_rates`: bytes of weights per second by format, and `prefill_rates`: products of a weight
    and a token per second by format, all else that a prompt takes included.
    """

    bits: float | None = None
    file_bytes: int | None = None
    ram_bytes: int | None = None
    decode: float | None = None
    mean_kl: float | None = None
    beside_weights: int = 0
    decode_rates: Mapping[Dtype, float] = field(default_factory=dict)
    prefill: float | None = None
    prefill_rates: Mapping[Dtype, float] = field(default_factory=dict)

    def explain(self, error: InfeasibleError) -> InvalidArgumentError:
        """Return the error for the user: the option, what it asks for, what is possible."""
        least = error.least
        if error.row.name == "bits":
            text = (
                f"--bpw {self.bits:.3f} is below {least:.3f},"
                " the least that the built formats store of this model's linear layers"
            )
        elif error.row.name == "decode":
            text = (
                f"--min-decode {self.decode:g} is above {WEIGHT_TIME_SHARE / least:.2f} tokens per"
                " second, the most that the target's memory gives this model"
            )
        elif error.row.name == "prefill":
            text = (
                f"--min-prefill {self.prefill:g} is above {1 / least:.2f} tokens"
                " per second, the most that the target's kernels give this model"
            )
        elif error.row.name == "kl":
            text = (
                f"--max-kl {self.mean_kl:g} is below {least:.3g},"
                " the least that is predicted within the other limits"
            )
        else:
            file = error.row.name == "file"
            option, limit = (
                ("--max-bytes", self.file_bytes) if file else ("--max-ram", self.ram_bytes)
            )
            needed = int(least + (limit or 0) - error.row.limit)
            text = f"{option} {limit} is below {needed}, the least that this model needs"
        return InvalidArgumentError(text)


def section_bytes(tensor: Tensor, encoding: Encoding) -> int:
    """Return the bytes of a weight in the weights section, with the gap behind it."""
    return round_up(packed_size(tensor.shape, encoding), TENSOR_ALIGNMENT)


def weights_section_bytes(program: Program, encodings: Mapping[str, Encoding]) -> int:
    """Return the bytes of the weights section of an assignment, norms and tables included."""
    weights = sum(section_bytes(one, encodings[one.name]) for one in program.weights())
    return weights + _constant_bytes(program)


def limit_rows(program: Program, options: Options, budgets: Budgets) -> list[Row]:
    """Return one row for each budget but the divergence, units in the order of `options`."""
    rows = []
    if budgets.bits is not None:
        rows.append(_bits_row(program, options, budgets.bits))
    beside = _constant_bytes(program)
    if budgets.file_bytes is not None:
        limit = budgets.file_bytes - budgets.beside_weights - beside
        rows.append(_row("file", program, options, section_bytes, limit))
    if budgets.ram_bytes is not None:
        limit = budgets.ram_bytes - _session_bytes(program) - beside
        rows.append(_row("ram", program, options, section_bytes, limit))
    if budgets.decode is not None:
        seconds = _decode_seconds(program, budgets.decode_rates)
        rows.append(_row("decode", program, options, seconds, WEIGHT_TIME_SHARE / budgets.decode))
    if budgets.prefill is not None:
        seconds = _prefill_seconds(program, budgets.prefill_rates)
        rows.append(_row("prefill", program, options, seconds, 1 / budgets.prefill))
    return rows


def _row(name: str, program: Program, options: Options, amount: Amount, limit: float) -> Row:
    amounts = tuple(
        np.array([amount(program.tensors[weight], one) for one in encodings], np.float64)
        for weight, encodings in options.items()
    )
    return Row(name, amounts, limit)


def _bits_row(program: Program, options: Options, bits: float) -> Row:
    body, elements = set(body_names(program)), body_elements(program)

    def amount(tensor: Tensor, encoding: Encoding) -> float:
        inside = tensor.name in body
        return 8 * stored_bytes(tensor.shape, encoding) / elements if inside else 0.0

    return _row("bits", program, options, amount, bits)


def _constant_bytes(program: Program) -> int:
    """Return what norms, biases and tables take in the weights section."""
    return sum(
        round_up(int(np.prod(tensor.shape)) * 4, TENSOR_ALIGNMENT)
        for tensor in drop_unused(program).tensors.values()
        if tensor.role is Role.CONSTANT
    )


def _session_bytes(program: Program) -> int:
    """Return the planned bytes of a session without the weights, keys and values float16."""
    return plan(drop_unused(program)).peaks(0)[-1].peak_bytes


def _decode_seconds(program: Program, rates: Mapping[Dtype, float]) -> Amount:
    """Return the time that one token spends reading a weight."""
    rows = _rows_per_token(program)

    def amount(tensor: Tensor, encoding: Encoding) -> float:
        rate = rates.get(encoding.dtype)
        if rate is None:
            raise InvalidArgumentError(
                f"no decode rate for format {encoding.dtype.name.lower()} on this target"
            )
        n, k, group = rows[tensor.name], tensor.shape[1], group_of(encoding.dtype, encoding.group)
        share = stored_share(tensor.shape, encoding)
        return share * payload_bytes(encoding.dtype, n, k, group) / rate

    return amount


def _prefill_seconds(program: Program, rates: Mapping[Dtype, float]) -> Amount:
    """Return the time that one token of a prompt spends in a weight; the head sees the last alone.

    Superblocks that are left out are not counted as saved: a prompt is bound by what kernels do
    between the products, which nobody measured for sparse weights.
    """
    gates, head = true_rows(program), program.head()
    read = {
        name
        for operation in program.operations
        if operation.opcode is Opcode.LINEAR
        for name in operation.linear().weights
        if name != head
    }

    def amount(tensor: Tensor, encoding: Encoding) -> float:
        rate = rates.get(encoding.dtype)
        if tensor.name not in read:
            return 0.0
        if rate is None:
            raise InvalidArgumentError(
                f"no prefill rate for format {encoding.dtype.name.lower()} on this target"
            )
        return gates.get(tensor.name, tensor.shape[0]) * tensor.shape[1] / rate

    return amount


def token_seconds(
    program: Program, stored: Mapping[str, tuple[Dtype, int]], rates: Mapping[Dtype, float]
) -> float:
    """Return the time that one token spends reading weights, of each its format and stored bytes.

    Units: `rates` in bytes per second by format.
    Raises: InvalidArgumentError for a format without a rate.
    """
    named = {dtype.name.lower(): rate for dtype, rate in rates.items()}
    return weight_seconds(streams(program, stored), named)


def streams(program: Program, stored: Mapping[str, tuple[Dtype, int]]) -> tuple[Stream, ...]:
    """Return what one token reads of each weight, from its format and stored bytes.

    The head is read for the last token of a prompt only.
    """
    head, found = program.head(), []
    for name, rows in _rows_per_token(program).items():
        (dtype, size), (n, k) = stored[name], program.tensors[name].shape
        found.append(Stream(dtype.name.lower(), rows / n * size, rows * k, name != head))
    return tuple(found)


def _rows_per_token(program: Program) -> dict[str, int]:
    """Return how many rows of each weight a token reads: all for a linear, one for the table."""
    gates, rows = true_rows(program), dict.fromkeys((t.name for t in program.weights()), 0)
    for operation in program.operations:
        if operation.opcode is Opcode.EMBED:
            rows[operation.inputs[1]] += 1
        elif operation.opcode is Opcode.LINEAR:
            for name in operation.linear().weights:
                rows[name] += gates.get(name, program.tensors[name].shape[0])
    return rows
