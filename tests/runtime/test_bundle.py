# SPDX-License-Identifier: Apache-2.0
"""Bundles: what is in them, and what their installer refuses. `tests/check.py` installs one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from ingot.bundle import collect_wheels, make_bundle
from ingot.bundle.wheels import needed_packages
from ingot.cli import main
from ingot.container import write_container
from ingot.errors import InvalidArgumentError, StorageError
from ingot.store import SignedManifest, make_manifest, unsigned
from tests.must_fail.tiny_file import contents

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"
TAG = f"cp3{sys.version_info[1]}"
NAMES = ("cffi", "numpy", "pip", "pycparser", "jinja2", "markupsafe", "tokenizers", "tomli")


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A folder with wheels that are empty but named as pip names them."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name in NAMES:
        tags = f"{TAG}-{TAG}-manylinux_2_28_aarch64" if name == "numpy" else "py3-none-any"
        (folder / f"{name}-9.0-{tags}.whl").write_bytes(name.encode())
    (folder / "numpy-9.1-cp36-cp36m-manylinux_2_28_aarch64.whl").write_bytes(b"old Python")
    (folder / f"numpy-9.1-{TAG}-{TAG}-manylinux_2_28_x86_64.whl").write_bytes(b"other machine")
    (folder / "ingot-0.1.0-py3-none-manylinux_2_28_aarch64.whl").write_bytes(b"ours")
    return folder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "chat.ingot"
    write_container(path, contents())
    return path


def signed(path: Path) -> SignedManifest:
    return unsigned(make_manifest(path, "chat", 1))


def bundle(file: Path, wheels: Path, out: Path) -> Path:
    own = wheels / "ingot-0.1.0-py3-none-manylinux_2_28_aarch64.whl"

    def add(folder: Path) -> list[Path]:
        return collect_wheels(folder, own, "aarch64", HERE, wheels)

    done = make_bundle(file, signed(file), out, "aarch64", HERE, add)
    assert len(done.wheels) == len(needed_packages(HERE)) + 1
    return done.path


def test_wheels_are_those_of_the_device(file: Path, wheels: Path, tmp_path: Path) -> None:
    made = bundle(file, wheels, tmp_path / "out")
    names = {path.name for path in (made / "wheels").iterdir()}
    assert f"numpy-9.0-{TAG}-{TAG}-manylinux_2_28_aarch64.whl" in names
    assert not [name for name in names if "x86_64" in name or "cp36" in name]
    (wheels / "jinja2-9.0-py3-none-any.whl").unlink()
    with pytest.raises(InvalidArgumentError, match="no wheel of jinja2 for aarch64"):
        bundle(file, wheels, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    own = wheels / "ingot-0.1.0-py3-none-manylinux_2_28_aarch64.whl"
    with pytest.raises(InvalidArgumentError, match="the device is x86_64"):
        collect_wheels(tmp_path / "w", own, "x86_64", HERE, wheels)
    with pytest.raises(StorageError, match="there already"):
        bundle(file, wheels, made)


def test_a_bundle_lists_the_digest_of_each_file(file: Path, wheels: Path, tmp_path: Path) -> None:
    made = bundle(file, wheels, tmp_path / "out")
    listed = json.loads((made / "bundle.json").read_text("utf-8"))["files"]
    there = {str(p.relative_to(made)) for p in made.rglob("*") if p.is_file()} - {"bundle.json"}
    assert set(listed) == there
    assert {"install.sh", "install.py", "device/start.sh", "model/chat.manifest"} <= there
    sums = "".join(f"{digest}  {name}\n" for name, digest in listed.items())
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet"],
        input=sums,
        cwd=made,
        text=True,
        check=False,
    )
    assert checked.returncode == 0
    assert (made / "model" / "chat.ingot").read_bytes() == file.read_bytes()


def test_the_same_bundle_is_the_same_tar(file: Path, wheels: Path, tmp_path: Path) -> None:
    first = bundle(file, wheels, tmp_path / "a" / "chat.tar")
    second = bundle(file, wheels, tmp_path / "b" / "chat.tar")
    assert first.read_bytes() == second.read_bytes()
    with tarfile.open(first) as archive:
        entry = archive.getmember("chat/install.sh")
        assert entry.mode & 0o111
    assert [path.name for path in first.parent.iterdir()] == ["chat.tar"]


def test_the_installer_refuses_what_is_not_for_it(file: Path, wheels: Path, tmp_path: Path) -> None:
    made = bundle(file, wheels, tmp_path / "out")

    def install(prefix: str = "p") -> tuple[int, str]:
        command = ["sh", str(made / "install.sh"), "--prefix", str(tmp_path / prefix)]
        environment = {"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    facts = json.loads((made / "bundle.json").read_text("utf-8"))
    machine = "riscv64"
    (made / "bundle.json").write_text(json.dumps({**facts, "machine": machine}), "utf-8")
    status, said = install()
    assert status == 1 and "is for riscv64, this is" in said
    machine = said.rsplit("this is ", 1)[1].strip()
    (made / "bundle.json").write_text(json.dumps({**facts, "machine": machine}), "utf-8")
    with (made / "model" / "chat.ingot").open("r+b") as model:
        model.seek(-1, 2)
        model.write(b"\x01")
    status, said = install()
    assert status == 1 and "model/chat.ingot is damaged" in said
    status, said = install("with space")
    assert status == 1 and "only letters" in said
    assert not (tmp_path / "p").exists()


def test_units_are_as_systemd_wants_them(file: Path, wheels: Path, tmp_path: Path) -> None:
    made = bundle(file, wheels, tmp_path / "out")
    units = sorted((made / "device" / "service").iterdir())
    assert [u.name for u in units] == [
        "ingot-chat-recover.service",
        "ingot-chat.socket",
        "ingot-chat@.service",
    ]
    service = units[2].read_text("utf-8")
    memory = next(line for line in service.splitlines() if line.startswith("MemoryMax="))
    assert int(memory.partition("=")[2]) > signed(file).manifest.requirements.peak_bytes
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd: systemd-analyze is not installed")
    for unit in units:
        text = unit.read_text("utf-8").replace("@PREFIX@/start.sh", "/bin/true")
        unit.write_text(text.replace("@PREFIX@/bin/ingot", "/bin/true"), "utf-8")
    done = subprocess.run(
        [program, "verify", "--man=no", *map(str, units)],
        capture_output=True,
        text=True,
        check=False,
    )
    ours = [line for line in done.stderr.splitlines() if "ingot-chat" in line]
    assert not ours, done.stderr


def test_the_command_line(file: Path, wheels: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = wheels / "ingot-0.1.0-py3-none-manylinux_2_28_aarch64.whl"
    out = file.with_name("chat.tar")
    words = ["bundle", str(file), "--out", str(out), "--wheel", str(own), "--wheels", str(wheels)]
    assert main([*words, "--target", "rpi5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["machine"] == "aarch64" and found["path"] == str(out)
    assert main([*words, "--target", "rpi5", "--python", "2.7"]) == 1
    assert main(["bundle", "no.ingot", *words[2:]]) == 2
