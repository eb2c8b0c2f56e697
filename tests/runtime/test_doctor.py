# SPDX-License-Identifier: Apache-2.0
"""`ingot doctor`: every problem that a fake device has is named with its remedy, in no time."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ingot.cli import main
from ingot.diagnosis import diagnose

CPUFREQ = "sys/devices/system/cpu/cpufreq"
HOT = {
    "sys/class/thermal/thermal_zone0/temp": "84000",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
    "sys/class/thermal/thermal_zone0/trip_point_0_type": "passive",
    "sys/class/thermal/thermal_zone0/trip_point_0_temp": "85000",
}
SLOW = {f"{CPUFREQ}/policy0/scaling_governor": "powersave"}
HELD = {
    f"{CPUFREQ}/policy4/scaling_governor": "schedutil",
    f"{CPUFREQ}/policy4/scaling_max_freq": "1200000",
    f"{CPUFREQ}/policy4/cpuinfo_max_freq": "2400000",
}
POWER = {"sys/devices/platform/soc/soc:firmware/get_throttled": "50005"}
GROUP = {
    "proc/self/cgroup": "0::/",
    "sys/fs/cgroup/memory.max": str(100 << 20),
    "proc/meminfo": "MemTotal: 8000000 kB\nMemAvailable: 7000000 kB",
}
FULL = {"proc/meminfo": "MemTotal: 1000000 kB\nMemAvailable: 90000 kB\nSwapTotal: 5 kB"}
BUSY = {"proc/loadavg": "512.25 3.0 2.0 1/100 7"}
VULKAN = {"usr/share/vulkan/icd.d/broadcom_icd.json": "{}"}


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], str]:
    monkeypatch.setenv("INGOT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("INGOT_CANARY", raising=False)

    def write(files: dict[str, str]) -> str:
        for name, text in files.items():
            path = tmp_path / "root" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return str(tmp_path / "root")

    return write


def test_a_sound_device_has_no_problems(device: Callable[[dict[str, str]], str]) -> None:
    found = diagnose(device({"proc/meminfo": "MemTotal: 8000000 kB\nMemAvailable: 7000000 kB"}))
    assert found.problems == ()
    assert found.sections["memory"]["page_bytes"] == os.sysconf("SC_PAGE_SIZE")
    assert found.sections["memory"]["total_bytes"] == 8000000 * 1024
    kernels = found.sections["kernels"]
    assert len(kernels) == 10 and any(name.startswith("linear_c4_a8__") for name in kernels)


@pytest.mark.parametrize(
    ("files", "text", "remedy"),
    [
        (HOT, "cpu-thermal has 84 C, at 85 C", "cool it"),
        (SLOW, "policy0 runs at its lowest clock", "scaling_governor"),
        (HELD, "policy4 is held to 1200 of 2400 MHz", "scaling_max_freq"),
        (POWER, "the board reports under-voltage, throttled", "power supply"),
        (GROUP, "100 MiB of memory are available", "smaller context"),
        (FULL, "87 MiB of memory are available", "smaller context"),
        (BUSY, "512.25 processes want", "top"),
    ],
)
def test_a_problem_is_named_with_its_remedy(
    device: Callable[[dict[str, str]], str], files: dict[str, str], text: str, remedy: str
) -> None:
    (problem,) = diagnose(device(files)).problems
    assert text in problem.text and remedy in problem.remedy and problem.level == "warning"


def test_vulkan_on_videocore_is_warned_of(device: Callable[[dict[str, str]], str]) -> None:
    root = device(VULKAN)
    card = Path(root, "sys/class/drm/card0/device")
    card.mkdir(parents=True)
    assert diagnose(root).problems == ()
    (card / "driver").symlink_to("../../../bus/platform/drivers/v3d")
    (problem,) = diagnose(root).problems
    assert "VideoCore" in problem.text and "never force vulkan" in problem.remedy


def test_settings_that_hold_it_back_are_named(
    device: Callable[[dict[str, str]], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INGOT_CANARY", "0")
    (problem,) = diagnose(device({})).problems
    assert "INGOT_CANARY=0" in problem.text


def test_a_missing_library_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = {**os.environ, "INGOT_NATIVE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "ingot", "doctor", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (problem,) = [p for p in json.loads(done.stdout)["problems"] if p["level"] == "error"]
    assert "libingot is not in" in problem["text"] and "install" in problem["remedy"]


def test_it_takes_less_than_a_second() -> None:
    """Of CPU time, the start of Python included: others may have the CPUs of a test machine."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "ingot", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent < 1.0
    report: dict[str, Any] = json.loads(done.stdout)
    wanted = {"cpu", "kernels", "memory", "clocks", "thermal", "gpu", "settings", "problems"}
    assert set(report) == wanted


def test_people_see_the_same(
    device: Callable[[dict[str, str]], str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--root", device({**HOT, **FULL})]) == 0
    out = capsys.readouterr().out
    assert "cpu-thermal 84 C" in out and "mend it: cool it" in out and "87 of 976 MiB" in out
