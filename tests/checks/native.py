# SPDX-License-Identifier: Apache-2.0
"""Checks of the C side: headers alone, sanitizers, fuzzing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from targets.cross.android import check_syntax
from targets.lab.process import LabError
from tests.checks.command import ROOT, StepError, build_native, run, tool
from tests.checks.package import model_file
from tests.project.tree import files

WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wvla", "-Werror"]
INCLUDES = [f"-I{ROOT / 'native'}", f"-I{ROOT / 'native' / 'include'}"]
FUZZ_SECONDS = 60  # of each of the five targets


def headers() -> None:
    """Each public header compiles alone, as C11 and as C++17."""
    public = [path for path in files(".h") if path.parts[:2] == ("native", "include")]
    if not public:
        raise StepError("no public header was found")
    for header in public:
        for language, standard, compiler in (("c", "c11", "gcc"), ("c++", "c++17", "g++")):
            options = ["-fsyntax-only", "-pedantic", f"-std={standard}", "-x", language]
            run([tool(compiler), *options, *WARNINGS, *INCLUDES, header])


def android_syntax() -> None:
    """The C sources are valid for Android's triple; there is no NDK to link with."""
    try:
        print(f"{check_syntax()} sources pass clang's syntax check")
    except LabError as error:
        raise StepError(str(error)) from error


def address_sanitizer() -> None:
    """Kernels, sessions, and the reader on files that must fail, under ASan and UBSan."""
    settings = ["-DCMAKE_BUILD_TYPE=RelWithDebInfo", "-DINGOT_BUILD_TESTS=ON"]
    build = build_native("asan", [*settings, "-DINGOT_SANITIZE=address,undefined"])
    # The harness catches the faults of guard pages itself.
    run([build / "kernel_harness", "--quick"], {"ASAN_OPTIONS": "allow_user_segv_handler=1"})
    run([build / "session_driver", model_file()])
    _drive_guard(build, {})
    _refuse_corpus(build / "validate_driver")


def _drive_guard(build: Path, options: dict[str, str]) -> None:
    """Cut a copy of the model short under sessions of several threads."""
    copy = build / "guard-copy.ingot"
    shutil.copyfile(model_file(), copy)
    run([build / "guard_driver", model_file(), copy], options)


def _refuse_corpus(driver: Path) -> None:
    """Make the files that must fail and compare the rule that the native reader names."""
    folder = ROOT / "build" / "check" / "corpus"
    run([sys.executable, "-m", "tests.must_fail.make_corpus", folder])
    lines = (folder / "corpus.tsv").read_text(encoding="utf-8").splitlines()
    expected = [line.split("\t")[:2] for line in lines]
    names = "".join(f"{folder / name}\n" for name, _ in expected)
    done = subprocess.run(
        [str(driver)], input=names, capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode != 0:
        raise StepError(f"{driver.name}: exit status {done.returncode}\n{done.stderr[-6000:]}")
    found = [line.split(" ")[0] for line in done.stdout.splitlines()]
    wrong = [
        f"{name}: rule {rule} expected, found {other}"
        for (name, rule), other in zip(expected, found, strict=True)
        if rule != other
    ]
    if wrong:
        raise StepError("\n".join(wrong))
    print(f"{len(found)} files, each refused for its own reason")


def thread_sanitizer() -> None:
    """Sessions with several threads, and several at once, under TSan."""
    settings = ["-DCMAKE_BUILD_TYPE=RelWithDebInfo", "-DINGOT_BUILD_TESTS=ON"]
    build = build_native("tsan", [*settings, "-DINGOT_SANITIZE=thread"])
    options = {"TSAN_OPTIONS": "halt_on_error=1"}
    run([build / "session_driver", model_file()], options)
    run([build / "threads_driver"], options)
    _drive_guard(build, options)


def fuzz() -> None:
    """Five minutes of libFuzzer: reader, plan, session API, importers.

    One seed, so that a commit is judged by what it changed; recorded runs have random ones.
    """
    script = ROOT / "tests" / "fuzz" / "run_fuzz.py"
    run([sys.executable, script, "--seconds", str(FUZZ_SECONDS), "--seed", "1"], show=True)
