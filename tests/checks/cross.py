# SPDX-License-Identifier: Apache-2.0
"""Checks of what devices get: builds for other architectures, wheels, and both on boards."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from targets.cross.build import build_native, build_runtime
from targets.cross.triples import GLIBC, known_triples, parse_triple
from targets.lab.board import DEFAULT_FOLDER, Board
from targets.lab.boards import load_board
from targets.lab.install import install_wheel
from targets.lab.process import LabError
from targets.lab.script import run_script
from targets.wheels import PACKAGES, WHEELS, build_wheel
from tests.checks.command import ROOT, StepError, run
from tests.checks.package import FOLDER, model_file

PROMPT = ["--prompt", "The lamp on the table", "--max-tokens", "12", "--temperature", "0", "--json"]
# Harnesses without an emulated root file system: linked statically with musl.
EMULATORS = {"aarch64": "qemu-aarch64", "armv7": "qemu-arm", "riscv64": "qemu-riscv64"}
WHEEL_BOARDS = {"rpi3": "neon", "rpi4": "neon", "armv9": "neon_i8mm"}
LEVEL = (
    "from ingot._native import native; lib = native().lib; "
    "print(lib.ingot_cpu_features(), native().path)"
)


def runtimes() -> None:
    """What no wheel covers: 32-bit ARM and RISC-V build, and their kernels pass the harness."""
    _build_runtimes(["armv7-linux-gnueabihf", "riscv64-linux-gnu"])
    for architecture in ("armv7", "riscv64"):
        _run_harness(architecture, EMULATORS[architecture])


def all_runtimes() -> None:
    """Every triple builds, and each architecture passes the harness; a quarter of an hour."""
    _build_runtimes([name for name in known_triples() if not name.endswith("android")])
    for architecture, emulator in EMULATORS.items():
        _run_harness(architecture, emulator)


def _build_runtimes(names: list[str]) -> None:
    """Build by zig; what is linked with glibc has to run with 2.28."""
    for name in names:
        try:
            built = build_runtime(
                parse_triple(name), FOLDER / "runtime" / name, DEFAULT_FOLDER, "zig"
            )
        except LabError as error:
            raise StepError(f"{name}: {error}") from error
        if built.glibc and tuple(map(int, built.glibc.split("."))) > (2, 28):
            raise StepError(f"{name}: needs glibc {built.glibc}")
        print(f"{name}: {built.bytes} bytes, {' '.join(built.levels)}, glibc {built.glibc}")


def _run_harness(architecture: str, emulator: str) -> None:
    suffix = "eabihf" if architecture == "armv7" else ""
    triple = parse_triple(f"{architecture}-linux-musl{suffix}")
    build = DEFAULT_FOLDER / f"harness-{architecture}"
    options = ["-DINGOT_BUILD_TESTS=ON", "-DCMAKE_EXE_LINKER_FLAGS=-static"]
    try:
        build_native(build, triple, "zig", DEFAULT_FOLDER, GLIBC, ["kernel_harness"], options)
    except LabError as error:
        raise StepError(f"{triple.name}: {error}") from error
    said = run([emulator, build / "kernel_harness", "--quick", "--require", "ref"])
    print(f"{triple.name}: {said.strip().splitlines()[-1]}")


def wheels() -> None:
    """Three wheels, audited; the board's pip installs the aarch64 one, which runs at 3 cores."""
    out = FOLDER / "wheels"
    shutil.rmtree(out, ignore_errors=True)
    try:
        built = {tag: build_wheel(tag, out) for tag in WHEELS}
        for tag, wheel in built.items():
            print(f"{tag}: {wheel.bytes} bytes, auditwheel: {wheel.verdict}")
        site = install_wheel(Board(), built["manylinux_2_28_aarch64"].path, FOLDER / "board-site")
        expected = _host_answer()
        for board in WHEEL_BOARDS:
            _compare(board, expected, site)
    except LabError as error:
        raise StepError(str(error)) from error


def backend_wheels() -> None:
    """The wheels of the backends, audited; beside ingot's own the Vulkan one runs a whole model."""
    tag, out, site = "manylinux_2_28_x86_64", FOLDER / "wheels", FOLDER / "backend-site"
    shutil.rmtree(site, ignore_errors=True)
    try:
        for package in PACKAGES:
            built = build_wheel(tag, out, package)
            print(f"{package}: {built.bytes} bytes, auditwheel: {built.verdict}")
            shutil.unpack_archive(built.path, site, "zip")
    except LabError as error:
        raise StepError(str(error)) from error
    command = [sys.executable, "-m", "ingot"]
    environment = {"PYTHONPATH": str(site), "INGOT_NATIVE_DIR": ""}
    said = run([*command, "verify", model_file(), "--backend", "vulkan"], environment, cwd=site)
    if not re.search(r"ops executed: cpu 0, vulkan \d{3}", said):
        raise StepError(f"not all ops ran on the driver:\n{said}")
    found = json.loads(run([*command, "doctor", "--json"], environment, cwd=site))["gpu"][
        "backends"
    ]
    if not isinstance(found["cuda"], list) or found["vulkan"][0]["kind"] != "software":
        raise StepError(f"the wheels' backends are not found: {found}")


def boards() -> None:
    """The 32-bit board gives the tokens of this machine."""
    try:
        _compare("rpi2", _host_answer(), None)
    except LabError as error:
        raise StepError(str(error)) from error


def _host_answer() -> dict[str, object]:
    said = run([sys.executable, "-m", "ingot", "run", model_file(), *PROMPT])
    answer: dict[str, object] = json.loads(said)
    return answer


def _compare(name: str, expected: dict[str, object], site: Path | None) -> None:
    """Run the model on a board and compare tokens and text; a wheel must bring its own library."""
    board = load_board(name)
    where = run_script(board, ["-c", LEVEL], site=site)
    if where.status != 0 or (site is not None and str(site) not in where.output):
        raise StepError(f"{name}: not the library of the wheel\n{where.output}{where.errors}")
    outcome = run_script(board, ["-m", "ingot", "run", model_file(), *PROMPT], site=site)
    if outcome.status != 0:
        raise StepError(f"{name}: exit status {outcome.status}\n{outcome.errors[-3000:]}")
    answer = json.loads(outcome.output)
    for key in ("prompt_token_ids", "token_ids", "text"):
        if answer[key] != expected[key]:
            raise StepError(f"{name}: {key} is {answer[key]}, here it is {expected[key]}")
    print(f"{name} at {board.cpu}: {where.output.split()[0]}, the same {len(answer['token_ids'])}")


def no_compiler() -> None:
    """An install from source where no compiler is found says so in one sentence."""
    empty = FOLDER / "empty"
    empty.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--wheel-dir", str(empty / "out"), str(ROOT)],
        env={**os.environ, "PATH": str(empty), "CC": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    lines = [line for line in said.splitlines() if "a C compiler is needed" in line]
    if done.returncode == 0 or not lines or "CMake" in said or "Traceback" in said:
        raise StepError(f"exit status {done.returncode}\n{said[-3000:]}")
    print(lines[0].strip())
