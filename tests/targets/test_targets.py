# SPDX-License-Identifier: Apache-2.0
"""Target profiles: those that come with Ingot, and what the schema refuses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ingot._native import native
from ingot.errors import InvalidArgumentError, StorageError
from ingot.targets import ISA_LEVELS, list_targets, load_target

NAMES = (
    *("host", "android-arm64", "jetson-orin-nano", "orin-agx", "orin-nano-super", "pixel-8"),
    *("rk3566", "rk3588", "rpi3", "rpi4", "rpi5", "snapdragon-8-elite", "snapdragon-8gen2"),
    *("snapdragon-8gen3", "x86-64-v2", "x86-64-v3", "x86-64-v4", "x86-n100", "zero2w"),
)
PROFILE = """
name = "board"
description = "A board"
triple = "aarch64-linux-gnu"
page_bytes = 4096

[[cores]]
class = "cortex-a76"
count = 2
isa = ["neon_dotprod", "ref", "neon"]
mhz = 2400

[[cores]]
class = "cortex-a53"
count = 4
isa = ["ref", "neon"]
mhz = 1800
in_order = true
int8_macs_per_cycle = 4
cycles_per_weight = { q4 = 0.68 }

[memory]
bytes = 2147483648
usable_share = 0.5
peak_gb_s = 17.1

[thermals]
throttle_celsius = 80
advice = "a fan"

[defaults]
body_format = "c4"
recommended = ["c4", "q4"]
layout = "t16"
head_format = "q8"
context = 2048
chunk = 64

[[backends]]
name = "cpu"
use = "default"

[[backends]]
name = "vulkan"
use = "never"
traps = ["wrong text"]

[sources]
cores = "data sheet"
page_bytes = "data sheet"
usable_share = "data sheet"
peak_gb_s = "data sheet"
thermals = "data sheet"
recommended = "data sheet"
int8_macs_per_cycle = "data sheet"
cycles_per_weight = "data sheet"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "board.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_profiles_are_those_of_the_first_cut() -> None:
    assert list_targets() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_profile_loads_and_gives_its_sources(name: str) -> None:
    target = load_target(name)
    assert target.name == name
    assert target.isa[0] == "ref"
    assert target.core_count >= 1
    assert 0 < target.memory.usable_bytes < target.memory.bytes
    assert target.defaults.recommended[0] == target.defaults.body_format
    assert all(backend.traps for backend in target.backends if backend.use != "default")
    if name != "host":
        assert target.memory.peak_gb_s is not None
        assert all(core.int8_macs_per_cycle for core in target.cores)


def test_cores_of_one_class_cost_the_same_everywhere() -> None:
    found: dict[str, tuple[object, ...]] = {}
    for name in NAMES[1:]:
        for core in load_target(name).cores:
            cost = (core.isa, core.in_order, core.int8_macs_per_cycle, core.cycles_per_weight)
            assert found.setdefault(core.name, cost) == cost, (name, core.name)
    assert {"cortex-a53", "cortex-a55", "cortex-a72", "cortex-a76"} <= set(found)


@pytest.mark.parametrize("name", ["zero2w", "rpi3", "rpi4", "rpi5"])
def test_vulkan_is_never_taken_on_videocore(name: str) -> None:
    target = load_target(name)
    with pytest.raises(InvalidArgumentError, match=f"never take vulkan on {name}: VideoCore"):
        target.backend("vulkan")
    assert target.backend("cpu").use == "default"
    with pytest.raises(InvalidArgumentError, match="has no backend cuda; it has cpu"):
        target.backend("cuda")


def test_the_packing_suits_every_core() -> None:
    for target in map(load_target, NAMES[1:]):
        assert (target.defaults.layout == "t16_k8") == ("neon_i8mm" in target.isa), target.name


