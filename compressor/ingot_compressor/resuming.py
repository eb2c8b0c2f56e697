# SPDX-License-Identifier: Apache-2.0
"""What a killed compression goes on from: its folder, the statistics and the chosen formats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields

from ingot_compressor.calibration import Statistics
from ingot_compressor.choosing import Chosen
from ingot_compressor.job import Job
from ingot_compressor.json_values import annotated_value
from ingot_compressor.provenance import source_facts, versions
from ingot_compressor.work import WorkFolder, work_key

__all__ = ["kept_choice", "kept_statistics", "open_work"]

STATISTICS, CHOICE = "statistics", "choice"
# Options that say where results go, not what they are.
PLACES = ("out", "work", "report")


def open_work(job: Job) -> WorkFolder | None:
    """Return the job's folder of finished parts, None where none was asked for.

    Its key is all that parts depend on: options, recipe, formats asked for, texts, checkpoint and
    the versions of what computes.
    Raises: InvalidArgumentError if the folder holds the work of another compression; StorageError.
    """
    if job.options.work is None:
        return None
    options = {key: one for key, one in asdict(job.options).items() if key not in PLACES}
    facts = {
        "options": options,
        "recipe": asdict(job.recipe),
        "formats": asdict(job.choices),
        "target": job.target.name,
        "text": job.calibration.sha256 if job.calibration else None,
        "source": source_facts(job.options.source),
        "versions": versions(),
    }
    return WorkFolder(job.options.work, work_key(facts))


def kept_statistics(work: WorkFolder | None, gather: Callable[[], Statistics]) -> Statistics:
    """Return the statistics that the folder keeps, or gather them and keep them there."""
    if work is None:
        return gather()
    arrays, facts = work.load_arrays(STATISTICS), work.load_facts(STATISTICS)
    if arrays is None or facts is None:
        found = gather()
        parts = [one.name for one in fields(Statistics) if one.name != "tokens"]
        work.save_facts(STATISTICS, {"tokens": found.tokens})
        work.save_arrays(
            STATISTICS,
            {f"{part}/{name}": x for part in parts for name, x in getattr(found, part).items()},
        )
        return found
    kept: dict[str, dict[str, object]] = {}
    for key, array in arrays.items():
        part, name = key.split("/", 1)
        kept.setdefault(part, {})[name] = array
    statistics: Statistics = annotated_value(
        Statistics, {"mean_squares": {}, **kept, "tokens": facts["tokens"]}
    )
    return statistics


def kept_choice(job: Job, work: WorkFolder | None, choose: Callable[[], Chosen]) -> Chosen:
    """Return the formats that the folder keeps, or choose them; what was warned of is kept too.

    A choice depends on speeds measured at the time: a second one might not be the same.
    """
    if work is None or not job.options.budgeted:
        return choose()
    facts = work.load_facts(CHOICE)
    if facts is None:
        before = len(job.warnings)
        found = choose()
        work.save_facts(CHOICE, {"chosen": asdict(found), "warnings": job.warnings[before:]})
        return found
    job.warnings.extend(facts["warnings"])
    kept: Chosen = annotated_value(Chosen, facts["chosen"])
    return kept
