# SPDX-License-Identifier: Apache-2.0
"""Target profiles: those that come with Ingot, and what the schema refuses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ingot._native import native
from ingot.errors import InvalidArgumentError, StorageError
from ingot.targets import ISA_LEVELS, list_targets, load_target

NAMES = ("host", "android-arm64", "jetson-orin-nano", "rpi4", "rpi5", "x86-64-avx2")
PROFILE = """
name = "board"
description = "A board"
triple = "aarch64-linux-gnu"
backends = ["cpu"]
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

[memory]
bytes = 2147483648
usable_share = 0.5
peak_gb_s = 17.1

[defaults]
body_format = "c4"
layout = "t16"
head_format = "q8"
context = 2048
chunk = 64

[sources]
cores = "data sheet"
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
    wanted = {"usable_share"} if name == "host" else {"usable_share", "cores", "peak_gb_s"}
    assert wanted <= set(target.sources)


def test_a_profile_of_ones_own(tmp_path: Path) -> None:
    target = load_target(written(tmp_path, PROFILE))
    assert target.core_count == 6
    assert target.isa == ("ref", "neon")
    assert target.cores[0].isa == ("ref", "neon", "neon_dotprod")
    assert target.memory.usable_bytes == 1 << 30
    assert target.memory.achievable_gb_s is None


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
        ('backends = ["cpu"]', 'backends = ["npu"]', ["backends", "npu", "cpu"]),
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
