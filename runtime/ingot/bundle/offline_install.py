# SPDX-License-Identifier: Apache-2.0
"""Install a bundle on a device: standard library only, no network, no compiler, no pip.

It is copied into each bundle as install.py and runs there on the device's Python. Runtime and model
are put beside what is there and switched to by renames.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import shutil
import sys
from pathlib import Path

__all__ = ["main"]

_BLOCK = 1 << 20


class BundleError(Exception):
    """The bundle cannot be installed here; the message says why."""


def digest(path: Path) -> str:
    """Return a file's SHA-256 in hex."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            found.update(block)
    return found.hexdigest()


def check_files(bundle: Path, facts: dict[str, object]) -> None:
    """Compare every file with the list. Raises: BundleError naming the first that differs."""
    files = facts["files"]
    if not isinstance(files, dict):
        raise BundleError("bundle.json lists no files")
    for name, expected in files.items():
        path = bundle / name
        if not path.is_file():
            raise BundleError(f"{name} is missing: copy the bundle again")
        if digest(path) != expected:
            raise BundleError(f"{name} is damaged: copy the bundle again")


def check_machine(facts: dict[str, object]) -> None:
    """Refuse another machine or Python. Raises: BundleError."""
    machine = {"arm64": "aarch64", "amd64": "x86_64"}.get(os.uname().machine, os.uname().machine)
    if machine != facts["machine"]:
        raise BundleError(f"the bundle is for {facts['machine']}, this is {machine}")
    found = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if found != facts["python"]:
        raise BundleError(
            f"the bundle is for Python {facts['python']}, this is {found}: "
            "run it with another by PYTHON=..., or make one with `ingot bundle --python`"
        )


def install_runtime(bundle: Path, prefix: Path, facts: dict[str, object]) -> Path:
    """Install the wheels beside an earlier runtime and switch to them; return the folder."""
    wheels = sorted((bundle / "wheels").glob("*.whl"))
    site = prefix / f"site-{facts['runtime']}"
    if not (site / "complete").is_file():
        shutil.rmtree(site, ignore_errors=True)
        pip = next(wheel for wheel in wheels if wheel.name.startswith("pip-"))
        sys.path.insert(0, str(pip))
        from pip._internal.cli.main import main as run_pip

        words = ["--isolated", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
        words += ["--no-cache-dir", "--disable-pip-version-check", "--no-warn-script-location"]
        chosen = [str(wheel) for wheel in wheels if wheel != pip]
        if run_pip([*words, "--target", str(site), *chosen]) != 0:
            raise BundleError("pip could not install the wheels; what it said is above")
        sys.path.remove(str(pip))
        (site / "complete").touch()
        os.sync()
    switch(prefix / "site", site.name)
    return site


def switch(link: Path, target: str) -> None:
    """Point a link elsewhere by one rename."""
    temporary = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)


def write_device_files(bundle: Path, prefix: Path) -> None:
    """Write start script, program and units with the device's paths."""
    root = bundle / "device"
    for source in sorted(path for path in root.rglob("*") if path.is_file()):
        text = source.read_text(encoding="utf-8")
        text = text.replace("@PREFIX@", str(prefix)).replace(
            "@PYTHON@", shlex.quote(sys.executable)
        )
        path = prefix / source.relative_to(root)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text(text, encoding="utf-8")
        temporary.chmod(0o644 if "service" in path.parts else 0o755)
        temporary.replace(path)


def install_model(bundle: Path, prefix: Path, site: Path, facts: dict[str, object]) -> int:
    """Hand the model to the runtime's store, which tries it and switches; return the status."""
    sys.path.insert(0, str(site))
    from ingot.cli import main as run_ingot

    model = bundle / "model" / f"{facts['name']}.ingot"
    words = ["store", "install", str(prefix / "models"), str(model)]
    return run_ingot([*words, "--manifest", str(model.with_suffix(".manifest"))])


def main(argv: list[str] | None = None) -> int:
    """Install; returns the exit status."""
    parser = argparse.ArgumentParser(description="Install runtime, model and service files")
    parser.add_argument("--prefix", type=Path, required=True, metavar="DIR", help="where to")
    arguments = parser.parse_args(argv)
    bundle, prefix = Path(__file__).resolve().parent, arguments.prefix.absolute()
    try:
        if any(not (c.isalnum() or c in "/._-+") for c in str(prefix)):
            raise BundleError(f"--prefix {prefix}: only letters, digits and /._-+ please")
        facts = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
        check_machine(facts)
        check_files(bundle, facts)
        prefix.mkdir(parents=True, exist_ok=True)
        site = install_runtime(bundle, prefix, facts)
        write_device_files(bundle, prefix)
        status = install_model(bundle, prefix, site, facts)
    except (BundleError, OSError, ValueError, KeyError) as error:
        sys.stderr.write(f"install: {error}\n")
        return 1
    if status == 0:
        sys.stdout.write(f"installed: {prefix}/start.sh talks to {facts['name']}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
