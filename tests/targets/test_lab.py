# SPDX-License-Identifier: Apache-2.0
"""The emulated ARM board: kernels at three cores with two compilers, and the Python runtime."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from targets.lab.board import CPU_LEVELS, Board
from targets.lab.count import count_decode
from targets.lab.process import LabError, run
from targets.lab.younger import mirror_of, started

Leave = Callable[[str, str], NoReturn]
PROMPT = "The lamp on the table"
RUN = ["-m", "ingot", "run"]
OPTIONS = ["--max-tokens", "24", "--temperature", "0", "--json", "--threads", "2"]
SCRIPT = """
import json, sys
from ingot._native import native
lib = native().lib
print(json.dumps({"features": int(lib.ingot_cpu_features())}))
"""


@pytest.fixture(scope="module")
def board(skip_or_fail: Leave) -> Board:
    """Return the board with its root file system; skip by name where it cannot be built."""
    if shutil.which("qemu-aarch64") is None:
        skip_or_fail("arm", "qemu-aarch64 is not installed (qemu-user)")
    board = Board()
    try:
        board.python("cortex-a53", ["-c", "import numpy, cffi, tokenizers, jinja2"])
    except LabError as error:
        skip_or_fail("arm", str(error))
    return board


@pytest.fixture(scope="module")
def builds(board: Board, skip_or_fail: Leave) -> dict[str, Path]:
    """Return the board's native builds by compiler."""
    found = {}
    for compiler in ("gcc", "zig"):
        try:
            found[compiler] = board.native(compiler)
        except LabError as error:
            skip_or_fail("arm", f"{compiler}: {error}")
    return found


@pytest.mark.parametrize("cpu", list(CPU_LEVELS))
@pytest.mark.parametrize("compiler", ["gcc", "zig"])
def test_kernel_harness(board: Board, builds: dict[str, Path], cpu: str, compiler: str) -> None:
    """Each core runs every level it has; a level that did not run is a failure."""
    harness = builds[compiler] / "kernel_harness"
    assert harness.exists(), "kernel_harness was not built"
    board.run(cpu, [harness, "--quick", "--require", ",".join(CPU_LEVELS[cpu])])


def test_harness_fails_for_a_level_that_the_core_lacks(
    board: Board, builds: dict[str, Path]
) -> None:
    harness = builds["gcc"] / "kernel_harness"
    with pytest.raises(LabError, match="neon_dotprod"):
        board.run("cortex-a53", [harness, "--quick", "--require", "neon_dotprod"])


@pytest.mark.parametrize(
    ("cpu", "features"), [("cortex-a53", 17), ("cortex-a76", 49), ("max", 113)]
)
def test_library_finds_the_levels_of_the_core(board: Board, cpu: str, features: int) -> None:
    assert json.loads(board.python(cpu, ["-c", SCRIPT])) == {"features": features}


@pytest.fixture(scope="module")
def host_answer(lantern_ingot: Path) -> dict[str, object]:
    """Return what the host makes of the prompt, with the file that the board gets too."""
    command = [sys.executable, *RUN, str(lantern_ingot), "--prompt", PROMPT, *OPTIONS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
    assert len(answer["token_ids"]) == 24  # type: ignore[arg-type]
    return answer


@pytest.mark.parametrize(
    ("cpu", "compiler"), [("cortex-a53", "gcc"), ("cortex-a76", "gcc"), ("max", "zig")]
)
def test_board_gives_the_tokens_of_the_host(
    board: Board, lantern_ingot: Path, host_answer: dict[str, object], cpu: str, compiler: str
) -> None:
    arguments = [*RUN, str(lantern_ingot), "--prompt", PROMPT, *OPTIONS]
    answer = json.loads(board.python(cpu, arguments, compiler))
    assert answer["prompt_token_ids"] == host_answer["prompt_token_ids"]
    assert answer["token_ids"] == host_answer["token_ids"]
    assert answer["text"] == host_answer["text"]


def test_forced_level_that_the_core_lacks_is_an_error(
    board: Board, lantern_ingot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INGOT_FORCE_ISA", "neon_dotprod")
    with pytest.raises(LabError, match="neon_dotprod"):
        board.python("cortex-a53", [*RUN, str(lantern_ingot), "--prompt", PROMPT, *OPTIONS])


def test_instruction_counts_repeat_and_use_sdot(
    board: Board, lantern_ingot: Path, builds: dict[str, Path]
) -> None:
    """Counting is exact: twice the same number, and the dot product does the work on A76 only."""
    assert builds
    first = count_decode(board, "cortex-a76", lantern_ingot, prompt=4, tokens=2)
    again = count_decode(board, "cortex-a76", lantern_ingot, prompt=4, tokens=2)
    assert abs(first.total - again.total) <= first.total // 1000
    # One SDOT is 16 products; lantern has 4.7 million weights in its linear layers, head included.
    assert first.sdot >= 5_000_000 // 16 // 2
    assert first.smmla == 0
    assert count_decode(board, "cortex-a53", lantern_ingot, prompt=4, tokens=2).sdot == 0


def test_failing_command_says_why() -> None:
    with pytest.raises(LabError, match="exit status 3"):
        run([sys.executable, "-c", "import sys; sys.exit(3)"])
    with pytest.raises(LabError, match="is not installed"):
        run(["ingot-no-such-program"])


def test_the_mirror_is_that_of_this_machine(tmp_path: Path) -> None:
    """Of either style of list, past other archives; without one it is an error that says so."""
    lines = "Types: deb\n# URIs: http://old.test/debian\nURIs: http://here.test/debian/\n"
    styles = {
        "deb822": lines,
        "one-line": "deb http://x.test/tools x y\ndeb [a=b] http://here.test/debian/ x main\n",
    }
    for name, text in styles.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert mirror_of([tmp_path / name]) == "http://here.test/debian/"
    (tmp_path / "none").write_text("URIs: http://other.test/debian-security\n", encoding="utf-8")
    with pytest.raises(LabError, match="no address of Debian's archive"):
        mirror_of([tmp_path / "none"])


def test_a_program_of_another_root_is_started_by_its_loader(tmp_path: Path) -> None:
    loader, option, paths, program = started(tmp_path, "program", (Path("/host"),))
    assert loader == f"{tmp_path}/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
    assert (option, program) == ("--library-path", "program")
    assert paths == f"{tmp_path}/usr/lib/x86_64-linux-gnu:/host"
