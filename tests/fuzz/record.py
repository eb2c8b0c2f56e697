# SPDX-License-Identifier: Apache-2.0
"""What a run of a target did, from libFuzzer's log, and the table of it in the README."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.checks.command import ROOT, StepError

__all__ = ["Outcome", "read_log", "write_table"]

README = ROOT / "tests" / "fuzz" / "README.md"
BEGIN, END = "<!-- fuzz: begin -->", "<!-- fuzz: end -->"
TITLES = ("target", "seconds", "executions", "coverage", "inputs kept", "findings")
HEAD = f"| {' | '.join(TITLES)} |\n|{'---|' * len(TITLES)}"
_DONE = re.compile(r"Done (\d+) runs in (\d+) second")
_LAST = re.compile(r"^#(\d+)\s", re.MULTILINE)
_EDGES = re.compile(r"cov: (\d+) ")
_COUNTERS = re.compile(r"\((\d+) inline 8-bit counters\)")
_STAT = re.compile(r"stat::number_of_executed_units: (\d+)")


@dataclass(frozen=True)
class Outcome:
    """One row: what a target did in one run."""

    target: str
    seconds: int
    executions: int
    coverage: str
    inputs: int
    findings: int

    @classmethod
    def load(cls, path: Path) -> Outcome:
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")

    def row(self) -> str:
        """Return the line of the table."""
        words = (self.target, self.seconds, self.executions, self.coverage, self.inputs)
        return "| " + " | ".join(f"{word}" for word in (*words, self.findings)) + " |"


def read_log(text: str) -> tuple[int, int, str]:
    """Return seconds, executions and edges that a log tells; seconds are 0 where it was cut off."""
    done, stated = _DONE.search(text), _STAT.search(text)
    edges, counters, last = _EDGES.findall(text), _COUNTERS.search(text), _LAST.findall(text)
    executions = int(stated[1]) if stated else int(last[-1]) if last else 0
    share = f"{edges[-1]} edges" if edges else "none"
    if counters and edges:
        share = f"{edges[-1]} of {counters[1]} edges"
    return int(done[2]) if done else 0, executions, share


def write_table(outcomes: Mapping[str, Outcome], readme: Path = README) -> None:
    """Put rows into the README's table; targets that did not run keep theirs.

    Raises: StepError if the README has no place for it.
    """
    text = readme.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise StepError(f"{readme}: no table between {BEGIN} and {END}")
    before, rest = text.split(BEGIN, 1)
    old, after = rest.split(END, 1)
    rows = {line.split("|")[1].strip(): line for line in old.splitlines() if line.startswith("| ")}
    rows.pop("target", None)
    rows.update({name: outcome.row() for name, outcome in outcomes.items()})
    table = "\n".join([HEAD, *rows.values()])
    readme.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")
