# SPDX-License-Identifier: Apache-2.0
"""Whether this device is one that a file was made for, told before its bytes are sent."""

from __future__ import annotations

from dataclasses import dataclass

from ingot.errors import IngotError
from ingot.format import VERSION, Layout
from ingot.store.manifest import Requirements
from ingot.targets import Target, load_target

__all__ = ["Fit", "check_profile"]

_SHARE_OF_PROFILE = 0.85  # boards report less memory than they have: firmware and GPU keep some
_MANY = ("", "host")


@dataclass(frozen=True, slots=True)
class Fit:
    """`problems` forbid an installation, `remarks` are worth knowing."""

    problems: tuple[str, ...]
    remarks: tuple[str, ...]


def check_profile(needs: Requirements, host: Target | None = None) -> Fit:
    """Compare what a file needs with a device, by default this one. Units: bytes."""
    device = load_target("host") if host is None else host
    problems, remarks = [], []
    if needs.format[0] != VERSION[0] or needs.format[1] > VERSION[1]:
        ours = ".".join(str(part) for part in VERSION[:2])
        problems.append(
            f"the file has format {needs.format[0]}.{needs.format[1]}, this runtime reads {ours}"
        )
    unknown = set(needs.layouts) - {layout.name.lower() for layout in Layout}
    if unknown:
        problems.append(f"this runtime does not know layout {', '.join(sorted(unknown))}")
    if needs.peak_bytes > device.memory.bytes:
        problems.append(
            f"the plan is {needs.peak_bytes / 1e6:.0f} MB of memory at context {needs.context}, "
            f"the device has {device.memory.bytes / 1e6:.0f} MB"
        )
    elif needs.peak_bytes > device.memory.usable_bytes:
        remarks.append(f"the plan takes most of the memory: {needs.peak_bytes / 1e6:.0f} MB")
    if needs.target not in _MANY:
        _compare(needs.target, device, problems, remarks)
    return Fit(tuple(problems), tuple(remarks))


def _compare(name: str, device: Target, problems: list[str], remarks: list[str]) -> None:
    """Compare the device with the profile that the file was made for."""
    try:
        wanted = load_target(name)
    except IngotError:
        remarks.append(f"the file was made for '{name}', a profile that is not known here")
        return
    machine, found = wanted.triple.split("-")[0], device.triple.split("-")[0]
    if machine != found:
        problems.append(f"the file was made for {name} ({machine}), this device is {found}")
        return
    lacking = [level for level in wanted.isa if level not in device.isa]
    if lacking:
        problems.append(f"the file was made for {name}, whose {', '.join(lacking)} is not here")
    if device.memory.bytes < _SHARE_OF_PROFILE * wanted.memory.bytes:
        remarks.append(
            f"{name} has {wanted.memory.bytes / 1e9:.1f} GB of memory, "
            f"this device {device.memory.bytes / 1e9:.1f} GB"
        )
