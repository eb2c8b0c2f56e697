# SPDX-License-Identifier: Apache-2.0
"""`ingot inspect`: what is in a file, without running it."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ingot.cli.arguments import Subparsers, add_command, add_file
from ingot.cli.table import print_table
from ingot.container import Container
from ingot.format import Dtype, Layout, Opcode, Role, Rows, Section, TensorRecord
from ingot.model import Model

__all__ = ["add_parser", "describe", "run", "split"]

_EPILOG = """examples:
  ingot inspect smol.ingot
  ingot inspect smol.ingot --tensors --program
  ingot inspect smol.ingot --json | python -m json.tool
  ingot inspect smol.ingot --backend vulkan

Needs neither the native library nor memory for the weights: works on any machine. --backend opens
the file on this machine's device, and says which instructions it takes and which the CPU runs."""
_JSON_SECTIONS = {"meta": Section.META, "certificate": Section.CERTIFICATE, "chat": Section.CHAT}


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Add the parser."""
    parser = add_command(subparsers, "inspect", "show what is in a file", _EPILOG)
    add_file(parser)
    parser.add_argument("--tensors", action="store_true", help="list every tensor")
    parser.add_argument("--program", action="store_true", help="list every instruction")
    parser.add_argument(
        "--backend", metavar="B", help="show the split between a backend and the CPU"
    )
    parser.add_argument("--device", type=int, default=0, metavar="N", help="of the backend")
    parser.add_argument("--json", action="store_true", help="print all of it as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    with Container(args.file) as container:
        description = describe(container)
    if args.backend is not None:
        description["split"] = split(description["program"], args)
    if args.json:
        print(json.dumps(description, ensure_ascii=False))
        return 0
    _print_summary(description)
    if args.tensors:
        _print_tensors(description["tensors"])
    if args.program:
        _print_program(description["program"])
    if args.backend is not None:
        _print_split(description["split"])
    return 0


def describe(container: Container) -> dict[str, Any]:
    """Return all that a file says about itself, ready for JSON."""
    description: dict[str, Any] = {
        "file_size": container.size,
        "sections": [
            {
                "kind": _name(Section, record.kind),
                "offset": record.offset,
                "size": record.size,
                "sha256": record.sha256.hex(),
            }
            for record in container.sections
        ],
        "tensors": [_tensor(container, tensor) for tensor in container.tensors],
        "program": _program(container),
        "plan": _plan(container),
    }
    for key, kind in _JSON_SECTIONS.items():
        description[key] = container.json(kind) if len(container.section(kind)) else None
    return description


def split(program: list[dict[str, Any]], args: argparse.Namespace) -> dict[str, Any]:
    """Return which instructions of entry `step` a backend's device takes."""
    with Model(args.file, canary=False, backend=args.backend, device=args.device) as model:
        taken = model.taken()
    steps = [entry for entry in program if entry["entry"] == "step"]
    return {
        "backend": args.backend,
        "taken": [e["index"] for e, there in zip(steps, taken, strict=True) if there],
        "cpu": [
            {"index": e["index"], "op": e["op"], "inputs": e["inputs"]}
            for e, there in zip(steps, taken, strict=True)
            if not there
        ],
    }


def _print_split(found: dict[str, Any]) -> None:
    count = len(found["taken"]) + len(found["cpu"])
    print(f"\n{found['backend']} runs {len(found['taken'])} of {count} instructions")
    for entry in found["cpu"]:
        print(f"  on the CPU: {entry['index']} {entry['op']} {', '.join(entry['inputs'])}")


def _name(kind: Any, value: int) -> str:
    """Return an enum value's name, the number if it has none."""
    known = kind._value2member_map_.get(value)
    return str(value) if known is None else str(known.name).lower()


def _tensor(container: Container, tensor: TensorRecord) -> dict[str, Any]:
    return {
        "id": tensor.id,
        "name": container.names[tensor.id],
        "role": _name(Role, tensor.role),
        "dtype": _name(Dtype, tensor.dtype),
        "shape": list(tensor.shape[: tensor.rank]),
        "layout": _name(Layout, tensor.layout),
        "rows": _name(Rows, tensor.rows),
        "group": tensor.group,
        "offset": tensor.offset,
        "size": tensor.size,
    }


