# SPDX-License-Identifier: Apache-2.0
"""Holds prompts on cooperative matrices to those on integer dot products, bit by bit.

Runs where a driver has int8 matrices (check `vulkan-matrix`): `native/vulkan/README.md`.

Example:
    python tests/vulkan/matrix_script.py libingot_vulkan.so libingot_vulkan_broken.so FOLDER
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from ingot.container import Container
from ingot.format import Dtype, Layout, Opcode, Role, Rows
from tests.runtime.random_weights import make
from tests.runtime.small_program import VOCABULARY, ProgramBuilder, every_op
from tests.vulkan.backend_driver import F32, Backend, BackendModel, BackendSession
from tests.vulkan.linear_program import ONE, LinearProgram, check_session, worst

TOKENS = (9, 31, 33, 70)  # one more than linear_few.comp takes, around a block of 32, three blocks
PLANTED_TOKENS = (33,)
WANTED = 3
WIDTHS = (200, 45, 80, 19, 330, 16)  # each linear's k is the n before it: tails of k and of rows
FORMATS = [
    *((dtype, 32) for dtype in (Dtype.Q8, Dtype.Q6, Dtype.C5, Dtype.C4, Dtype.C3, Dtype.C2)),
    *((Dtype.Q4, group) for group in (32, 64, 128)),
    *((Dtype.Q4Z, group) for group in (32, 64, 128)),
    (Dtype.T2, 0),
]
CASES = [(dtype, group, Layout.T16) for dtype, group in FORMATS]
CASES += [(dtype, 32, Layout.T16_K8) for dtype in (Dtype.Q8, Dtype.Q4, Dtype.C4)]
PLANTS = {
    3: "the last stage left out",
    12: "scales of the neighbouring token",
    13: "a step of k too few",
    14: "scales of the other block",
}
MATRIX_ONLY = 13  # a fault that dot products do not have


Results = dict[int, list[F32]]  # by the tokens of the pass: every float result, in order


class Failure(Exception):
    """A result that does not hold."""


@dataclass(frozen=True, slots=True)
class Bench:
    """The library, one with planted faults, and a folder for files."""

    sound: Backend
    broken: Backend
    folder: Path


def tokens_of(count: int) -> list[int]:
    rng = np.random.default_rng(count)
    return [int(token) for token in rng.integers(0, VOCABULARY, count)]


def chain_of(
    path: Path, dtype: Dtype, group: int, layout: Layout = Layout.T16, sparse: bool = False
) -> Path:
    """Write a program of linears of one format, each on the one before."""
    b = ProgramBuilder(context=128, chunk=max(TOKENS))
    b.tokens("ids")
    table = b.weight("table", make(Dtype.F16, 0, VOCABULARY, WIDTHS[0]))
    x = b.op(Opcode.EMBED, ("ids", table), (b.activation("x", WIDTHS[0]),))
    for i, (k, n) in enumerate(pairwise(WIDTHS)):
        made = make(dtype, group, n, k, seed=i, layout=layout, sparse=sparse)
        weight = b.weight(f"w{i}", made)
        x = b.op(Opcode.LINEAR, (x, weight), (b.activation(f"y{i}", n),), ONE)
    last = b.activation("last", WIDTHS[-1], Rows.SELECTED)
    b.op(Opcode.SELECT_LAST, (x,), (last,))
    head = b.weight("head", make(Dtype.F16, 0, VOCABULARY, WIDTHS[-1], seed=9))
    logits = b.activation("logits", VOCABULARY, Rows.SELECTED)
    b.op(Opcode.LINEAR, (last, head), (logits,), ONE)
    return b.write(path, "ids", logits, VOCABULARY)


def settle(settings: Mapping[str, str]) -> None:
    """Make these the backend's settings, read whenever a model opens."""
    for name, otherwise in (("NO_MATRIX", "0"), ("PLANT", "0"), ("EMULATE", "")):
        os.environ[f"INGOT_VULKAN_{name}"] = settings.get(name, otherwise)


def run_pass(container: Container, session: BackendSession, count: int, check: bool) -> list[F32]:
    """Return every float result of a pass, each op held to the reference's bound if asked for.

    Raises: Failure if one is beyond it.
    """
    if check:
        farthest = worst(check_session(container, session, tokens_of(count), WANTED))
        if not farthest.passed:
            raise Failure(f"{count} tokens: {farthest}")
    else:
        session.run(tokens_of(count), WANTED, keep=False)
    entry = container.entries["step"]
    written = [
        t for i in range(entry.first, entry.first + entry.count) for t in container.outputs(i)
    ]
    found = []
    for tensor in written:
        record = container.tensors[tensor]
        if record.role == Role.ACTIVATION:
            found.append(session.read(tensor, WANTED if record.rows == Rows.SELECTED else count))
    return found