def test_a_profile_of_ones_own(tmp_path: Path) -> None:
    target = load_target(written(tmp_path, PROFILE))
    assert target.core_count == 6
    assert target.isa == ("ref", "neon")
    assert target.cores[0].isa == ("ref", "neon", "neon_dotprod")
    assert target.memory.usable_bytes == 1 << 30
    assert target.memory.achievable_gb_s is None
    assert not target.in_order and target.cores[1].in_order
    assert target.cores[1].cycles_per_weight == {"q4": 0.68}
    assert target.thermals.throttle_celsius == 80 and target.thermals.sustained_share is None


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("page_bytes = 4096", "page_bytes = 5000", ["page_bytes", "5000", "power of two"]),
        ("page_bytes = 4096", "pages = 4096", ["page_bytes", "missing"]),
        ("count = 4", "count = 0", ["cores[1].count", "0", "1 to 1024"]),
        ("count = 4", "count = true", ["cores[1].count", "True"]),
        ("count = 4", "count = 4\nl2 = 1", ["unknown", "cores[1].l2"]),
        ('["ref", "neon"]', '["ref", "mmx"]', ["cores[1].isa", "mmx", "neon_dotprod"]),
        ('["ref", "neon"]', '["neon"]', ["cores[1].isa", "'ref'"]),
        ('triple = "aarch64-linux-gnu"', 'triple = "vax"', ["triple", "vax", "aarch64-linux-gnu"]),
        ("usable_share = 0.5", "usable_share = 5", ["memory.usable_share", "5", "0.05 to 1"]),
        ("peak_gb_s = 17.1", "peak_gb_s = 1\nachievable_gb_s = 2", ["memory.achievable_gb_s"]),
        ('body_format = "c4"', 'body_format = "q5"', ["defaults.body_format", "q5", "c4"]),
        ('layout = "t16"', 'layout = "k8"', ["defaults.layout", "k8", "t16_k8"]),
        ("chunk = 64", "chunk = 4000", ["defaults.chunk", "at most the context, 2048"]),
        ('name = "cpu"', 'name = "gpu"', ["backends[0].name", "gpu", "vulkan"]),
        ('name = "vulkan"', 'name = "cpu"', ["backends[1].name", "each backend once"]),
        ('use = "default"', 'use = "ask"', ["backends", "'cpu' with use 'default'"]),
        ('traps = ["wrong text"]', "", ["backends[1].traps", "why it is never taken"]),
        ('["wrong text"]', '"wrong text"', ["backends[1].traps", "a list of texts"]),
        ("in_order = true", "in_order = 1", ["cores[1].in_order", "true or false"]),
        ("{ q4 = 0.68 }", "{ q5 = 0.68 }", ["unknown", "cycles_per_weight.q5"]),
        ("throttle_celsius = 80", "throttle_celsius = 800", ["thermals.throttle_celsius", "130"]),
        ('["c4", "q4"]', '["q4", "c4"]', ["defaults.recommended", "'c4' the first"]),
        ('["c4", "q4"]', '["c4", "q5"]', ["defaults.recommended", "q5"]),
        ('peak_gb_s = "data sheet"\n', "", ["sources", "where 'peak_gb_s' comes from"]),
        ("peak_gb_s = 17.1", "achievable_gb_s = 9", ["where 'achievable_gb_s' comes from"]),
        ('name = "board"', 'name = "plank"', ["name", "plank", "'board'"]),
        ('cores = "data sheet"', "cores = 1", ["sources.cores", "a text"]),
        ("[sources]", "[source]", ["sources", "missing"]),
        ('name = "board"', 'name = "board"\ncolour = "red"', ["unknown", "'colour'"]),
        ('name = "board"', 'name = "board"\ndetect = false', ["detect", "true"]),
        ('name = "board"', "name = ", ["not valid TOML"]),
    ],
)
def test_what_the_schema_refuses(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    assert old in PROFILE
    path = written(tmp_path, PROFILE.replace(old, new))
    with pytest.raises(InvalidArgumentError) as caught:
        load_target(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert all(word in message for word in words), message


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InvalidArgumentError, match=re.escape("rpi4, rpi5")):
        load_target("rpi9")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="absent"):
        load_target(tmp_path / "absent.toml")


def test_host_levels_are_those_that_the_library_finds() -> None:
    features = int(native().lib.ingot_cpu_features())
    bits = {name: 1 << index for index, name in enumerate(ISA_LEVELS[:6])}
    found = {name for name, bit in bits.items() if features & bit}
    assert set(load_target("host").isa) == found
