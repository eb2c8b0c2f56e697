# SPDX-License-Identifier: Apache-2.0
"""The board's file system: Debian's arm64 or armhf Python unpacked without root, and wheels."""

from __future__ import annotations

import shutil
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from targets.lab.process import LabError, run

__all__ = [
    "SOURCES",
    "apt_options",
    "download_packages",
    "download_wheels",
    "pinned",
    "prepare_root",
    "prepare_site",
    "python_of",
]

PACKAGES = ["python3-minimal", "libpython3-stdlib", "libstdc++6", "coreutils", "dash"]
WHEELS = ["numpy", "cffi", "pycparser", "tokenizers", "jinja2", "markupsafe"]
# For 32-bit ARM neither numpy nor cffi publish wheels: Debian's are older, but stream text.
DEBIAN_INSTEAD = {"armv7": ["python3-numpy", "python3-cffi-backend"]}
WHEELS_32 = ["tokenizers", "jinja2", "markupsafe"]
DEBIAN_NAMES = {"aarch64": "arm64", "armv7": "armhf"}
MACHINES = {"aarch64": "aarch64", "armv7": "armv7l"}
PLATFORMS = ["manylinux2014", *(f"manylinux_2_{minor}" for minor in (17, 27, 28, 31, 34))]
SOURCES = [
    Path("/etc/apt/sources.list.d/debian.sources"),
    Path("/etc/apt/sources.list"),
]


NO_MORE = ("--no-deps",)


def _place(folder: Path, architecture: str) -> Path:
    return folder if architecture == "aarch64" else folder / architecture


def prepare_root(folder: Path, architecture: str = "aarch64", more: Sequence[str] = ()) -> Path:
    """Unpack Debian's packages below folder and return the root; a finished one is kept.

    With `more` packages the folder is for these alone.
    Raises: LabError if this machine has no apt or cannot download.
    Cost: about ten seconds and 75 MB, once.
    """
    place = _place(folder, architecture)
    root = place / "root"
    if (place / "root.done").exists():
        return root
    state = place / "apt"
    for path in (root, state):
        shutil.rmtree(path, ignore_errors=True)
    options = apt_options(state, DEBIAN_NAMES[architecture])
    packages = [*PACKAGES, *DEBIAN_INSTEAD.get(architecture, []), *more]
    download_packages(options, packages)
    root.mkdir(parents=True)
    for package in sorted((state / "cache" / "archives").glob("*.deb")):
        run(["dpkg", "-x", str(package), str(root)])
    shutil.rmtree(state)
    python_of(root)
    (place / "root.done").touch()
    return root


def download_packages(options: list[str], packages: list[str]) -> None:
    """Download packages; an index that fails is no harm where another has what is asked for.

    Raises: LabError with what apt said first.
    """
    problem = None
    try:
        run(["apt-get", *options, "update"])
    except LabError as error:
        problem = error
    try:
        run(["apt-get", *options, "--yes", "--download-only", "install", *packages])
    except LabError as error:
        raise problem or error from error


def apt_options(state: Path, architecture: str, sources: Path | None = None) -> list[str]:
    """Return the options of an apt for an architecture, whose whole state is in our folder.

    Packages come from this machine's sources, or from those of a list.
    Raises: LabError if there is none.
    """
    for part in ("lists/partial", "cache/archives/partial", "dpkg"):
        (state / part).mkdir(parents=True)
    (state / "dpkg" / "status").touch()
    sources = sources or next((path for path in SOURCES if path.exists()), None)
    if sources is None:
        raise LabError("no list of Debian package sources on this machine")
    settings = {
        "Dir::State": state,
        "Dir::State::lists": state / "lists",
        "Dir::State::status": state / "dpkg" / "status",
        "Dir::Cache": state / "cache",
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "-",
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
    }
    return [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]


def python_of(root: Path) -> Path:
    """Return the interpreter of the root.

    Raises: LabError if there is none.
    """
    found = sorted((root / "usr" / "bin").glob("python3.[0-9]*"))
    if not found:
        raise LabError(f"no Python interpreter was unpacked into {root}")
    return found[0]


def prepare_site(folder: Path, constraints: Path, architecture: str = "aarch64") -> Path:
    """Download the runtime's wheels for the board and unpack them; return the site folder.

    Raises: LabError if pip cannot download them.
    Cost: about ten seconds, once per set of versions.
    """
    place = _place(folder, architecture)
    site = place / "site"
    stamp = place / "site.done"
    names = WHEELS_32 if architecture == "armv7" else WHEELS
    root = prepare_root(folder, architecture)
    _link_alternatives(root)
    version = python_of(root).name.removeprefix("python")
    wanted = [*pinned(constraints, names), f"python {version}"]
    if stamp.exists() and stamp.read_text(encoding="utf-8") == "\n".join(wanted):
        return site
    wheels = place / "wheels"
    for path in (site, wheels):
        shutil.rmtree(path, ignore_errors=True)
    download_wheels(wheels, wanted[:-1], version, architecture)
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    shutil.rmtree(wheels)
    for path in _debian_packages(folder, architecture):
        (site / path.name).symlink_to(path)
    stamp.write_text("\n".join(wanted), encoding="utf-8")
    return site


def _link_alternatives(root: Path) -> None:
    """Put BLAS and LAPACK where the loader looks: packages that are only unpacked do not do it."""
    for library in sorted(root.glob("usr/lib/*/*/lib*.so.3")):
        link = library.parent.parent / library.name
        if library.parent.name in ("blas", "lapack") and not link.exists():
            link.symlink_to(Path(library.parent.name) / library.name)


def _debian_packages(folder: Path, architecture: str) -> list[Path]:
    """Return the root's Python packages, which an interpreter outside of it does not find."""
    return sorted((prepare_root(folder, architecture) / "usr/lib/python3/dist-packages").glob("*"))


def download_wheels(
    into: Path, wanted: list[str], version: str, architecture: str, more: Sequence[str] = NO_MORE
) -> None:
    """Download wheels for a Python of the board, alone where nothing more is told to pip.

    Raises: LabError if pip cannot.
    """
    machine = MACHINES[architecture]
    platforms = [word for name in PLATFORMS for word in ("--platform", f"{name}_{machine}")]
    command = [sys.executable, "-m", "pip", "download", "--quiet", *more]
    command += ["--only-binary=:all:", "--python-version", version, "--dest", str(into)]
    run([*command, *platforms, *wanted])


def pinned(constraints: Path, names: list[str]) -> list[str]:
    """Return "name==version" for each name, as the constraints file has it.

    Raises: LabError if a name has no version there.
    """
    pins: dict[str, str] = {}
    for line in constraints.read_text(encoding="utf-8").splitlines():
        pin, _, marker = line.partition(";")
        name, separator, version = pin.strip().partition("==")
        # Pins for older interpreters only stand beside the one that we want.
        if separator and "<" not in marker:
            pins[name.lower().replace("_", "-")] = version
    missing = [name for name in names if name not in pins]
    if missing:
        raise LabError(f"{constraints.name} does not pin {', '.join(missing)}")
    return [f"{name}=={pins[name]}" for name in names]
