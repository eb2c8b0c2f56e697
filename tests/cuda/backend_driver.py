# SPDX-License-Identifier: Apache-2.0
"""Drives a backend's table (native/include/ingot_backend.h) through ctypes, as libingot does."""

from __future__ import annotations

import ctypes
import mmap
import os
from ctypes import POINTER, Structure, c_char, c_char_p, c_float, c_int, c_size_t, c_void_p
from ctypes import c_int32 as i32
from ctypes import c_uint8 as u8
from ctypes import c_uint32 as u32
from ctypes import c_uint64 as u64
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ingot.container import Container
from ingot.format import AttentionParameters, Role, Section

F32 = NDArray[np.float32]
KV_FORMATS = {"f16": 1, "kv8": 2, "k8v4": 3}
BLOCK = 64
RESULT = c_int


class ProgramRecord(Structure):
    _fields_ = [
        ("instructions", c_void_p),
        ("instruction_count", u32),
        ("tensor_count", u32),
        ("tensors", c_void_p),
        ("operands", c_void_p),
        ("parameters", c_void_p),
        ("plan", c_void_p),
        ("input", u32),
        ("output", u32),
        ("weights", c_void_p),
        ("weights_size", u64),
        ("weights_offset", u64),
        ("descriptor", c_int),
        ("reserved", u32),
    ]


class Options(Structure):
    _fields_ = [
        ("device", u32),
        ("flags", u32),
        ("memory_limit", u64),
        ("cache_folder", c_char_p),
        ("progress", c_void_p),
    ]


class Device(Structure):
    _fields_ = [
        ("name", c_char * 128),
        ("driver", c_char * 128),
        ("refused", c_char * 256),
        ("kind", u32),
        ("vendor", u32),
        ("id", u32),
        ("driver_version", u32),
        ("memory_bytes", u64),
        ("features", c_char * 256),
    ]


class StatePlace(Structure):
    _fields_ = [("offset", u64), ("key_bytes", u64), ("head_bytes", u64)]


class SessionConfig(Structure):
    _fields_ = [
        ("capacity", u32),
        ("chunk", u32),
        ("logits_rows", u32),
        ("kv_format", u32),
        ("block_bytes", u64),
        ("states", POINTER(StatePlace)),
        ("memory_limit", u64),
    ]


class Pass(Structure):
    _fields_ = [
        ("first", u32),
        ("count", u32),
        ("m", u32),
        ("selected", u32),
        ("position", u32),
        ("pick_count", u32),
        ("tokens", POINTER(i32)),
    ]


class Pick(Structure):
    _fields_ = [("logit", c_float), ("id", i32)]


class Memory(Structure):
    _fields_ = [
        (name, u64)
        for name in (
            "weights_bytes",
            "imported_bytes",
            "arena_bytes",
            "scratch_bytes",
            "state_bytes",
        )
    ]


def _function(result: Any, *arguments: Any) -> Any:
    return ctypes.CFUNCTYPE(result, *arguments)


class Table(Structure):
    _fields_ = [
        ("abi", u32),
        ("struct_size", u32),
        ("name", c_char_p),
        ("last_error", _function(c_char_p)),
        ("device_count", _function(u32)),
        ("device_info", _function(RESULT, u32, POINTER(Device))),
        (
            "model_open",
            _function(
                RESULT, POINTER(ProgramRecord), POINTER(Options), c_void_p, POINTER(c_void_p)
            ),
        ),
        ("model_close", _function(None, c_void_p)),
        (
            "session_open",
            _function(RESULT, c_void_p, POINTER(SessionConfig), POINTER(c_void_p)),
        ),
        ("session_close", _function(None, c_void_p)),
        ("run", _function(RESULT, c_void_p, POINTER(Pass))),
        ("write", _function(RESULT, c_void_p, u32, u32, c_void_p, c_size_t)),
        ("read", _function(RESULT, c_void_p, u32, u32, c_void_p, c_size_t)),
        ("picks", _function(RESULT, c_void_p, u32, POINTER(Pick), POINTER(u32))),
        ("state_write", _function(RESULT, c_void_p, u32, c_void_p)),
        ("state_read", _function(RESULT, c_void_p, u32, c_void_p)),
        ("memory", _function(None, c_void_p, POINTER(Memory))),
    ]


