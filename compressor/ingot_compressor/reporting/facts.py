# SPDX-License-Identifier: Apache-2.0
"""Everything that the report of a compression says, gathered from the job and from its file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot.container import Container
from ingot.format import Section
from ingot_compressor.draft import Draft
from ingot_compressor.evaluation.layers import LayerError, compare_layers, program_of_file
from ingot_compressor.job import Job
from ingot_compressor.json_values import finite_values
from ingot_compressor.passes.blocks import split_blocks
from ingot_compressor.passes.hybrid import HybridRow
from ingot_compressor.passes.mixed import Choice
from ingot_compressor.provenance import versions
from ingot_compressor.reporting.samples import Sample, take_samples
from ingot_compressor.reporting.speed import Speed, measure_speed
from ingot_compressor.reporting.tensors import TensorError, tensor_errors
from ingot_compressor.texts import Text, bundled_text, read_text

__all__ = ["Facts", "gather_facts"]

# Text on which layers are compared: three runs of the model over it.
LAYER_TOKENS = 1024
SAMPLES = 2
# What a result has that the page shows from its source.
OWN = ("choice", "hybrid")

Windows = Sequence[NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class Facts:
    """What a report shows. `result` has the keys of `ingot compress --json`.

    `certificate` is the file's, empty without one. `training` has the figures, `losses` the curve.
    `compared_on` names the text behind `layers` and `samples`, None where there was none. `choice`
    is None where formats were named, `speed` where nothing is known of the target's memory.
    """

    result: Mapping[str, Any]
    certificate: Mapping[str, Any]
    source: Mapping[str, Any]
    recipe: Mapping[str, Any]
    texts: Mapping[str, Any]
    versions: Mapping[str, str]
    training: Mapping[str, Any]
    losses: tuple[float, ...]
    tensors: tuple[TensorError, ...]
    compared_on: str | None
    layers: tuple[LayerError, ...]
    choice: Choice | None
    speed: Speed | None
    samples: tuple[Sample, ...]
    hybrid: tuple[HybridRow, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return all of it as one JSON object; figures that are not finite are null."""
        plain = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "choice"}
        for name in ("tensors", "layers", "samples", "hybrid"):
            plain[name] = [asdict(one) for one in plain[name]]
        plain["speed"] = asdict(self.speed) if self.speed is not None else None
        plain["choice"] = self.choice.to_json() if self.choice is not None else None
        result: dict[str, Any] = finite_values(plain)
        return result


def gather_facts(
    job: Job, draft: Draft, result: Mapping[str, Any], hybrid: Sequence[HybridRow] = ()
) -> Facts:
    """Measure what the certificate does not have, on the finished file.

    Cost: a read of every weight, three runs of the model on LAYER_TOKENS tokens, some tens on short
        prompts, and a few seconds of decoding where the target is this machine.
    """
    path, options = job.options.out, job.options
    with Container(path) as container:
        certificate = json.loads(bytes(container.section(Section.CERTIFICATE)) or b"{}")
        meta = json.loads(bytes(container.section(Section.META)) or b"{}")
    with job.progress.stage("Reading weights", len(list(job.program.weights()))) as done:
        errors = []
        for error in tensor_errors(job.program, path):
            errors.append(error)
            done(len(errors))
    text = _text(job)
    windows = job.windows(text, LAYER_TOKENS) if text is not None else []
    with job.progress.stage("Speed", 1) as done:
        speed = measure_speed(job.program, path, job.target, options.threads)
        done(1)
    return Facts(
        result={k: v for k, v in result.items() if k not in OWN} | {"file": path.name},
        certificate=certificate,
        source={"target": job.target.name, "licence": meta.get("licence")} | meta.get("source", {}),
        recipe=asdict(job.recipe),
        texts=_texts(job, draft, certificate),
        versions=versions(),
        training=draft.training.summary(),
        losses=draft.training.losses,
        tensors=tuple(errors),
        compared_on=text.name if text is not None and windows else None,
        layers=_layers(job, windows),
        choice=draft.choice,
        speed=speed,
        samples=_samples(job, windows),
        hybrid=tuple(hybrid),
    )


def _text(job: Job) -> Text | None:
    """Return the text that was measured on, else that of the calibration, else the bundled one."""
    bundled = bundled_text("evaluation")
    return job.evaluation or job.calibration or (read_text(bundled) if bundled else None)


def _texts(job: Job, draft: Draft, certificate: Mapping[str, Any]) -> dict[str, Any]:
    """Return name, digest and tokens of what was calibrated and measured on, None for nothing."""
    used, calibration = job.calibration, None
    if used is not None:
        tokens = draft.calibration_tokens
        calibration = {"name": used.name, "sha256": used.sha256, "tokens": tokens}
    return {"calibration": calibration, "evaluation": certificate.get("evaluation")}


def _layers(job: Job, windows: Windows) -> tuple[LayerError, ...]:
    if not windows:
        return ()
    stored = program_of_file(job.program, job.options.out)
    with job.progress.stage("Error by layer", len(split_blocks(job.program))) as done:
        return tuple(compare_layers(job.program, stored, windows, done))


def _samples(job: Job, windows: Windows) -> tuple[Sample, ...]:
    picked = [windows[0], windows[-1]][: min(SAMPLES, len(windows))] if windows else []
    if not picked:
        return ()
    with job.progress.stage("Text samples", len(picked)) as done:
        return take_samples(job.reference, job.options.out, picked, job.options.threads, done)
