# SPDX-License-Identifier: Apache-2.0
"""What is planned for: a checkpoint in every preset and format, or a file that is already made.

Of a checkpoint only config.json is read, and the size of its tokenizer where there is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NoReturn

import numpy as np

from ingot.container import Container
from ingot.errors import IngotError, InternalError
from ingot.format import (
    AttentionParameters,
    Dtype,
    LinearParameters,
    Opcode,
    PeakRecord,
    Role,
    Section,
)
from ingot.packing import WEIGHT_FORMATS, packed_bytes
from ingot.prediction import Stream, Workload, bytes_per_weight
from ingot.targets import Target
from ingot_compressor.choosing import overhead_bytes
from ingot_compressor.importers import Imported, choose_context, read_model
from ingot_compressor.importers.checkpoint import read_configuration, read_json
from ingot_compressor.importers.configuration import Configuration
from ingot_compressor.importers.decoder import expected_tensors, lower
from ingot_compressor.ir import FloatArray, Program, Weight
from ingot_compressor.job import CompressOptions, check_options
from ingot_compressor.numerics import Encoding, group_of
from ingot_compressor.passes.budgets import streams, weights_section_bytes
from ingot_compressor.passes.fuse import drop_unused, fuse
from ingot_compressor.passes.plan import Plan, plan
from ingot_compressor.passes.quantize import Choices, assign, measure_sizes
from ingot_compressor.recipe import PRESETS

__all__ = ["Candidate", "Subject", "read_subject"]

# Bytes of a scale of kv8, one for each head, in keys and in values.
KV_SCALE_BYTES = 2


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to store the model. `presets` are those that give it.

    Units: bits per weight of all weights as stored, bytes; `memory` is the session's plan.
    """

    presets: tuple[str, ...]
    body: str
    head: str
    bits_per_weight: float
    workload: Workload
    memory: Plan
    weight_bytes: int
    file_bytes: int

    def peaks(self) -> tuple[PeakRecord, ...]:
        """Return the planned resident bytes at contexts up to the longest."""
        return self.memory.peaks(self.weight_bytes)


@dataclass(frozen=True, slots=True)
class Subject:
    """A model by name, the ways to store it, and what to know of it."""

    name: str
    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...] = ()


def read_subject(source: Path, target: Target, target_name: str, context: int | None) -> Subject:
    """Return what is planned for.

    `source` is a checkpoint's folder, a config.json alone, or an .ingot file; `context` is the most
    positions, by default the target's, at most the model's.

    Raises: IngotError for an input that is damaged or not supported.
    """
    if source.suffix == ".ingot":
        return _read_file(source)
    if source.is_file():
        config, name = _alone(source), source.stem
        folder = None
    else:
        config, name, folder = read_configuration(source), source.resolve().name, source
    tokenizer = folder / "tokenizer.json" if folder is not None else None
    known = tokenizer is not None and tokenizer.is_file()
    text = tokenizer.read_bytes() if tokenizer is not None and known else b""
    imported = _import_shapes(config, name, text, target, context)
    notes = () if known else ("no tokenizer.json beside it: sizes of files are without it",)
    return Subject(name, tuple(_candidates(imported, source, target_name)), notes)


def _alone(path: Path) -> Configuration:
    values = read_json(path)
    if not isinstance(values, dict):
        raise IngotError(f"{path}: expected a JSON object, found {type(values).__name__}")
    return Configuration(values)


