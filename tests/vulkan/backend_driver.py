# SPDX-License-Identifier: Apache-2.0
"""Drives a backend by the one symbol of its shared object, without libingot."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import cffi
import numpy as np
from numpy.typing import NDArray

from ingot.container import Container
from ingot.format import AttentionParameters, Opcode, Role, Section

INCLUDE = Path(__file__).resolve().parents[2] / "native" / "include"
BLOCK = 64
KV_FORMATS = {"f16": 1, "kv8": 2, "k8v4": 3}

F32 = NDArray[np.float32]


class BackendError(Exception):
    """A status that is not 0, with the backend's message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"status {status}: {message}")
        self.status = status


def declarations(header: str) -> str:
    """Return what cffi takes of a header: no preprocessor, no attributes, no C++."""
    text = re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)
    text = text.replace("\\\n", " ")  # macros of several lines
    text = re.sub(r"^#ifdef __cplusplus\n.*?^#endif\n", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^static inline .*?^}\n", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^(#|__attribute__|_Static_assert).*\n", "", text, flags=re.MULTILINE)
    return text


@cache
def interface() -> cffi.FFI:
    """Return the declarations of ingot_backend.h."""
    ffi = cffi.FFI()
    ffi.cdef("typedef int ingot_status;")
    for name in ("ingot_format.h", "ingot_backend.h"):
        ffi.cdef(declarations((INCLUDE / name).read_text(encoding="utf-8")))
    return ffi


class Backend:
    """A loaded backend."""

    def __init__(self, library: Path) -> None:
        self.ffi = interface()
        self._library = self.ffi.dlopen(str(library))
        self.table = self._library.ingot_backend_get()

    def check(self, status: int) -> None:
        """Raise BackendError unless the status is 0."""
        if status != 0:
            raise BackendError(status, self.last_error())

    def last_error(self) -> str:
        return self.text(self.table.last_error())

    def text(self, value: Any) -> str:
        return str(self.ffi.string(value).decode())

    def devices(self) -> list[dict[str, Any]]:
        """Return name, driver, refused, kind and features of each device."""
        found = []
        for index in range(self.table.device_count()):
            info = self.ffi.new("ingot_backend_device *")
            self.check(self.table.device_info(index, info))
            words = {
                key: self.text(getattr(info, key))
                for key in ("name", "driver", "refused", "features")
            }
            found.append({**words, "kind": info.kind, "memory_bytes": info.memory_bytes})
        return found


