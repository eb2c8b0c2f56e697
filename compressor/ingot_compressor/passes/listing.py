# SPDX-License-Identifier: Apache-2.0
"""A program as text, for people."""

from __future__ import annotations

from dataclasses import asdict

from ingot.format import Parameters, Role
from ingot_compressor.ir import Operation, Program, Tensor

__all__ = ["format_program"]


def format_program(program: Program) -> str:
    """Return one line per operation: outputs = op(inputs) parameters, with shapes and formats."""
    head = (
        f"context {program.context}, chunk {program.chunk}, vocabulary {program.vocabulary}, "
        f"{len(program.operations)} operations, {program.input} -> {program.output}"
    )
    return "\n".join([head, *(_line(program, operation) for operation in program.operations)])


def _line(program: Program, operation: Operation) -> str:
    outputs = ", ".join(_tensor(program.tensors[name]) for name in operation.outputs)
    inputs = ", ".join(_tensor(program.tensors[name]) for name in operation.inputs)
    flags = f" flags={int(operation.flags)}" if operation.flags else ""
    parameters = _parameters(operation.parameters)
    return f"{outputs} = {operation.opcode.name.lower()}({inputs}){parameters}{flags}"


def _tensor(tensor: Tensor) -> str:
    if tensor.role in (Role.ACTIVATION, Role.STATE):
        return tensor.name
    shape = "x".join(str(size) for size in tensor.shape)
    return f"{tensor.name}:{tensor.dtype.name.lower()}[{shape}]"


def _parameters(parameters: Parameters | None) -> str:
    if parameters is None:
        return ""
    fields = {key: value for key, value in asdict(parameters).items() if key != "reserved"}
    return "".join(f" {key}={value:g}" for key, value in fields.items() if value)
