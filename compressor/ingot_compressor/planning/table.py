# SPDX-License-Identifier: Apache-2.0
"""Size, memory and speed of a model on a target, for every preset and format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ingot.device_rates import DeviceRates, device_rates
from ingot.errors import InvalidArgumentError
from ingot.format import Dtype
from ingot.packing import round_up
from ingot.prediction import decode_rate, first_token_seconds, prefill_rate
from ingot.published import StatedError, load_published
from ingot.targets import Target, load_target
from ingot_compressor.decode_rates import decode_rates
from ingot_compressor.passes.plan import STATE_ALIGNMENT
from ingot_compressor.planning.subjects import Candidate, Subject, read_subject
from ingot_compressor.progress import Progress

__all__ = ["PlanOptions", "PlanRow", "PlanTable", "make_plan"]


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What the command line gives; `prompt` tokens stand before the first token."""

    source: Path
    target: str = "host"
    backend: str = "cpu"
    context: int | None = None
    prompt: int = 128
    threads: int = 1


@dataclass(frozen=True, slots=True)
class PlanRow:
    """One way to store the model, and what it takes.

    `ram` are pairs of context and planned bytes. Units: tokens per second at the beginning and at
    the end of the context; `largest_context` is the longest that the target's memory holds, 0 where
    not even the weights fit. None where the target's products are not known.
    """

    presets: tuple[str, ...]
    body: str
    head: str
    bits_per_weight: float
    file_bytes: int
    ram: tuple[tuple[int, int], ...]
    decode: float
    decode_at_context: float
    prefill: float | None
    first_token_seconds: float | None
    fits: bool
    largest_context: int


@dataclass(frozen=True, slots=True)
class PlanTable:
    """All ways to store a model on one target; `errors` by quantity, how far predictions were off.

    Units: bytes that the target gives a model, tokens.
    """

    model: str
    target: str
    description: str
    backend: str
    context: int
    prompt: int
    usable_bytes: int
    rows: tuple[PlanRow, ...]
    errors: Mapping[str, StatedError]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return all figures."""
        return asdict(self)


def make_plan(options: PlanOptions, progress: Progress) -> PlanTable:
    """Predict every way to store a model on a target; nothing is compressed or written.

    The speed of the host's kernels is measured, a second or less for each format.

    Raises: IngotError for an input or a target that cannot be planned for.
    """
    if options.prompt < 1:
        raise InvalidArgumentError(f"--prompt is {options.prompt}, expected at least 1")
    target = load_target(options.target)
    target.backend(options.backend)
    subject = read_subject(options.source, target, options.target, options.context)
    formats = sorted({one.format for c in subject.candidates for one in c.workload.streams})
    reads = {c.body: sum(one.bytes for one in c.workload.streams) for c in subject.candidates}
    sizes = {name: int(reads.get(name, max(reads.values()))) for name in formats}
    measured = _measured(target, options, sizes, progress)
    rates = device_rates(target, options.backend, formats, load_published(), measured)
    rows = tuple(_row(one, rates, target, options.prompt) for one in subject.candidates)
    return _table(options, target, subject, rates, rows)


def _table(
    options: PlanOptions,
    target: Target,
    subject: Subject,
    rates: DeviceRates,
    rows: tuple[PlanRow, ...],
) -> PlanTable:
    return PlanTable(
        model=subject.name,
        target=target.name,
        description=target.description,
        backend=options.backend,
        context=subject.candidates[0].memory.context,
        prompt=options.prompt,
        usable_bytes=target.memory.usable_bytes,
        rows=rows,
        errors=rates.errors,
        notes=(*subject.notes, *rates.notes, *_device_notes(target)),
    )


def _device_notes(target: Target) -> tuple[str, ...]:
    """Return what the profile recommends and what heat does to the figures above."""
    recommended = f"recommended formats on {target.name}: {', '.join(target.defaults.recommended)}"
    share = target.thermals.sustained_share
    hot = "" if share is None else f"; hot speed is about {share:.0%} of these figures"
    return recommended, f"heat: {target.thermals.advice}{hot}"


def _measured(
    target: Target, options: PlanOptions, sizes: Mapping[str, int], progress: Progress
) -> Mapping[str, float] | None:
    """Return the speed of this machine's kernels, where this machine is the target.

    `sizes` are the bytes that a token reads of a model in each format: caches hold a part of it.
    """
    if target.name != "host" or options.backend != "cpu":
        return None
    found = {}
    with progress.stage("Measuring kernels", len(sizes)) as done:
        for name, size in sizes.items():
            dtype = Dtype[name.upper()]
            found[name] = decode_rates(target, [dtype], options.threads, size)[dtype]
            done(1)
    return found


def _row(candidate: Candidate, rates: DeviceRates, target: Target, prompt: int) -> PlanRow:
    work, machine, peaks = candidate.workload, rates.machine, candidate.peaks()
    usable, context = target.memory.usable_bytes, candidate.memory.context
    return PlanRow(
        presets=candidate.presets,
        body=candidate.body,
        head=candidate.head,
        bits_per_weight=candidate.bits_per_weight,
        file_bytes=candidate.file_bytes,
        ram=tuple((one.context, one.peak_bytes) for one in peaks),
        decode=decode_rate(work, machine),
        decode_at_context=decode_rate(work, machine, context),
        prefill=prefill_rate(work, machine, prompt),
        first_token_seconds=first_token_seconds(work, machine, prompt),
        fits=peaks[-1].peak_bytes <= usable,
        largest_context=_largest_context(candidate, usable),
    )


def _largest_context(candidate: Candidate, usable: int) -> int:
    """Return the longest context, up to the plan's, whose session fits."""
    memory = candidate.memory
    if candidate.peaks()[-1].peak_bytes <= usable:
        return memory.context
    chunk = min(memory.chunk, memory.context)
    per_token = memory.arena_bytes_per_token + memory.scratch_bytes_per_token
    fixed = candidate.weight_bytes + per_token * chunk + memory.arena_bytes_per_selected
    left = (usable - fixed) // memory.state_bytes_per_token
    return max(0, round_up(left - STATE_ALIGNMENT + 1, STATE_ALIGNMENT)) if left > 0 else 0
