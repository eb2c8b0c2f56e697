# SPDX-License-Identifier: Apache-2.0
"""Kill a store at every system call of a change in turn, and look at what is left.

A child does the change under ptrace; at its n-th system call it is killed, for n = 1, 2, ... until
it ends by itself. The call is not made: so what is seen is every state that a kill can leave.
ptrace rather than a preloaded library because it sees all calls, whoever makes them, and needs no
compiler; rather than strace because starting an interpreter for each kill would take minutes.

Example:
    python tests/runtime/kill_walk.py                       # all operations
    python tests/runtime/kill_walk.py --only update gc --json
    python tests/runtime/kill_walk.py --plant               # a switch that is not atomic: must fail
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import io
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ingot.container import Container, replace_sections, write_container
from ingot.deploy.frames import Counted, Kind, write_frame
from ingot.deploy.receiver import receive
from ingot.errors import CanaryError, IngotError
from ingot.format import Section
from ingot.store import CanaryReport, SignedManifest, Store, install_file, make_manifest, unsigned
from ingot.store import store as store_module
from ingot.store.canary import no_canary
from tests.must_fail.tiny_file import contents

NAME = "chat"
TRACE_ME, SYSCALL, SET_OPTIONS, SYSCALL_INFO = 0, 24, 0x4200, 0x420E
GOOD_STOPS, EXIT_KILL = 1, 1 << 20
SYSCALL_STOP = signal.SIGTRAP | 0x80
# The calls that change a folder or make it last, by number, where the walk must have passed them.
MUST_MEET = {"x86_64": {"rename": 82, "fsync": 74}, "aarch64": {"renameat": 38, "fsync": 82}}


class Refused(Exception):
    """This system does not let a process trace its child."""


@dataclass
class Outcome:
    """What the walk of one operation found."""

    calls: int = 0
    bad: list[str] = field(default_factory=list)
    numbers: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class Operation:
    """A change: what is there before it, and which versions may be current at which time.

    `allowed`: right after a kill; `settled`: after recover; `result`: if the change is done again.
    """

    before: tuple[int, ...]
    change: Callable[[Path], None]
    allowed: tuple[int | None, ...]
    settled: tuple[int | None, ...]
    result: int | None = None


class Tracer:
    """Runs a function in a child and kills it at its n-th system call."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._ptrace = libc.ptrace
        self._ptrace.restype = ctypes.c_long
        self._ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
        self.numbers: set[int] = set()

    def kill_at(self, count: int, function: Callable[[], None]) -> bool:
        """Return whether the child was killed; False if it ended before that many calls."""
        child = os.fork()
        if child == 0:
            self._run(function)
        _, status = os.waitpid(child, 0)
        if not os.WIFSTOPPED(status):
            raise Refused("a process may not be traced here")
        self._ptrace(SET_OPTIONS, child, None, GOOD_STOPS | EXIT_KILL)
        entries, entering, passed = 0, True, 0
        while True:
            self._ptrace(SYSCALL, child, None, passed)
            _, status = os.waitpid(child, 0)
            if not os.WIFSTOPPED(status):
                return self._ended(status)
            passed = 0
            if os.WSTOPSIG(status) != SYSCALL_STOP:
                passed = os.WSTOPSIG(status)
                continue
            if entering:
                entries += 1
                if entries == count:
                    self._note(child)
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                    return True
            entering = not entering

    def _run(self, function: Callable[[], None]) -> None:
        status = 1
        try:
            if self._ptrace(TRACE_ME, 0, None, None) == 0:
                os.kill(os.getpid(), signal.SIGSTOP)
                function()
                status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def _ended(self, status: int) -> bool:
        if os.waitstatus_to_exitcode(status) != 0:
            raise RuntimeError("the change failed without a kill; its message is above")
        return False

    def _note(self, child: int) -> None:
        """Remember the number of the call that was not made."""
        info = (ctypes.c_uint8 * 128)()
        if self._ptrace(SYSCALL_INFO, child, len(info), ctypes.addressof(info)) > 0:
            self.numbers.add(int.from_bytes(bytes(info[24:32]), "little"))


