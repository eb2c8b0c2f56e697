# SPDX-License-Identifier: Apache-2.0
"""What a device has and what is wrong with it, read in milliseconds; nothing is changed.

Each section is a function from a root, which stands for "/" in tests, to plain data; each problem
comes with how to mend it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from ingot._native import Native, native
from ingot.backends import NAMES, devices
from ingot.canary import LEVELS
from ingot.environment import cache_path, environment, is_privileged
from ingot.errors import IngotError, MissingExtraError
from ingot.record import Record
from ingot.sysfs import cgroup_memory, power_watts, read_number, read_text, thermal_zones
from ingot.topology import read_topology

__all__ = ["Diagnosis", "Problem", "diagnose"]

CPUS = "/sys/devices/system/cpu"
LITTLE_MEMORY = 256 << 20  # bytes available
NEAR = 5.0  # degrees below the point where the system slows down
# Bits of the Raspberry Pi firmware's report: now, and (16 bits further) since the start.
_THROTTLED = {0: "under-voltage", 1: "clock capped", 2: "throttled", 3: "soft temperature limit"}
_FIRMWARE = "/sys/devices/platform/soc/soc:firmware/get_throttled"


class Problem(Record):
    """Something wrong: error (nothing runs) or warning (slower or riskier), and the remedy."""

    level: str
    text: str
    remedy: str


class Diagnosis(Record):
    """Sections of plain data by name, and what is wrong."""

    sections: Mapping[str, Any]
    problems: tuple[Problem, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it for json.dumps()."""
        problems = [{"level": p.level, "text": p.text, "remedy": p.remedy} for p in self.problems]
        return {**self.sections, "problems": problems}


def diagnose(root: str = "") -> Diagnosis:
    """Look at the device below a root."""
    problems: list[Problem] = []
    sections: dict[str, Any] = {}
    try:
        library: Native | None = native()
    except IngotError as error:
        library = None
        problems.append(
            Problem("error", str(error), 'install the wheel again: pip install "ingot"')
        )
    if library is not None:
        sections["cpu"] = _cpu(library, root, problems)
        sections["kernels"] = _kernels(library)
    readers: dict[str, Callable[[str, list[Problem]], Any]] = {
        "memory": _memory,
        "clocks": _clocks,
        "thermal": _thermal,
        "gpu": _gpu,
        "settings": _settings,
    }
    for name, reader in readers.items():
        sections[name] = reader(root, problems)
    return Diagnosis(sections, tuple(problems))


def _cpu(library: Native, root: str, problems: list[Problem]) -> dict[str, Any]:
    """CPUs, instruction sets, and what keeps them from being used."""
    topology = read_topology(library, root)
    features, mask = int(library.lib.ingot_cpu_features()), int(library.lib.ingot_cpu_mask())
    named = [name for bit, name in LEVELS.items() if bit & features]
    used = [name for bit, name in LEVELS.items() if bit & mask]
    if used != named:
        remedy = "unset INGOT_FORCE_ISA"
        text = f"kernels are held to {', '.join(used)} of {', '.join(named)}"
        problems.append(Problem("warning", text, remedy))
    elif named == ["ref"]:
        text = "no vector kernels for this CPU: only the scalar reference runs"
        problems.append(Problem("warning", text, "use a 64-bit system, or report the CPU"))
    if 0 < topology.quota < topology.big_cores:
        text = f"the control group gives {topology.quota:g} of {topology.big_cores} big cores"
        problems.append(Problem("warning", text, "raise cpu.max (docker run --cpus)"))
    busy = read_text(f"{root}/proc/loadavg").split(" ")[0]
    load = float(busy) if busy.replace(".", "", 1).isdigit() else 0.0
    if load > 1.5 * max(len(topology.cpus), 1):
        text = f"{load:g} processes want {len(topology.cpus)} CPUs"
        problems.append(Problem("warning", text, "see `top`; measure when they are done"))
    return {**topology.to_json(), "isa": named, "isa_used": used, "load": load}


def _kernels(library: Native) -> list[str]:
    """Return the linear kernels that dispatch takes, one per format."""
    info, chosen = library.struct("ingot_kernel_info"), []
    for index in range(int(library.lib.ingot_kernel_count())):
        library.check(library.lib.ingot_kernel_info_get(index, info))
        if info.selected:
            chosen.append(library.text(info.name))
    return chosen


