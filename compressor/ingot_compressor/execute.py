# SPDX-License-Identifier: Apache-2.0
"""Runs a program in PyTorch: whole sequences, causal, float32, differentiable.

The full-precision reference, calibration and training all run through this. Activations here are
(b, t, width); `select_last` keeps every position, so that the logits are (b, t, v).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch.nn import functional

from ingot.errors import IngotError, InternalError
from ingot.format import (
    ACTIVATION_GROUP,
    TILE_ROWS,
    ActivationKind,
    ActivationParameters,
    AttentionParameters,
    Dtype,
    Epilogue,
    LinearParameters,
    NormParameters,
    Opcode,
    RopeParameters,
    RopeStyle,
    ScalarParameters,
)
from ingot_compressor.ir import Operation, Program, Tensor, Weight

__all__ = ["Observer", "Rounding", "TensorStore", "execute", "execute_block", "quantize_activation"]

Observer = Callable[[str, torch.Tensor], None]
# Weight's name and input of a linear operation -> the input as rounded.
Rounding = Callable[[str, torch.Tensor], torch.Tensor]
P = TypeVar("P")


class TensorStore:
    """Weights and constants of a program as torch tensors, each read once and kept.

    `keep=False` reads a weight again for each use, for models that do not fit in memory.
    """

    def __init__(self, *, keep: bool = True) -> None:
        self.keep = keep
        self._kept: dict[str, tuple[object, torch.Tensor]] = {}

    def get(self, tensor: Tensor) -> torch.Tensor:
        """Return the values of a weight or constant, (n, k) or as stored, float32.

        Raises: InternalError for a tensor without values.
        """
        kept = self._kept.get(tensor.name)
        # a pass may have given the name a new source since
        if kept is not None and kept[0] is tensor.source:
            return kept[1]
        # what is first read during a measurement may be trained with later
        with torch.inference_mode(False):
            values = torch.from_numpy(_read(tensor))
        if self.keep:
            self._kept[tensor.name] = (tensor.source, values)
        return values


def _read(tensor: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    source = tensor.source
    if source is None:
        raise InternalError(f"tensor {tensor.name!r} has no values")
    if isinstance(source, Weight):
        values = source.load()
    elif isinstance(source, np.ndarray):
        values = source
    else:
        from ingot.packing import dequantize

        values = dequantize(source)
    # torch refuses to share memory that numpy may not write
    return values if values.flags.writeable else values.copy()


def execute(
    program: Program,
    tokens: torch.Tensor,
    *,
    weights: Mapping[str, torch.Tensor] | None = None,
    store: TensorStore | None = None,
    observe: Observer | None = None,
    quantize_activations: bool = False,
    activation: Rounding | None = None,
) -> torch.Tensor:
    """Return the logits of every position.

    `weights` replaces tensors by name, and gradients reach them. `observe` is called with each
    weight of a linear operation and its input (b, t, k). With `quantize_activations` the inputs
    of linear operations become int8 as in the runtime (not those of f16 weights), and keys and
    values float16; gradients pass straight through. `activation` rounds those inputs instead, for
    each weight by its name.

    Shapes: tokens (b, t) int64; result (b, t, v) float32.
    Raises: IngotError for more positions than the program's context, or an id outside the table.
    """
    _check_tokens(program, tokens)
    return execute_block(
        program,
        tokens,
        weights=weights,
        store=store,
        observe=observe,
        quantize_activations=quantize_activations,
        activation=activation,
    )


def execute_block(
    block: Program,
    x: torch.Tensor,
    *,
    weights: Mapping[str, torch.Tensor] | None = None,
    store: TensorStore | None = None,
    observe: Observer | None = None,
    quantize_activations: bool = False,
    activation: Rounding | None = None,
    observe_output: Observer | None = None,
) -> torch.Tensor:
    """Return the output of a program whose input may be an activation: one of `split_blocks`.

    Options as in `execute`; positions count from 0. `observe_output` is called with each weight of
    a linear operation and what it gives, (b, t, n), before bias, gate and residual.

    Shapes: x (b, t) int64 or (b, t, width) float32; result (b, t, width of the output) float32.
    """
    run = _Run(
        program=block,
        values={block.input: x},
        replaced=weights or {},
        store=store or TensorStore(keep=False),
        observe=observe,
        quantize=quantize_activations,
        activation=activation,
        observe_output=observe_output,
    )
    last_use = _last_uses(block)
    for index, operation in enumerate(block.operations):
        outputs = _OPERATIONS[operation.opcode](run, operation)
        run.values.update(zip(operation.outputs, outputs, strict=True))
        for name in last_use.get(index, ()):
            run.values.pop(name, None)
    return run.values[block.output]


def _check_tokens(program: Program, tokens: torch.Tensor) -> None:
    if tokens.dim() != 2 or tokens.shape[1] == 0:
        raise IngotError(f"tokens have shape {tuple(tokens.shape)}, expected (batch, positions)")
    if tokens.shape[1] > program.context:
        raise IngotError(
            f"{tokens.shape[1]} positions are more than the program's context {program.context}"
        )
    rows = program.tensors[program.embedding()].shape[0]
    if int(tokens.min()) < 0 or int(tokens.max()) >= rows:
        raise IngotError(f"a token id lies outside of the table's {rows} rows")


def _last_uses(program: Program) -> dict[int, list[str]]:
    """Return the activations that are done with after each operation."""
    last: dict[str, int] = {}
    for index, operation in enumerate(program.operations):
        for name in operation.inputs + operation.outputs:
            last[name] = index
    last.pop(program.output, None)
    found: dict[int, list[str]] = {}
    for name, index in last.items():
        found.setdefault(index, []).append(name)
    return found


@dataclass(slots=True)
class _Run:
    """One execution: what the operations read from."""

    program: Program
    values: dict[str, torch.Tensor]
    replaced: Mapping[str, torch.Tensor]
    store: TensorStore
    observe: Observer | None
    quantize: bool
    activation: Rounding | None
    observe_output: Observer | None

    def get(self, name: str) -> torch.Tensor:
        """Return an activation, or the values of a weight or constant."""
        if name in self.values:
            return self.values[name]
        if name in self.replaced:
            return self.replaced[name]
        return self.store.get(self.program.tensors[name])


def quantize_activation(x: torch.Tensor) -> torch.Tensor:
    """Round each 32 elements of the last dimension as the runtime's int8 does; gradient 1.

    Shapes: x (..., k); result the same, on the grid amax / 127 of each group.
    """
    k = x.shape[-1]
    padded = functional.pad(x.detach(), (0, -k % ACTIVATION_GROUP))
    groups = _sliced(padded, ACTIVATION_GROUP)
    amax = groups.abs().amax(dim=-1, keepdim=True)
    inverse = torch.where(amax > 0, 127.0 / amax, 0.0)
    rounded = torch.round(groups * inverse) * (amax / 127.0)
    return x + (rounded.flatten(-2)[..., :k] - x.detach())


def _sliced(x: torch.Tensor, width: int) -> torch.Tensor:
    """Return (..., n) as (..., n / width, width)."""
    return x.reshape(*x.shape[:-1], -1, width)


def _embed(run: _Run, operation: Operation) -> tuple[torch.Tensor, ...]:
    tokens, table = (run.get(name) for name in operation.inputs)
    return (functional.embedding(tokens, table),)


def _rms_norm(run: _Run, operation: Operation) -> tuple[torch.Tensor, ...]:
    x, weight = (run.get(name) for name in operation.inputs)
    parameters = _typed(operation, NormParameters)
    slices = _sliced(x, parameters.width)
    mean = slices.square().mean(dim=-1, keepdim=True)
    return ((slices * torch.rsqrt(mean + parameters.epsilon) * weight).flatten(-2),)


def _layer_norm(run: _Run, operation: Operation) -> tuple[torch.Tensor, ...]:
    x, weight, bias = (run.get(name) for name in operation.inputs)
    parameters = _typed(operation, NormParameters)
    slices = _sliced(x, parameters.width)
    shape = (parameters.width,)
    normed = functional.layer_norm(slices, shape, weight, bias, parameters.epsilon)
    return (normed.flatten(-2),)


def _linear(run: _Run, operation: Operation) -> tuple[torch.Tensor, ...]:
    operands = operation.linear()
    x = run.get(operands.x)
    rounded = quantize_activation(x) if run.quantize and run.activation is None else x
    outputs = []
    for index, name in enumerate(operands.weights):
        if run.observe is not None:
            run.observe(name, x)
        if run.program.tensors[name].dtype is Dtype.F16:
            given = x
        else:
            given = rounded if run.activation is None else run.activation(name, x)
        out = functional.linear(given, run.get(name))
        if run.observe_output is not None:
            run.observe_output(name, out)
        if operands.biases:
            out = out + run.get(operands.biases[index])
        outputs.append(out)
    epilogue = _typed(operation, LinearParameters).epilogue
    if epilogue != Epilogue.NONE:
        width = run.program.tensors[operation.outputs[0]].width
        outputs[0] = _gate(outputs[0], epilogue, width)
    if operands.residual is not None:
        outputs[0] = outputs[0] + run.get(operands.residual)
    return tuple(outputs)


def _gate(interleaved: torch.Tensor, epilogue: int, width: int) -> torch.Tensor:
    """Combine tiles gate, up, gate, up, ... into act(gate) * up of `width` elements."""
    tiles = _sliced(interleaved, TILE_ROWS)
    gate, up = (tiles[..., part::2, :].flatten(-2)[..., :width] for part in (0, 1))
    if epilogue == Epilogue.SILU_GATE:
        return functional.silu(gate) * up
    return functional.gelu(gate, approximate="tanh") * up


def _rope(run: _Run, operation: Operation) -> tuple[torch.Tensor, ...]:
    q, k, table = (run.get(name) for name in operation.inputs)
    parameters = _typed(operation, RopeParameters)
    rows = table[: q.shape[1], None, :]
    return _rotate(q, rows, parameters), _rotate(k, rows, parameters)


def _rotate(x: torch.Tensor, rows: torch.Tensor, parameters: RopeParameters) -> torch.Tensor:
    """Turn the pairs of every head. rows (t, 1, r): cosines, then sines."""
    size = parameters.rotary_size
    heads = _sliced(x, parameters.head_size)
    turning, rest = heads[..., :size], heads[..., size:]
    cosine, sine = rows.chunk(2, dim=-1)
    if parameters.style == RopeStyle.HALF_SPLIT:
        a, b = turning.chunk(2, dim=-1)
        turned = torch.cat([a * cosine - b * sine, b * cosine + a * sine], dim=-1)
    else:
        a, b = turning[..., 0::2], turning[..., 1::2]
        pairs = torch.stack([a * cosine - b * sine, b * cosine + a * sine], dim=-1)
        turned = pairs.flatten(-2)
    return torch.cat([turned, rest], dim=-1).flatten(-2)


def _attention(run: _Run, operation: Operation) -> tuple[torch.Tensor, ...]:
    parameters = _typed(operation, AttentionParameters)
    size = parameters.head_size
    q, k, v = (_sliced(run.get(name), size).transpose(1, 2) for name in operation.inputs[:3])
    if run.quantize:
        k, v = k.half().float(), v.half().float()
    shared = parameters.heads // parameters.kv_heads
    if shared > 1:
        k, v = (states.repeat_interleave(shared, dim=1) for states in (k, v))
    seen = _seen(q.shape[-2], parameters)
    mixed = functional.scaled_dot_product_attention(
        q, k, v, attn_mask=seen, is_causal=seen is None, scale=parameters.scale
    )
    return (mixed.transpose(1, 2).flatten(-2),)


def _seen(count: int, parameters: AttentionParameters) -> torch.Tensor | None:
    """Return which positions (column) each position (row) sees, None where it is all before it."""
    if parameters.window == 0 or parameters.window >= count:
        return None
    own, other = torch.arange(count)[:, None], torch.arange(count)
    recent = (other > own - parameters.window) | (other < parameters.sinks)
    return (other <= own) & recent


def _activation(run: _Run, operation: Operation) -> tuple[torch.Tensor, ...]:
    x = run.get(operation.inputs[0])
    kind = _typed(operation, ActivationParameters).kind
    if kind == ActivationKind.SILU:
        return (functional.silu(x),)
    if kind == ActivationKind.GELU_TANH:
        return (functional.gelu(x, approximate="tanh"),)
    return (functional.relu(x),)


def _add(run: _Run, operation: Operation) -> tuple[torch.Tensor, ...]:
    a, b = (run.get(name) for name in operation.inputs)
    return (a + b,)


def _mul(run: _Run, operation: Operation) -> tuple[torch.Tensor, ...]:
    a, b = (run.get(name) for name in operation.inputs)
    return (a * b,)


def _scale(run: _Run, operation: Operation) -> tuple[torch.Tensor, ...]:
    return (run.get(operation.inputs[0]) * _typed(operation, ScalarParameters).value,)


def _soft_cap(run: _Run, operation: Operation) -> tuple[torch.Tensor, ...]:
    cap = _typed(operation, ScalarParameters).value
    return (cap * torch.tanh(run.get(operation.inputs[0]) / cap),)


def _select_last(run: _Run, operation: Operation) -> tuple[torch.Tensor, ...]:
    return (run.get(operation.inputs[0]),)


def _typed(operation: Operation, kind: type[P]) -> P:
    if not isinstance(operation.parameters, kind):
        raise InternalError(f"{operation.opcode.name.lower()} needs {kind.__name__}")
    return operation.parameters


_OPERATIONS: Mapping[Opcode, Callable[[_Run, Operation], tuple[torch.Tensor, ...]]] = {
    Opcode.EMBED: _embed,
    Opcode.RMS_NORM: _rms_norm,
    Opcode.LAYER_NORM: _layer_norm,
    Opcode.LINEAR: _linear,
    Opcode.ROPE: _rope,
    Opcode.ATTENTION: _attention,
    Opcode.ACTIVATION: _activation,
    Opcode.ADD: _add,
    Opcode.MUL: _mul,
    Opcode.SCALE: _scale,
    Opcode.SOFT_CAP: _soft_cap,
    Opcode.SELECT_LAST: _select_last,
}
