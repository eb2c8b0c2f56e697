# SPDX-License-Identifier: Apache-2.0
"""Checks of the Vulkan backend: its SPIR-V, a driver on the emulated ARM board, and matrices."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ingot.format import Dtype
from targets.cross.build import build_native as cross_build
from targets.cross.triples import GLIBC, parse_triple
from targets.lab.board import DEFAULT_FOLDER, Board
from targets.lab.process import LabError
from targets.lab.rootfs import prepare_root, python_of
from targets.lab.younger import library_folder, matrix_setting, prepare_younger_root, started
from tests.checks.command import ROOT, StepError, build_native, run, tool
from tests.runtime.small_program import every_op

# lavapipe, which is Mesa's Vulkan driver on the CPU, and the loader.
DRIVER = ("mesa-vulkan-drivers", "libvulkan1")
ICD = "usr/share/vulkan/icd.d/lvp_icd.aarch64.json"
GOALS = ["ingot", "ingot_ffi", "ingot_vulkan"]
# Rows, tokens, depth and lanes: of NVIDIA, AMD by 64 and by 32 lanes, Intel, and the driver here.
SHAPES = [
    (16, 16, 32, 32),
    (16, 16, 16, 64),
    (16, 16, 16, 32),
    (8, 16, 32, 32),
    (8, 8, 32, 32),
    (8, 8, 8, 8),
]


def shaders() -> None:
    """spirv-val accepts every module that is linked into the library, the broken ones too."""
    validator = tool("spirv-val")
    settings = ["-DCMAKE_BUILD_TYPE=Release", "-DINGOT_BUILD_TESTS=ON"]
    goals = ["ingot_vulkan", "ingot_vulkan_broken"]
    build = build_native("vulkan", settings, goals)
    modules = sorted((build / "vulkan" / "made").rglob("*.spv.h"))
    validate([validator], modules, least=100)


def validate(validator: Sequence[str], modules: Sequence[Path], least: int) -> None:
    """Have spirv-val read modules as they are linked. Raises: StepError if it refuses one."""
    if len(modules) < least:
        raise StepError(f"{len(modules)} modules, expected at least {least}")
    for module in modules:
        binary = module.with_suffix("")
        binary.write_bytes(spirv_of(module.read_text(encoding="utf-8")))
        command = [*validator, "--target-env", "vulkan1.1", str(binary)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise StepError(f"{module.name}: {done.stdout}{done.stderr}")
    print(f"{len(modules)} modules are valid")


def spirv_of(header: str) -> bytes:
    """Return the words of a C array as they are linked.

    Raises: StepError if it is no module.
    """
    words = [int(word, 16) for word in re.findall(r"0x[0-9a-fA-F]{8}", header)]
    if not words or words[0] != 0x07230203:
        raise StepError("a header without SPIR-V")
    return struct.pack(f"<{len(words)}I", *words)


def board() -> None:
    """Every op on lavapipe on the emulated board against the reference.

    Emulated, most of the time goes into the driver's compiler: hence a small program.
    """
    try:
        print(_verify_on_board(Board(DEFAULT_FOLDER / "vulkan")))
    except LabError as error:
        raise StepError(str(error)) from error


def _verify_on_board(arm: Board) -> str:
    root = prepare_root(arm.folder, more=DRIVER)
    native = arm.folder / "native"
    cross_build(native, parse_triple("aarch64-linux-gnu"), "gcc", arm.folder, GLIBC, GOALS, [])
    if not (native / "libingot_vulkan.so").exists():
        raise LabError("the board's build has no Vulkan backend")
    environment = {
        **arm.python_environment(site=arm.site()),
        "PYTHONPATH": f"{ROOT / 'runtime'}:{arm.site()}",
        "INGOT_NATIVE_DIR": str(native),
        "INGOT_CANARY": "0",
        "VK_ICD_FILENAMES": str(root / ICD),
    }
    models = [
        every_op(arm.folder / f"{dtype.name}.ingot", dtype, group)
        for dtype, group in ((Dtype.Q4, 64), (Dtype.C4, 32))
    ]
    script = ROOT / "tests" / "vulkan" / "board_script.py"
    python = python_of(root)
    return "".join(arm.run("cortex-a76", [python, script, m], environment) for m in models)


def matrix() -> None:
    """Prompts on cooperative matrices against those on dot products, on a younger driver."""
    try:
        root = prepare_younger_root(DEFAULT_FOLDER / "younger")
    except LabError as error:
        raise StepError(str(error)) from error
    goals = ["ingot_vulkan", "ingot_vulkan_broken"]
    settings = ["-DCMAKE_BUILD_TYPE=Release", "-DINGOT_BUILD_TESTS=ON", matrix_setting(root)]
    build = build_native("vulkan-matrix", settings, goals)
    modules = sorted((build / "vulkan" / "made").rglob("linear_matrix_*.spv.h"))
    validate(started(root, root / "usr/bin/spirv-val"), modules, least=18)
    _validate_shapes(root, modules[0].with_suffix(""))
    print(_compare_matrices(root, build), end="")


def _validate_shapes(root: Path, module: Path) -> None:
    """Have the validator read a module as devices of other shapes would be given it."""
    for shape in SHAPES:
        values = " ".join(f"{number}:{value}" for number, value in enumerate(shape, start=2))
        made = module.with_suffix(".shape")
        change = [f"--set-spec-const-default-value={values}", "--freeze-spec-const"]
        fold = ["--fold-spec-const-op-composite", "--unify-const"]
        tool_of_root = started(root, root / "usr/bin/spirv-opt")
        run([*tool_of_root, *change, *fold, module, "-o", made])
        run([*started(root, root / "usr/bin/spirv-val"), "--target-env", "vulkan1.1", made])
    print(f"{module.stem}: valid for {len(SHAPES)} shapes")


def _compare_matrices(root: Path, build: Path) -> str:
    """Run the comparison by this Python, started by the root's loader, under the root's layer."""
    share, files = root / "usr/share/vulkan", build / "files"
    files.mkdir(exist_ok=True)
    paths = [str(ROOT), *(path for path in sys.path if path)]
    environment = {
        "PYTHONPATH": os.pathsep.join(paths),
        "VK_ICD_FILENAMES": str(share / "icd.d/lvp_icd.json"),
        "VK_LAYER_PATH": str(share / "explicit_layer.d"),
        "INGOT_VULKAN_VALIDATE": "1",
        "MESA_SHADER_CACHE_DIR": str(build / "shaders"),
        "LP_NATIVE_VECTOR_WIDTH": "256",  # subgroups of 8, for which its matrices are made
        "OPENBLAS_NUM_THREADS": "1",
    }
    host = Path("/usr/lib") / library_folder(root).name
    python = started(root, Path(sys.executable).resolve(), (host,))
    libraries = [build / f"libingot_vulkan{suffix}.so" for suffix in ("", "_broken")]
    script = ROOT / "tests/vulkan/matrix_script.py"
    return run([*python, script, *libraries, files], environment)
