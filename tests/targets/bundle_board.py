# SPDX-License-Identifier: Apache-2.0
"""Make a bundle for the emulated board, install it there without network, and let it speak.

Example:
    python tests/targets/bundle_board.py FILE.ingot --cpu cortex-a53
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ingot import __version__
from ingot.cli import main as run_ingot
from targets.lab.board import CPU_LEVELS, DEFAULT_FOLDER, Board
from targets.lab.cross import REPOSITORY
from targets.lab.process import LabError, run
from targets.lab.rootfs import prepare_root, python_of

ALONE = ["unshare", "--user", "--map-root-user", "--net"]
# Only the loopback device may be there, and it is down.
NO_NETWORK = (
    "import socket, sys\n"
    "names = [name for _, name in socket.if_nameindex()]\n"
    "sys.exit(0 if names in (['lo'], []) else f'there is a network: {names}')\n"
)


def board_wheel(native: Path, folder: Path) -> Path:
    """Pack the runtime of this tree and libingot of a build as a wheel; return it."""
    name = f"ingot-{__version__}"
    wheel = folder / f"{name}-py3-none-manylinux_2_28_aarch64.whl"
    runtime = REPOSITORY / "runtime" / "ingot"
    members = {f"ingot/{p.relative_to(runtime)}": p.read_bytes() for p in runtime.rglob("*.py")}
    for part in ("libingot.so", "_ingot_ffi.py"):
        members[f"ingot/{part}"] = (native / part).read_bytes()
    for profile in (REPOSITORY / "targets").glob("*.toml"):
        members[f"ingot/target_profiles/{profile.name}"] = profile.read_bytes()
    info = f"{name}.dist-info"
    members[f"{info}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: ingot\nVersion: {__version__}\n".encode()
    )
    members[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: py3-none-manylinux_2_28_aarch64\n"
    )
    rows = [f"{path},sha256={_record(data)},{len(data)}" for path, data in members.items()]
    members[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,", ""]).encode()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in members.items():
            archive.writestr(path, data)
    return wheel


def _record(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def isolated(command: list[str], environment: dict[str, str]) -> str:
    """Run a command where there is no network. Raises: LabError."""
    return run([*ALONE, *command], environment=environment, timeout_s=3000)


def install_and_speak(
    model: Path, cpu: str, folder: Path, wheels: Path | None, native: Path | None
) -> str:
    """Bundle, install and run; return what the model said. Raises: LabError."""
    board = Board()
    python = python_of(prepare_root(board.folder))
    version = python.name.removeprefix("python")
    wheel = board_wheel(native or board.native(), folder)
    out = folder / "bundle.tar"
    words = ["bundle", str(model), "--out", str(out), "--wheel", str(wheel), "--target", "rpi4"]
    words += ["--python", version, "--name", "lamp"]
    words += ["--constraint", str(REPOSITORY / "constraints.txt")]
    words += ["--wheels", str(wheels)] if wheels else []
    if run_ingot(words) != 0:
        raise LabError("ingot bundle failed; what it said is above")
    run(["tar", "-xf", str(out), "-C", str(folder)])
    emulated = board.command(cpu, [python])
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder),
        "LC_ALL": "C.UTF-8",
        "OPENBLAS_NUM_THREADS": "1",
        "INGOT_TUNE": "0",
    }
    isolated([*emulated, "-c", NO_NETWORK], environment)
    # The shell is the host's: in user mode the emulated one could not start an emulated Python.
    starter = {**environment, "PYTHON": str(_program(folder, emulated))}
    prefix = folder / "installed"
    install = ["sh", str(folder / "bundle" / "install.sh"), "--prefix", str(prefix)]
    said = isolated(install, starter)
    if "is current at" not in said or "prompts" not in said:
        raise LabError(f"the installer did not run the canary: {said}")
    if isolated(install, starter).count("is current at") != 1:
        raise LabError("installing again failed")
    model_link = prefix / "models" / "models" / "lamp" / "current.ingot"
    asked = ["run", str(model_link), "--prompt", "The lamp", "--max-tokens", "8"]
    asked += ["--temperature", "0", "--threads", "1"]
    spoken = isolated(["sh", str(prefix / "bin" / "ingot"), *asked], starter)
    if len(spoken.split()) < 3:
        raise LabError(f"it said too little: {spoken!r}")
    return spoken


def _program(folder: Path, command: list[str]) -> Path:
    """Write a program that is the emulated Python."""
    path = folder / "emulated-python"
    words = " ".join(f"'{word}'" for word in command)
    path.write_text(f'#!/bin/sh\nexec {words} "$@"\n', encoding="utf-8")
    path.chmod(0o755)
    return path


def main(argv: list[str] | None = None) -> int:
    """Run it; 1 if it fails, 3 where there is no emulator or no way to be without network."""
    parser = argparse.ArgumentParser(description="A bundle on the emulated board")
    parser.add_argument("model", type=Path)
    parser.add_argument("--cpu", choices=list(CPU_LEVELS), default="cortex-a53")
    parser.add_argument("--wheels", type=Path, help="folder; default: pip downloads them")
    parser.add_argument("--native", type=Path, help="libingot for the board; default: built now")
    arguments = parser.parse_args(argv)
    if shutil.which("qemu-aarch64") is None:
        print("qemu-aarch64 is not installed (qemu-user)", file=sys.stderr)
        return 3
    if subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode != 0:
        print("a process cannot leave the network here (unshare)", file=sys.stderr)
        return 3
    os.makedirs(DEFAULT_FOLDER, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            said = install_and_speak(
                arguments.model, arguments.cpu, Path(scratch), arguments.wheels, arguments.native
            )
        except LabError as error:
            print(f"bundle: {error}", file=sys.stderr)
            return 1
    print(f"{arguments.cpu}: {said.strip()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