def _memory(root: str, problems: list[Problem]) -> dict[str, Any]:
    """Main memory, swap, page size, and the control groups' limit."""
    values: dict[str, int] = {}
    for line in read_text(f"{root}/proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        number = rest.split()[0] if rest.split() else ""
        values[name] = int(number) * 1024 if number.isdigit() else 0
    available = values.get("MemAvailable", 0)
    group = cgroup_memory(root)
    if group is not None:
        available = min(available or group.available, group.available)
    if 0 < available < LITTLE_MEMORY:
        text = f"{available >> 20} MiB of memory are available"
        remedy = "end other programs, or open sessions with a smaller context or kv='k8v4'"
        problems.append(Problem("warning", text, remedy))
    return {
        "total_bytes": values.get("MemTotal", 0),
        "available_bytes": available,
        "swap_bytes": values.get("SwapTotal", 0),
        "page_bytes": os.sysconf("SC_PAGE_SIZE"),
        "cgroup": None if group is None else group.fields(),
    }


def _clocks(root: str, problems: list[Problem]) -> list[dict[str, Any]]:
    """Frequency governors, one entry per policy. Units: MHz."""
    found = []
    folder = f"{root}{CPUS}/cpufreq"
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        path = f"{folder}/{name}"
        governor = read_text(f"{path}/scaling_governor")
        if not governor:
            continue
        numbers = {
            key: (read_number(f"{path}/{file}") or 0) // 1000
            for key, file in (
                ("mhz", "scaling_cur_freq"),
                ("limit_mhz", "scaling_max_freq"),
                ("most_mhz", "cpuinfo_max_freq"),
            )
        }
        found.append({"policy": name, "governor": governor, **numbers})
        if governor == "powersave" and read_text(f"{path}/scaling_driver") != "intel_pstate":
            text = f"{name} runs at its lowest clock (governor powersave)"
            remedy = f"echo schedutil | sudo tee {CPUS}/cpufreq/{name}/scaling_governor"
            problems.append(Problem("warning", text, remedy))
        elif 0 < numbers["limit_mhz"] < numbers["most_mhz"]:
            text = f"{name} is held to {numbers['limit_mhz']} of {numbers['most_mhz']} MHz"
            remedy = f"see {CPUS}/cpufreq/{name}/scaling_max_freq, or cool the device"
            problems.append(Problem("warning", text, remedy))
    return found


def _thermal(root: str, problems: list[Problem]) -> dict[str, Any]:
    """Temperatures, power, and what the firmware says of the power supply."""
    zones = thermal_zones(root)
    for zone in zones:
        if zone.trip is not None and zone.celsius > zone.trip - NEAR:
            text = f"{zone.name} has {zone.celsius:.0f} C, at {zone.trip:.0f} C it slows down"
            remedy = "cool it, or give sessions a Governor(max_celsius=...)"
            problems.append(Problem("warning", text, remedy))
    bits = _firmware_bits(root)
    now = [name for bit, name in _THROTTLED.items() if bits >> bit & 1]
    before = [name for bit, name in _THROTTLED.items() if bits >> (16 + bit) & 1]
    if now or before:
        text = f"the board reports {', '.join(now or before)}{'' if now else ' since its start'}"
        remedy = "use the board's own power supply and a short cable; cool it"
        problems.append(Problem("warning", text, remedy))
    return {
        "zones": [zone.fields() for zone in zones],
        "watts": power_watts(root),
        "throttled": now,
        "throttled_before": before,
    }


def _firmware_bits(root: str) -> int:
    try:
        return int(read_text(f"{root}{_FIRMWARE}") or "0", 16)
    except ValueError:
        return 0


def _gpu(root: str, problems: list[Problem]) -> dict[str, Any]:
    """GPU drivers that are there, and the devices that the installed backends find."""
    drivers = []
    cards = f"{root}/sys/class/drm"
    for name in sorted(os.listdir(cards)) if os.path.isdir(cards) else ():
        driver = f"{cards}/{name}/device/driver"
        if name.startswith("card") and "-" not in name and os.path.islink(driver):
            drivers.append(os.path.basename(os.readlink(driver)))
    first = read_text(f"{root}/proc/driver/nvidia/version").partition("\n")[0]
    vulkan = []
    for folder in ("/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d"):
        if os.path.isdir(root + folder):
            vulkan += sorted(os.listdir(root + folder))
    if vulkan and any(driver in ("v3d", "vc4", "vc4-drm") for driver in drivers):
        text = "VideoCore has a Vulkan driver, which is slower than this CPU"
        problems.append(
            Problem("warning", text, "leave the backend at cpu; never force vulkan here")
        )
    found = {} if root else _backends()
    return {"drm": drivers, "nvidia": first, "vulkan_drivers": vulkan, "backends": found}


def _backends() -> dict[str, Any]:
    """Return the devices of each backend that is installed, or why there are none."""
    found: dict[str, Any] = {}
    for name in NAMES[1:]:
        try:
            found[name] = [device.to_json() for device in devices(native(), name)]
        except MissingExtraError:
            found[name] = "not installed"
        except IngotError as error:
            found[name] = str(error)
    return found


def _settings(root: str, problems: list[Problem]) -> dict[str, Any]:
    """The cache of tuning and canary, variables that are set, and the process's rights."""
    path = cache_path("tune", "") or ""
    folder = os.path.dirname(path)
    nearest = folder
    while nearest and not os.path.isdir(nearest):
        nearest = os.path.dirname(nearest)
    writable = bool(nearest) and os.access(nearest, os.W_OK)
    if folder and not writable:
        text = f"{folder} cannot be written: each start tunes and checks kernels again"
        problems.append(Problem("warning", text, "set INGOT_CACHE_DIR to a folder that can"))
    if environment("INGOT_CANARY") == "0":
        text = "INGOT_CANARY=0: kernels are used without having been checked here"
        problems.append(Problem("warning", text, "unset INGOT_CANARY"))
    names = ("INGOT_FORCE_ISA", "INGOT_NATIVE_DIR", "INGOT_TUNE", "INGOT_CANARY", "INGOT_CACHE_DIR")
    variables = {name: value for name in names if (value := environment(name)) is not None}
    return {
        "cache": folder,
        "cache_writable": writable,
        "variables": variables,
        "privileged": is_privileged(),
    }