def results(
    backend: Backend, path: Path, counts: tuple[int, ...], settings: Mapping[str, str]
) -> Results:
    """Return what passes of so many tokens write; without any setting they are checked too."""
    settle(settings)
    with (
        Container(path) as container,
        BackendModel(backend, container) as model,
        BackendSession(model, chunk=max(TOKENS), rows=WANTED) as session,
    ):
        if not all(model.takes):
            raise Failure("an instruction is not taken")
        return {count: run_pass(container, session, count, not settings) for count in counts}


def same(a: Results, b: Results) -> bool:
    """Whether all bits are the same, for the counts of b."""
    return all(
        x.shape == y.shape and x.tobytes() == y.tobytes()
        for count in b
        for x, y in zip(a[count], b[count], strict=True)
    )


def hold_bits(bench: Bench, path: Path, counts: tuple[int, ...] = TOKENS) -> Results:
    """Return results that are the same with and without matrices. Raises: Failure if others."""
    matrices = results(bench.sound, path, counts, {})
    dots = results(bench.sound, path, counts, {"NO_MATRIX": "1"})
    if not same(matrices, dots):
        raise Failure("matrices give other bits than dot products")
    return dots


def hold_fault(bench: Bench, path: Path, plant: int, sound: Results) -> None:
    """The fault is seen. Raises: Failure if it makes no difference."""
    if same(sound, results(bench.broken, path, PLANTED_TOKENS, {"PLANT": str(plant)})):
        raise Failure(f"fault {plant} ({PLANTS[plant]}) makes no difference")


def hold_formats(bench: Bench) -> None:
    """Every format; that a fault which only matrices have is seen shows that they computed."""
    shown = set()
    for dtype, group, layout in CASES:
        path = chain_of(bench.folder / "format.ingot", dtype, group, layout)
        sound = hold_bits(bench, path)
        if dtype not in shown:
            hold_fault(bench, path, MATRIX_ONLY, sound)
        shown.add(dtype)
    print(f"{len(CASES)} formats: the bits of dot products, each by matrices")


def hold_epilogues(bench: Bench) -> None:
    """What is done with finished sums, sparse tiles, which take no matrices, and every op."""
    epilogues = LinearProgram(Dtype.C4, 32, Layout.T16, 200, 45)
    hold_bits(bench, epilogues.write(bench.folder / "epilogues.ingot"), TOKENS[:3])
    sparse = chain_of(bench.folder / "sparse.ingot", Dtype.Q4, 64, sparse=True)
    hold_bits(bench, sparse, TOKENS[:3])
    hold_bits(bench, every_op(bench.folder / "ops.ingot", Dtype.Q8, 32, context=128))
    print("bias, residual, gates, sparse tiles, every op: the same bits, within the bound")


def hold_faults(bench: Bench) -> None:
    """The other faults, and that the one of matrices is not seen without them."""
    path = chain_of(bench.folder / "plant.ingot", Dtype.C4, 32)
    sound = results(bench.sound, path, PLANTED_TOKENS, {})
    for plant in sorted(PLANTS.keys() - {MATRIX_ONLY}):
        hold_fault(bench, path, plant, sound)
    settings = {"PLANT": str(MATRIX_ONLY), "NO_MATRIX": "1"}
    if not same(sound, results(bench.broken, path, PLANTED_TOKENS, settings)):
        raise Failure("a fault of matrices shows without them")
    print(f"{len(PLANTS)} planted faults are seen")


def main(sound: str, broken: str, folder: str) -> int:
    """Run all; return 1 with a sentence if something does not hold."""
    bench = Bench(Backend(Path(sound)), Backend(Path(broken)), Path(folder))
    (device, *_) = bench.sound.devices()
    print(f"{device['name']}, {device['driver']}: {device['features']}")
    if re.search(r"\bcooperative-matrix-\d+x\d+x\d+\b", device["features"]) is None:
        print("the device has no cooperative matrices that fit")
        return 1
    for hold in (hold_formats, hold_epilogues, hold_faults):
        try:
            hold(bench)
        except Failure as failure:
            print(f"{hold.__name__}: {failure}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
