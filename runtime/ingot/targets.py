# SPDX-License-Identifier: Apache-2.0
"""Device profiles: what a target has, as data, with a schema that refuses anything unknown.

A profile is a TOML file in targets/ of the source tree, installed as ingot/target_profiles.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ingot.errors import InvalidArgumentError, StorageError
from ingot.host_profile import (
    ISA_LEVELS,
    host_clock_mhz,
    host_core_name,
    host_cores,
    host_isa,
    host_macs_per_cycle,
    host_memory_bytes,
    host_triple,
)
from ingot.profile_table import ProfileTable

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "BACKENDS",
    "ISA_LEVELS",
    "LAYOUTS",
    "Backend",
    "Core",
    "Defaults",
    "Memory",
    "Target",
    "Thermals",
    "list_targets",
    "load_target",
    "profile_folder",
]

BACKENDS = ("cpu", "vulkan", "cuda", "opencl", "npu")
# Taken without being asked for; only where asked for; refused; not Ingot's, for comparison only.
USES = ("default", "ask", "never", "other")
FORMATS = ("f16", "q8", "q6", "c5", "q4", "q4z", "c4", "c3", "c2", "t2")
LAYOUTS = ("t16", "t16_k8")
TRIPLES = (
    "x86_64-linux-gnu",
    "aarch64-linux-gnu",
    "aarch64-linux-android",
    "armv7-linux-gnueabihf",
    "riscv64-linux-gnu",
)


@dataclass(frozen=True, slots=True)
class Core:
    """Cores of one kind. Units: mhz in MHz, 0 where the system does not tell.

    `int8_macs_per_cycle`: products of int8 that one core adds up per cycle at most.
    `cycles_per_weight` by format: of one core's decode loop with the weights at hand.
    """

    name: str
    count: int
    isa: tuple[str, ...]
    mhz: int
    in_order: bool = False
    int8_macs_per_cycle: float | None = None
    cycles_per_weight: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Memory:
    """Main memory. Units: GB/s are 10^9 bytes per second; None where nobody measured it."""

    bytes: int
    usable_share: float
    peak_gb_s: float | None
    achievable_gb_s: float | None

    @property
    def usable_bytes(self) -> int:
        """Bytes that a model and its session may take together."""
        return int(self.bytes * self.usable_share)


@dataclass(frozen=True, slots=True)
class Backend:
    """What may execute a model there.

    `use`: "default", taken by itself; "ask", only where it is asked for; "never", refused; "other",
    a unit that only other runtimes use, for comparison. Units: GB/s that it reads of the memory and
    10^12 operations per second, None where nobody says.
    """

    name: str
    use: str
    traps: tuple[str, ...] = ()
    achievable_gb_s: float | None = None
    int8_tops: float | None = None


@dataclass(frozen=True, slots=True)
class Thermals:
    """Heat. `throttle_celsius` is where clocks fall; `sustained_share` is hot speed over cold."""

    advice: str
    throttle_celsius: int | None = None
    sustained_share: float | None = None


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a compression for this target takes where the user says nothing.

    `recommended` are formats of the body that suit the target, best first; `layout` is the packing.
    """

    body_format: str
    head_format: str
    layout: str
    context: int
    chunk: int
    recommended: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Target:
    """One device profile."""

    name: str
    description: str
    triple: str
    cores: tuple[Core, ...]
    memory: Memory
    backends: tuple[Backend, ...]
    page_bytes: int
    thermals: Thermals
    defaults: Defaults
    sources: Mapping[str, str]

    @property
    def core_count(self) -> int:
        """Cores of all kinds."""
        return sum(core.count for core in self.cores)

    @property
    def isa(self) -> tuple[str, ...]:
        """Levels that every core of the target runs, weakest first."""
        return tuple(level for level in ISA_LEVELS if all(level in core.isa for core in self.cores))

    @property
    def in_order(self) -> bool:
        """Whether no core of the target runs instructions out of order."""
        return all(core.in_order for core in self.cores)

    def backend(self, name: str) -> Backend:
        """Return a backend that may run a model on this target.

        Raises: InvalidArgumentError, with the traps, for one that the target does not have or that
            must never be taken there.
        """
        for backend in self.backends:
            if backend.name == name and backend.use != "never":
                return backend
            if backend.name == name:
                raise InvalidArgumentError(
                    f"never take {name} on {self.name}: {'; '.join(backend.traps)}"
                )
        known = ", ".join(one.name for one in self.backends if one.use != "never")
        raise InvalidArgumentError(f"target {self.name} has no backend {name}; it has {known}")


