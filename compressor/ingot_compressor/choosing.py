# SPDX-License-Identifier: Apache-2.0
"""The formats of a compression: those named, or a mix under the budgets of the command line."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ingot.format import (
    SECTION_ALIGNMENT,
    WEIGHTS_ALIGNMENT,
    Header,
    Instruction,
    Section,
    SectionRecord,
    TensorRecord,
)
from ingot.packing import round_up
from ingot_compressor.calibration import Statistics
from ingot_compressor.decode_rates import decode_rates, prefill_rates
from ingot_compressor.importers import Imported
from ingot_compressor.ir import Program
from ingot_compressor.job import Job
from ingot_compressor.measure import open_store
from ingot_compressor.numerics import Encoding
from ingot_compressor.passes.budgets import Budgets
from ingot_compressor.passes.fuse import drop_unused
from ingot_compressor.passes.mixed import Choice, Evidence, choose_formats, format_choice
from ingot_compressor.passes.quantize import BUDGET_FORMATS, assign
from ingot_compressor.passes.sensitivity import Quantizer
from ingot_compressor.spool import Spool

__all__ = ["Chosen", "bytes_beside_weights", "choose_encodings", "overhead_bytes"]

# Tokens on which sensitivities are measured and whole mixes compared: fewer for large models, whose
# every token costs as many operations as they have weights.
SENSITIVITY_TOKENS = (1024, 2048)
HELD_OUT_TOKENS = (2048, 4096)
TOKENS_TIMES_WEIGHTS = 1 << 36
# What certificate, vectors and the facts in the meta section take together, at most.
LATER_BYTES = 32 << 10

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The encoding of every weight by name, and how a mix was found: None where none was asked."""

    encodings: dict[str, Encoding]
    choice: Choice | None = None


def choose_encodings(job: Job, statistics: Statistics, folder: Path) -> Chosen:
    """Return the encoding of every weight; candidates wait on disk in `folder`.

    Raises: InvalidArgumentError naming a budget that cannot be met and what is possible.
    """
    if not job.options.budgeted:
        return Chosen(assign(job.program, job.choices))
    budgets = _budgets(job)
    total = budgets.bits is None and job.options.head_format is None
    windows, held_out = _windows(job)
    with Spool(folder) as spool:
        evidence = Evidence(
            quantizer=Quantizer(statistics, job.options.threads, spool.hold),
            store=open_store(job.program),
            windows=windows,
            held_out=held_out,
            progress=job.progress,
        )
        choice = choose_formats(job.program, job.choices, budgets, evidence, total)
    _LOGGER.info("%s", format_choice(choice))
    if choice.divergence is None:
        job.warnings.append(
            "no text to measure on: the mix is that of the least relative errors of the weights"
        )
    return Chosen(choice.encodings, choice)


def _budgets(job: Job) -> Budgets:
    options = job.options
    formats = {dtype for dtype, _ in BUDGET_FORMATS}
    formats |= {one.dtype for one in (job.choices.head, job.choices.embedding)}
    rates, products = {}, {}
    if options.min_decode is not None:
        rates = dict(decode_rates(job.target, sorted(formats), options.threads))
    if options.min_prefill is not None:
        chunk = job.program.chunk
        products = dict(prefill_rates(job.target, sorted(formats), options.threads, chunk))
    return Budgets(
        bits=options.bpw,
        file_bytes=options.max_bytes,
        ram_bytes=options.max_ram,
        decode=options.min_decode,
        mean_kl=options.max_kl,
        beside_weights=bytes_beside_weights(job),
        decode_rates=rates,
        prefill=options.min_prefill,
        prefill_rates=products,
    )


def bytes_beside_weights(job: Job) -> int:
    """Return the most bytes that a file takes besides its section of weights."""
    return overhead_bytes(job.program, job.imported)


def overhead_bytes(program: Program, imported: Imported) -> int:
    """Return the most bytes besides weights of the file of a program with these texts."""
    program = drop_unused(program)
    operands = sum(len(op.inputs) + len(op.outputs) for op in program.operations)
    names = sum(len(name.encode("utf-8")) + 1 for name in program.tensors)
    tables = Header.SIZE + len(Section) * SectionRecord.SIZE + names + 4 * operands
    tables += TensorRecord.SIZE * len(program.tensors)
    tables += (Instruction.SIZE + SECTION_ALIGNMENT) * len(program.operations)
    texts = len(imported.tokenizer_json) + len(repr(imported.chat)) + len(repr(imported.meta))
    return round_up(tables + texts, WEIGHTS_ALIGNMENT) + LATER_BYTES


def _windows(job: Job) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
    """Return windows of the calibration text for sensitivities, and others for comparison."""
    if job.calibration is None:
        return [], []
    weights = sum(int(np.prod(tensor.shape)) for tensor in job.program.weights())
    tokens, compared = (
        min(max(TOKENS_TIMES_WEIGHTS // weights, least), most)
        for least, most in (SENSITIVITY_TOKENS, HELD_OUT_TOKENS)
    )
    found = job.windows(job.calibration, tokens + compared)
    if len(found) < 2:
        return found, found
    share = max(1, round(len(found) * tokens / (tokens + compared)))
    first = set(np.linspace(0, len(found) - 1, share).round().astype(int).tolist())
    return (
        [window for index, window in enumerate(found) if index in first],
        [window for index, window in enumerate(found) if index not in first],
    )