def _program(container: Container) -> list[dict[str, Any]]:
    names, listing = container.names, []
    for entry, record in container.entries.items():
        for index in range(record.first, record.first + record.count):
            parameters = container.parameters(index)
            fields = () if parameters is None else parameters.__slots__
            listing.append(
                {
                    "entry": entry,
                    "index": index,
                    "op": _name(Opcode, container.instructions[index].opcode),
                    "inputs": [names[tensor] for tensor in container.inputs(index)],
                    "outputs": [names[tensor] for tensor in container.outputs(index)],
                    "flags": container.instructions[index].flags,
                    "parameters": {
                        name: getattr(parameters, name) for name in fields if name != "reserved"
                    },
                }
            )
    return listing


def _plan(container: Container) -> dict[str, Any]:
    plan = container.plan
    fields = [name for name in plan.__slots__ if name not in ("reserved", "peak_count")]
    peaks = [
        {"context": p.context, "chunk": p.chunk, "bytes": p.peak_bytes} for p in container.peaks
    ]
    return {**{name: getattr(plan, name) for name in fields}, "peaks": peaks}


def _print_summary(description: dict[str, Any]) -> None:
    """Print sections, totals by format, plan and certificate."""
    meta, plan = description["meta"] or {}, description["plan"]
    print(f"{meta.get('name', 'unnamed')}: {description['file_size'] / 1e6:.2f} MB")
    for key in ("architecture", "source", "recipe", "target", "licence"):
        if meta.get(key):
            print(f"  {key}: {meta[key]}")
    print()
    rows = [(s["kind"], f"{s['offset']}", f"{s['size']}") for s in description["sections"]]
    print_table(("section", "offset", "bytes"), rows)
    print()
    print_table(("format", "tensors", "weights", "bytes"), _formats(description["tensors"]))
    print()
    print(f"{len(description['program'])} instructions")
    print(f"context {plan['context']}, chunk {plan['chunk']}, vocabulary {plan['vocabulary']}")
    print(f"reads {plan['weight_bytes_per_token'] / 1e6:.3f} MB of weights per token")
    for peak in plan["peaks"]:
        print(f"  RAM at context {peak['context']}: {peak['bytes'] / 1e6:.1f} MB")
    print()
    _print_certificate(description["certificate"])


def _formats(tensors: list[dict[str, Any]]) -> list[tuple[str, str, str, str]]:
    """Add up the stored tensors by format."""
    totals: dict[str, list[int]] = {}
    for tensor in tensors:
        if tensor["role"] in ("weight", "constant"):
            count = 1
            for size in tensor["shape"]:
                count *= size
            total = totals.setdefault(tensor["dtype"], [0, 0, 0])
            for i, value in enumerate((1, count, tensor["size"])):
                total[i] += value
    return [(name, *(str(value) for value in total)) for name, total in totals.items()]  # type: ignore[misc]


def _print_certificate(certificate: dict[str, Any] | None) -> None:
    """Print the measured figures, one per line."""
    if not certificate:
        print("no certificate: this is a draft that nobody measured")
        return
    print("certificate")
    for key, value in certificate.items():
        if isinstance(value, (str, int, float)):
            print(f"  {key}: {value}")


def _print_tensors(tensors: list[dict[str, Any]]) -> None:
    header = ("id", "name", "role", "dtype", "shape", "group", "bytes")
    rows = [
        (
            str(t["id"]),
            t["name"],
            t["role"],
            t["dtype"],
            "x".join(map(str, t["shape"])),
            str(t["group"] or ""),
            str(t["size"]),
        )
        for t in tensors
    ]
    print()
    print_table(header, rows)


def _print_program(program: list[dict[str, Any]]) -> None:
    print()
    for step in program:
        parameters = ", ".join(f"{key}={value}" for key, value in step["parameters"].items())
        outputs, inputs = ", ".join(step["outputs"]), ", ".join(step["inputs"])
        print(f"{step['index']:4}  {outputs} = {step['op']}({inputs}) {parameters}".rstrip())
