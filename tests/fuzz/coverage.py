# SPDX-License-Identifier: Apache-2.0
"""Coverage of the C sources from clang's profiles: branches, and error returns."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.checks.command import ROOT, run
from tests.fuzz.targets import Tools

__all__ = ["branch_share", "error_returns", "export", "native_sources", "unreached"]

NATIVE = ROOT / "native"
RETURN = re.compile(r"\b(ingot_fail|ingot_fail_rule|INGOT_REFUSE)\(")


def native_sources(stems: Iterable[str]) -> list[Path]:
    """Return the files of native/ whose stems match one of the patterns."""
    return sorted(path for stem in stems for path in NATIVE.glob(f"*/{stem}.c"))


def export(
    tools: Tools, programs: Sequence[Path], profiles: Sequence[Path], sources: Sequence[Path]
) -> dict[str, Any]:
    """Merge profiles and return llvm-cov's data on the sources.

    Raises: StepError if the tools fail.
    """
    merged = profiles[0].with_suffix(".profdata")
    run([tools.profdata, "merge", "-sparse", *profiles, "-o", merged])
    objects = [f"-object={path}" for path in programs[1:]]
    command = [tools.cov, "export", programs[0], *objects, f"-instr-profile={merged}", *sources]
    data: dict[str, Any] = json.loads(run(command))["data"][0]
    return data


def branch_share(data: Mapping[str, Any]) -> tuple[int, int]:
    """Return the sides of branches that ran, and all there are."""
    total = data["totals"]["branches"]
    return int(total["covered"]), int(total["count"])


def unreached(data: Mapping[str, Any]) -> list[str]:
    """Return 'file:line:column: never true|false' for each side of a branch that never ran."""
    counts: dict[tuple[str, int, int], list[int]] = {}
    for file in data["files"]:
        for branch in file["branches"]:
            key = (Path(file["filename"]).name, branch[0], branch[1])
            sides = counts.setdefault(key, [0, 0])
            sides[0] += branch[4]
            sides[1] += branch[5]
    lines = []
    for (name, line, column), sides in sorted(counts.items()):
        missing = [word for word, count in zip(("true", "false"), sides, strict=True) if not count]
        lines += [f"{name}:{line}:{column}: never {word}" for word in missing]
    return lines


def _sites(path: Path) -> list[tuple[int, int]]:
    """Return line and column of each call that sets an error."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith(("ingot_status ingot_fail", "#define")):
            continue
        found += [(number, match.start() + 1) for match in RETURN.finditer(line)]
    return found


def error_returns(data: Mapping[str, Any], sources: Sequence[Path]) -> dict[str, int]:
    """Return how often each error return ran, by 'file:line'.

    The count is that of the smallest region of a function that holds the call.
    """
    regions: dict[str, list[list[int]]] = {}
    for function in data["functions"]:
        for region in function["regions"]:
            if region[7] == 0:  # code, not an expansion or a gap
                regions.setdefault(function["filenames"][region[5]], []).append(region)
    counts = {}
    for path in sources:
        for place in _sites(path):
            own = [r for r in regions.get(str(path), []) if (r[0], r[1]) <= place < (r[2], r[3])]
            if own:
                best = min(own, key=lambda r: (r[2] - r[0], r[3] - r[1]))
                same = [r[4] for r in own if r[:4] == best[:4]]
                counts[f"{path.relative_to(NATIVE)}:{place[0]}"] = sum(same)
    return counts
