# SPDX-License-Identifier: Apache-2.0
"""The binding of libingot: found, loaded and checked at first use, never at import."""

from __future__ import annotations

import functools
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ingot.errors import InternalError, StorageError, error_from_status

NATIVE_DIR_VARIABLE = "INGOT_NATIVE_DIR"
ABI_VERSION = 1
BACKENDS = {"cpu": 0}
_LIBRARIES = ("libingot.so", "libingot.dylib")
_BINDING = "_ingot_ffi"


@dataclass(frozen=True, slots=True)
class Native:
    """The loaded library: `ffi` makes C data, `lib` has the functions of ingot.h."""

    ffi: Any
    lib: Any
    path: Path

    def check(self, status: int) -> None:
        """Return if a status is OK, else raise its exception with the library's message.

        Raises: the class that ingot.errors has for the status.
        """
        if status == 0:
            return
        message = self.text(self.lib.ingot_last_error())
        if not message:
            message = f"libingot: {self.text(self.lib.ingot_status_name(status))}"
        raise error_from_status(int(status), message, int(self.lib.ingot_last_rule()))

    def text(self, pointer: Any) -> str:
        """Return a C string as text; bytes that are no UTF-8 are replaced."""
        if pointer == self.ffi.NULL:
            return ""
        return bytes(self.ffi.string(pointer)).decode("utf-8", errors="replace")

    def struct(self, name: str) -> Any:
        """Return a zeroed struct of ingot.h whose struct_size is set."""
        value = self.ffi.new(f"{name} *")
        value.struct_size = self.ffi.sizeof(name)
        return value

    def drain_log(self) -> str:
        """Return the log lines that the library has gathered since the last call."""
        buffer = self.ffi.new("char[]", 65536)
        size = int(self.lib.ingot_log_drain(buffer, 65536))
        return bytes(self.ffi.buffer(buffer, size)).decode("utf-8", errors="replace")


@functools.cache
def native() -> Native:
    """Load libingot once for this process.

    Raises: StorageError if it is not there or cannot be loaded; InternalError if library and
        binding were not built together.
    """
    binding, library = _locate()
    ffi = _import_binding(binding).ffi
    try:
        lib = ffi.dlopen(str(library))
    except OSError as error:
        raise StorageError(f"{library} could not be loaded: {error}") from error
    loaded = Native(ffi, lib, library)
    check_layout(loaded)
    return loaded


def check_layout(loaded: Native) -> None:
    """Compare the ABI version and each struct's size with the binding's.

    Raises: InternalError on a difference.
    """
    version = int(loaded.lib.ingot_abi_version())
    if version != ABI_VERSION:
        raise InternalError(f"{loaded.path} has ABI {version}, expected {ABI_VERSION}: rebuild it")
    for which, constant in loaded.ffi.typeof("ingot_struct").elements.items():
        name = "ingot_" + constant.removeprefix("INGOT_STRUCT_").lower()
        built, bound = int(loaded.lib.ingot_struct_size(which)), loaded.ffi.sizeof(name)
        if built != bound:
            raise InternalError(
                f"{loaded.path}: struct {name} has {built} bytes, the binding has {bound}: rebuild"
            )


def _locate() -> tuple[Path, Path]:
    """Return the paths of the binding and of the library."""
    folder = os.environ.get(NATIVE_DIR_VARIABLE)
    if folder:
        binding = Path(folder) / f"{_BINDING}.py"
    else:
        # Through the import system, because an editable install keeps built files elsewhere.
        spec = importlib.util.find_spec(f"ingot.{_BINDING}")
        origin = spec.origin if spec is not None else None
        binding = Path(origin) if origin else Path(__file__).with_name(f"{_BINDING}.py")
    libraries = [binding.with_name(name) for name in _LIBRARIES]
    library = next((path for path in libraries if path.is_file()), None)
    if library is None or not binding.is_file():
        raise StorageError(
            f"libingot is not in {binding.parent} (wanted {_LIBRARIES[0]} and {_BINDING}.py): "
            f"install the package, or build native/ and set {NATIVE_DIR_VARIABLE} to that folder"
        )
    return binding, library


def _import_binding(path: Path) -> ModuleType:
    """Import the generated cffi module from its file."""
    spec = importlib.util.spec_from_file_location(_BINDING, path)
    if spec is None or spec.loader is None:
        raise StorageError(f"{path} is not a Python module")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        raise StorageError(f"{path} needs the package cffi: {error}") from error
    return module
