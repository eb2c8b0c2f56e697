# SPDX-License-Identifier: Apache-2.0
"""Writes the files that every reader must refuse, and some that it must take.

Example:
    python -m tests.must_fail.make_corpus build/must_fail
    (one file per fault, `corpus.tsv` with name, rule number and rule)
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from ingot.container import write_container
from ingot.format import Opcode, Rule, Section
from tests.must_fail.fault import Fault
from tests.must_fail.faults_header import header_faults, section_faults, truncation_faults
from tests.must_fail.faults_plan import plan_faults, required_faults
from tests.must_fail.faults_program import program_faults
from tests.must_fail.faults_sparse import format_faults, format_variants, sparse_faults
from tests.must_fail.faults_tensors import tensor_faults
from tests.must_fail.image import Image, Part
from tests.must_fail.tiny_file import contents


def valid_file() -> bytes:
    """Return the bytes of the tiny valid file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.ingot"
        write_container(path, contents())
        return path.read_bytes()


def faults(valid: bytes) -> Iterator[Fault]:
    """Yield every fault; names are unique."""
    yield from header_faults()
    yield from section_faults()
    yield from truncation_faults(valid)
    yield from tensor_faults()
    yield from sparse_faults()
    yield from format_faults()
    yield from program_faults()
    yield from required_faults()
    yield from plan_faults()


def variants(valid: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield changed files that must still be taken."""
    actions: dict[str, Callable[[Image], None]] = {
        "plain": lambda image: None,
        "unknown_optional": lambda image: image.parts.append(Part(77, 0, 4096, bytearray(9))),
        "reserved_optional": lambda image: image.parts.append(Part(11, 0, 64, bytearray(0))),
        "gelu": lambda image: image.parameters(image.find(Opcode.LINEAR, 2), epilogue=2),
        "interleaved": lambda image: image.parameters(image.find(Opcode.ROPE), style=1),
        "negative_delta": lambda image: image.tensor("attn.o.weight", delta=-127),
        "two_entries": _two_entries,
        "long_entry_name": _long_entry_name,
        "no_peaks": _no_peaks,
        "unicode_names": _unicode_names,
        "table_first_gap": lambda image: image.part(Section.TENSORS).overrides.clear(),
        **format_variants(),
    }
    for name, action in actions.items():
        image = Image(valid)
        action(image)
        yield name, image.to_bytes()


def _two_entries(image: Image) -> None:
    data = image.part(Section.PROGRAM).data
    record = bytearray(data[32:64])
    record[:5] = b"other"
    data[32:32] = record
    image.head(Section.PROGRAM, entry_count=2)


def _long_entry_name(image: Image) -> None:
    _two_entries(image)
    image.entry(0, name=b"sixteen_letters!")


def _no_peaks(image: Image) -> None:
    image.head(Section.PLAN, peak_count=0)
    del image.part(Section.PLAN).data[128:]


def _unicode_names(image: Image) -> None:
    """Put the first and the last code of every length of UTF-8 into one name."""
    texts = ("é߿", "ࠀ퟿￿", "𐀀\U0010ffff", "€")
    for name, text in zip(image.names[1:], texts, strict=False):
        record = image.record(name)
        raw = text.encode()
        data = image.part(Section.TENSORS).data
        start = 32 + 128 * len(image.names) + record.name_offset
        if len(raw) <= record.name_size:
            data[start : start + len(raw)] = raw


def write_corpus(folder: Path) -> dict[str, Rule]:
    """Write all files; return the rule that each must break, NONE for a valid one."""
    folder.mkdir(parents=True, exist_ok=True)
    valid = valid_file()
    expected: dict[str, Rule] = {}
    for name, data in variants(valid):
        (folder / f"valid_{name}.ingot").write_bytes(data)
        expected[f"valid_{name}.ingot"] = Rule.NONE
    for fault in faults(valid):
        name = f"{fault.name}.ingot"
        if name in expected:
            raise SystemExit(f"two faults are named {fault.name}")
        (folder / name).write_bytes(fault.make(valid))
        expected[name] = fault.rule
    lines = [f"{name}\t{int(rule)}\t{rule.name.lower()}\n" for name, rule in expected.items()]
    (folder / "corpus.tsv").write_text("".join(lines), encoding="utf-8")
    return expected


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    expected = write_corpus(parser.parse_args().folder)
    rules = set(expected.values()) - {Rule.NONE}
    missing = sorted(set(Rule) - rules - {Rule.NONE, Rule.PADDING})
    sys.stdout.write(f"{len(expected)} files, {len(rules)} rules\n")
    for rule in missing:
        sys.stdout.write(f"no file breaks rule {rule.name.lower()}\n")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