def list_targets() -> tuple[str, ...]:
    """Return the names of the profiles that come with Ingot, `host` first."""
    names = sorted(path.stem for path in profile_folder().glob("*.toml"))
    return tuple(sorted(names, key=lambda name: name != "host"))


def load_target(name_or_path: str | Path) -> Target:
    """Return a profile by its name or from a TOML file.

    Raises: InvalidArgumentError naming file, key and what was expected; StorageError if the file
        cannot be read.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        if str(name_or_path) not in list_targets():
            raise InvalidArgumentError(
                f"unknown target '{name_or_path}': the profiles are {', '.join(list_targets())};"
                " a profile of your own is given by the path of its .toml file"
            )
        path = profile_folder() / f"{name_or_path}.toml"
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidArgumentError(f"{path}: not valid TOML: {error}") from error
    return _read_target(path, values)


def profile_folder() -> Path:
    """Return the folder of the profiles and of published.csv."""
    installed = Path(__file__).resolve().parent / "target_profiles"
    if installed.is_dir():
        return installed
    return Path(__file__).resolve().parents[2] / "targets"


def _read_target(path: Path, values: dict[str, Any]) -> Target:
    table = ProfileTable(path, "", values)
    name = table.text("name")
    if name != path.stem:
        raise table.refuse("name", name, f"'{path.stem}', the name of the file")
    detected = table.has("detect")
    if detected and table.take("detect", "true") is not True:
        raise table.refuse("detect", False, "true, or no such key")
    target = Target(
        name=name,
        description=table.text("description"),
        triple=host_triple() if detected else table.text("triple", TRIPLES),
        cores=(_host_core(),) if detected else _read_cores(table),
        memory=_read_memory(table.table("memory"), detected),
        backends=_read_backends(table),
        page_bytes=os.sysconf("SC_PAGE_SIZE") if detected else _read_page_bytes(table),
        thermals=_read_thermals(table.table("thermals")),
        defaults=_read_defaults(table.table("defaults")),
        sources=_read_sources(table.table("sources")),
    )
    table.finish()
    missing = [key for key in _sourced(target, detected) if key not in target.sources]
    if missing:
        raise table.refuse("sources", sorted(target.sources), f"where '{missing[0]}' comes from")
    return target


def _sourced(target: Target, detected: bool) -> Iterator[str]:
    """Yield the keys that must say where they come from."""
    yield from ("usable_share", "thermals", "recommended")
    for backend in target.backends:
        for key in ("achievable_gb_s", "int8_tops"):
            if getattr(backend, key) is not None:
                yield f"backends.{backend.name}.{key}"
    for key in ("peak_gb_s", "achievable_gb_s"):
        if getattr(target.memory, key) is not None:
            yield key
    if detected:
        return
    yield from ("cores", "page_bytes")
    for key in ("int8_macs_per_cycle", "cycles_per_weight"):
        if any(getattr(core, key) for core in target.cores):
            yield key


def _host_core() -> Core:
    macs = host_macs_per_cycle()
    return Core(host_core_name(), host_cores(), host_isa(), host_clock_mhz(), False, macs)


def _read_cores(table: ProfileTable) -> tuple[Core, ...]:
    cores = []
    for item in table.tables("cores"):
        cores.append(
            Core(
                name=item.text("class"),
                count=item.integer("count", 1, 1024),
                isa=item.texts("isa", ISA_LEVELS),
                mhz=item.integer("mhz", 100, 10000),
                in_order=item.has("in_order") and item.flag("in_order"),
                int8_macs_per_cycle=_optional(item, "int8_macs_per_cycle", 0.1, 4096.0),
                cycles_per_weight=_read_cycles(item),
            )
        )
        if "ref" not in cores[-1].isa:
            raise item.refuse("isa", list(cores[-1].isa), "a list with 'ref', which runs anywhere")
        item.finish()
    return tuple(cores)


def _optional(table: ProfileTable, key: str, lowest: float, highest: float) -> float | None:
    return table.number(key, lowest, highest) if table.has(key) else None


def _read_cycles(item: ProfileTable) -> Mapping[str, float]:
    if not item.has("cycles_per_weight"):
        return {}
    table = item.table("cycles_per_weight")
    cycles = {name: table.number(name, 1e-4, 1e3) for name in FORMATS if table.has(name)}
    table.finish()
    return cycles


def _read_memory(table: ProfileTable, detected: bool) -> Memory:
    size = host_memory_bytes() if detected else table.integer("bytes", 1 << 26, 1 << 44)
    peak = _optional(table, "peak_gb_s", 0.1, 10000.0)
    achievable = _optional(table, "achievable_gb_s", 0.1, 10000.0 if peak is None else peak)
    memory = Memory(size, table.number("usable_share", 0.05, 1.0), peak, achievable)
    table.finish()
    return memory


def _read_backends(table: ProfileTable) -> tuple[Backend, ...]:
    backends: list[Backend] = []
    for item in table.tables("backends"):
        backend = Backend(
            name=item.text("name", BACKENDS),
            use=item.text("use", USES),
            traps=item.sentences("traps") if item.has("traps") else (),
            achievable_gb_s=_optional(item, "achievable_gb_s", 0.1, 10000.0),
            int8_tops=_optional(item, "int8_tops", 0.01, 10000.0),
        )
        if backend.use == "never" and not backend.traps:
            raise item.refuse("traps", [], "why it is never taken")
        if backend.name in [one.name for one in backends]:
            raise item.refuse("name", backend.name, "each backend once")
        item.finish()
        backends.append(backend)
    if [one.use for one in backends if one.name == "cpu"] != ["default"]:
        raise table.refuse("backends", [one.name for one in backends], "'cpu' with use 'default'")
    return tuple(backends)


def _read_thermals(table: ProfileTable) -> Thermals:
    throttle = table.integer("throttle_celsius", 30, 130) if table.has("throttle_celsius") else None
    share = _optional(table, "sustained_share", 0.1, 1.0)
    thermals = Thermals(table.text("advice"), throttle, share)
    table.finish()
    return thermals


def _read_page_bytes(table: ProfileTable) -> int:
    value = table.integer("page_bytes", 4096, 65536)
    if value & (value - 1):
        raise table.refuse("page_bytes", value, "a power of two")
    return value


def _read_defaults(table: ProfileTable) -> Defaults:
    defaults = Defaults(
        body_format=table.text("body_format", FORMATS),
        layout=table.text("layout", LAYOUTS),
        head_format=table.text("head_format", FORMATS),
        context=table.integer("context", 1, 1 << 24),
        chunk=table.integer("chunk", 1, 4096),
        recommended=table.sentences("recommended"),
    )
    if defaults.chunk > defaults.context:
        raise table.refuse("chunk", defaults.chunk, f"at most the context, {defaults.context}")
    unknown = [one for one in defaults.recommended if one not in FORMATS]
    if unknown or defaults.recommended[:1] != (defaults.body_format,):
        found = list(defaults.recommended)
        raise table.refuse("recommended", found, f"formats, '{defaults.body_format}' the first")
    table.finish()
    return defaults


def _read_sources(table: ProfileTable) -> Mapping[str, str]:
    return {key: table.text(key) for key in table.keys()}  # noqa: SIM118 (not a dict)