class _Shapes:
    """A checkpoint of which only the shapes are known; its constants are zeros."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._shapes = shapes

    def array(self, name: str) -> FloatArray:
        """Return zeros in the shape of a tensor."""
        return np.zeros(self._shapes[name], np.float32)

    def weight(self, name: str) -> Weight:
        """Return a matrix that nobody may load."""
        n, k = self._shapes[name]
        return Weight(name, (n, k), partial(_refuse, name))


def _refuse(name: str) -> NoReturn:
    raise InternalError(f"a plan has no values of '{name}'")


def _import_shapes(
    config: Configuration, name: str, tokenizer: bytes, target: Target, context: int | None
) -> Imported:
    """Return the fused program of a configuration, without a single weight."""
    model_type, decoder = read_model(config)
    wanted = context if context is not None else min(target.defaults.context, decoder.longest)
    length = choose_context(decoder, wanted)
    meta = {"name": name, "model_type": model_type}
    reader = _Shapes(expected_tensors(decoder))
    chunk = min(target.defaults.chunk, length)
    program = lower(decoder, reader, length, chunk, decoder.table_rows, meta)
    return Imported(replace(fuse(program), chunk=chunk), tokenizer, {}, meta)


def _candidates(imported: Imported, source: Path, target_name: str) -> list[Candidate]:
    """Return what each preset gives, then the other formats of the body, largest first."""
    presets: dict[tuple[Encoding, Encoding, Encoding], list[str]] = {}
    for preset in PRESETS:
        choices = _choices(source, target_name, preset)
        # a preset that searches stores the same bytes as one that does not
        kinds = (choices.body, choices.head, choices.embedding)
        body, head, embedding = (replace(one, search=False) for one in kinds)
        presets.setdefault((body, head, embedding), []).append(preset)
    found = [_candidate(imported, Choices(*key), tuple(names)) for key, names in presets.items()]
    stored = {one.body for one in found}
    first = Choices(*next(iter(presets)))
    names = sorted((Dtype(one).name.lower() for one in WEIGHT_FORMATS), key=bytes_per_weight)
    for name in reversed(names):
        if name not in stored:
            body = replace(first.body, dtype=Dtype[name.upper()])
            found.append(_candidate(imported, replace(first, body=body), ()))
    return found


def _choices(source: Path, target_name: str, preset: str) -> Choices:
    options = CompressOptions(source, Path(), target=target_name, preset=preset)
    return check_options(options)[2]


def _candidate(imported: Imported, choices: Choices, presets: tuple[str, ...]) -> Candidate:
    program = imported.program
    encodings = assign(program, choices)
    stored = {
        one.name: (encodings[one.name].dtype, _packed(one.shape, encodings[one.name]))
        for one in program.weights()
    }
    weights = weights_section_bytes(program, encodings)
    return Candidate(
        presets=presets,
        body=choices.body.dtype.name.lower(),
        head=choices.head.dtype.name.lower(),
        bits_per_weight=measure_sizes(program, encodings).bits_per_weight_total,
        workload=_workload(program, streams(program, stored)),
        memory=plan(drop_unused(program)),
        weight_bytes=weights,
        file_bytes=weights + overhead_bytes(program, imported),
    )


def _packed(shape: tuple[int, ...], encoding: Encoding) -> int:
    n, k = shape
    return packed_bytes(encoding.dtype, n, k, group_of(encoding.dtype, encoding.group))


def _workload(program: Program, found: tuple[Stream, ...]) -> Workload:
    states = [one.shape for one in program.tensors.values() if one.role is Role.STATE]
    attentions = [one.parameters for one in program.operations if one.opcode is Opcode.ATTENTION]
    return Workload(found, _kv_bytes(states), _attention_macs(attentions))


def _kv_bytes(states: list[tuple[int, ...]]) -> int:
    """Return the bytes of keys and values of one position as kv8, the runtime's default."""
    return sum(heads * (size + KV_SCALE_BYTES) for heads, _, size, *_ in states)


def _attention_macs(parameters: Sequence[object]) -> int:
    """Return the products of one query with one position, in all layers."""
    return sum(
        2 * one.heads * one.head_size for one in parameters if isinstance(one, AttentionParameters)
    )


def _read_file(path: Path) -> Subject:
    """Return a file as its own only candidate."""
    with Container(path) as container:
        header, meta = container.plan, container.json(Section.META)
        body, head = _file_formats(container)
        weights = [one for one in container.tensors if one.role == Role.WEIGHT]
        elements = sum(one.shape[0] * one.shape[1] for one in weights)
        memory = Plan(
            offsets={},
            arena_bytes_per_token=header.arena_bytes_per_token,
            arena_bytes_per_selected=header.arena_bytes_per_selected,
            scratch_bytes_per_token=header.scratch_bytes_per_token,
            state_bytes_per_token=header.state_bytes_per_token,
            context=header.context,
            chunk=header.chunk,
        )
        candidate = Candidate(
            presets=(),
            body=body,
            head=head,
            bits_per_weight=8 * sum(one.size for one in weights) / elements,
            workload=_file_workload(container),
            memory=memory,
            weight_bytes=len(container.section(Section.WEIGHTS)),
            file_bytes=container.size,
        )
    named = meta.get("name") if isinstance(meta, dict) else None
    return Subject(str(named or path.stem), (candidate,))


def _file_rows(container: Container) -> tuple[dict[int, int], int]:
    """Return the rows of each weight that a token reads, and which weight is the head."""
    rows: dict[int, int] = {}
    head = 0
    for index, instruction in enumerate(container.instructions):
        inputs, parameters = container.inputs(index), container.parameters(index)
        if instruction.opcode == Opcode.EMBED:
            rows[inputs[1]] = rows.get(inputs[1], 0) + 1
        elif isinstance(parameters, LinearParameters):
            for weight in inputs[1 : 1 + parameters.weights]:
                rows[weight] = rows.get(weight, 0) + container.tensors[weight].shape[0]
            head = inputs[1]
    return rows, head


def _file_workload(container: Container) -> Workload:
    rows, head = _file_rows(container)
    found = []
    for weight, count in rows.items():
        record = container.tensors[weight]
        n, k = record.shape[:2]
        name = Dtype(record.dtype).name.lower()
        found.append(Stream(name, count / n * record.size, count * k, weight != head))
    states = [tuple(one.shape) for one in container.tensors if one.role == Role.STATE]
    attentions = [container.parameters(index) for index in range(len(container.instructions))]
    return Workload(tuple(found), _kv_bytes(states), _attention_macs(attentions))


def _file_formats(container: Container) -> tuple[str, str]:
    """Return the formats of body and head; of a mix all, as "c4+q8"."""
    rows, head = _file_rows(container)
    names = {one: Dtype(container.tensors[one].dtype).name.lower() for one in rows}
    body = sorted({names[one] for one in rows if one != head and rows[one] > 1})
    return "+".join(body), names[head]
