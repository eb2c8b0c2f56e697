# SPDX-License-Identifier: Apache-2.0
"""The governor on a fake sysfs: down at once, up after calm readings, the text always the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingot import Model
from ingot.errors import InvalidArgumentError
from ingot.governor import Governor
from ingot.sysfs import energy_microjoules, power_watts, thermal_zones


class Device:
    """A folder that stands for "/", and a clock."""

    def __init__(self, root: Path) -> None:
        self.root, self.now = root, 0.0

    def write(self, path: str, value: object) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{value}\n")

    def heat(self, celsius: float, zone: int = 0, name: str = "cpu-thermal") -> None:
        self.write(f"sys/class/thermal/thermal_zone{zone}/temp", int(celsius * 1000))
        self.write(f"sys/class/thermal/thermal_zone{zone}/type", name)

    def governor(self, celsius: float | None, watts: float | None = None, *zones: str) -> Governor:
        return Governor(celsius, watts, zones, 1.0, str(self.root), lambda: self.now)

    def after(self, governor: Governor, seconds: float = 1.0) -> int:
        self.now += seconds
        return governor.thread_limit(4)


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def test_zones_are_read_and_nonsense_is_left_out(device: Device) -> None:
    device.heat(48.5)
    device.write("sys/class/thermal/thermal_zone0/trip_point_0_type", "passive")
    device.write("sys/class/thermal/thermal_zone0/trip_point_0_temp", 80000)
    device.write("sys/class/thermal/thermal_zone0/trip_point_1_type", "critical")
    device.write("sys/class/thermal/thermal_zone0/trip_point_1_temp", 110000)
    device.heat(-274, 1, "broken")
    device.write("sys/class/thermal/thermal_zone2/temp", "what")
    (zone,) = thermal_zones(str(device.root))
    assert (zone.name, zone.celsius, zone.trip) == ("cpu-thermal", 48.5, 80.0)


def test_it_goes_down_a_step_at_a_time_and_up_when_calm(device: Device) -> None:
    device.heat(60)
    governor = device.governor(70)
    assert (governor.mode, device.after(governor), governor.speculates) == ("full", 4, True)
    device.heat(71)
    assert device.after(governor, 0.5) == 4 and governor.mode == "full"  # not yet time to look
    found = [(device.after(governor), governor.mode, governor.speculates) for _ in range(4)]
    assert found == [
        (4, "no speculation", False),
        (2, "half the threads", False),
        (1, "one thread", False),
        (1, "one thread", False),
    ]
    device.heat(69)  # below, but not by the margin: it stays
    assert [device.after(governor) for _ in range(5)] == [1] * 5
    device.heat(60)
    assert [device.after(governor) for _ in range(9)] == [1, 1, 2, 2, 2, 4, 4, 4, 4]
    assert governor.mode == "full" and governor.changes == 6
    assert "60.0 of 70 C" in governor.describe()


def test_the_hottest_of_the_named_zones_counts(device: Device) -> None:
    device.heat(50)
    device.heat(90, 1, "battery")
    everything, cpu = device.governor(70), device.governor(70, None, "cpu-thermal")
    device.after(everything)
    device.after(cpu, 0.0)
    assert (everything.mode, cpu.mode) == ("no speculation", "full")


def test_watts_come_from_sensors_rails_batteries_and_counters(device: Device) -> None:
    root = str(device.root)
    device.write("sys/class/powercap/intel-rapl:0/energy_uj", 1_000_000)
    device.write("sys/class/powercap/intel-rapl:0:0/energy_uj", 999)
    assert energy_microjoules(root) == 1_000_000 and power_watts(root) is None
    governor = device.governor(None, 8.0)
    device.write("sys/class/powercap/intel-rapl:0/energy_uj", 21_000_000)
    assert device.after(governor, 2.0) == 4  # 20 J in 2 s: 10 W
    assert governor.reading.watts == pytest.approx(10.0) and governor.mode == "no speculation"
    device.write("sys/class/powercap/intel-rapl:0/energy_uj", 5)  # wrapped: no reading, no change
    device.after(governor)
    assert governor.reading.watts is None and governor.mode == "no speculation"
    device.write("sys/class/power_supply/BAT0/power_now", 6_000_000)
    device.write("sys/class/power_supply/BAT0/status", "Discharging")
    assert power_watts(root) == 6.0
    device.write("sys/class/hwmon/hwmon3/in1_input", 5000)
    device.write("sys/class/hwmon/hwmon3/curr1_input", 3000)
    assert power_watts(root) == 15.0
    device.write("sys/class/hwmon/hwmon0/power1_input", 16_500_000)
    assert power_watts(root) == 16.5


def test_what_cannot_be_governed_is_refused(device: Device) -> None:
    with pytest.raises(InvalidArgumentError, match="max_celsius or max_watts"):
        device.governor(None)
    with pytest.raises(InvalidArgumentError, match="no thermal zone"):
        device.governor(70)
    with pytest.raises(InvalidArgumentError, match="no power sensor"):
        device.governor(None, 5)


def test_a_hot_session_writes_the_same_text(device: Device, lantern_ingot: Path) -> None:
    device.heat(99)
    with Model(lantern_ingot) as model:
        with model.session(threads=2, speculate=7) as session:
            plain = session.generate("It was a dark", max_tokens=24)
        governor = device.governor(70)
        governor._interval = 0.0
        with model.session(threads=2, speculate=7, governor=governor) as session:
            hot = session.generate("It was a dark", max_tokens=24)
            assert session.config.governor is governor
    assert hot.token_ids == plain.token_ids
    assert governor.mode == "one thread"
    assert hot.stats.drafted_tokens == 0


def test_the_library_obeys_the_limit(lantern_ingot: Path) -> None:
    with Model(lantern_ingot) as model, model.session(threads=2) as session:
        native, handle = model.native, session._passes.handle
        native.check(native.lib.ingot_session_profile(handle, 1))
        counts = []
        for limit in (0, 1):
            native.check(native.lib.ingot_session_limit_threads(handle, limit))
            session.feed([1])
            counts.append(_threads_at_work(native, handle, model.info.instruction_count))
    assert counts[1] == 1 <= counts[0]


def _threads_at_work(native: object, handle: object, instructions: int) -> int:
    ffi, lib = native.ffi, native.lib  # type: ignore[attr-defined]
    entries = ffi.new("ingot_profile_entry[]", instructions)
    count, found = ffi.new("uint32_t *"), 0
    for thread in range(2):
        read = lib.ingot_session_profile_read
        native.check(read(handle, thread, entries, instructions, count))  # type: ignore[attr-defined]
        found += count[0] > 0
    return found
