# SPDX-License-Identifier: Apache-2.0
"""A model store on a device: versions side by side, one of them current, switched by a rename."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ingot.errors import (
    CanaryError,
    InvalidArgumentError,
    SignatureError,
    StateError,
)
from ingot.store.canary import Canary
from ingot.store.durable import (
    is_temporary,
    remove,
    storage_errors,
    switch_link,
    sync_folder,
    write_atomic,
)
from ingot.store.history import History
from ingot.store.incoming import Incoming, require_space
from ingot.store.manifest import check_name
from ingot.store.objects import Objects
from ingot.store.signing import PublicKey, SignedManifest, read_public_key, verify_signature

__all__ = ["Collected", "Installed", "ModelState", "Store"]

_MARK = "store.json"
_MARK_TEXT = b'{"format": 1}\n'
_LINK = "current.ingot"


@dataclass(frozen=True, slots=True)
class Installed:
    """What an installation did. `previous` is "" for the first version of a model."""

    name: str
    version: str
    previous: str
    path: Path
    signed_by: str
    canary: str


@dataclass(frozen=True, slots=True)
class ModelState:
    """A model of a store; `current` is "" where nothing was ever switched to."""

    name: str
    current: str
    path: Path
    history: History


@dataclass(frozen=True, slots=True)
class Collected:
    """What gc removed. Units: bytes of the disk."""

    versions: tuple[str, ...]
    debris: int
    freed_bytes: int


class Store:
    """A folder with `objects`, `models`, `incoming` and `trusted`.

    Reading needs no lock: `path(name)` always leads to a whole version. Whatever changes the
    store holds its lock, so that there is one change at a time.
    """

    def __init__(self, folder: str | Path, create: bool = False) -> None:
        """Open a store, or make an empty one.

        Raises: StorageError; InvalidArgumentError if the folder is something else.
        """
        self.folder = Path(folder)
        self._depth = 0
        if create:
            self._create()
        elif not (self.folder / _MARK).is_file():
            raise InvalidArgumentError(
                f"{self.folder}: no model store; `ingot store install {self.folder} FILE` makes one"
            )
        self.objects = Objects(self.folder / "objects")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the store for a change. The system lets go of it when the process ends.

        Raises: StateError if another process holds it.
        """
        if self._depth == 0:
            self._descriptor = self._take_lock()
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                os.close(self._descriptor)

    def path(self, name: str) -> Path:
        """Return the path by which a model is opened; it leads to the current version."""
        return self._model_folder(name) / _LINK

    def current(self, name: str) -> str:
        """Return a model's current version, "" if it has none."""
        try:
            return Path(os.readlink(self.path(name))).name.removesuffix(".ingot")
        except OSError:
            return ""

    def models(self) -> list[ModelState]:
        """Return all models. Raises: StorageError; FormatError for a damaged history."""
        folder = self.folder / "models"
        with storage_errors(folder, "list it"):
            names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
        return [self.state(name) for name in names]

    def state(self, name: str) -> ModelState:
        """Return one model, also one that the store does not have yet."""
        folder = self._model_folder(name)
        return ModelState(name, self.current(name), self.path(name), History.load(folder))

    def trusted(self) -> list[PublicKey]:
        """Return the keys that this store trusts; without any it takes what comes."""
        folder = self.folder / "trusted"
        return [read_public_key(path) for path in sorted(folder.glob("*.pub"))]

    def trust(self, key: Path) -> PublicKey:
        """Trust a public key from now on. Raises: InvalidArgumentError; StorageError."""
        public = read_public_key(key)
        with self.locked():
            path = self.folder / "trusted" / f"{public.name}.pub"
            write_atomic(path, public.raw.hex().encode() + b"\n")
        return public

    def begin(self, signed: SignedManifest, allow_older: bool = False) -> Incoming:
        """Start or go on with taking in a version; the caller holds the lock until commit.

        What an earlier change left on trial is undone first.

        Raises: SignatureError; StorageError also for lack of space; StateError without the lock.
        """
        self._require_lock()
        self.admit(signed, allow_older)
        self.recover()
        present = self.objects.has(signed.manifest.version)
        folder = self.folder / "incoming"
        if not present:
            require_space(folder, signed)
        places = {} if present else self.objects.places()
        return Incoming(folder, signed, places, present)

    def admit(self, signed: SignedManifest, allow_older: bool = False) -> str:
        """Return who signed a manifest, if this store would take it.

        Raises: SignatureError.
        """
        trusted = self.trusted()
        signer = verify_signature(signed, trusted)
        manifest = signed.manifest
        highest = History.load(self._model_folder(manifest.name)).highest_sequence
        if trusted and manifest.sequence < highest and not allow_older:
            raise SignatureError(
                f"{manifest.name}: sequence {manifest.sequence} is below {highest}, which this "
                "store has had: an old version is no update (--allow-older takes it)"
            )
        return signer

    def commit(self, incoming: Incoming, canary: Canary, check: Canary | None = None) -> Installed:
        """Check, try and switch to a version; the version before it stays beside it.

        `check` runs after the switch; if it fails, or this process dies before it ends, the store
        goes back to the version before.
        Raises: FormatError; StorageError; CanaryError: in all cases the old version is current.
        """
        self._require_lock()
        manifest = incoming.signed.manifest
        incoming.finish()
        data = self.objects.data(manifest.version) if incoming.present else incoming.data
        report = canary(data)
        if report.problems:
            raise CanaryError(
                f"{manifest.name} {manifest.version[:12]} is wrong on this device and was not "
                f"switched to: {'; '.join(report.problems)}"
            )
        if not incoming.present:
            self.objects.adopt(incoming.data, incoming.manifest_path, manifest.version)
        previous = self._use(manifest.name, manifest.version, manifest.sequence, check is not None)
        if check is not None:
            self._try_out(manifest.name, manifest.version, previous, check)
        path = self.path(manifest.name)
        signer = incoming.signed.key if self.trusted() else ""
        return Installed(manifest.name, manifest.version, previous, path, signer, report.remark)

    def rollback(self, name: str, version: str = "") -> str:
        """Make an earlier version current, by default the good one before; return it.

        Raises: StateError if there is none; InvalidArgumentError for an unknown version.
        """
        with self.locked():
            state = self.state(name)
            if version:
                chosen = self.objects.find(version)
                if chosen not in state.history.versions:
                    raise InvalidArgumentError(f"{name} never had version {chosen[:12]}")
            else:
                earlier = [v for v in state.history.before(state.current) if self.objects.has(v)]
                if not earlier:
                    raise StateError(f"{name}: the store has no earlier version to go back to")
                chosen = earlier[0]
            self._switch(name, chosen)
            replace(state.history, trial="").save(self._model_folder(name))
            return chosen

    def pin(self, name: str, version: str = "", remove_pin: bool = False) -> str:
        """Keep a version, by default the current one, from gc; return it.

        Raises: InvalidArgumentError for an unknown version.
        """
        with self.locked():
            state = self.state(name)
            chosen = self.objects.find(version or state.current)
            if chosen not in state.history.versions:
                raise InvalidArgumentError(f"{name} never had version {chosen[:12]}")
            pinned = tuple(v for v in state.history.pinned if v != chosen)
            if not remove_pin:
                pinned = (*pinned, chosen)
            replace(state.history, pinned=pinned).save(self._model_folder(name))
            return chosen

    def recover(self) -> list[str]:
        """Undo switches whose check never ended; return a line for each. For the start of a device.

        Raises: StateError while another process works on the store; StorageError.
        """
        lines = []
        with self.locked():
            for state in self.models():
                if not state.history.trial:
                    continue
                lines.append(self._undo(state))
        return lines

    def gc(self, keep: int = 1) -> Collected:
        """Remove versions that no model needs, and what kills left behind.

        A model needs its current version, `keep` versions before it, and its pinned ones.
        Raises: StateError while another process works on the store; StorageError.
        """
        with self.locked():
            needed: set[str] = set()
            for state in self.models():
                needed |= self._needed(state, keep)
            gone = [version for version in self.objects.versions() if version not in needed]
            for state in self.models():
                kept = state.history.without(set(state.history.versions) - needed)
                if kept != state.history:
                    kept.save(self._model_folder(state.name))
            freed = sum(self.objects.remove(version) for version in gone)
            debris = [path for path in self._debris() if path.is_symlink() or path.exists()]
            freed += sum(remove(path) for path in debris)
            return Collected(tuple(gone), len(debris), freed)

    def _create(self) -> None:
        """Make the folders; the mark comes last, so that a store is one only when it is whole."""
        with storage_errors(self.folder, "make a store"):
            for name in ("objects", "models", "incoming", "trusted"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            if not (self.folder / _MARK).exists():
                write_atomic(self.folder / _MARK, _MARK_TEXT)
                sync_folder(self.folder)

    def _take_lock(self) -> int:
        path = self.folder / "lock"
        with storage_errors(path, "open the lock"):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise StateError(f"{self.folder}: another process is changing this store") from None
        return descriptor

    def _require_lock(self) -> None:
        if self._depth == 0:
            raise StateError("a store is changed only inside `with store.locked()`")

    def _model_folder(self, name: str) -> Path:
        return self.folder / "models" / check_name(name)

    def _use(self, name: str, version: str, sequence: int, trial: bool) -> str:
        """Record a version and switch to it; return the one before."""
        folder = self._model_folder(name)
        if not folder.is_dir():
            with storage_errors(folder, "make it"):
                folder.mkdir()
                sync_folder(folder.parent)
        previous = self.current(name)
        trial = trial and previous not in ("", version)
        History.load(folder).used(version, sequence, trial).save(folder)
        self._switch(name, version)
        return previous

    def _switch(self, name: str, version: str) -> None:
        if self.current(name) != version:
            switch_link(self.path(name), f"../../objects/{version}.ingot")

    def _try_out(self, name: str, version: str, previous: str, check: Canary) -> None:
        """Run the check that follows a switch; go back if it fails."""
        problems = check(self.path(name)).problems
        state = self.state(name)
        if not problems:
            replace(state.history, trial="").save(self._model_folder(name))
            return
        text = f"{name} {version[:12]} failed its check after the switch: {'; '.join(problems)}"
        if not state.history.trial:
            raise CanaryError(f"{text}; there is no other version to go back to")
        raise CanaryError(f"{text}; {self._undo(state)}")

    def _undo(self, state: ModelState) -> str:
        """Go back from a trial and remember that it failed."""
        history = state.history
        failed = history.trial
        earlier = [v for v in history.before(failed) if self.objects.has(v)]
        if state.current == failed and earlier:
            self._switch(state.name, earlier[0])
        marked = replace(history, trial="", failed=(*history.failed, failed))
        marked.save(self._model_folder(state.name))
        return f"{state.name} is back at {self.current(state.name)[:12]}"

    def _needed(self, state: ModelState, keep: int) -> set[str]:
        if keep < 0:
            raise InvalidArgumentError(f"keep is {keep}, expected 0 or more")
        before = [v for v in state.history.before(state.current) if self.objects.has(v)]
        trial = {state.history.trial} if state.history.trial else set()
        return {state.current, *before[:keep], *state.history.pinned} | trial

    def _debris(self) -> list[Path]:
        """Return the paths that only an unfinished change leaves behind."""
        found = self.objects.debris()
        found += [path for path in sorted((self.folder / "incoming").iterdir())]
        for folder in (self.folder, self.folder / "trusted", *(self.folder / "models").iterdir()):
            if folder.is_dir():
                found += [path for path in sorted(folder.iterdir()) if is_temporary(path.name)]
        return found
