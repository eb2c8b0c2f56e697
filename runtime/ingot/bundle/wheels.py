# SPDX-License-Identifier: Apache-2.0
"""The wheels of a bundle: the runtime's own, and those that it needs, for the device's machine.

pip chooses and downloads them, since it alone knows the rules of tags; its own wheel comes along,
because many boards have a Python without pip.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ingot.errors import InvalidArgumentError, StorageError

__all__ = ["collect_wheels", "needed_packages"]

# What `import ingot` and a stream of text need. Not all that these packages name: tokenizers lists
# a client of a model hub, which nothing here calls.
_NEEDED = ("numpy>=1.26", "cffi>=1.16", "pycparser", "tokenizers>=0.20", "jinja2>=3.1")
_NEEDED_TOO = ("markupsafe>=2.0", "pip")
_PLATFORMS = ("manylinux2014", *(f"manylinux_2_{minor}" for minor in (17, 24, 27, 28)))
_WHEEL = re.compile(
    r"(?P<name>[^-]+)-(?P<version>[^-]+)(-\d[^-]*)?-(?P<tags>[^-]+-[^-]+-[^-]+)\.whl"
)


def needed_packages(python: str, signing: bool = False) -> list[str]:
    """Return what a runtime needs besides its own wheel, as pip takes it."""
    extra = [] if _minor(python) >= 11 else ["tomli>=2.0"]
    return [*_NEEDED, *_NEEDED_TOO, *extra, *(["cryptography>=42.0"] if signing else [])]


def collect_wheels(
    folder: Path,
    own: Path,
    machine: str,
    python: str,
    source: Path | None = None,
    signing: bool = False,
    constraint: Path | None = None,
) -> list[Path]:
    """Put the runtime's wheel and all that it needs into a folder; return the wheels.

    `source` is a folder that has them already; without it pip downloads them.
    Raises: InvalidArgumentError if a wheel is missing, or is for another machine; StorageError.
    """
    _require_machine(own, machine)
    packages = needed_packages(python, signing)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(own, folder / own.name)
    if source is None:
        _download(folder, packages, machine, python, constraint)
    else:
        for package in packages:
            wheel = _find(source, _project(package), machine, python)
            shutil.copy(wheel, folder / wheel.name)
    found = sorted(folder.glob("*.whl"))
    for wheel in found:
        _require_machine(wheel, machine)
    return found


def _download(
    folder: Path, packages: Sequence[str], machine: str, python: str, constraint: Path | None
) -> None:
    platforms = [word for name in _PLATFORMS for word in ("--platform", f"{name}_{machine}")]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--only-binary=:all:", "--implementation", "cp"]
    command += ["--python-version", python, "--dest", str(folder), *platforms]
    if constraint is not None:
        command += ["--constraint", str(constraint)]
    done = subprocess.run(
        [*command, *packages], capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode != 0:
        raise StorageError(
            f"pip could not download the wheels for {machine}, Python {python}: "
            f"{done.stderr.strip()[-600:]}; --wheels DIR takes them from a folder"
        )


def _find(source: Path, project: str, machine: str, python: str) -> Path:
    """Return a project's wheel of a folder that fits machine and Python."""
    tag = f"cp3{_minor(python)}"
    for wheel in sorted(source.glob("*.whl"), reverse=True):
        found = _WHEEL.fullmatch(wheel.name)
        if found is None or found["name"].lower().replace("_", "-") != project:
            continue
        interpreter, abi, platform = found["tags"].split("-")
        fits = tag in interpreter.split(".") or "py3" in interpreter.split(".") or abi == "abi3"
        if fits and (platform == "any" or machine in platform):
            return wheel
    raise InvalidArgumentError(f"{source}: no wheel of {project} for {machine}, Python {python}")


def _require_machine(wheel: Path, machine: str) -> None:
    found = _WHEEL.fullmatch(wheel.name)
    if found is None or not wheel.is_file():
        raise InvalidArgumentError(f"{wheel}: not a wheel: `python -m pip wheel .` makes one")
    platform = found["tags"].split("-")[2]
    if platform != "any" and machine not in platform:
        raise InvalidArgumentError(f"{wheel.name} is for {platform}, the device is {machine}")


def _project(requirement: str) -> str:
    return re.split(r"[<>=!~ ]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def _minor(python: str) -> int:
    found = re.fullmatch(r"3\.(\d{1,2})", python)
    if found is None or int(found[1]) < 10:
        raise InvalidArgumentError(f"Python '{python}': expected 3.10 or later, such as 3.11")
    return int(found[1])
