# SPDX-License-Identifier: Apache-2.0
"""Error paths with their coverage, and sanitizers beneath Python and on the emulated board."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.checks.command import ROOT, StepError, build_native, run

# Python files that drive the library through every call; what they start inherits the sanitizer.
PYTHON_TESTS = (
    *("test_native", "test_native_program", "test_native_formats", "test_session"),
    *("test_session_state", "test_speculative_sessions", "test_profiling"),
)
THREAD_TESTS = ("test_native", "test_session", "test_session_state")
DRIVERS = ["allocation_driver", "errors_driver", "backend_driver", "validate_driver"]
# Returns that this build cannot reach; tests/native/test_error_paths.py meets the second with all
# kernels, the first needs a 32-bit size_t.
UNREACHABLE = {
    # a file of another user takes root to make
    "platform/linux.c": ("a 32-bit device maps", *(() if os.geteuid() == 0 else ("to user",))),
    "platform/guard.c": ("handler of SIGBUS",),
    "kernels/linear/linear_call.c": ("is not available",),
}
ARM_CPU = "max"


def errors() -> None:
    """Every error return of the C library is met, each allocation fails once; under ASan."""
    from tests.fuzz import coverage
    from tests.fuzz.targets import find_tools
    from tests.native.driver_files import write_driver_files

    tools = find_tools()
    settings = [f"-DCMAKE_C_COMPILER={tools.clang}", "-DCMAKE_BUILD_TYPE=Debug"]
    settings += ["-DINGOT_BUILD_TESTS=ON", "-DINGOT_REF_ONLY=ON"]
    settings.append("-DINGOT_SANITIZE=address,undefined")
    settings.append("-DCMAKE_C_FLAGS=-O1 -fprofile-instr-generate -fcoverage-mapping")
    build = build_native("errors", settings, DRIVERS)
    folder = ROOT / "build" / "check" / "drivers"
    given = write_driver_files(folder)
    profiles = [folder / f"{name}.profraw" for name in DRIVERS]
    arguments: dict[str, Sequence[Path]] = {
        "allocation_driver": given.allocations,
        "errors_driver": given.errors,
        "backend_driver": [given.plain],
    }
    for name, profile in zip(arguments, profiles, strict=False):
        output = run([build / name, *arguments[name]], {"LLVM_PROFILE_FILE": str(profile)})
        sys.stdout.write(output)
    _validate_corpus(build / "validate_driver", profiles[-1])
    linear_call = ROOT / "native" / "kernels" / "linear" / "linear_call.c"
    sources = [*coverage.native_sources(["*"]), linear_call]
    programs = [build / name for name in DRIVERS]
    counts = coverage.error_returns(coverage.export(tools, programs, profiles, sources), sources)
    _report(counts)


def _validate_corpus(driver: Path, profile: Path) -> None:
    corpus = ROOT / "build" / "check" / "corpus"
    run([sys.executable, "-m", "tests.must_fail.make_corpus", corpus])
    names = "".join(f"{path}\n" for path in sorted(corpus.glob("*.ingot")))
    environment = {**os.environ, "LLVM_PROFILE_FILE": str(profile)}
    done = subprocess.run(
        [str(driver)], input=names, text=True, capture_output=True, env=environment, check=False
    )
    if done.returncode != 0:
        raise StepError(f"{driver.name}: exit status {done.returncode}\n{done.stderr[-4000:]}")


def _report(counts: Mapping[str, int]) -> None:
    """Print the figure; a return that was never reached is a failure."""
    missed = [place for place, count in counts.items() if count == 0 and not _excused(place)]
    excused = [place for place, count in counts.items() if count == 0 and _excused(place)]
    reached = sum(count > 0 for count in counts.values())
    share = 100.0 * reached / max(1, len(counts) - len(excused))
    rules = sum(place.startswith("core/validate") for place in counts)
    print(
        f"error returns reached: {reached} of {len(counts) - len(excused)} ({share:.1f} %), "
        f"{rules} of them rules of the file; left out: {', '.join(excused) or 'none'}"
    )
    if missed or not counts:
        raise StepError("error returns that no test reaches:\n" + "\n".join(missed))


def _excused(place: str) -> bool:
    name, _, line = place.rpartition(":")
    if name not in UNREACHABLE:
        return False
    source = (ROOT / "native" / name).read_text(encoding="utf-8").splitlines()
    return any(text in source[int(line) - 1] for text in UNREACHABLE[name])


def _runtime_library(name: str) -> str:
    """Return the sanitizer's shared library of the compiler that builds libingot."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise StepError("no C compiler")
    path = run([compiler, f"-print-file-name={name}"]).strip()
    if not Path(path).is_absolute():
        raise StepError(f"{compiler} has no {name}")
    return path


