# SPDX-License-Identifier: Apache-2.0
"""The CPUs that this process may use, as the library found them."""

from __future__ import annotations

import math
from collections.abc import Iterable

from ingot._native import Native
from ingot.record import Record

TYPE_CHECKING = False  # as in typing, whose import takes long
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Cpu", "Topology", "read_topology"]

MASK_WORDS = 4


class Cpu(Record):
    """One CPU: its physical core's lowest id, its capacity of 1024, and whether threads suit it."""

    id: int
    core: int
    capacity: int
    big: bool


class Topology(Record):
    """CPUs in the affinity mask, big cores first; quota in CPUs, 0 without a limit."""

    name: str
    cpus: tuple[Cpu, ...]
    classes: int
    big_cores: int
    quota: float
    threads: int

    def describe(self) -> str:
        """Return one line: what was found and how many threads follow from it."""
        classes: dict[int, list[int]] = {}
        for cpu in self.cpus:
            classes.setdefault(cpu.capacity, []).append(cpu.id)
        parts = [
            f"{len(ids)} of capacity {capacity} ({', '.join(map(str, ids))})"
            for capacity, ids in classes.items()
        ]
        quota = f"; quota {self.quota:g} CPUs" if self.quota else ""
        return (
            f"{self.name or 'CPU'}: {'; '.join(parts)}{quota}; "
            f"{self.big_cores} big cores, {self.threads} threads by default"
        )

    def to_json(self) -> dict[str, Any]:
        """Return it for json.dumps()."""
        cpus = [
            {"id": cpu.id, "core": cpu.core, "capacity": cpu.capacity, "big": cpu.big}
            for cpu in self.cpus
        ]
        names = ("name", "classes", "big_cores", "quota", "threads")
        return {**{name: getattr(self, name) for name in names}, "cpus": cpus}

    def key(self) -> str:
        """Return what a measurement on this machine depends on."""
        cpus = ",".join(f"{cpu.id}:{cpu.core}:{cpu.capacity}:{int(cpu.big)}" for cpu in self.cpus)
        return f"{self.name}|{cpus}|{math.ceil(self.quota * 100)}"


def read_topology(native: Native, root: str = "", mask: Iterable[int] | None = None) -> Topology:
    """Read it below a root, for the CPUs of a mask (default: those of this process)."""
    info = native.struct("ingot_topology_info")
    words = native.ffi.NULL
    if mask is not None:
        words = native.ffi.new("uint64_t[]", MASK_WORDS)
        for cpu in mask:
            words[cpu // 64] |= 1 << cpu % 64
    native.check(native.lib.ingot_topology_get(root.encode(), words, MASK_WORDS, info))
    cpus = (info.cpus[index] for index in range(info.cpu_count))
    return Topology(
        native.text(info.name),
        tuple(Cpu(int(c.id), int(c.core), int(c.capacity), bool(c.big)) for c in cpus),
        int(info.class_count),
        int(info.big_cores),
        float(info.quota),
        int(info.threads),
    )
