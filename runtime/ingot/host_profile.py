# SPDX-License-Identifier: Apache-2.0
"""What a profile says of cores and memory, read from the running system."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

__all__ = [
    "ISA_LEVELS",
    "host_clock_mhz",
    "host_core_name",
    "host_cores",
    "host_isa",
    "host_macs_per_cycle",
    "host_memory_bytes",
    "host_triple",
]

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

# What each kernel level needs, in the words of /proc/cpuinfo.
_AVX512 = {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni"}
_NEEDS = {
    "avx2": {"avx2", "fma", "f16c"},
    "avxvnni": {"avx2", "fma", "f16c", "avx_vnni"},
    "avx512vnni": {"avx2", "fma", "f16c"} | _AVX512,
    "neon": {"asimd"},
    "neon_dotprod": {"asimd", "asimddp"},
    "neon_i8mm": {"asimd", "asimddp", "i8mm"},
}
# Products of int8 that one core adds up per cycle at most, by the best level that it runs: as the
# profiles have them; 124 of AVX-512 VNNI were measured on a Zen 5.
_MACS_PER_CYCLE = {
    "ref": 1.0,
    "neon": 8.0,
    "avx2": 16.0,
    "avxvnni": 32.0,
    "neon_dotprod": 32.0,
    "neon_i8mm": 64.0,
    "sve2": 64.0,
    "avx512vnni": 124.0,
}


def host_triple() -> str:
    """Return the triple of this machine."""
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(
        platform.machine().lower(), platform.machine().lower()
    )
    return f"{machine}-linux-gnu" if sys.platform == "linux" else f"{machine}-{sys.platform}"


def host_cores() -> int:
    """Return how many CPUs this process may run on."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def host_isa() -> tuple[str, ...]:
    """Return the kernel levels that this machine runs, weakest first."""
    flags = set(_field("flags", "Features").split())
    return ("ref", *(level for level in ISA_LEVELS if level in _NEEDS and _NEEDS[level] <= flags))


def host_macs_per_cycle() -> float:
    """Return the products of int8 that one core of this machine adds up per cycle at most."""
    return max(_MACS_PER_CYCLE[level] for level in host_isa())


def host_core_name() -> str:
    """Return the processor's name."""
    return _field("model name") or platform.machine()


def host_clock_mhz() -> int:
    """Return the clock of the last CPU listed, 0 where the system does not tell."""
    return int(float(_field("cpu MHz") or 0))


def host_memory_bytes() -> int:
    """Return the main memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _field(*names: str) -> str:
    """Return the last value of a field of /proc/cpuinfo, empty where there is none."""
    found = ""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return found
    for line in text.splitlines():
        key, _, value = (part.strip() for part in line.partition(":"))
        if key in names:
            found = value
    return found
