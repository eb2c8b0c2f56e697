# SPDX-License-Identifier: Apache-2.0
"""`ingot doctor`: what this device has, what is wrong with it, and how to mend it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ingot.canary import CanaryReport, check, fingerprint, known
from ingot.cli.arguments import Subparsers, add_command
from ingot.diagnosis import Diagnosis, Problem, diagnose
from ingot.errors import CanaryError
from ingot.model import Model

__all__ = ["add_parser", "run"]

_EPILOG = """examples:
  ingot doctor
  ingot doctor smol.ingot
  ingot doctor --json

Shows CPU, instruction sets, kernels, memory, page size, clocks, heat, GPU drivers, and each problem
with its remedy. With a file: what the canary found there, kernel level by level; --run-canary runs
it now. Exit status 1 if something keeps models from running; warnings do not count."""


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Add the parser."""
    parser = add_command(subparsers, "doctor", "show what this device has and lacks", _EPILOG)
    parser.add_argument("file", metavar="FILE", type=Path, nargs="?", help="an .ingot file")
    parser.add_argument(
        "--run-canary", action="store_true", help="run the file's vectors now, on every level"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--root", default="", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    diagnosis = diagnose(args.root)
    if args.file is not None:
        diagnosis = _with_file(diagnosis, args.file, args.run_canary)
    if args.json:
        print(json.dumps(diagnosis.to_json()))
    else:
        _print(diagnosis)
    return 1 if any(problem.level == "error" for problem in diagnosis.problems) else 0


def _with_file(diagnosis: Diagnosis, path: Path, now: bool) -> Diagnosis:
    """Add what the canary says of a file."""
    problems = list(diagnosis.problems)
    report: CanaryReport | None = None
    with Model(path, canary=False) as model:
        try:
            report = check(model, every=True) if now else known(model, fingerprint(model))
        except CanaryError as error:
            problems.append(Problem("error", str(error), "copy the file and install again"))
    for result in report.results if report is not None else ():
        if result.problems:
            text = f"kernels of level {result.level} are wrong here: {result.problems[0]}"
            remedy = "the next best is used; report it with `ingot doctor FILE --json`"
            problems.append(Problem("warning", text, remedy))
    canary = report.to_json() if report is not None else {"verdict": "not run"}
    return Diagnosis({**diagnosis.sections, "canary": canary}, tuple(problems))


def _print(diagnosis: Diagnosis) -> None:
    """Print a line per section, then the problems."""
    sections = diagnosis.sections
    if "cpu" in sections:
        cpu = sections["cpu"]
        print(f"CPU      {cpu['name'] or 'unknown'}: {len(cpu['cpus'])} CPUs, ", end="")
        print(f"{cpu['big_cores']} big cores, {cpu['threads']} threads by default")
        print(f"levels   {', '.join(cpu['isa_used'])}")
        print(f"kernels  {', '.join(sections['kernels'])}")
    for line in _lines(sections):
        print(line)
    for problem in diagnosis.problems:
        print(f"\n{problem.level}: {problem.text}\n  mend it: {problem.remedy}")
    if not diagnosis.problems:
        print("\nnothing is wrong")


def _lines(sections: Any) -> list[str]:
    memory, thermal, gpu = sections["memory"], sections["thermal"], sections["gpu"]
    group = memory["cgroup"]
    limit = f", control group {group['limit'] >> 20} MiB" if group else ""
    clocks = [f"{c['policy']} {c['governor']} {c['mhz']} MHz" for c in sections["clocks"]]
    zones = [f"{zone['name']} {zone['celsius']:.0f} C" for zone in thermal["zones"]]
    watts = [] if thermal["watts"] is None else [f"{thermal['watts']:.1f} W"]
    drivers = [*gpu["drm"], *([gpu["nvidia"]] if gpu["nvidia"] else []), *gpu["vulkan_drivers"]]
    lines = [
        f"memory   {memory['available_bytes'] >> 20} of {memory['total_bytes'] >> 20} MiB{limit}, "
        f"pages of {memory['page_bytes']} bytes",
        f"clocks   {'; '.join(clocks) or 'the system does not tell'}",
        f"thermal  {', '.join([*zones, *watts]) or 'no sensors'}",
        f"GPU      {', '.join(drivers) or 'no driver'}",
        *(f"{name:8} {_devices(found)}" for name, found in gpu["backends"].items()),
        f"cache    {sections['settings']['cache'] or 'none in a privileged process'}",
    ]
    if "canary" in sections:
        canary = sections["canary"]
        levels = [
            f"{r['level']} {'wrong' if r['problems'] else 'right'}"
            for r in canary.get("results", ())
        ]
        lines.append(f"canary   {canary['verdict']}{': ' if levels else ''}{', '.join(levels)}")
    return lines


def _devices(found: Any) -> str:
    """Return a backend's devices on one line; those that are refused with the reason."""
    if isinstance(found, str):
        return found
    texts = [
        f"{device['index']}: {device['name']} ({device['refused'] or device['kind']})"
        for device in found
    ]
    return "; ".join(texts) or "no device"
