# SPDX-License-Identifier: Apache-2.0
"""A file without some superblocks against dense files of its size, made and measured beside it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ingot.errors import InvalidArgumentError
from ingot_compressor.draft import Draft, write_draft
from ingot_compressor.evaluate import Scores
from ingot_compressor.job import Job
from ingot_compressor.measure import measure_file, open_store
from ingot_compressor.numerics import Encoding
from ingot_compressor.passes.hybrid import HybridRow, MeasuredPoint, compare_with_dense
from ingot_compressor.passes.quantize import BUDGET_FORMATS, assign, measure_sizes

__all__ = ["DenseJob", "compare_sparse", "dense_jobs", "is_sparse"]


@dataclass(frozen=True, slots=True)
class DenseJob:
    """The same compression with nothing left out, in formats of about the sparse file's size."""

    name: str
    job: Job


def is_sparse(job: Job) -> bool:
    """Tell whether superblocks are left out."""
    return job.choices.body.sparsity > 0


def compare_sparse(job: Job, draft: Draft, scores: Scores) -> tuple[HybridRow, ...]:
    """Measure dense neighbours of a sparse draft and return the verdict on it.

    The neighbours are made and measured as the draft was: same recipe, texts and windows.
    Raises: as `write_draft`. Cost: two or three compressions more.
    """
    dense = []
    for one in dense_jobs(job, draft.sizes.weight_bytes):
        path = job.options.out.parent / f".ingot-{secrets.token_hex(8)}.draft"
        try:
            made = write_draft(one.job, path)
            found = _measured(one, path)
        finally:
            path.unlink(missing_ok=True)
        dense.append(MeasuredPoint(one.name, made.sizes.weight_bytes, _mean(found)))
    body = draft.formats["body"]
    name = f"{body} without {job.choices.body.sparsity:.0%} of its superblocks"
    sizes = draft.sizes
    sparse = MeasuredPoint(name, sizes.weight_bytes, _mean(scores), sizes.bits_per_weight_body)
    return compare_with_dense(dense, [sparse])


def dense_jobs(job: Job, weight_bytes: int) -> tuple[DenseJob, ...]:
    """Return the largest uniform format that is not above a size, and the smallest that is.

    Under a budget the dense mix within the same limits joins them. Units: bytes of all weights.
    """
    plain = replace(job.choices.body, sparsity=0.0)
    sizes = {
        one: measure_sizes(job.program, assign(job.program, replace(job.choices, body=one)))
        for one in _uniform(plain)
    }
    bytes_of = {one: found.weight_bytes for one, found in sizes.items()}
    below = [one for one in bytes_of if bytes_of[one] <= weight_bytes]
    above = [one for one in bytes_of if bytes_of[one] > weight_bytes]
    picked = [max(below, key=lambda one: bytes_of[one])] if below else []
    picked += [min(above, key=lambda one: bytes_of[one])] if above else []
    found = [DenseJob(_name(one), _dense_job(job, one, _name(one))) for one in picked]
    if job.options.budgeted:
        found.append(DenseJob("mix", _dense_job(job, plain, "mix", budgeted=True)))
    return tuple(found)


def _uniform(plain: Encoding) -> Iterator[Encoding]:
    for dtype, group in BUDGET_FORMATS:
        yield replace(plain, dtype=dtype, group=group)


def _name(encoding: Encoding) -> str:
    return encoding.dtype.name.lower()


def _dense_job(job: Job, body: Encoding, name: str, budgeted: bool = False) -> Job:
    """Return the job without sparsity; what it warns of was said of the sparse file already."""
    options = replace(job.options, sparsity=0.0, work=_work(job.options.work, name))
    if not budgeted:
        options = replace(
            options,
            bpw=None,
            max_bytes=None,
            max_ram=None,
            min_decode=None,
            min_prefill=None,
            max_kl=None,
        )
    # parts went from the program already; what is left of the section chooses superblocks
    recipe, choices = replace(job.recipe, prune=None), replace(job.choices, body=body)
    return replace(job, options=options, recipe=recipe, choices=choices, warnings=[])


def _work(folder: Path | None, name: str) -> Path | None:
    return None if folder is None else folder / f"dense_{name}"


def _measured(one: DenseJob, path: Path) -> Scores:
    job = one.job
    if job.evaluation is None:
        raise InvalidArgumentError("nothing to measure on: give --evaluate TEXT")
    windows = job.windows(job.evaluation, job.recipe.method.evaluation_tokens)
    with job.progress.stage(f"Measuring {one.name}", len(windows)) as done:
        store = open_store(job.reference)
        return measure_file(path, job.reference, store, windows, done, job.options.threads)


def _mean(scores: Scores) -> float:
    return float(np.concatenate(scores.kl).mean())
