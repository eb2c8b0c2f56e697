# SPDX-License-Identifier: Apache-2.0
"""An ssh server on loopback with keys and settings of its own, for the tests of `ingot deploy`."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

WAIT_S = 30.0
PORTS = 3  # to try: another process may take one that was free
SETTINGS = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile {folder}/sshd.pid
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
"""
# Cuts the way to the far side after some bytes: what a dropped link does, at a chosen place. dd,
# since it passes on what it has; others gather it first. It counts blocks, and a read that the pipe
# cut short as one: small blocks keep the place where it was meant to be.
CUT = """#!/bin/sh
[ -e "{mark}" ] && exec {ssh} "$@"
touch "{mark}"
dd bs=512 count={size} iflag=count_bytes status=none | {ssh} "$@"
"""


class NoServer(Exception):
    """No ssh server can run here; the message says what is missing."""


class Server:
    """A running server; `ssh` is the start of a command that reaches it, `host` where it is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = "127.0.0.1"
        path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"])
        server = shutil.which("sshd", path=path)
        if server is None or shutil.which("ssh") is None or shutil.which("ssh-keygen") is None:
            raise NoServer("sshd or ssh is not installed (openssh-server, openssh-client)")
        self._allow_as_root()
        for name in ("host_key", "user_key"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(command, check=True)
        for left in reversed(range(PORTS)):
            try:
                self._start(server, folder)
                break
            except NoServer:
                if left == 0:
                    raise

    def _start(self, server: str, folder: Path) -> None:
        """Start at a port that was free a moment ago."""
        port = _free_port()
        settings = folder / "sshd_config"
        settings.write_text(SETTINGS.format(port=port, folder=folder), encoding="utf-8")
        self.ssh = (
            f"ssh -F none -p {port} -i {folder}/user_key -o BatchMode=yes -o LogLevel=ERROR"
            f" -o StrictHostKeyChecking=no -o UserKnownHostsFile={folder}/known_hosts"
        )
        with (folder / "sshd.log").open("wb") as log:
            command = [server, "-D", "-e", "-f", str(settings)]
            self._process = subprocess.Popen(command, stderr=log, stdin=subprocess.DEVNULL)
        self._wait(port)

    @property
    def remote_ingot(self) -> str:
        """The command that is this tree's ingot in a bare login."""
        names = ("PYTHONPATH", "INGOT_NATIVE_DIR")
        settings = " ".join(f"{name}='{os.environ.get(name, '')}'" for name in names)
        return f"env {settings} '{sys.executable}' -m ingot"

    def cut_after(self, size: int, name: str = "cut") -> str:
        """Return an ssh whose first connection breaks after so many bytes."""
        script = self.folder / f"{name}-{size}"
        mark = self.folder / f"{name}-{size}.done"
        mark.unlink(missing_ok=True)
        script.write_text(CUT.format(size=size, ssh=self.ssh, mark=mark), encoding="utf-8")
        script.chmod(0o755)
        return str(script)

    def stop(self) -> None:
        """End the server."""
        self._process.terminate()
        self._process.wait(WAIT_S)

    def _allow_as_root(self) -> None:
        """A server of root wants an empty folder that the system usually makes at its start."""
        if os.geteuid() == 0:
            try:
                Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
            except OSError as error:
                raise NoServer(f"sshd needs its folder: {error}") from error

    def _wait(self, port: int) -> None:
        """Wait until a login works: an account may be locked even where the server runs."""
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end and self._process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex((self.host, port)) == 0:
                    break
            time.sleep(0.02)
        command = [*self.ssh.split(), "--", self.host, "true"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            self._process.kill()
            log = (self.folder / "sshd.log").read_text(encoding="utf-8", errors="replace")
            raise NoServer(f"no login on loopback: {done.stderr.strip()} {log[-300:].strip()}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
