# SPDX-License-Identifier: Apache-2.0
"""Checks of what users get: the wheel in an environment of its own, and the examples."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.checks.command import ROOT, StepError, run

FOLDER = ROOT / "build" / "check"
MODEL = ROOT / "examples" / "models" / "lantern"
IMPORT_CHECK = (
    "import sys, ingot; "
    "assert not {'torch', 'ingot_compressor'} & set(sys.modules), 'the runtime loads too much'; "
    "from ingot.targets import list_targets; assert 'rpi5' in list_targets(); "
    "print(ingot.__file__)"
)


def model_file() -> Path:
    """Compress the bundled model once for the checks and return the file."""
    out = FOLDER / "lantern.ingot"
    if not out.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "ingot", "compress", MODEL, "--out", out]
        run([*command, "--target", "host", "--preset", "draft"])
    return out


def wheel() -> None:
    """Build the wheel, install it alone into a new environment, and use it there."""
    folder, environment = FOLDER / "wheel", FOLDER / "venv"
    for path in (folder, environment):
        shutil.rmtree(path, ignore_errors=True)
    pip = [sys.executable, "-m", "pip"]
    run([*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, "."])
    built = list(folder.glob("ingot-*-py3-none-*.whl"))
    if len(built) != 1:
        raise StepError(f"expected one py3-none wheel, found {[p.name for p in folder.iterdir()]}")
    _check_content(built[0])
    run([sys.executable, "-m", "venv", environment])
    python = environment / "bin" / "python"
    constraints = ["--constraint", ROOT / "constraints.txt"]
    run([python, "-m", "pip", "install", "--quiet", *constraints, built[0]])
    _use(environment)


def _check_content(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if len(names) != len(set(names)):
        raise StepError("a file is in the wheel twice")
    wanted = {"ingot/libingot.so", "ingot/_ingot_ffi.py", "ingot/target_profiles/rpi5.toml"}
    if wanted - set(names):
        raise StepError(f"the wheel lacks {sorted(wanted - set(names))}")
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    if tops != {"ingot", "ingot_compressor"}:
        raise StepError(f"the wheel has the top-level names {sorted(tops)}")


def _use(environment: Path) -> None:
    """Import, run a model, and ask for the part that is not installed."""
    clean = {"PYTHONPATH": "", "INGOT_NATIVE_DIR": ""}
    program, python = environment / "bin" / "ingot", environment / "bin" / "python"
    run([python, "-c", IMPORT_CHECK], clean, cwd=FOLDER)
    prompt = ["--prompt", "The lamp", "--max-tokens", "8", "--temperature", "0", "--json"]
    answer = json.loads(run([program, "run", model_file(), *prompt], clean, cwd=FOLDER))
    if len(answer["token_ids"]) != 8:
        raise StepError(f"expected 8 tokens, found {answer}")
    refused = subprocess.run(
        [str(program), "compress", str(MODEL), "--out", "never.ingot"],
        cwd=FOLDER,
        env={**os.environ, **clean},
        capture_output=True,
        text=True,
        check=False,
    )
    if refused.returncode != 1 or "ingot[compress]" not in refused.stderr:
        raise StepError(f"compress without the extra: {refused.returncode}, {refused.stderr}")


def examples() -> None:
    """Run all examples, and the demo as users do."""
    run([sys.executable, "-m", "pytest", "-q", "tests/examples"])
    run([sys.executable, "examples/demo.py", "--max-tokens", "32"])
