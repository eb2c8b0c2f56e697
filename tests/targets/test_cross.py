# SPDX-License-Identifier: Apache-2.0
"""Cross builds and wheels: what can be told without building; `make check` builds them."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ingot.cli import main
from ingot.cli.build_runtime import triple_of
from ingot.targets import list_targets, load_target
from targets import wheels
from targets.cross import android, build, zig
from targets.cross.triples import GLIBC, known_triples, parse_triple
from targets.lab.process import LabError

BACKEND = "import sys; sys.path.insert(0, sys.argv[1]); import ingot_build; "
ASK = BACKEND + "ingot_build.get_requires_for_build_wheel({})"
BUILD = BACKEND + "ingot_build.build_wheel(sys.argv[2])"


def test_every_profile_has_a_triple_that_can_be_built() -> None:
    for name in list_targets():
        assert parse_triple(load_target(name).triple).name == load_target(name).triple
    assert {parse_triple(name).name for name in known_triples()} == set(known_triples())
    with pytest.raises(LabError, match="riscv64-linux-musl"):
        parse_triple("mips-linux-gnu")


@pytest.mark.parametrize(
    ("triple", "target"),
    [
        ("aarch64-linux-gnu", "aarch64-linux-gnu.2.28"),
        ("x86_64-linux-musl", "x86_64-linux-musl"),
        ("armv7-linux-gnueabihf", "arm-linux-gnueabihf.2.28"),
        ("armv7-linux-musleabihf", "arm-linux-musleabihf"),
        ("riscv64-linux-gnu", "riscv64-linux-gnu.2.28"),
    ],
)
def test_zig_is_told_the_system(triple: str, target: str) -> None:
    assert parse_triple(triple).zig_target(GLIBC) == target


@pytest.mark.parametrize(
    ("target", "libc", "triple"),
    [
        ("rpi5", None, "aarch64-linux-gnu"),
        ("rpi5", "musl", "aarch64-linux-musl"),
        ("armv7-linux-gnueabihf", "musl", "armv7-linux-musleabihf"),
        ("riscv64-linux-musl", "gnu", "riscv64-linux-gnu"),
        ("android-arm64", "musl", "aarch64-linux-android"),
    ],
)
def test_target_and_c_library_name_a_triple(target: str, libc: str | None, triple: str) -> None:
    assert triple_of(target, libc, known_triples()) == triple


def test_wrapper_translates_for_zig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "zig"
    fake.write_text('#!/bin/sh\nfor word do echo "$word"; done\n', encoding="utf-8")
    fake.chmod(0o755)
    monkeypatch.setattr(zig, "prepare_zig", lambda folder: fake)
    settings = zig.zig_settings(tmp_path, parse_triple("armv7-linux-gnueabihf"), "2.31")
    folder = Path(settings[1].partition("=")[2])
    words = ["-march=armv8.2-a+dotprod+i8mm", "-c", "a b.c"]
    said = subprocess.run([folder / "zig-cc", *words], capture_output=True, text=True, check=True)
    assert said.stdout.split("\n")[:-1] == [
        *("cc", "-target", "arm-linux-gnueabihf.2.31", "-mcpu=cortex_a7"),
        *("-mcpu=generic+v8_2a+dotprod+i8mm", "-c", "a b.c"),
    ]
    listed = subprocess.run([folder / "zig-ar", "t"], capture_output=True, text=True, check=True)
    assert listed.stdout.split() == ["ar", "t"]
    assert settings[2] == "-DINGOT_PROCESSOR=armv7l"


def test_missing_compilers_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    triple = parse_triple("aarch64-linux-gnu")
    with pytest.raises(LabError, match=r"apt install gcc-aarch64-linux-gnu.*zig needs pip only"):
        build.build_runtime(triple, tmp_path / "out", tmp_path, "gcc")
    with pytest.raises(LabError, match="glibc only"):
        build.build_runtime(parse_triple("aarch64-linux-musl"), tmp_path, tmp_path, "gcc")
    with pytest.raises(LabError, match="clang is not installed"):
        android.check_syntax()
    with pytest.raises(LabError, match="by the NDK only"):
        build.build_runtime(parse_triple("aarch64-linux-android"), tmp_path, tmp_path, "zig")
    with pytest.raises(LabError, match="for Android only"):
        build.build_runtime(triple, tmp_path, tmp_path, "ndk")


def test_backends_are_built_and_copied_when_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build_nothing(folder: Path, *rest: object) -> tuple[str, ...]:
        goals, options = rest[-2:]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "_ingot_ffi.py").touch()
        for goal in goals if isinstance(goals, list) else ():
            (folder / f"lib{goal}.so").write_text(str(options))
        return ("ref",)

    monkeypatch.setattr(build, "build_native", build_nothing)
    out, triple = tmp_path / "out", parse_triple("aarch64-linux-musl")
    build.build_runtime(triple, out, tmp_path, backends=["vulkan"])
    assert {path.name for path in out.glob("*.so")} == {"libingot.so", "libingot_vulkan.so"}
    assert "INGOT_VULKAN=ON" in (out / "libingot_vulkan.so").read_text()


def test_android_without_an_ndk_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(android.NDK_VARIABLE, raising=False)
    monkeypatch.setattr(android, "check_syntax", lambda: 7)
    assert main(["build-runtime", "--target", "android-arm64"]) == 1
    said = capsys.readouterr().err
    assert "ANDROID_NDK_HOME is not set" in said
    assert "7 sources pass" in said


def test_ndk_is_taken_from_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(android.NDK_VARIABLE, str(tmp_path))
    with pytest.raises(LabError, match="not an NDK"):
        android.find_ndk()
    toolchain = tmp_path / "build" / "cmake" / "android.toolchain.cmake"
    toolchain.parent.mkdir(parents=True)
    toolchain.touch()
    assert android.find_ndk() == toolchain
    assert android.android_settings() == [
        f"-DCMAKE_TOOLCHAIN_FILE={toolchain}",
        "-DANDROID_ABI=arm64-v8a",
        "-DANDROID_PLATFORM=android-28",
    ]


def test_syntax_check_sees_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("clang-19") is None or not android.HEADERS.is_dir():
        pytest.skip("clang-19 or libc6-dev-arm64-cross is not installed")
    good, bad = tmp_path / "good__ref.c", tmp_path / "bad__neon_dotprod.c"
    good.write_text("#ifndef __ANDROID__\n#error\n#endif\nint f(void) { return 0; }\n")
    bad.write_text("#ifndef __ARM_FEATURE_DOTPROD\n#error no dot product\n#endif\nint g;\n")
    monkeypatch.setattr(android, "android_sources", lambda: [good, bad])
    assert android.check_syntax() == 2
    bad.write_text("int g(void) { return undeclared; }\n")
    with pytest.raises(LabError, match="undeclared"):
        android.check_syntax()


def test_android_takes_every_source_but_those_of_x86() -> None:
    names = [path.name for path in android.android_sources()]
    assert "linear_q8_a8__neon_i8mm.c" in names
    assert "model.c" in names
    assert not [name for name in names if "avx" in name]


def test_glibc_that_a_library_needs(tmp_path: Path) -> None:
    """glibc 2.29 brought a new exp, which x86-64 libraries then ask for by that version."""
    if platform.machine() != "x86_64" or not shutil.which("readelf"):
        pytest.skip("x86-64 with gcc and readelf only")
    source, library = tmp_path / "a.c", tmp_path / "a.so"
    source.write_text("#include <math.h>\ndouble f(double x) { return exp(x); }\n")
    subprocess.run(["gcc", "-shared", "-fPIC", source, "-lm", "-o", library], check=True)
    assert build.glibc_needed(library) == "2.29"


@pytest.mark.parametrize(
    ("verdict", "tag", "covered"),
    [
        ("manylinux_2_17_x86_64", "manylinux_2_28_x86_64", True),
        ("manylinux_2_28_x86_64", "manylinux_2_28_x86_64", True),
        ("manylinux_2_34_x86_64", "manylinux_2_28_x86_64", False),
        ("manylinux_2_5_aarch64", "manylinux_2_28_x86_64", False),
        ("musllinux_1_1_aarch64", "musllinux_1_2_aarch64", True),
        ("linux_aarch64", "manylinux_2_28_aarch64", False),
    ],
)
def test_audit_compares_tags(
    verdict: str, tag: str, covered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheels.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(wheels, "run", lambda command: f'the following platform tag: "{verdict}".')
    if covered:
        assert wheels.audit(Path("a.whl"), tag) == verdict
        return
    with pytest.raises(LabError, match=f"fit for {verdict}, not {tag}"):
        wheels.audit(Path("a.whl"), tag)


def test_a_wheel_above_the_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ingot-0.1.0-py3-none-manylinux_2_28_x86_64.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ingot/libingot.so", bytes(wheels.LIMIT_BYTES))
    with pytest.raises(LabError, match="at most 2000000"):
        wheels.check(path, "manylinux_2_28_x86_64")


@pytest.mark.parametrize("script", [ASK, BUILD])
def test_source_install_without_a_compiler_is_one_sentence(
    repo_root: Path, tmp_path: Path, script: str
) -> None:
    pytest.importorskip("scikit_build_core")
    backend, empty = repo_root / "targets" / "backend", tmp_path / "empty"
    empty.mkdir()
    command = [sys.executable, "-c", script, str(backend), str(tmp_path)]
    environment = {"PATH": str(empty)}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, cwd=repo_root
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "a C compiler is needed" in done.stderr
    assert not done.stdout


def test_a_compiler_is_found_as_cmake_would(repo_root: Path, tmp_path: Path) -> None:
    pytest.importorskip("scikit_build_core")
    code = BACKEND + (
        "import json; ask = ingot_build.missing_compiler; path, none = sys.argv[2:];"
        "print(json.dumps([ask({'PATH': none}, {}), ask({'PATH': path}, {}),"
        " ask({'PATH': path, 'CC': 'nothing -O2'}, {}), ask({'PATH': none, 'CMAKE_ARGS': 'x'}, {}),"
        " ask({'PATH': none}, {'cmake.define.CMAKE_TOOLCHAIN_FILE': 'zig.cmake'})]))"
    )
    (tmp_path / "bin").mkdir()
    (tmp_path / "none").mkdir()
    (tmp_path / "bin" / "gcc").symlink_to("/bin/sh")
    words = [str(repo_root / "targets" / "backend"), str(tmp_path / "bin"), str(tmp_path / "none")]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [True, False, True, False, False]


def test_commands_need_the_source_tree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["build-runtime", "--target", "rpi5", "--source", str(tmp_path)]
    assert main(command) == 1
    assert "is not Ingot's source tree" in capsys.readouterr().err
    assert main(["build-runtime", "--target", "no-such-board"]) == 1
    assert "rpi5" in capsys.readouterr().err
