# SPDX-License-Identifier: Apache-2.0
"""Searches on calibration text, block by block: AWQ's channel scales and clipped groups.

Both run on the unfused program. Scales leave the function as it is; clipping does not: its result
is meant for the quantizer that it was searched under.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from ingot.errors import InvalidArgumentError
from ingot.format import Opcode, Role
from ingot_compressor.execute import TensorStore, execute_block
from ingot_compressor.ir import FloatArray, Program
from ingot_compressor.numerics.scaling import (
    activation_aware_scales,
    clip_groups,
    group_grams,
    relative_magnitudes,
    search_clips,
)
from ingot_compressor.passes.blocks import split_blocks
from ingot_compressor.passes.flow import Flow, Site, check_unfused, find_sites
from ingot_compressor.passes.quantize import body_names
from ingot_compressor.passes.transform import apply_scales, load_matrix, transform_tensor

__all__ = [
    "Quantizer",
    "ScaleChoice",
    "clip_weights",
    "parent_program",
    "scale_for_activations",
]

# A matrix (n, k) and its inputs' mean squares (k,) -> the matrix as quantized.
Quantizer = Callable[[FloatArray, "NDArray[np.float64] | None"], FloatArray]
RATIOS = 20


@dataclass(frozen=True, slots=True)
class ScaleChoice:
    """What a search found for one activation; losses are mean squared errors of its parent.

    `ratio` None: no ratio was better than leaving the channels as they are.
    Shapes: scales (channels,) float64.
    """

    x: str
    ratio: float | None
    loss: float
    plain_loss: float
    scales: NDArray[np.float64]


def scale_for_activations(
    program: Program,
    windows: Sequence[NDArray[np.int64]],
    quantizer: Quantizer,
    *,
    ratios: int = RATIOS,
    group: int = 32,
    duo: bool = True,
    store: TensorStore | None = None,
    progress: Callable[[ScaleChoice], None] | None = None,
) -> tuple[Program, tuple[ScaleChoice, ...]]:
    """Return the program with the scales of each site that lose least, and what was chosen.

    Candidates are `ratios` steps of the ratio in 0..1 and no scaling at all; each is judged by the
    output of the site's parent: attention or gate with the linear behind it, or the linear itself
    where it is alone, with the site's weights quantized. Sites of head and embedding are left.
    `group` is what magnitudes of weights are relative to.

    Shapes: windows each (t,) int64, of one length.
    Raises: InvalidArgumentError for a fused program or no windows.
    Source: AWQ (Lin et al. 2023, arXiv:2306.00978), section 3.2; 20 ratios as there.
    Cost: (ratios + 1) quantizations of each weight and forward passes of each parent; memory for
        the inputs of one block.
    """
    sites = {site.x: site for site in find_sites(program)}
    body = frozenset(body_names(program))
    search = _Search(quantizer, np.linspace(0, 1, ratios), group, duo)
    chosen: list[ScaleChoice] = []
    scaled = program
    for seen in _block_inputs(program, windows, store):
        for x, values in seen.items():
            if x not in sites or not body.issuperset(sites[x].weights):
                continue
            choice = search.best(scaled, sites[x], values)
            scaled = apply_scales(scaled, {x: choice.scales})
            chosen.append(choice)
            if progress is not None:
                progress(choice)
    return scaled, tuple(chosen)


@dataclass(frozen=True, slots=True)
class _Search:
    """The candidates of a scale search."""

    quantizer: Quantizer
    ratios: NDArray[np.float64]
    group: int
    duo: bool

    def best(self, program: Program, site: Site, x: torch.Tensor) -> ScaleChoice:
        """Return the choice for one site. Shapes: x (b, t, k)."""
        parent = parent_program(program, site.x)
        weights = {name: load_matrix(program.tensors[name]) for name in site.weights}
        store = TensorStore()
        rows = x.flatten(0, -2)
        squares = rows.double().square().mean(dim=0).numpy()
        x_mean = site.by_channel(rows.abs().double().mean(dim=0).numpy()).mean(axis=0)
        relative = relative_magnitudes(list(weights.values()), self.group)
        w_mean = site.by_channel(relative).mean(axis=0)
        exact = execute_block(parent, x, store=store)

        def loss(scales: NDArray[np.float64]) -> float:
            columns = site.columns(scales)
            tried = {
                name: torch.from_numpy(self._rounded(w, columns, squares))
                for name, w in weights.items()
            }
            got = execute_block(parent, x, store=store, weights=tried)
            return float((got - exact).double().square().mean())

        with torch.inference_mode():
            plain = loss(np.ones_like(x_mean))
            best = ScaleChoice(site.x, None, plain, plain, np.ones_like(x_mean))
            for ratio in self.ratios.tolist():
                scales = activation_aware_scales(x_mean, w_mean, ratio, self.duo)
                found = loss(scales)
                if found < best.loss:
                    best = replace(best, ratio=ratio, loss=found, scales=scales)
        return best

    def _rounded(
        self, w: FloatArray, columns: NDArray[np.float64], squares: NDArray[np.float64]
    ) -> FloatArray:
        scaled = (w * columns).astype(np.float32)
        rounded = self.quantizer(scaled, squares / columns**2)
        return (rounded / columns).astype(np.float32)


def parent_program(program: Program, x: str) -> Program:
    """Return the part of a program from one activation to where all that it feeds has met again.

    Where what they meet in is not a linear's result, the linear that alone reads it joins: the
    projection behind an attention or a gate.

    Raises: InvalidArgumentError if another activation joins before.
    """
    flow = Flow.of(program)
    place = {id(op): index for index, op in enumerate(program.operations)}
    last = {name: place[id(ops[-1])] for name, ops in flow.readers.items()}
    alive, operations = {x}, []
    for index, operation in enumerate(program.operations):
        if not alive & set(operation.inputs):
            continue
        if any(
            program.tensors[name].role is Role.ACTIVATION and name not in alive
            for name in operation.inputs
        ):
            break
        operations.append(operation)
        alive |= set(operation.outputs)
        alive = {name for name in alive if last.get(name, len(last)) > index}
        if len(alive) == 1 and operation.opcode is Opcode.LINEAR and x not in alive:
            return replace(
                program, operations=tuple(operations), input=x, output=operation.outputs[0]
            )
    raise InvalidArgumentError(f"what '{x}' feeds does not meet in one linear")


def clip_weights(
    program: Program,
    windows: Sequence[NDArray[np.int64]],
    quantizer: Quantizer,
    *,
    group: int = 32,
    names: Collection[str] | None = None,
    store: TensorStore | None = None,
    progress: Callable[[str], None] | None = None,
) -> Program:
    """Return the program with each group of each weight clipped where that quantizes best.

    `names` are the weights to search, else every one of the body but those that make queries and
    keys, where clipping is known to hurt.

    Raises: InvalidArgumentError for a fused program or no windows.
    Source: AWQ's clip search: 20 steps down to half of the largest magnitude.
    Cost: 22 quantizations of each weight; memory for the inputs of one block.
    """
    check_unfused(program)
    wanted = set(body_names(program)) - _query_and_key_weights(program) if names is None else names
    flow = Flow.of(program)
    changed = {}
    for seen in _block_inputs(program, windows, store):
        for x, values in seen.items():
            rows = values.flatten(0, -2).numpy()
            squares = np.einsum("ij,ij->j", rows, rows, dtype=np.float64) / len(rows)
            grams = group_grams(rows, group)
            for name in (n for op in flow.linear_readers(x) for n in op.linear().weights):
                if name not in wanted:
                    continue
                tensor = program.tensors[name]
                rounded = partial(_quantized, quantizer, squares)
                limits = search_clips(load_matrix(tensor), grams, rounded)
                changed[name] = transform_tensor(tensor, partial(_clipped, limits, group))
                if progress is not None:
                    progress(name)
    return program.with_tensors(changed)


def _quantized(quantizer: Quantizer, squares: NDArray[np.float64], w: FloatArray) -> FloatArray:
    return quantizer(w, squares)


def _clipped(limits: FloatArray, group: int, w: FloatArray) -> FloatArray:
    return clip_groups(w, limits, group)


def _query_and_key_weights(program: Program) -> set[str]:
    """Return the weights whose results an attention compares, through norms and rope."""
    flow = Flow.of(program)
    found: set[str] = set()
    for operation in program.operations:
        if operation.opcode is not Opcode.ATTENTION:
            continue
        ahead = list(operation.inputs[:2])
        while ahead:
            name = ahead.pop()
            maker = flow.maker.get(name)
            if maker is None:
                continue
            if maker.opcode is Opcode.LINEAR:
                found.add(maker.linear().weights[maker.outputs.index(name)])
            else:
                ahead += maker.inputs
    return found


def _block_inputs(
    program: Program, windows: Sequence[NDArray[np.int64]], store: TensorStore | None
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield, block by block, what the linears of each read: by activation, (b, t, k)."""
    if not windows:
        raise InvalidArgumentError("a search on activations needs at least one window of text")
    store = store or TensorStore(keep=False)
    flow = Flow.of(program)
    read_by = {
        weight: op.linear().x
        for op in program.operations
        if op.opcode is Opcode.LINEAR
        for weight in op.linear().weights
    }
    x = torch.from_numpy(np.stack(windows))
    with torch.inference_mode():
        for block in split_blocks(program)[:-1]:
            seen: dict[str, torch.Tensor] = {}

            def observe(
                name: str, value: torch.Tensor, seen: dict[str, torch.Tensor] = seen
            ) -> None:
                seen[read_by[name]] = value

            x = execute_block(block, x, store=store, observe=observe)
            yield {name: value for name, value in seen.items() if flow.linear_readers(name)}
