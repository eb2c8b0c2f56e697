# SPDX-License-Identifier: Apache-2.0
"""From a checkpoint to a certified file: prepare, draft, measure, judge, rename."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ingot.container import Container, replace_sections
from ingot.errors import IngotError
from ingot.format import Section
from ingot.model import Model
from ingot_compressor.calibration_texts import distance_warning
from ingot_compressor.certificate import (
    Judgement,
    Verdict,
    build_certificate,
    judge,
    measured_sections,
)
from ingot_compressor.draft import Draft, compute_vectors, write_draft
from ingot_compressor.evaluate import Quality, Scores, summarize
from ingot_compressor.evaluation.comparison import CONFIDENCE, generate_items, score_items
from ingot_compressor.evaluation.generation import summarize_generation
from ingot_compressor.evaluation.items import Item, read_task
from ingot_compressor.evaluation.recovery import Recovery
from ingot_compressor.evaluation.tasks import pool
from ingot_compressor.execute import TensorStore
from ingot_compressor.job import CompressOptions, Job, prepare_job
from ingot_compressor.json_values import finite_values
from ingot_compressor.measure import measure_file, open_store, used_isa
from ingot_compressor.passes.hybrid import HybridRow
from ingot_compressor.progress import Progress, SilentProgress
from ingot_compressor.provenance import versions
from ingot_compressor.sparse_choice import compare_sparse, is_sparse
from ingot_compressor.text_windows import reference_losses
from ingot_compressor.texts import Text

__all__ = ["CompressOptions", "CompressReport", "compress"]

# Tokens of the calibration text on which the reference says how hard it is.
COMPARED_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class CompressReport:
    """What came of it; the keys of `ingot compress --json`. Units: bytes, seconds.

    `choice` is what every weight got and why, under a budget; `predicted_decode` and
    `predicted_prefill` then the tokens per second on the target. `hybrid` sets a sparse file beside
    dense ones. `scales` is how those of the body were found: "absmax", "searched" or "hqq".
    """

    file: str
    bytes: int
    recipe: str
    target: str
    verdict: str
    reason: str
    bits_per_weight_body: float
    bits_per_weight_total: float
    formats: dict[str, str]
    quality: dict[str, Any] | None
    seconds: float
    warnings: list[str] = field(default_factory=list)
    choice: dict[str, Any] | None = None
    predicted_decode: float | None = None
    predicted_prefill: float | None = None
    hybrid: list[dict[str, Any]] = field(default_factory=list)
    scales: str = ""


def compress(options: CompressOptions, progress: Progress | None = None) -> CompressReport:
    """Compress a checkpoint; `options.out` is complete or untouched, whatever happens.

    Raises: IngotError for everything that is wrong with the input, the disk, or the quality of the
        result.
    """
    started = time.monotonic()
    items = [item for task in options.tasks for item in read_task(task, options.max_items)]
    job = prepare_job(options, progress or SilentProgress())
    path = options.out.parent / f".ingot-{secrets.token_hex(8)}.draft"
    try:
        draft = write_draft(job, path)
        blobs = {Section.VECTORS: _json(compute_vectors(job, path))}
        finished = _finish(job, path, draft, blobs, items)
    finally:
        path.unlink(missing_ok=True)
    predicted = _predicted(job, draft)
    result = CompressReport(
        file=str(options.out),
        bytes=options.out.stat().st_size,
        recipe=job.recipe.name,
        target=job.target.name,
        verdict=finished.judgement.verdict.value,
        reason=finished.judgement.reason,
        bits_per_weight_body=draft.sizes.bits_per_weight_body,
        bits_per_weight_total=draft.sizes.bits_per_weight_total,
        formats=draft.formats,
        quality=asdict(finished.quality) if finished.quality else None,
        seconds=time.monotonic() - started,
        warnings=job.warnings,
        choice=finite_values(draft.choice.to_json()) if draft.choice is not None else None,
        predicted_decode=predicted["predicted_decode"],
        predicted_prefill=predicted["predicted_prefill"],
        hybrid=[asdict(row) for row in finished.hybrid],
        scales=job.choices.body.scales,
    )
    if options.report is not None:
        # what only a report needs is loaded where one is wanted
        from ingot_compressor.reporting.facts import gather_facts
        from ingot_compressor.reporting.page import write_report

        write_report(options.report, gather_facts(job, draft, asdict(result), finished.hybrid))
    return result


@dataclass(frozen=True, slots=True)
class _Finished:
    """What was measured of the file that was written."""

    judgement: Judgement
    quality: Quality | None
    hybrid: tuple[HybridRow, ...]


def _predicted(job: Job, draft: Draft) -> dict[str, float | None]:
    """Return the tokens per second that a mix gives on its target, None where nothing is known."""
    found = None
    if draft.choice is not None:
        # torch is here already, but not what only speeds need
        from ingot_compressor.reporting.speed import predict_speed

        found = predict_speed(job.program, job.options.out, job.target, job.options.threads)
    return {
        "predicted_decode": None if found is None else found.decode,
        "predicted_prefill": None if found is None else found.prompt,
    }


def _finish(
    job: Job, path: Path, draft: Draft, blobs: dict[Section, bytes], items: Sequence[Item]
) -> _Finished:
    """Measure and judge the draft, then write the final file."""
    scores, facts = _measure(job, path)
    recoveries = _recoveries(job, path, items)
    facts["accuracy"] = {name: asdict(recovery) for name, recovery in recoveries.items()}
    facts["generation"] = _generation(job, path, items)
    judgement = judge(job.recipe.gate, scores, recoveries.get("pooled"))
    if not job.options.certificate:
        judgement = Judgement(Verdict.UNGATED, "nothing was measured, as asked for")
    _refuse_failing(job, judgement)
    hybrid = _hybrid(job, draft, scores)
    quality = None if scores is None else summarize(scores)
    if job.options.certificate:
        facts |= _facts(job, draft)
        facts["hybrid"] = [asdict(row) for row in hybrid]
        with Container(path) as container:
            sections = measured_sections(container)
        certificate = build_certificate(job.recipe, judgement, quality, sections, facts)
        blobs[Section.CERTIFICATE] = _json(certificate)
    with job.progress.stage("Writing", 1) as done:
        replace_sections(path, job.options.out, blobs)
        done(1)
    return _Finished(judgement, quality, hybrid)


def _hybrid(job: Job, draft: Draft, scores: Scores | None) -> tuple[HybridRow, ...]:
    """Compare a sparse draft with dense files, and refuse it where these are better.

    Raises: IngotError unless failing files are allowed.
    """
    if not is_sparse(job):
        return ()
    if scores is None:
        job.warnings.append(
            "superblocks were left out and nothing was measured: dense files of this size may be"
            " better; give --evaluate TEXT to compare"
        )
        return ()
    rows = compare_sparse(job, draft, scores)
    for row in rows:
        if row.chosen:
            continue
        if not job.options.allow_failing:
            raise IngotError(
                f"{row.name} is not worth it: {row.reason}. Nothing was written; leave out the"
                " sparsity and take fewer bits (--bpw, --format), or write it all the same with"
                " --allow-failing"
            )
        job.warnings.append(f"{row.name} is not worth it: {row.reason}")
    return rows


def _generation(job: Job, path: Path, items: Sequence[Item]) -> dict[str, Any] | None:
    """Return what the file makes of the items that ask for text; the gate does not count them."""
    if not items:
        return None
    with Model(path) as model:
        found = summarize_generation(
            generate_items(model, items, job.progress, job.options.threads)
        )
    return None if found is None else asdict(found)


def _refuse_failing(job: Job, judgement: Judgement) -> None:
    if judgement.verdict is Verdict.FAIL:
        if not job.options.allow_failing:
            raise IngotError(
                f"the result fails the gate of recipe '{job.recipe.name}': {judgement.reason}."
                " Nothing was written; take more bits (--bpw, --format q8), or write it all the"
                " same with --allow-failing"
            )
        job.warnings.append(f"the file fails its gate: {judgement.reason}")
    if judgement.verdict is Verdict.INCONCLUSIVE:
        job.warnings.append(f"the verdict is inconclusive: {judgement.reason}")


def _measure(job: Job, path: Path) -> tuple[Scores | None, dict[str, Any]]:
    nothing = {"evaluation": None, "isa": None}
    if job.evaluation is None or not job.options.certificate:
        return None, nothing
    windows = job.windows(job.evaluation, job.recipe.method.evaluation_tokens)
    if not windows:
        job.warnings.append("the evaluation text is too short to measure: the file is ungated")
        return None, nothing
    with job.progress.stage("Measuring", len(windows)) as done:
        threads = job.options.threads
        store = open_store(job.reference)
        scores = measure_file(path, job.reference, store, windows, done, threads)
    _compare_texts(job, scores, store)
    tokens = sum(len(window) for window in windows)
    return scores, {"evaluation": _text_facts(job.evaluation, tokens), "isa": used_isa()}


def _compare_texts(job: Job, scores: Scores, store: TensorStore) -> None:
    """Warn if calibration and evaluation text are far apart, by a few windows of the former."""
    if job.calibration is None:
        return
    windows = job.windows(job.calibration, COMPARED_TOKENS)
    if windows:
        seen = reference_losses(job.reference, windows, store)
        warning = distance_warning(seen, np.concatenate(scores.reference_loss))
        job.warnings.extend([] if warning is None else [warning])


def _recoveries(job: Job, path: Path, items: Sequence[Item]) -> dict[str, Recovery]:
    """Return the file's accuracy over the checkpoint's by task, and pooled; empty without items."""
    if not items:
        return {}
    gate = job.recipe.gate
    with Model(path) as model:
        store = open_store(job.reference)
        answers = score_items(model, job.reference, store, items, job.progress)
    return pool(answers, gate.confidence if gate is not None else CONFIDENCE)


def _facts(job: Job, draft: Draft) -> dict[str, Any]:
    calibration = _text_facts(job.calibration, draft.calibration_tokens)
    if calibration is not None:
        calibration["windows_sha256"] = draft.calibration_digest
    return {
        "sizes": asdict(draft.sizes),
        "formats": draft.formats,
        "scales": job.choices.body.scales,
        "calibration": calibration,
        "removed": draft.removed,
        "training": draft.training.summary(),
        "versions": versions(),
    }


def _text_facts(text: Text | None, tokens: int) -> dict[str, Any] | None:
    if text is None:
        return None
    return {"name": text.name, "sha256": text.sha256, "tokens": tokens}


def _json(value: dict[str, Any]) -> bytes:
    """Return JSON; a figure that is not finite has no place in it and becomes null."""
    text = json.dumps(finite_values(value), ensure_ascii=False, sort_keys=True, allow_nan=False)
    return text.encode("utf-8")
