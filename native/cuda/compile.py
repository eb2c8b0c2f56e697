# SPDX-License-Identifier: Apache-2.0
"""Compile the CUDA kernels and embed them in one C file, with no GPU and no CUDA headers.

NVRTC is asked first (the wheel nvidia-cuda-nvrtc-cu12, or a toolkit's library), then nvcc. NVRTC 12
makes what a JetPack 6 driver takes: cubins for sm_87, and PTX 8.5 for what has no cubin. A compiler
of another major version makes PTX that such a driver refuses: sm_87 is left out then, and the
line that --check prints shows it.

Example:
    python native/cuda/compile.py --check                      # which compiler would be used
    python native/cuda/compile.py --out build/cuda_code.c      # one file for the backend
    python native/cuda/compile.py --resources native/cuda/resources.csv
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import hashlib
import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "CompileError",
    "Compiled",
    "Compiler",
    "Nvcc",
    "Nvrtc",
    "compile_all",
    "embedded",
    "find_compiler",
    "least_driver",
    "ptx_version",
    "resource_rows",
    "resource_table",
    "sources_digest",
    "targets_of",
    "write_if_changed",
]

FOLDER = Path(__file__).resolve().parent
SOURCES = ("gemv", "few", "prompt", "rows", "attention", "prompt_attention", "picks")
CUBINS = ("sm_87", "sm_90")
PTX = "compute_80"
JETPACK_MAJOR = 12  # of the compiler whose output a JetPack 6 driver loads
# No contraction: a product and a sum are fused where the source says so, as on the CPU.
OPTIONS = ("--std=c++17", "--fmad=false", "--extra-device-vectorization")


class CompileError(Exception):
    """What a compiler said."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """One source for one target: the code, and what the assembler said about it."""

    source: str
    target: str
    code: bytes
    log: str


class Nvrtc:
    """NVRTC through ctypes."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        self.version = (major.value, minor.value)
        self.name = f"NVRTC {major.value}.{minor.value}"

    def _call(self, name: str, *arguments: object) -> int:
        function = getattr(self._library, name)
        function.restype = ctypes.c_int
        return int(function(*arguments))

    def _text(self, program: ctypes.c_void_p, kind: str) -> bytes:
        size = ctypes.c_size_t()
        if self._call(f"nvrtcGet{kind}Size", program, ctypes.byref(size)) != 0:
            raise CompileError(f"{self.name}: no {kind}")
        room = ctypes.create_string_buffer(size.value)
        self._call(f"nvrtcGet{kind}", program, room)
        return room.raw

    def compile(self, source: str, target: str) -> Compiled:
        """Return a cubin for sm_NN, PTX for compute_NN.

        Raises: CompileError with the compiler's log.
        """
        text = (FOLDER / "kernels" / f"{source}.cu").read_bytes()
        program = ctypes.c_void_p()
        name = f"{source}.cu".encode()
        self._call("nvrtcCreateProgram", ctypes.byref(program), text, name, 0, None, None)
        includes = [f"-I{FOLDER}", f"-I{FOLDER / 'kernels'}"]
        verbose = ["--ptxas-options=-v"] if target.startswith("sm_") else []
        words = [f"--gpu-architecture={target}", *OPTIONS, *includes, *verbose]
        array = (ctypes.c_char_p * len(words))(*(word.encode() for word in words))
        try:
            failed = self._call("nvrtcCompileProgram", program, len(words), array)
            log = self._text(program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
            if failed:
                raise CompileError(f"{source}.cu for {target}: {self.name}\n{log}")
            code = self._text(program, "CUBIN" if verbose else "PTX")
        finally:
            self._call("nvrtcDestroyProgram", ctypes.byref(program))
        return Compiled(source, target, code, log)


class Nvcc:
    """nvcc of a toolkit."""

    def __init__(self, program: str) -> None:
        self._program = program
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
        found = re.search(r"release (\d+)\.(\d+)", said.stdout)
        if found is None:
            raise CompileError(f"{program} --version: {said.stdout}{said.stderr}")
        self.version = (int(found.group(1)), int(found.group(2)))
        self.name = f"nvcc {self.version[0]}.{self.version[1]}"

    def compile(self, source: str, target: str) -> Compiled:
        """Return a cubin for sm_NN, PTX for compute_NN.

        Raises: CompileError with the compiler's output.
        """
        kind = "--cubin" if target.startswith("sm_") else "--ptx"
        path = FOLDER / "kernels" / f"{source}.cu"
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "code"
            words = [self._program, kind, f"--gpu-architecture={target}", *OPTIONS, "-Xptxas=-v"]
            words += [f"-I{FOLDER}", f"-I{FOLDER / 'kernels'}", "-o", str(out), str(path)]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise CompileError(f"{source}.cu for {target}: {self.name}\n{done.stderr}")
            return Compiled(source, target, out.read_bytes() + b"\0", done.stderr)


Compiler = Nvrtc | Nvcc


def _nvrtc_libraries() -> list[Path]:
    """Return where NVRTC may lie: what the environment names, Python's wheels, toolkits."""
    folders: list[Path] = []
    named = os.environ.get("INGOT_NVRTC")
    if named:
        return [Path(named)]
    spec = importlib.util.find_spec("nvidia")
    for place in spec.submodule_search_locations or () if spec is not None else ():
        folders += sorted(Path(place).glob("*/lib"))
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(variable):
            folders.append(Path(os.environ[variable]) / "lib64")
    folders.append(Path("/usr/local/cuda/lib64"))
    found = [path for folder in folders for path in sorted(folder.glob("libnvrtc.so.*"))]
    # The version that a JetPack driver knows comes first.
    return sorted(found, key=lambda path: path.name.split(".so.")[1].split(".")[0] != "12")


def find_compiler() -> Compiler | None:
    """Return the compiler to use, None where there is none."""
    for library in _nvrtc_libraries():
        try:
            return Nvrtc(library)
        except (OSError, AttributeError):
            continue
    program = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    return Nvcc(program) if program else None


def targets_of(compiler: Compiler) -> tuple[str, ...]:
    """Return the targets that this compiler's output is good for."""
    if compiler.version[0] == JETPACK_MAJOR:
        return (*CUBINS, PTX)
    return (*(target for target in CUBINS if target != "sm_87"), PTX)


def least_driver(compiler: Compiler, target: str) -> int:
    """Return the oldest driver that takes this compiler's output, 12050 for CUDA 12.5.

    A cubin runs on drivers of the compiler's major version; PTX is translated by those that know
    its version, and 8.5 is that of 12.5 and 12.6.
    """
    major, minor = compiler.version
    if target.startswith("sm_"):
        return 1000 * major
    return 12050 if (major, minor) in ((12, 5), (12, 6)) else 1000 * major + 10 * minor


def compile_all(compiler: Compiler, targets: Sequence[str]) -> list[Compiled]:
    """Return every source for every target.

    Raises: CompileError.
    """
    with ThreadPoolExecutor(2) as pool:
        jobs = [(source, target) for target in targets for source in SOURCES]
        return list(pool.map(lambda job: compiler.compile(*job), jobs))


FUNCTION = re.compile(r"Compiling entry function '(\w+)' for '(\w+)'")
STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
REGISTERS = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")


def resource_rows(compiled: Sequence[Compiled]) -> list[tuple[str, ...]]:
    """Return (kernel, target, registers, spilled bytes, stack bytes, shared bytes) per kernel.

    Raises: CompileError if an assembler's log names a kernel and not what it uses.
    """
    rows = []
    for one in compiled:
        if not one.target.startswith("sm_"):
            continue
        parts = re.split(r"(?=ptxas info\s+: Compiling entry function)", one.log)
        for part in parts[1:]:
            function, registers = FUNCTION.search(part), REGISTERS.search(part)
            stack, shared = STACK.search(part), SHARED.search(part)
            if function is None or registers is None or stack is None:
                raise CompileError(f"{one.source} for {one.target}: cannot read\n{part}")
            spilled = int(stack.group(2)) + int(stack.group(3))
            rows.append(
                (
                    function.group(1),
                    one.target,
                    registers.group(1),
                    str(spilled),
                    stack.group(1),
                    shared.group(1) if shared else "0",
                )
            )
    return sorted(rows)


def sources_digest() -> str:
    """Return the SHA-256 of what the kernels are made of, this script's options included."""
    digest = hashlib.sha256(" ".join((*OPTIONS, *CUBINS)).encode())
    for path in (FOLDER / "kernel_args.h", *sorted((FOLDER / "kernels").iterdir())):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def resource_table(compiled: Sequence[Compiled], name: str) -> str:
    """Return the resources as CSV, behind a line that says of which sources."""
    out = io.StringIO()
    out.write(f"# {name}, sources {sources_digest()}\n")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ("kernel", "target", "registers", "spilled_bytes", "stack_bytes", "shared_bytes")
    )
    writer.writerows(resource_rows(compiled))
    return out.getvalue()


