# SPDX-License-Identifier: Apache-2.0
"""Core classes, siblings, masks and quotas, read from trees that tests make up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ingot._native import native
from ingot.topology import Topology, read_topology

CPU_FOLDER = "sys/devices/system/cpu"


def write(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text + "\n", encoding="utf-8")


def cores(root: Path, values: list[int], source: str, siblings: list[str] | None = None) -> None:
    for cpu, value in enumerate(values):
        write(root, f"{CPU_FOLDER}/cpu{cpu}/{source}", str(value))
        names = siblings[cpu] if siblings else str(cpu)
        write(root, f"{CPU_FOLDER}/cpu{cpu}/topology/thread_siblings_list", names)


def read(root: Path, count: int) -> Topology:
    return read_topology(native(), str(root), range(count))


def ids(topology: Topology, big: bool = True) -> list[int]:
    return [cpu.id for cpu in topology.cpus if cpu.big == big]


def test_pi_5_has_four_equal_cores(tmp_path: Path) -> None:
    cores(tmp_path, [2400000] * 4, "cpufreq/cpuinfo_max_freq")
    found = read(tmp_path, 4)
    assert (found.classes, found.threads, ids(found)) == (1, 4, [0, 1, 2, 3])


def test_phone_leaves_its_little_cores_out(tmp_path: Path) -> None:
    cores(tmp_path, [328, 328, 810, 810, 810, 780, 780, 1024], "cpu_capacity")
    found = read(tmp_path, 8)
    assert found.threads == 6 and ids(found) == [7, 2, 3, 4, 5, 6]
    assert ids(found, big=False) == [0, 1] and found.classes == 4


def test_hybrid_counts_physical_performance_cores(tmp_path: Path) -> None:
    clocks = [5200000] * 4 + [3900000] * 4
    cores(tmp_path, clocks, "cpufreq/cpuinfo_max_freq", ["0,1", "0,1", "2,3", "2,3", *"4567"])
    write(tmp_path, "sys/devices/cpu_core/cpus", "0-3")
    write(tmp_path, "sys/devices/cpu_atom/cpus", "4-7")
    found = read(tmp_path, 8)
    assert found.threads == 2 and [cpu.id for cpu in found.cpus[:4]] == [0, 2, 1, 3]
    assert ids(found, big=False) == [4, 5, 6, 7]


def test_a_mask_of_efficient_cores_only_is_used(tmp_path: Path) -> None:
    cores(tmp_path, [1024, 1024, 300, 300], "cpu_capacity")
    found = read_topology(native(), str(tmp_path), [2, 3])
    assert ids(found) == [2, 3] and found.threads == 2


def test_equal_capacities_give_way_to_unequal_clocks(tmp_path: Path) -> None:
    cores(tmp_path, [1024] * 4, "cpu_capacity")
    cores(tmp_path, [1000, 1000, 3000, 3000], "cpufreq/cpuinfo_max_freq")
    assert ids(read(tmp_path, 4)) == [2, 3]


@pytest.mark.parametrize(
    ("files", "quota", "threads"),
    [
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/b/cpu.max": "150000 100000"}, 1.5, 2),
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/cpu.max": "50000 100000"}, 0.5, 1),
        ({"proc/self/cgroup": "0::/host/path", "sys/fs/cgroup/cpu.max": "300000 100000"}, 3, 3),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"}, 0, 4),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "nonsense"}, 0, 4),
        (
            {
                "proc/self/cgroup": "5:cpuset:/x\n4:cpu,cpuacct:/c",
                "sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_quota_us": "200000",
                "sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_period_us": "100000",
            },
            2,
            2,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu:/c",
                "sys/fs/cgroup/cpu/c/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/c/cpu.cfs_period_us": "100000",
            },
            0,
            4,
        ),
    ],
)
def test_quota_of_either_version(
    tmp_path: Path, files: dict[str, str], quota: float, threads: int
) -> None:
    cores(tmp_path, [2400000] * 4, "cpufreq/cpuinfo_max_freq")
    for path, text in files.items():
        write(tmp_path, path, text)
    found = read(tmp_path, 4)
    assert (found.quota, found.threads) == (quota, threads)


def test_an_empty_tree_is_one_class_of_equal_cores(tmp_path: Path) -> None:
    found = read(tmp_path, 3)
    assert (found.classes, found.threads, found.quota) == (1, 3, 0)


def test_this_machine_and_its_key() -> None:
    found = read_topology(native())
    assert {cpu.id for cpu in found.cpus} == os.sched_getaffinity(0)
    assert 1 <= found.threads <= len(found.cpus)
    alone = read_topology(native(), "", [found.cpus[0].id])
    assert len(found.cpus) == 1 or alone.key() != found.key()
    assert "threads by default" in found.describe()
