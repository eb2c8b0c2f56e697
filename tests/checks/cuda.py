# SPDX-License-Identifier: Apache-2.0
"""The CUDA backend beyond the suite: compiled for its targets, long texts on emulated threads."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from pathlib import Path

from native.cuda.compile import find_compiler, ptx_version
from tests.checks.command import ROOT, StepError, build_native, run
from tests.checks.package import model_file

TOKENS = 200
JETPACK_PTX = (8, 5)


def compiled() -> None:
    """The kernels compile for every target, resources.csv is what they use, the library loads."""
    if find_compiler() is None:
        raise StepError("no CUDA compiler: pip install nvidia-cuda-nvrtc-cu12==12.6.85")
    settings = ["-DCMAKE_BUILD_TYPE=Release", "-DINGOT_CUDA=ON"]
    build = build_native("cuda", settings, ["ingot_cuda"])
    library = build / "libingot_cuda.so"
    newest = ptx_version((build / "cuda" / "cuda_code.c").read_text(encoding="utf-8"))
    if newest > JETPACK_PTX:
        raise StepError(f"PTX {newest}: a JetPack 6 driver takes {JETPACK_PTX} and older")
    table, kept = build / "cuda" / "resources.csv", ROOT / "native" / "cuda" / "resources.csv"
    if table.read_text(encoding="utf-8") != kept.read_text(encoding="utf-8"):
        raise StepError(f"{kept} is not what the compiler says: {table}")
    print(_devices_of(library))


def _devices_of(library: Path) -> str:
    """Return what a library says of this machine's devices, or what it looked for.

    Raises: StepError if there is neither a device nor a reason.
    """
    from tests.cuda import backend_driver

    os.environ.pop("INGOT_CUDA_DRIVER", None)
    table = backend_driver.load(library)
    lines = []
    for index in range(table.device_count()):
        device = backend_driver.Device()
        table.device_info(index, ctypes.byref(device))
        lines.append(f"{device.name.decode()}: {device.refused.decode() or 'may be used'}")
    reason = table.last_error().decode()
    if not lines and "CUDA driver" not in reason:
        raise StepError(f"{library} has no device and says '{reason}'")
    return "\n".join(lines) or reason


def _library_folder(folder: Path) -> dict[str, str]:
    """Put libingot, its binding, the backend and the emulated driver side by side."""
    from tests.cuda.emulation.build import BACKEND, DRIVER, build_emulation

    emulation = build_emulation(ROOT / "build" / "cuda-emulation")
    # An editable install keeps the library apart from the sources.
    where = "from ingot._native import native; print(native().path)"
    library = Path(run([sys.executable, "-c", where]).strip())
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("libingot.so", "_ingot_ffi.py"):
        shutil.copy(library.parent / name, folder)
    for name in (BACKEND, DRIVER):
        shutil.copy(emulation / name, folder)
    return {
        "INGOT_NATIVE_DIR": str(folder),
        "INGOT_CUDA_DRIVER": str(folder / DRIVER),
        "INGOT_TUNE": "0",
        "INGOT_CANARY": "0",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "runtime"), str(ROOT / "compressor"), str(ROOT)]),
    }


def emulated() -> None:
    """verify on emulated threads; 200 greedy tokens of lantern and stories260k as on the CPU."""
    folder = ROOT / "build" / "cuda-check"
    environment = _library_folder(folder)
    lantern = model_file()
    verify = [sys.executable, "-m", "ingot", "verify", "--backend", "cuda"]
    print(run([*verify, "--against", "reference", lantern], environment).strip())
    files = [lantern]
    stories = ROOT.parent / "shared" / "models" / "stories260k"
    if stories.is_dir():
        files.append(folder / "stories.ingot")
        options = ["--preset", "draft", "--format", "f16", "--out", files[-1]]
        run([sys.executable, "-m", "ingot", "compress", stories, *options], environment)
    else:
        print("no folder 'shared' beside the repository: stories260k is not run")
    # The suite runs threads from the first to the last; a missing barrier may show in one order.
    backwards = {**environment, "INGOT_EMULATION_ORDER": "backwards"}
    print(run([sys.executable, ROOT / "tests" / "cuda" / "shapes.py"], backwards).strip())
    script = ROOT / "tests" / "cuda" / "greedy_texts.py"
    print(run([sys.executable, script, str(TOKENS), *files], environment).strip())
