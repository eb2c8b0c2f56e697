# SPDX-License-Identifier: Apache-2.0
"""Device profiles: what a target has, as data, with a schema that refuses anything unknown.

A profile is a TOML file in targets/ of the source tree, installed as ingot/target_profiles.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ingot.errors import InvalidArgumentError, StorageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["LAYOUTS", "Core", "Defaults", "Memory", "Target", "list_targets", "load_target"]

ISA_LEVELS = (
    "ref",
    "avx2",
    "avxvnni",
    "avx512vnni",
    "neon",
    "neon_dotprod",
    "neon_i8mm",
    "sve2",
)
BACKENDS = ("cpu",)
FORMATS = ("f16", "q8", "q6", "c5", "q4", "q4z", "c4", "c3", "c2", "t2")
LAYOUTS = ("t16", "t16_k8")
TRIPLES = ("x86_64-linux-gnu", "aarch64-linux-gnu", "aarch64-linux-android")

# What each kernel level needs, in the words of /proc/cpuinfo.
_X86_NEEDS = {
    "avx2": {"avx2", "fma", "f16c"},
    "avxvnni": {"avx2", "fma", "f16c", "avx_vnni"},
    "avx512vnni": {
        "avx2",
        "fma",
        "f16c",
        "avx512f",
        "avx512bw",
        "avx512vl",
        "avx512dq",
        "avx512_vnni",
    },
}
_ARM_NEEDS = {
    "neon": {"asimd"},
    "neon_dotprod": {"asimd", "asimddp"},
    "neon_i8mm": {"asimd", "asimddp", "i8mm"},
}


@dataclass(frozen=True, slots=True)
class Core:
    """Cores of one kind. Units: mhz in MHz, 0 where the system does not tell."""

    name: str
    count: int
    isa: tuple[str, ...]
    mhz: int


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
class Defaults:
    """What a compression for this target takes where the user says nothing."""

    body_format: str
    head_format: str
    layout: str
    context: int
    chunk: int


@dataclass(frozen=True, slots=True)
class Target:
    """One device profile."""

    name: str
    description: str
    triple: str
    cores: tuple[Core, ...]
    memory: Memory
    backends: tuple[str, ...]
    page_bytes: int
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


class _Table:
    """A TOML table that is read key by key; what nobody read is an error."""

    def __init__(self, path: Path, prefix: str, values: object) -> None:
        self._path = path
        self._prefix = prefix
        if not isinstance(values, dict):
            raise InvalidArgumentError(f"{path}: '{prefix.rstrip('.')}' is not a table")
        self._values: dict[str, Any] = dict(values)

    def refuse(self, key: str, found: object, expected: str) -> InvalidArgumentError:
        """Return the error for a bad value."""
        return InvalidArgumentError(
            f"{self._path}: '{self._prefix}{key}' is {found!r}, expected {expected}"
        )

    def take(self, key: str, expected: str) -> Any:
        """Return a value that must be there."""
        if key not in self._values:
            raise InvalidArgumentError(
                f"{self._path}: '{self._prefix}{key}' is missing, expected {expected}"
            )
        return self._values.pop(key)

    def has(self, key: str) -> bool:
        """Tell whether a key is still to be read."""
        return key in self._values

    def text(self, key: str, choices: tuple[str, ...] = ()) -> str:
        """Return a text, one of the choices if there are any."""
        expected = f"one of {', '.join(choices)}" if choices else "a text"
        value = self.take(key, expected)
        if not isinstance(value, str) or not value or (choices and value not in choices):
            raise self.refuse(key, value, expected)
        return value

    def texts(self, key: str, choices: tuple[str, ...]) -> tuple[str, ...]:
        """Return a list of different texts out of the choices, in the order of the choices."""
        expected = f"a list out of {', '.join(choices)}"
        value = self.take(key, expected)
        if not isinstance(value, list) or not value or any(item not in choices for item in value):
            raise self.refuse(key, value, expected)
        return tuple(choice for choice in choices if choice in value)

    def integer(self, key: str, lowest: int, highest: int) -> int:
        """Return an integer of a range."""
        expected = f"an integer from {lowest} to {highest}"
        value = self.take(key, expected)
        if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
            raise self.refuse(key, value, expected)
        return value

    def number(self, key: str, lowest: float, highest: float) -> float:
        """Return a number of a range."""
        expected = f"a number from {lowest:g} to {highest:g}"
        value = self.take(key, expected)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.refuse(key, value, expected)
        if not lowest <= value <= highest:
            raise self.refuse(key, value, expected)
        return float(value)

    def table(self, key: str) -> _Table:
        """Return a table inside this one."""
        return _Table(self._path, f"{self._prefix}{key}.", self.take(key, "a table"))

    def tables(self, key: str) -> list[_Table]:
        """Return the tables of an array."""
        values = self.take(key, f"one or more [[{key}]]")
        if not isinstance(values, list) or not values:
            raise self.refuse(key, values, f"one or more [[{key}]]")
        return [
            _Table(self._path, f"{self._prefix}{key}[{i}].", item) for i, item in enumerate(values)
        ]

    def keys(self) -> list[str]:
        """Return the keys not read yet."""
        return list(self._values)

    def finish(self) -> None:
        """Refuse what nobody read."""
        if self._values:
            unknown = ", ".join(f"'{self._prefix}{key}'" for key in self._values)
            raise InvalidArgumentError(f"{self._path}: unknown {unknown}; see targets/README.md")


def list_targets() -> tuple[str, ...]:
    """Return the names of the profiles that come with Ingot, `host` first."""
    names = sorted(path.stem for path in _profile_folder().glob("*.toml"))
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
        path = _profile_folder() / f"{name_or_path}.toml"
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidArgumentError(f"{path}: not valid TOML: {error}") from error
    return _read_target(path, values)


def _profile_folder() -> Path:
    installed = Path(__file__).resolve().parent / "target_profiles"
    if installed.is_dir():
        return installed
    return Path(__file__).resolve().parents[2] / "targets"


def _read_target(path: Path, values: dict[str, Any]) -> Target:
    table = _Table(path, "", values)
    name = table.text("name")
    if name != path.stem:
        raise table.refuse("name", name, f"'{path.stem}', the name of the file")
    detected = table.has("detect")
    if detected and table.take("detect", "true") is not True:
        raise table.refuse("detect", False, "true, or no such key")
    target = Target(
        name=name,
        description=table.text("description"),
        triple=_host_triple() if detected else table.text("triple", TRIPLES),
        cores=_host_cores() if detected else _read_cores(table),
        memory=_read_memory(table.table("memory"), detected),
        backends=table.texts("backends", BACKENDS),
        page_bytes=os.sysconf("SC_PAGE_SIZE") if detected else _read_page_bytes(table),
        defaults=_read_defaults(table.table("defaults")),
        sources=_read_sources(table.table("sources")),
    )
    table.finish()
    return target


def _read_cores(table: _Table) -> tuple[Core, ...]:
    cores = []
    for item in table.tables("cores"):
        cores.append(
            Core(
                name=item.text("class"),
                count=item.integer("count", 1, 1024),
                isa=item.texts("isa", ISA_LEVELS),
                mhz=item.integer("mhz", 100, 10000),
            )
        )
        if "ref" not in cores[-1].isa:
            raise item.refuse("isa", list(cores[-1].isa), "a list with 'ref', which runs anywhere")
        item.finish()
    return tuple(cores)


def _read_memory(table: _Table, detected: bool) -> Memory:
    size = _host_memory_bytes() if detected else table.integer("bytes", 1 << 26, 1 << 44)
    peak = table.number("peak_gb_s", 0.1, 10000.0) if table.has("peak_gb_s") else None
    achievable = None
    if table.has("achievable_gb_s"):
        achievable = table.number("achievable_gb_s", 0.1, 10000.0 if peak is None else peak)
    memory = Memory(size, table.number("usable_share", 0.05, 1.0), peak, achievable)
    table.finish()
    return memory


def _read_page_bytes(table: _Table) -> int:
    value = table.integer("page_bytes", 4096, 65536)
    if value & (value - 1):
        raise table.refuse("page_bytes", value, "a power of two")
    return value


def _read_defaults(table: _Table) -> Defaults:
    defaults = Defaults(
        body_format=table.text("body_format", FORMATS),
        layout=table.text("layout", LAYOUTS),
        head_format=table.text("head_format", FORMATS),
        context=table.integer("context", 1, 1 << 24),
        chunk=table.integer("chunk", 1, 4096),
    )
    if defaults.chunk > defaults.context:
        raise table.refuse("chunk", defaults.chunk, f"at most the context, {defaults.context}")
    table.finish()
    return defaults


def _read_sources(table: _Table) -> Mapping[str, str]:
    return {key: table.text(key) for key in table.keys()}  # noqa: SIM118 (not a dict)


def _host_triple() -> str:
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(
        platform.machine().lower(), platform.machine().lower()
    )
    return f"{machine}-linux-gnu" if sys.platform == "linux" else f"{machine}-{sys.platform}"


def _host_cores() -> tuple[Core, ...]:
    text = _read_text("/proc/cpuinfo")
    count = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    flags: set[str] = set()
    name, mhz = platform.machine(), 0
    for line in text.splitlines():
        key, _, value = (part.strip() for part in line.partition(":"))
        if key in ("flags", "Features"):
            flags = set(value.split())
        elif key == "model name":
            name = value
        elif key == "cpu MHz":
            mhz = int(float(value))
    needs = {**_X86_NEEDS, **_ARM_NEEDS}
    isa = ("ref", *(level for level in ISA_LEVELS if level in needs and needs[level] <= flags))
    return (Core(name, count, isa, mhz),)


def _host_memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