def _pytest(build: Path, library: str, names: Sequence[str], options: Mapping[str, str]) -> None:
    """Run files of tests/runtime on a library with a sanitizer, which must be loaded first."""
    paths = [str(ROOT / name) for name in ("runtime", "compressor")]
    environment = {
        **options,
        "LD_PRELOAD": _runtime_library(library),
        "INGOT_NATIVE_DIR": str(build),
        "PYTHONPATH": os.pathsep.join(paths),
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    files = [str(ROOT / "tests" / "runtime" / f"{name}.py") for name in names]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files]
    output = run([*_fixed_addresses(), *command], environment)
    print(output.strip().splitlines()[-1])


def _fixed_addresses() -> list[str]:
    """TSan of older compilers does not know all layouts of memory: leave out randomization."""
    setarch = shutil.which("setarch")
    return [setarch, os.uname().machine, "-R"] if setarch else []


def address_python() -> None:
    """Tests of the Python runtime on a library with ASan and UBSan."""
    settings = ["-DCMAKE_BUILD_TYPE=RelWithDebInfo", "-DINGOT_BUILD_TESTS=ON"]
    build = build_native("asan", [*settings, "-DINGOT_SANITIZE=address,undefined"])
    # The interpreter keeps memory at its end on purpose; leaks are looked for by the C drivers.
    options = {"ASAN_OPTIONS": "detect_leaks=0:allow_user_segv_handler=1"}
    _pytest(build, "libasan.so", PYTHON_TESTS, options)


def threads_python() -> None:
    """Tests of the Python runtime on a library with TSan."""
    settings = ["-DCMAKE_BUILD_TYPE=RelWithDebInfo", "-DINGOT_BUILD_TESTS=ON"]
    build = build_native("tsan", [*settings, "-DINGOT_SANITIZE=thread"])
    _pytest(build, "libtsan.so", THREAD_TESTS, {"TSAN_OPTIONS": "halt_on_error=1"})


def emulated() -> None:
    """Harness and drivers for aarch64 under qemu, with ASan and UBSan.

    Seen with gcc 12 and qemu-user 7.2: ASan and UBSan find a planted fault; LeakSanitizer ends with
    "does not work under ptrace", so that leaks are left to the other jobs; TSan starts the program
    anew without address randomization, and that execve fails (ENOEXEC), so that it cannot run.
    """
    from tests.native.driver_files import write_driver_files

    qemu = shutil.which("qemu-aarch64")
    if qemu is None or shutil.which("aarch64-linux-gnu-gcc") is None:
        raise StepError("qemu-user and gcc-aarch64-linux-gnu are needed")
    given = write_driver_files(ROOT / "build" / "check" / "drivers")
    toolchain = ROOT / "targets" / "cmake" / "aarch64-linux-gnu-gcc.cmake"
    targets = ["kernel_harness", "allocation_driver", "errors_driver", "backend_driver"]
    settings = [f"-DCMAKE_TOOLCHAIN_FILE={toolchain}", "-DCMAKE_BUILD_TYPE=RelWithDebInfo"]
    settings += ["-DINGOT_BUILD_TESTS=ON", "-DINGOT_SANITIZE=address,undefined"]
    settings.append("-DCMAKE_EXE_LINKER_FLAGS=-static-libasan -static-libubsan")
    build = build_native("arm-sanitized", settings, targets)
    options = {"ASAN_OPTIONS": "detect_leaks=0:allow_user_segv_handler=1"}
    board = [qemu, "-cpu", ARM_CPU, "-L", "/usr/aarch64-linux-gnu"]
    run([*board, build / "kernel_harness", "--quick"], options)
    sys.stdout.write(run([*board, build / "errors_driver", *given.errors], options))
    sys.stdout.write(run([*board, build / "backend_driver", given.plain], options))
    sys.stdout.write(run([*board, build / "allocation_driver", given.plain], options))
    print("aarch64 under qemu: harness and drivers hold")