def embedded(compiled: Sequence[Compiled], compiler: Compiler) -> str:
    """Return a C file with the codes and a table of them."""
    lines = [
        "/* Made by compile.py. SPDX-License-Identifier: Apache-2.0 */",
        '#include "cuda_code.h"',
    ]
    entries = []
    for one in compiled:
        label = f"{one.source}_{one.target}"
        lines.append(f"static const _Alignas(64) unsigned char {label}[] = {{")
        lines += [
            ",".join(str(byte) for byte in one.code[i : i + 32]) + ","
            for i in range(0, len(one.code), 32)
        ]
        lines.append("};")
        kind, number = one.target.split("_")
        ptx = int(kind == "compute")
        driver = least_driver(compiler, one.target)
        entries.append(
            f'    {{"{one.source}", {number}, {ptx}, {driver}, {label}, sizeof {label}}},'
        )
    lines += ["const ingot_cuda_image ingot_cuda_images[] = {", *entries, "};"]
    lines.append(f"const size_t ingot_cuda_image_count = {len(compiled)};")
    lines.append(f'const char *const ingot_cuda_compiler = "{compiler.name}";')
    return "\n".join(lines) + "\n"


def ptx_version(embedded_code: str) -> tuple[int, int]:
    """Return the newest version of PTX that a file made by `embedded` holds.

    Raises: ValueError if it holds none.
    """
    found = []
    for numbers in re.findall(r"\[\] = \{\n([\d,\n]+)\};", embedded_code):
        start = bytes(int(word) for word in numbers[:4000].split(",")[:600] if word.strip())
        version = re.search(rb"^\.version (\d+)\.(\d+)", start, re.MULTILINE)
        if version is not None:
            found.append((int(version.group(1)), int(version.group(2))))
    return max(found)


def write_if_changed(path: Path, content: str) -> None:
    """Write a file unless it has this content."""
    if not path.exists() or path.read_text(encoding="utf-8") != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Compile; exits with 1 where there is no compiler or the kernels do not compile."""
    parser = argparse.ArgumentParser(description="Compile and embed the CUDA kernels")
    parser.add_argument("--check", action="store_true", help="print the compiler and leave")
    parser.add_argument("--out", type=Path, help="C file to write")
    parser.add_argument("--resources", type=Path, help="CSV file to write")
    parser.add_argument("--targets", nargs="+", help="sm_87 sm_90 compute_80")
    arguments = parser.parse_args(argv)
    compiler = find_compiler()
    if compiler is None:
        print("no CUDA compiler (NVRTC or nvcc) was found", file=sys.stderr)
        return 1
    targets = tuple(arguments.targets or targets_of(compiler))
    print(f"{compiler.name}: {' '.join(targets)}")
    if arguments.check:
        return 0
    try:
        compiled = compile_all(compiler, targets)
        if arguments.out:
            write_if_changed(arguments.out, embedded(compiled, compiler))
        if arguments.resources:
            write_if_changed(arguments.resources, resource_table(compiled, compiler.name))
    except CompileError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
