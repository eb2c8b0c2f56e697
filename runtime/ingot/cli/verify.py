# SPDX-License-Identifier: Apache-2.0
"""`ingot verify`: digests, structure, arithmetic and certificate of a file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingot._numpy_start import np
from ingot.cli.arguments import (
    Subparsers,
    add_backend,
    add_command,
    add_file,
    add_strict,
    tell_choice,
)
from ingot.container import Container
from ingot.format import Rows, Section
from ingot.model import Model
from ingot.reference import check_conformance, check_operations
from ingot.session import Session

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["add_parser", "run"]

_EPILOG = """examples:
  ingot verify smol.ingot
  ingot verify smol.ingot --require pass
  ingot verify smol.ingot --against reference
  ingot verify smol.ingot --backend vulkan --against reference

Checks every section's digest and the file's structure with both readers, then runs the file's
conformance vectors through the native library. --against reference compares each op with the
NumPy executor and names the worst one. Exit status 0 only if all of it holds."""
_TOKENS = 5


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Add the parser."""
    parser = add_command(
        subparsers, "verify", "check a file and this machine's arithmetic on it", _EPILOG
    )
    add_file(parser)
    add_backend(parser)
    parser.add_argument(
        "--against", choices=("reference",), help="compare op by op with the NumPy executor"
    )
    parser.add_argument(
        "--require",
        choices=("pass",),
        help="refuse a file whose certificate has any other verdict",
    )
    parser.add_argument(
        "--allow-split", action="store_true", help="some ops may run on another backend than asked"
    )
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="1 to 64")
    add_strict(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    failures = 0
    for name, problems, remark in _checks(args):
        print(f"{'FAIL' if problems else 'ok':4}  {name}{': ' + remark if remark else ''}")
        for problem in problems:
            print(f"      {problem}")
        failures += bool(problems)
    return 1 if failures else 0


Check = tuple[str, list[str], str]


def _checks(args: argparse.Namespace) -> Iterator[Check]:
    """Yield (what, problems, remark) for each check; a broken structure raises instead."""
    with Container(args.file) as container:
        container.verify()
        yield "digests and structure", [], f"{len(container.sections)} sections"
        with _open(args) as model:
            tell_choice(model)
            yield "native reader", [], f"{model.info.instruction_count} instructions"
            with model.session(threads=args.threads, kv="f16") as session:
                yield _conformance(container, session)
                if args.against:
                    yield _against_reference(container, session)
                yield _backends(session, args.allow_split)
        yield from _certificate(container, args.file, args.require)


def _conformance(container: Container, session: Session) -> Check:
    """Run the file's vectors through the native library."""
    data = container.section(Section.VECTORS)
    if not len(data):
        # The session still runs, so that the count of executed ops means something.
        session.feed([0])
        session.reset()
        return "conformance vectors", ["the file has none: compress it again"], ""
    vectors = json.loads(bytes(data))
    problems = check_conformance(vectors, lambda tokens: _last_logits(container, session, tokens))
    return "conformance vectors", problems, f"{len(vectors.get('prompts', []))} prompts"


def _last_logits(container: Container, session: Session, tokens: list[int]) -> NDArray[np.float32]:
    """Return the logits after a fresh prompt, surplus ids included. Shapes: (width,) float32."""
    session.reset()
    session.feed(tokens)
    row: NDArray[np.float32] = session.read(container.entries["step"].output, 1)[0]
    return row


def _against_reference(container: Container, session: Session) -> Check:
    """Compare every op's outputs with the NumPy executor's on the same inputs."""
    rows = container.plan.vocabulary
    count = min(_TOKENS, session.chunk, session.context)
    tokens = [int(t) for t in np.random.default_rng(1).integers(0, rows, count)]

    def read(instructions: int, tensor: int) -> NDArray[np.float32]:
        session.trace(tokens, instructions)
        selected = container.tensors[tensor].rows == Rows.SELECTED
        return session.read(tensor, 1 if selected else count)

    session.reset()
    checks = check_operations(container, tokens, read)
    worst = max(checks, key=lambda check: check.ratio)
    problems = [
        f"instruction {check.instruction}, {check.op} -> {check.tensor}: error {check.error:.3g}, "
        f"{check.ratio:.3g} of its bound"
        for check in checks
        if not check.passed
    ]
    remark = (
        f"{len(checks)} outputs; worst is instruction {worst.instruction}, {worst.op} -> "
        f"{worst.tensor}: error {worst.error:.3g}, {worst.ratio:.3g} of its bound"
    )
    return "against reference", problems, remark


def _open(args: argparse.Namespace) -> Model:
    """Open the file as it is to be judged: without a canary, which would go back to the CPU."""
    return Model(
        args.file,
        strict=args.strict,
        guard=True,
        canary=False,
        backend=args.backend,
        device=args.device,
    )


def _backends(session: Session, allow_split: bool) -> Check:
    """Say how many ops each backend executed."""
    asked = session.model.backend
    executed = {name: session.executed(name) for name in dict.fromkeys(("cpu", asked))}
    elsewhere = sum(count for name, count in executed.items() if name != asked)
    problems = []
    if executed[asked] == 0:
        problems.append(f"no op ran on {asked}")
    if elsewhere and not allow_split:
        problems.append(f"{elsewhere} ops did not run on {asked}: allow it with --allow-split")
    return "ops executed", problems, ", ".join(f"{k} {v}" for k, v in executed.items())


def _certificate(container: Container, path: Path, require: str | None) -> Iterator[Check]:
    """Compare the digests that the certificate names, and its verdict."""
    if not len(container.section(Section.CERTIFICATE)):
        problems = [f"{path.name} has no certificate"] if require else []
        yield "certificate", problems, "none: a draft"
        return
    certificate = container.json(Section.CERTIFICATE)
    problems = _moved(container, certificate)
    verdict = certificate.get("verdict", "none")
    if require and verdict != require:
        problems.append(f"the verdict is '{verdict}', required is '{require}'")
    yield "certificate", problems, f"verdict {verdict}"


def _moved(container: Container, certificate: dict[str, Any]) -> list[str]:
    """Return the sections that are not those which the certificate measured."""
    named = certificate.get("sections")
    if not isinstance(named, dict) or not named:
        return ["it names no digests of what it measured"]
    digests = {Section(s.kind).name.lower(): s.sha256.hex() for s in container.sections}
    return [
        f"it measured other {kind} than the file has"
        for kind, digest in named.items()
        if digests.get(kind) != digest
    ]