class BackendError(Exception):
    """A status that is not 0, with the backend's message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"status {status}: {message}")
        self.status = status


def load(library: Path) -> Table:
    """Return the table that a backend exports."""
    get = ctypes.CDLL(str(library)).ingot_backend_get
    get.restype = POINTER(Table)
    table: Table = get().contents
    assert table.struct_size == ctypes.sizeof(Table)
    return table


def state_places(container: Container, kv: str) -> tuple[Any, int]:
    """Return (places by instruction, bytes of a block), as native/core/kv_state.c lays them out."""
    count = len(container.instructions)
    places = (StatePlace * count)()
    used = 0
    for index in range(count):
        parameters = container.parameters(index)
        if not isinstance(parameters, AttentionParameters):
            continue
        d = parameters.head_size
        padded = -(-d // 16) * 16
        keys = BLOCK * 2 * d if kv == "f16" else BLOCK * padded + 2 * BLOCK
        elements = BLOCK * padded
        values = {"f16": 2 * elements, "kv8": elements + 128, "k8v4": elements // 2 + 128}[kv]
        places[index] = StatePlace(used, keys, keys + values)
        used += (keys + values) * parameters.kv_heads
    return places, used


class Model:
    """A file opened by a backend. `takes` says by instruction what it takes."""

    def __init__(self, table: Table, container: Container, path: Path, limit: int = 0) -> None:
        self.table, self.container = table, container
        self._file = os.open(path, os.O_RDONLY)
        self._map = mmap.mmap(self._file, 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
        base = ctypes.addressof(u8.from_buffer(self._map))
        self.base = base
        entry = container.entries["step"]
        places = {record.kind: record for record in container.sections}
        program, tensors = places[Section.PROGRAM].offset, places[Section.TENSORS].offset
        weights = places[Section.WEIGHTS]
        entries, count, operands, _ = np.frombuffer(self._map, "<u4", 4, program).tolist()
        instructions = program + 32 + 32 * entries
        first_operand = instructions + 64 * count
        parameters = first_operand + -(-4 * operands // 8) * 8
        self.record = ProgramRecord(
            base + instructions + 64 * entry.first,
            entry.count,
            len(container.tensors),
            base + tensors + 32,
            base + first_operand,
            base + parameters,
            base + places[Section.PLAN].offset,
            entry.input,
            entry.output,
            base + weights.offset,
            weights.size,
            weights.offset,
            self._file,
            0,
        )
        self.takes = (u8 * entry.count)()
        self.handle = c_void_p()
        self.progress = (u64 * 2)()
        options = Options(0, 0, limit, None, ctypes.addressof(self.progress))
        status = table.model_open(
            ctypes.byref(self.record), ctypes.byref(options), self.takes, ctypes.byref(self.handle)
        )
        self.check(status)

    def check(self, status: int) -> None:
        if status != 0:
            raise BackendError(status, self.table.last_error().decode())

    def close(self) -> None:
        self.table.model_close(self.handle)
        os.close(self._file)


class Session:
    """A session of a backend's model."""

    def __init__(
        self, model: Model, kv: str = "kv8", capacity: int = 512, chunk: int = 64, rows: int = 1
    ) -> None:
        self.model, self.chunk = model, chunk
        self.kv = kv
        places, self.block_bytes = state_places(model.container, kv)
        config = SessionConfig(capacity, chunk, rows, KV_FORMATS[kv], self.block_bytes, places, 0)
        self.handle = c_void_p()
        table = model.table
        status = table.session_open(model.handle, ctypes.byref(config), ctypes.byref(self.handle))
        model.check(status)
        self.position = 0

    def close(self) -> None:
        self.model.table.session_close(self.handle)

    def run(
        self,
        tokens: list[int],
        selected: int = 1,
        picks: int = 0,
        first: int = 0,
        count: int | None = None,
    ) -> None:
        """Run instructions [first, first + count) for tokens at self.position."""
        ids = (i32 * len(tokens))(*tokens)
        all_of_them = self.model.record.instruction_count
        record = Pass(
            first,
            all_of_them - first if count is None else count,
            len(tokens),
            selected,
            self.position,
            picks,
            ids,
        )
        self.model.check(self.model.table.run(self.handle, ctypes.byref(record)))

    def write(self, tensor: int, values: F32) -> None:
        data = np.ascontiguousarray(values, np.float32)
        rows, width = data.shape
        table = self.model.table
        self.model.check(table.write(self.handle, tensor, rows, data.ctypes.data, width))

    def read(self, tensor: int, rows: int) -> F32:
        out = np.full((rows, self.model.container.tensors[tensor].shape[1]), np.nan, np.float32)
        table = self.model.table
        self.model.check(table.read(self.handle, tensor, rows, out.ctypes.data, out.shape[1]))
        return out

    def picks(self, row: int, room: int) -> list[tuple[float, int]]:
        found, count = (Pick * room)(), u32()
        self.model.check(self.model.table.picks(self.handle, row, found, ctypes.byref(count)))
        return [(pick.logit, pick.id) for pick in found[: count.value]]

    def state_read(self, block: int) -> bytes:
        room = ctypes.create_string_buffer(self.block_bytes)
        self.model.check(self.model.table.state_read(self.handle, block, room))
        return room.raw

    def state_write(self, block: int, data: bytes) -> None:
        self.model.check(self.model.table.state_write(self.handle, block, data))

    def memory(self) -> Memory:
        info = Memory()
        self.model.table.memory(self.handle, ctypes.byref(info))
        return info

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        """Return `count` tokens, each the best one, after a prompt."""
        found: list[int] = []
        tokens = prompt
        for _ in range(count):
            for start in range(0, len(tokens), self.chunk):
                part = tokens[start : start + self.chunk]
                self.run(part, picks=1)
                self.position += len(part)
            tokens = [self.picks(0, 1)[0][1]]
            found += tokens
        return found


def activations(container: Container) -> list[int]:
    """Return the ids of the float activations."""
    return [i for i, t in enumerate(container.tensors) if t.role == Role.ACTIVATION and t.rank == 2]
