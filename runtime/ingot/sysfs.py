# SPDX-License-Identifier: Apache-2.0
"""What the system tells about memory, heat and power, below a root that a test can replace.

Nothing here fails: what is not there, or makes no sense, is None or left out.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from ingot.record import Record

__all__ = [
    "CgroupMemory",
    "Zone",
    "cgroup_memory",
    "energy_microjoules",
    "power_watts",
    "read_number",
    "read_text",
    "thermal_zones",
]

_UNLIMITED = 1 << 60  # version 1 writes a number near 2^63 for no limit
_CLASS = "/sys/class"


class Zone(Record):
    """One thermal zone. Units: degrees Celsius; trip: where the system acts itself, if it tells."""

    name: str
    celsius: float
    trip: float | None


class CgroupMemory(Record):
    """The tightest memory limit of this process's control groups. Units: bytes.

    used: what is in use and cannot be dropped: pages of files, mapped weights too, are not counted.
    """

    path: str
    limit: int
    used: int

    @property
    def available(self) -> int:
        """Bytes still to be had."""
        return max(self.limit - self.used, 0)


def read_text(path: str, most: int = 1 << 16) -> str:
    """Return a file's text without the white space around it, "" if it cannot be read."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return file.read(most).decode("utf-8", errors="replace").strip()
    return ""


def read_number(path: str) -> int | None:
    """Return the integer in a file."""
    try:
        return int(read_text(path))
    except ValueError:
        return None


def _folders(parent: str, start: str) -> Iterator[str]:
    """Yield the folders of a class of devices, by name."""
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(parent)):
            if name.startswith(start):
                yield f"{parent}/{name}"


def thermal_zones(root: str = "") -> tuple[Zone, ...]:
    """Return the thermal zones; one that reads as no temperature on earth is left out."""
    zones = []
    for folder in _folders(f"{root}{_CLASS}/thermal", "thermal_zone"):
        value = read_number(f"{folder}/temp")
        if value is not None and -50_000 < value < 200_000:
            name = read_text(f"{folder}/type") or os.path.basename(folder)
            zones.append(Zone(name, value / 1000, _trip(folder)))
    return tuple(zones)


def _trip(folder: str) -> float | None:
    """Return the least temperature at which the system slows down or goes off."""
    trips = []
    for index in range(16):
        kind = read_text(f"{folder}/trip_point_{index}_type")
        value = read_number(f"{folder}/trip_point_{index}_temp")
        if kind in ("passive", "hot", "critical") and value is not None and value > 0:
            trips.append(value / 1000)
    return min(trips, default=None)


def power_watts(root: str = "") -> float | None:
    """Return the present power of the board's sensor, or of the battery that drains.

    Jetson boards and some others have voltage and current (INA3221) in place of power; where there
    are several rails the largest is the board's input.
    """
    rails = []
    for folder in _folders(f"{root}{_CLASS}/hwmon", "hwmon"):
        for index in range(1, 9):
            watts = _microwatts(folder, index)
            if watts is not None and watts >= 0:
                rails.append(watts)
    if rails:
        return max(rails)
    for folder in _folders(f"{root}{_CLASS}/power_supply", ""):
        power = read_number(f"{folder}/power_now")
        if power is not None and read_text(f"{folder}/status") == "Discharging":
            return abs(power) * 1e-6
    return None


def _microwatts(folder: str, index: int) -> float | None:
    power = read_number(f"{folder}/power{index}_input")
    if power is not None:
        return power * 1e-6
    millivolts = read_number(f"{folder}/in{index}_input")
    milliamperes = read_number(f"{folder}/curr{index}_input")
    if millivolts is None or milliamperes is None:
        return None
    return millivolts * milliamperes * 1e-6


def energy_microjoules(root: str = "") -> int | None:
    """Return the counter of the processor packages' energy; it only grows until it wraps."""
    values = [
        read_number(f"{folder}/energy_uj")
        for folder in _folders(f"{root}{_CLASS}/powercap", "intel-rapl:")
        if folder.rpartition("/")[2].count(":") == 1
    ]
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def cgroup_memory(root: str = "") -> CgroupMemory | None:
    """Return the tightest limit, of version 1 or 2, of this process's groups or those above."""
    found: list[CgroupMemory] = []
    for line in read_text(f"{root}/proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if number == "0" and not controllers:
            found += _limits(root, "/sys/fs/cgroup", group, 2)
        elif "memory" in controllers.split(","):
            found += _limits(root, "/sys/fs/cgroup/memory", group, 1)
    return min(found, key=lambda each: each.available, default=None)


def _limits(root: str, mount: str, group: str, version: int) -> Iterator[CgroupMemory]:
    """Yield the limits of a group and those above it; a container may see only the top one."""
    names = ("memory.max", "memory.current") if version == 2 else _VERSION_1
    parts = [part for part in group.split("/") if part not in ("", "..")]
    for length in range(len(parts), -1, -1):
        path = "/".join((f"{root}{mount}", *parts[:length]))
        limit = read_number(f"{path}/{names[0]}")
        if limit is not None and 0 < limit < _UNLIMITED:
            used = (read_number(f"{path}/{names[1]}") or 0) - _file_pages(path, version)
            yield CgroupMemory("/" + "/".join(parts[:length]), limit, max(used, 0))


_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")


def _file_pages(path: str, version: int) -> int:
    wanted = "file" if version == 2 else "total_cache"
    for line in read_text(f"{path}/memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name == wanted and value.isdigit():
            return int(value)
    return 0