class BackendModel:
    """Entry 'step' of a container on device 0."""

    def __init__(
        self,
        backend: Backend,
        container: Container,
        *,
        cache_folder: str | None = None,
        memory_limit: int = 0,
    ) -> None:
        self.backend, self.container = backend, container
        ffi, entry = backend.ffi, container.entries["step"]
        self.first, self.count = entry.first, entry.count
        parts = container._parts.program
        self._keep: list[Any] = []
        weights = container.section(Section.WEIGHTS)
        program = ffi.new("ingot_backend_program *")
        program.instructions = self._array(
            "ingot_instruction",
            b"".join(
                i.pack() for i in container.instructions[entry.first : entry.first + entry.count]
            ),
        )
        program.instruction_count = entry.count
        program.tensor_count = len(container.tensors)
        program.tensors = self._array(
            "ingot_tensor_record", b"".join(t.pack() for t in container.tensors)
        )
        program.operands = self._array("uint32_t", np.array(parts.operands, "<u4").tobytes())
        program.parameters = self._array("uint8_t", bytes(parts.parameters) + b"\0" * 8)
        program.plan = self._array("ingot_plan_header", container.plan.pack())
        program.input, program.output = entry.input, entry.output
        program.weights = ffi.from_buffer("uint8_t[]", weights)
        program.weights_size = len(weights)
        program.descriptor = -1
        options = ffi.new("ingot_backend_options *")
        options.memory_limit = memory_limit
        if cache_folder is not None:
            name = ffi.new("char[]", cache_folder.encode())
            self._keep.append(name)
            options.cache_folder = name
        self._keep += [weights, program.weights, program]
        takes = ffi.new("uint8_t[]", entry.count)
        handle = ffi.new("void **")
        backend.check(backend.table.model_open(program, options, takes, handle))
        self.takes = list(takes)
        self.handle = handle[0]

    def _array(self, kind: str, data: bytes) -> Any:
        raw = self.backend.ffi.new("uint64_t[]", -(-len(data) // 8) + 1)
        self.backend.ffi.memmove(raw, data, len(data))
        self._keep.append(raw)
        return self.backend.ffi.cast(f"{kind} *", raw)

    def close(self) -> None:
        self.backend.table.model_close(self.handle)
        self.handle = self.backend.ffi.NULL

    def __enter__(self) -> BackendModel:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def state_places(container: Container, kv: str) -> tuple[dict[int, tuple[int, int, int]], int]:
    """Return (offset, key bytes, head bytes) of each attention, and the bytes of a block.

    As attention.h has it: 64 positions, head after head, each its keys and then its values.
    """
    places, offset = {}, 0
    entry = container.entries["step"]
    for index in range(entry.count):
        parameters = container.parameters(entry.first + index)
        if not isinstance(parameters, AttentionParameters):
            continue
        size, padded = parameters.head_size, -(-parameters.head_size // 16) * 16
        elements, scales = BLOCK * padded, 2 * BLOCK
        keys = 2 * BLOCK * size if kv == "f16" else elements + scales
        values = (
            2 * elements if kv == "f16" else (elements if kv == "kv8" else elements // 2) + scales
        )
        places[index] = (offset, keys, keys + values)
        offset += (keys + values) * parameters.kv_heads
    return places, offset


class BackendSession:
    """A session; `position` counts the tokens fed so far."""

    def __init__(
        self,
        model: BackendModel,
        *,
        capacity: int = 128,
        chunk: int = 16,
        rows: int = 4,
        kv: str = "f16",
        memory_limit: int = 0,
    ) -> None:
        self.model, self.backend = model, model.backend
        ffi = self.backend.ffi
        places, self.block_bytes = state_places(model.container, kv)
        states = ffi.new("ingot_backend_state[]", model.count)
        for index, (offset, keys, head) in places.items():
            states[index].offset, states[index].key_bytes, states[index].head_bytes = (
                offset,
                keys,
                head,
            )
        config = ffi.new("ingot_backend_session_config *")
        config.capacity, config.chunk, config.logits_rows = capacity, chunk, rows
        config.kv_format, config.block_bytes = KV_FORMATS[kv], self.block_bytes
        config.states, config.memory_limit = states, memory_limit
        handle = ffi.new("void **")
        self.backend.check(self.backend.table.session_open(model.handle, config, handle))
        self.handle = handle[0]
        self.position = 0

    def close(self) -> None:
        self.backend.table.session_close(self.handle)
        self.handle = self.backend.ffi.NULL

    def __enter__(self) -> BackendSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def run(
        self,
        tokens: Sequence[int],
        selected: int = 1,
        *,
        first: int = 0,
        count: int | None = None,
        picks: int = 0,
        keep: bool = True,
    ) -> None:
        """Run a range of instructions over tokens at the present position."""
        ffi = self.backend.ffi
        data = ffi.new("int32_t[]", list(tokens))
        request = ffi.new("ingot_backend_pass *")
        request.first, request.count = first, self.model.count - first if count is None else count
        request.m, request.selected, request.position = len(tokens), selected, self.position
        request.pick_count, request.tokens = picks, data
        self.backend.check(self.backend.table.run(self.handle, request))
        self.position += len(tokens) if keep else 0

    def read(self, tensor: int, rows: int) -> F32:
        width = self.model.container.tensors[tensor].shape[1]
        out = np.full((rows, width), np.nan, np.float32)
        pointer = self.backend.ffi.from_buffer("float[]", out)
        self.backend.check(self.backend.table.read(self.handle, tensor, rows, pointer, width))
        return out

    def write(self, tensor: int, values: F32) -> None:
        data = np.ascontiguousarray(values, np.float32)
        pointer = self.backend.ffi.from_buffer("float[]", data)
        self.backend.check(
            self.backend.table.write(self.handle, tensor, data.shape[0], pointer, data.shape[1])
        )

    def eval(self, tokens: Sequence[int], wanted: int = 1) -> F32:
        """Return the logits of the last `wanted` tokens."""
        self.run(tokens, wanted)
        return self.read(self.model.container.entries["step"].output, wanted)

    def picks(self, row: int, most: int) -> list[tuple[float, int]]:
        found = self.backend.ffi.new("ingot_backend_pick[]", most)
        count = self.backend.ffi.new("uint32_t *")
        self.backend.check(self.backend.table.picks(self.handle, row, found, count))
        return [(found[i].logit, found[i].id) for i in range(count[0])]

    def state(self, block: int) -> bytes:
        data = bytearray(self.block_bytes)
        pointer = self.backend.ffi.from_buffer("uint8_t[]", data)
        self.backend.check(self.backend.table.state_read(self.handle, block, pointer))
        return bytes(data)

    def set_state(self, block: int, data: bytes) -> None:
        pointer = self.backend.ffi.from_buffer("uint8_t[]", data)
        self.backend.check(self.backend.table.state_write(self.handle, block, pointer))

    def memory(self) -> dict[str, int]:
        info = self.backend.ffi.new("ingot_backend_memory *")
        self.backend.table.memory(self.handle, info)
        names = ("weights_bytes", "imported_bytes", "arena_bytes", "scratch_bytes", "state_bytes")
        return {name: int(getattr(info, name)) for name in names}


def activations(container: Container) -> list[int]:
    """Return the float activations in the order in which step writes them."""
    entry, found = container.entries["step"], []
    for index in range(entry.first, entry.first + entry.count):
        outputs = container.outputs(index)
        found += [t for t in outputs if container.tensors[t].role == Role.ACTIVATION]
    return found


def opcodes(container: Container) -> list[Opcode]:
    """Return the opcodes of step."""
    entry = container.entries["step"]
    return [
        Opcode(i.opcode) for i in container.instructions[entry.first : entry.first + entry.count]
    ]