class Versions:
    """Three small files of one model, with manifests, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.files = [folder / f"{number}.ingot" for number in range(3)]
        write_container(self.files[0], contents())
        for number, path in enumerate(self.files[1:], 1):
            chat = json.dumps({"version": number, "chat_template": "x" * 90000}).encode()
            replace_sections(self.files[0], path, {Section.CHAT: chat})
        self.signed: list[SignedManifest] = [
            unsigned(make_manifest(path, NAME, number)) for number, path in enumerate(self.files)
        ]
        self.bytes = {
            s.manifest.version: p.read_bytes() for s, p in zip(self.signed, self.files, strict=True)
        }

    def version(self, number: int | None) -> str:
        return "" if number is None else self.signed[number].manifest.version

    def install(self, folder: Path, number: int, check: bool = False) -> None:
        def fail(path: Path) -> CanaryReport:
            return CanaryReport(("planted",), "")

        store = Store(folder, create=True)
        canary = fail if check else None
        try:
            install_file(store, self.files[number], self.signed[number], no_canary, canary)
        except CanaryError:
            if not check:
                raise

    def receive(self, folder: Path, number: int) -> None:
        """Take a version as the far side of a deployment does, all pieces sent at once."""
        asked, signed = io.BytesIO(), self.signed[number]
        near = Counted(io.BytesIO(), asked)
        write_frame(near, Kind.MANIFEST, signed.to_bytes())
        data = self.files[number].read_bytes()
        there = Store(folder, create=True).objects.has(signed.manifest.version)
        for index, piece in enumerate(() if there else signed.manifest.pieces):
            write_frame(near, Kind.DATA, data[piece.offset : piece.offset + piece.size], index)
        write_frame(near, Kind.DONE)
        asked.seek(0)
        assert receive(folder, Counted(asked, io.BytesIO()), no_canary)


def operations(versions: Versions) -> dict[str, Operation]:
    """Return all changes of a store by name."""

    def trial(folder: Path) -> None:
        store = Store(folder)
        store.rollback(NAME, versions.version(1))
        state = store.state(NAME)
        marked = replace(state.history, trial=versions.version(1))
        marked.save(folder / "models" / NAME)

    return {
        "first": Operation((), lambda f: versions.install(f, 0), (None, 0), (None, 0), 0),
        "update": Operation((0,), lambda f: versions.install(f, 1), (0, 1), (0, 1), 1),
        "failing": Operation((0,), lambda f: versions.install(f, 1, True), (0, 1), (0,)),
        "receive": Operation((0,), lambda f: versions.receive(f, 1), (0, 1), (0, 1), 1),
        "rollback": Operation((0, 1), lambda f: _rollback(f), (0, 1), (0, 1)),
        "recover": Operation((0, 1, -1), lambda f: _recover(f), (0, 1), (0,)),
        "pin": Operation((0, 1), lambda f: _pin(f), (1,), (1,)),
        "gc": Operation((0, 1, 2), lambda f: _collect(f), (2,), (2,)),
    } | {"trial": Operation((0, 1), trial, (0, 1), (0, 1))}


def _rollback(folder: Path) -> None:
    Store(folder).rollback(NAME)


def _recover(folder: Path) -> None:
    assert Store(folder).recover()


def _pin(folder: Path) -> None:
    Store(folder).pin(NAME)


def _collect(folder: Path) -> None:
    assert len(Store(folder).gc().versions) == 1


def _prepare(versions: Versions, operation: Operation, folder: Path) -> None:
    """Make the store that a change begins with; -1 is a check that never ended."""
    for number in operation.before:
        if number >= 0:
            versions.install(folder, number)
        else:
            state = Store(folder).state(NAME)
            replace(state.history, trial=state.current).save(folder / "models" / NAME)
    if operation.before:
        stray = folder / "incoming" / ("0" * 64 + ".ingot")
        stray.write_bytes(b"from a cut before")


def bad_states(versions: Versions, operation: Operation, folder: Path) -> list[str]:
    """Return what is wrong with a store after a kill: before anything mends it, and after gc."""
    link = folder / "models" / NAME / "current.ingot"
    allowed = {versions.version(number) for number in operation.allowed}
    found = link.resolve().name.removesuffix(".ingot") if link.is_symlink() else ""
    if found not in allowed:
        return [f"current is '{found[:12]}'"]
    if found and link.read_bytes() != versions.bytes[found]:
        return ["the current file has other bytes"]
    if found:
        Container(link).close()
    if not (folder / "store.json").exists():
        if "" not in allowed:
            return ["the store is gone"]
        operation.change(folder)
    store = Store(folder)
    store.recover()
    if store.current(NAME) not in {versions.version(number) for number in operation.settled}:
        return [f"after recover current is '{store.current(NAME)[:12]}'"]
    if link.is_symlink() and link.read_bytes() != versions.bytes[store.current(NAME)]:
        return ["after recover the current file has other bytes"]
    store.gc()
    problems = _debris(store, folder)
    if operation.result is not None:
        operation.change(folder)
        again = Store(folder).current(NAME)
        if again != versions.version(operation.result):
            problems.append(f"done again, current is '{again[:12]}'")
    return problems


def _debris(store: Store, folder: Path) -> list[str]:
    """Return what gc should not have left."""
    models = store.models()
    needed = {state.current for state in models if state.current}
    for state in models:
        needed |= {v for v in state.history.versions if store.objects.has(v)}
    wanted = {f"{v}.{kind}" for v in needed for kind in ("ingot", "manifest")}
    found = {path.name for path in (folder / "objects").iterdir()}
    problems = [f"objects has {name[:20]}" for name in found ^ wanted]
    problems += [f"incoming has {path.name}" for path in (folder / "incoming").iterdir()]
    problems += [f"rest: {path.name}" for path in folder.rglob(".*.tmp")]
    if any(len(state.history.versions) > 2 for state in models):
        problems.append("gc kept more than the current version and the one before")
    return problems


def walk(versions: Versions, operation: Operation, scratch: Path, step: int = 1) -> Outcome:
    """Kill an operation at every `step`-th call, and look at the store after each."""
    template, folder = scratch / "template", scratch / "store"
    shutil.rmtree(template, ignore_errors=True)
    _prepare(versions, operation, template)
    outcome, tracer = Outcome(), Tracer()
    killed, count = True, 1
    while killed:
        shutil.rmtree(folder, ignore_errors=True)
        if template.exists():
            shutil.copytree(template, folder, symlinks=True)
        killed = tracer.kill_at(count, lambda: operation.change(folder))
        try:
            problems = bad_states(versions, operation, folder)
        except (IngotError, OSError) as error:
            problems = [f"{type(error).__name__}: {error}"]
        outcome.bad += [f"call {count}: {problem}" for problem in problems]
        outcome.calls += killed
        count += step
    outcome.numbers = tracer.numbers
    return outcome


def plant() -> None:
    """Make the switch what it must not be: the old link goes before the new one comes."""

    def switch(link: Path, target: str) -> None:
        link.unlink(missing_ok=True)
        os.symlink(target, link)

    store_module.switch_link = switch


def main(argv: list[str] | None = None) -> int:
    """Walk the operations asked for; exits with 1 if a state was bad or nothing was killed."""
    parser = argparse.ArgumentParser(description="Kills at every system call of a store's changes")
    parser.add_argument("--only", nargs="+", metavar="OPERATION", help="default: all")
    parser.add_argument("--step", type=int, default=1, help="every n-th call only")
    parser.add_argument("--plant", action="store_true", help="with a fault; it must be found")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    memory = Path("/dev/shm")
    base = memory if os.access(memory, os.W_OK) else None
    scratch = Path(tempfile.mkdtemp(prefix="ingot-kill-", dir=base))
    if arguments.plant:
        plant()
    outcomes: dict[str, Outcome] = {}
    try:
        versions = Versions(scratch)
        gc.freeze()
        for name, operation in operations(versions).items():
            if not arguments.only or name in arguments.only:
                outcomes[name] = walk(versions, operation, scratch, arguments.step)
                if not arguments.json:
                    found = outcomes[name]
                    print(f"{name:<10} {found.calls:5} kills, {len(found.bad)} bad", flush=True)
    except Refused as error:
        print(f"refused: {error}", file=sys.stderr)
        return 3
    finally:
        shutil.rmtree(scratch)
    return _summary(outcomes, arguments.json)


def _summary(outcomes: dict[str, Outcome], as_json: bool) -> int:
    met = set().union(*(outcome.numbers for outcome in outcomes.values()))
    unmet = [
        name for name, number in MUST_MEET.get(platform.machine(), {}).items() if number not in met
    ]
    kills = sum(outcome.calls for outcome in outcomes.values())
    bad = [f"{name}: {line}" for name, outcome in outcomes.items() for line in outcome.bad]
    if as_json:
        print(json.dumps({"kills": kills, "bad": bad, "unmet": unmet, "kinds": len(met)}))
    else:
        print("\n".join(bad[:20]))
        print(f"{kills} kills at {len(met)} kinds of system calls: {len(bad)} bad states")
    return 1 if bad or not kills else 0


if __name__ == "__main__":
    sys.exit(main())
