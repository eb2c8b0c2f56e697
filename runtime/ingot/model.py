# SPDX-License-Identifier: Apache-2.0
"""An open ingot: what is in the file, and sessions over it."""

from __future__ import annotations

import functools
import json
import os

from ingot._native import Native, native
from ingot.chat import ChatSettings
from ingot.environment import environment
from ingot.errors import FormatError, InvalidArgumentError, StateError
from ingot.model_info import MemoryPlan, ModelInfo, read_model_info
from ingot.session import Session
from ingot.session_config import SessionConfig
from ingot.tokenizer import Detokenizer, NoText, Tokenizer

TYPE_CHECKING = False  # as in typing, whose import takes long
if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from ingot.backends import Choice
    from ingot.canary import CanaryReport
    from ingot.format import Section
    from ingot.governor import Governor

__all__ = ["MemoryPlan", "Model", "ModelInfo"]


class Model:
    """A mapped and validated file. May be shared by any number of sessions and threads."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        draft: str | os.PathLike[str] | None = None,
        *,
        strict: bool = False,
        guard: bool = False,
        canary: bool = True,
        backend: str = "cpu",
        device: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Map and check a file, and a smaller one that guesses for it, with the same tokenizer.

        strict: refuse a file that others than its owner may write, or that is another user's.
        guard: a file cut short while it is mapped raises FileLostError; otherwise the process gets
        SIGBUS and ends. canary: before the first session here, the file's vectors run on each
        kernel level, and a level that is wrong is left out (see canary.py).
        backend: cpu, vulkan, cuda, the path of a library, or auto: what a measurement finds right
        and fastest (`choice` says why). A device whose canary fails is not used, with a warning.
        progress(done, total) is told the bytes while weights are copied to a device.
        Raises: InvalidArgumentError if the draft's tokenizer is another;
            FormatError naming the broken rule; StorageError if it cannot be read;
            UntrustedFileError; FileLostError;
            HardwareError if INGOT_FORCE_ISA names what this CPU lacks, or a device is refused;
            MissingExtraError for a backend that is not installed.
        """
        self._file = os.fspath(path)
        self.native: Native = native()
        lib = self.native.lib
        self._flags = strict * lib.INGOT_OPEN_STRICT | guard * lib.INGOT_OPEN_GUARD
        self._mask, self._canary, self._progress = 0, canary, progress
        self.backend, self.device = _checked_backend(backend), device
        self.choice: Choice | None = None
        self._handle: Any = self.open_handle()
        self.info = read_model_info(self.native, self._handle)
        if backend == "auto":
            self._choose()
        self.draft = (
            Model(draft, strict=strict, guard=guard, canary=canary) if draft is not None else None
        )
        if self.draft is not None:
            from ingot.draft import require_same_tokenizer

            require_same_tokenizer(self, self.draft)

    def __enter__(self) -> Model:
        """Return the model; leaving the block closes it."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the model."""
        self.close()

    def close(self) -> None:
        """Let the file go; sessions that are open keep it until they close."""
        if self._handle is not None:
            self.native.ffi.release(self._handle)
            self._handle = None
        if self.draft is not None:
            self.draft.close()

    def session(
        self,
        context: int = 0,
        threads: int = 0,
        chunk: int = 0,
        logits_rows: int = 1,
        memory_limit: int | str = "auto",
        speculate: int = 0,
        prefill_threads: int = 0,
        kv: str = "auto",
        on_full: str = "error",
        sinks: int = 0,
        governor: Governor | None = None,
    ) -> Session:
        """Open a session; all its memory is taken now. 0: the plan's figure, big cores, no limit.

        threads run passes of up to 8 tokens, prefill_threads longer ones (0: as threads).
        kv is how keys and values are kept: f16, kv8, k8v4, or auto (kv8); on_full what happens at
        the end of the context: error, or shift, which forgets the older half behind the first
        `sinks` tokens (see session_state.py).
        memory_limit is for model and session together: bytes, "512M", "cgroup", the name of a
        device profile, "none"; or "auto": what the control groups leave, if they set a limit.
        governor lowers threads and speculation when the device is hot (see governor.py).
        Units: context, chunk, sinks in tokens, logits_rows in positions per pass,
        speculate in tokens guessed ahead per pass (7 is a good figure; same text).
        Raises: MemoryLimitError naming the largest context that fits; OutOfMemoryError;
            InvalidArgumentError for a context or chunk beyond the file's; CanaryError.
        """
        from ingot.memory_budget import find_budget, require_room

        self.trust()
        budget = find_budget(memory_limit)
        sizes = (context, chunk, logits_rows, threads, prefill_threads, budget.bytes, speculate)
        config = SessionConfig(*sizes, kv, on_full, sinks, governor)
        require_room(self, config, budget)
        return Session(self, config)

    def restore(self, path: str | os.PathLike[str], config: SessionConfig | None = None) -> Session:
        """Open a session that goes on where Session.save() left one, without evaluating again.

        The format of keys and values is the file's; the rest of `config` is as for session().
        Raises: FormatError for a file that is damaged, cut short, or of another model or library;
            StorageError; InvalidArgumentError if the context is too short; as session().
        """
        from ingot.session_state import restore

        self.trust()
        return restore(self, path, config or SessionConfig())

    def trust(self) -> CanaryReport | None:
        """Run the canary if this file is new here, and leave out kernels that are wrong.

        Returns: what it found; None where it is off. Sessions do this themselves, once.
        Raises: CanaryError if no kernel level gives the file's logits.
        """
        if not self._canary or environment("INGOT_CANARY") == "0":
            return None
        if self.backend != "cpu":
            self._trust_device()
        if self._report is None and self.backend == "cpu":
            from ingot.canary import settle

            self._report = report = settle(self)
            if report.mask != self.native.lib.ingot_model_isa(self.handle):
                self._mask = report.mask
                self._handle = self.open_handle(report.mask)
        return self._report

    _report: CanaryReport | None = None

    def _choose(self) -> None:
        """Take what was measured to be the fastest."""
        from ingot.backends import choose

        self.choice = choose(self)
        if self.choice.backend != "cpu":
            self.backend, self.device = self.choice.backend, self.choice.device
            self._handle = self.open_handle()

    def _trust_device(self) -> None:
        """Go back to the CPU if the file's vectors say that the device is wrong."""
        if self._device_trusted:
            return
        from ingot.backends import check_backend, devices

        problems = check_backend(self, devices(self.native, self.backend)[self.device])
        if problems:
            import logging

            text = "%s: %s is wrong on this device (%s); the CPU is used instead"
            logging.getLogger(__name__).warning(text, self.path.name, self.backend, problems[0])
            self.backend = "cpu"
            self._handle = self.open_handle()
        self._device_trusted = True

    _device_trusted = False

    def taken(self) -> list[bool]:
        """Return, for each instruction of entry `step`, whether the backend runs it."""
        count = self.info.instruction_count
        taken = self.native.ffi.new("uint8_t[]", count)
        self.native.check(self.native.lib.ingot_model_taken(self.handle, taken, count))
        return [bool(flag) for flag in taken]

    def release(self) -> int:
        """Give the memory of the weights back to the system; they are read again when needed.

        From any thread. Returns: bytes given back at most. See LowMemory.
        """
        count = self.native.ffi.new("uint64_t *")
        self.native.check(self.native.lib.ingot_model_release(self.handle, count))
        return int(count[0])

    def resume(self) -> None:
        """Bring the weights into memory before they are needed. Raises: FileLostError."""
        self.native.check(self.native.lib.ingot_model_resume(self.handle))

    @property
    def path(self) -> Path:
        """Where the file lies."""
        from pathlib import Path

        return Path(self._file)

    @property
    def handle(self) -> Any:
        """The native handle. Raises: StateError once closed."""
        if self._handle is None:
            raise StateError(f"{self.path.name} is closed: open it again with Model(path)")
        return self._handle

    @functools.cached_property
    def chat(self) -> ChatSettings:
        """Special tokens, stop ids and template; all empty if the file has no chat section."""
        data = self.section_by_name("chat")
        return ChatSettings.from_json(_parse(data, "chat")) if data else ChatSettings()

    @property
    def chat_template(self) -> str | None:
        """The Jinja source of the chat template, None if the file has none."""
        return self.chat.chat_template

    @property
    def tokenizer(self) -> Tokenizer:
        """The file's tokenizer. Raises: StateError if the file has none."""
        if self._tokenizer is None:
            raise StateError(f"{self.path.name} has no tokenizer: give token ids instead of text")
        return self._tokenizer

    @functools.cached_property
    def _tokenizer(self) -> Tokenizer | None:
        data = self.section_by_name("tokenizer")
        return Tokenizer(data, self.chat.bos_token_id, self.chat.add_bos) if data else None

    def detokenizer(self) -> Detokenizer | NoText:
        """Return an incremental decoder; one without text if the file has no tokenizer."""
        return NoText() if self._tokenizer is None else self._tokenizer.detokenizer()

    @functools.cached_property
    def meta(self) -> dict[str, Any]:
        """Name, source, recipe, target, provenance and licence."""
        return self._object("meta")

    @functools.cached_property
    def certificate(self) -> dict[str, Any] | None:
        """What was measured on this file, None for a draft without measurement."""
        return self._object("certificate") or None

    @functools.cached_property
    def plan(self) -> MemoryPlan:
        """The memory plan, as `ingot inspect` prints it."""
        from ingot.format import PeakRecord, PlanHeader

        data = self.section_by_name("plan")
        plan = PlanHeader.unpack(data)
        offsets = range(PlanHeader.SIZE, PlanHeader.SIZE + plan.peak_count * PeakRecord.SIZE, 16)
        peaks = [PeakRecord.unpack(data, offset) for offset in offsets]
        return MemoryPlan(
            plan.context,
            plan.chunk,
            self.info.weights_size,
            plan.arena_bytes_per_token,
            plan.arena_bytes_per_selected,
            plan.scratch_bytes_per_token,
            plan.state_bytes_per_token,
            tuple((peak.context, peak.peak_bytes) for peak in peaks),
        )

    def section(self, kind: Section) -> bytes:
        """Return a section's bytes, b"" if the file has none. Not for the weights.

        Raises: FormatError if its digest is wrong.
        """
        return self.section_by_name(kind.name.lower())

    def open_handle(self, mask: int = 0, backend: str = "", device: int = 0) -> Any:
        """Open the file once more, for kernels of some levels (0: all); the handle closes itself.

        backend and device: others than the model's own.

        Raises: as Model(); StateError if the file is no longer the same.
        """
        ffi, lib = self.native.ffi, self.native.lib
        config, handle = self.native.struct("ingot_open_config"), ffi.new("ingot_model **")
        config.flags, config.isa_mask = self._flags, mask
        name = backend or self.backend
        if name in ("cpu", "auto"):
            self.native.check(lib.ingot_model_open_with(os.fsencode(self._file), config, handle))
        else:
            from ingot.backends import open_on

            config.device = device if backend else self.device
            open_on(self.native, self._file, name, config, handle, self._progress)
        opened = ffi.gc(handle[0], lib.ingot_model_close)
        digest = ffi.new("uint8_t[32]")
        self.native.check(lib.ingot_model_digest(opened, digest))
        content = bytes(ffi.buffer(digest))
        if self._content not in (b"", content):
            raise StateError(f"{self.path.name} was replaced while it was open: open it again")
        self._content = content
        return opened

    _content = b""

    def section_by_name(self, name: str) -> bytes:
        """Return the bytes of a section by its name in the format."""
        ffi = self.native.ffi
        data, size = ffi.new("uint8_t **"), ffi.new("uint64_t *")
        # A session that outlives the model's close() still has its text to make.
        handle = self.open_handle() if self._handle is None else self._handle
        status = self.native.lib.ingot_model_section(handle, name.encode(), data, size)
        self.native.check(status)
        copy = bytes(ffi.buffer(data[0], size[0])) if size[0] else b""
        self.native.check(self.native.lib.ingot_model_intact(handle))
        return copy

    def tensor_width(self, tensor: int) -> int:
        """Return the floats per row of a tensor: its last dimension."""
        info = self.native.struct("ingot_tensor_info")
        self.native.check(self.native.lib.ingot_model_tensor_info(self.handle, tensor, info))
        return int(info.shape[info.rank - 1])

    def dequantize(self, tensor: int, row_begin: int, row_end: int) -> NDArray[np.float32]:
        """Return rows of a weight or constant. Shapes: (row_end - row_begin, k) float32.

        Raises: InvalidArgumentError if there is no such tensor or row.
        """
        if row_end < row_begin:
            raise InvalidArgumentError(f"rows {row_begin} to {row_end}: ends before its start")
        from ingot._numpy_start import np

        out = np.zeros((row_end - row_begin, self.tensor_width(tensor)), np.float32)
        pointer = self.native.ffi.cast("float *", out.ctypes.data)
        read = self.native.lib.ingot_tensor_dequantize
        self.native.check(read(self.handle, tensor, row_begin, row_end, pointer, out.size))
        return out

    def _object(self, name: str) -> dict[str, Any]:
        """Return a JSON section that must be an object."""
        data = self.section_by_name(name)
        value = _parse(data, name) if data else {}
        if not isinstance(value, dict):
            raise FormatError(f"section {name} is no JSON object")
        return value


def _checked_backend(name: str) -> str:
    """Return the backend to open first. Raises: InvalidArgumentError for an unknown name."""
    if name == "cpu":
        return name
    from ingot.backends import ASKED

    if name not in ASKED and "/" not in name:
        raise InvalidArgumentError(f"backend '{name}', expected one of {', '.join(ASKED)}")
    return "cpu" if name == "auto" else name


def _parse(data: bytes, name: str) -> Any:
    """Read JSON. Raises: FormatError naming the section."""
    try:
        return json.loads(data)
    except ValueError as error:
        raise FormatError(f"section {name} is no JSON: {error}") from error
