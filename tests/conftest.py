# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the whole suite, and the rule by which a skip becomes a failure.

INGOT_REQUIRE is a list of what must run here: kernel levels (avx2, avxvnni, avx512vnni, ...) and
`arm` for the emulated board, `vulkan` for a Vulkan driver (one that runs on the CPU will do). What
is in the list and cannot run fails; the rest is skipped by name.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

# Before torch is loaded: its threads spin while they wait, which a busy machine pays for dearly.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Nothing is measured or kept in the home folder; the tests of tuning say otherwise.
os.environ.setdefault("INGOT_TUNE", "0")
os.environ.setdefault("INGOT_CANARY", "0")

REPOSITORY = Path(__file__).resolve().parent.parent
KNOWN_REQUIREMENTS = frozenset(
    {"arm", "vulkan", "ref", "avx2", "avxvnni", "avx512vnni", "neon", "neon_dotprod", "neon_i8mm"}
)


def required() -> frozenset[str]:
    """Return the words of INGOT_REQUIRE."""
    words = os.environ.get("INGOT_REQUIRE", "").replace(",", " ").split()
    return frozenset(words)


def pytest_configure(config: pytest.Config) -> None:
    unknown = required() - KNOWN_REQUIREMENTS
    if unknown:
        known = ", ".join(sorted(KNOWN_REQUIREMENTS))
        raise pytest.UsageError(f"INGOT_REQUIRE has {sorted(unknown)}, expected some of {known}")
    prepare_native()


def prepare_native() -> None:
    """Build the library into build/tests where ingot is used from the source tree.

    It must be there before a test module imports ingot, hence no fixture.
    """
    if os.environ.get("INGOT_NATIVE_DIR") or installed_library() is not None:
        return
    paths = [str(REPOSITORY / "runtime"), str(REPOSITORY / "compressor")]
    sys.path[:0] = paths
    inherited = [path for path in (os.environ.get("PYTHONPATH"),) if path]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths + inherited)
    build = REPOSITORY / "build" / "tests"
    message = cmake_build(build, [])
    if message:
        sys.stderr.write(f"libingot does not build; tests that need it will fail:\n{message}\n")
        return
    os.environ["INGOT_NATIVE_DIR"] = str(build)


def cmake_build(build: Path, settings: list[str]) -> str:
    """Build native/ into a folder; return "" or the end of what a failed build said."""
    cmake, ninja = tool("cmake"), tool("ninja")
    if cmake is None:
        return "cmake is not installed (it comes with the dev extra)"
    generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []
    configure = [cmake, "-S", str(REPOSITORY / "native"), "-B", str(build), *generator]
    configure += ["-DCMAKE_BUILD_TYPE=Release", f"-DPython_EXECUTABLE={sys.executable}", *settings]
    for command in (configure, [cmake, "--build", str(build), "--parallel", "2"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return f"{done.stdout}{done.stderr}"[-4000:]
    return ""


def installed_library() -> Path | None:
    """Return libingot of an installed ingot, None where there is none."""
    spec = importlib.util.find_spec("ingot")
    if spec is None or spec.origin is None:
        return None
    library = Path(spec.origin).with_name("libingot.so")
    return library if library.exists() else None


def tool(name: str) -> str | None:
    """Return a program, the one of this environment first."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else shutil.which(name)


@pytest.fixture(scope="session")
def repo_root() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("no folder 'shared' beside the repository")
    return folder


@pytest.fixture(scope="session")
def skip_or_fail() -> Callable[[str, str], NoReturn]:
    """Return a function(requirement, reason): skips, or fails if INGOT_REQUIRE names it."""

    def leave(requirement: str, reason: str) -> NoReturn:
        if requirement in required():
            pytest.fail(f"INGOT_REQUIRE has '{requirement}': {reason}", pytrace=False)
        pytest.skip(f"{requirement}: {reason}")

    return leave


@pytest.fixture(scope="session")
def native_build(repo_root: Path) -> Path:
    """Build libingot with its C tests (kernel_harness) and return the folder."""
    build = repo_root / "build" / "native-tests"
    message = cmake_build(build, ["-DINGOT_BUILD_TESTS=ON"])
    assert not message, message
    return build


def compress(source: Path, out: Path, *options: str) -> Path:
    """Compress a checkpoint through the command line and return the file."""
    command = [sys.executable, "-m", "ingot", "compress", str(source), "--out", str(out)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ingot compress: {done.returncode}\n{done.stderr[-3000:]}"
    return out


@pytest.fixture(scope="session")
def stories_ingot(shared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return stories260k in f16, the file whose greedy text is known."""
    out = tmp_path_factory.mktemp("stories") / "stories.ingot"
    options = ("--preset", "draft", "--format", "f16")
    return compress(shared_dir / "models" / "stories260k", out, *options)


@pytest.fixture(scope="session")
def lantern_ingot(repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bundled model in the default mix of formats."""
    out = tmp_path_factory.mktemp("lantern") / "lantern.ingot"
    return compress(repo_root / "examples" / "models" / "lantern", out, "--preset", "draft")
