# SPDX-License-Identifier: Apache-2.0
"""The binding of libingot: found, loaded and checked at first use, never at import."""

from __future__ import annotations

import functools
import os
from types import ModuleType

from ingot.environment import environment
from ingot.errors import InternalError, StorageError, error_from_status

TYPE_CHECKING = False  # as in typing, whose import takes long
if TYPE_CHECKING:
    from typing import Any

NATIVE_DIR_VARIABLE = "INGOT_NATIVE_DIR"
ABI_VERSION = 1
_LIBRARIES = ("libingot.so", "libingot.dylib")
_BINDING = "_ingot_ffi"


class Native:
    """The loaded library: `ffi` makes C data, `lib` has the functions of ingot.h."""

    __slots__ = ("ffi", "lib", "path")

    def __init__(self, ffi: Any, lib: Any, path: str | os.PathLike[str]) -> None:
        """Made by native()."""
        self.ffi = ffi
        self.lib = lib
        self.path = os.fspath(path)

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
    ffi = binding.ffi
    try:
        lib = ffi.dlopen(library)
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


def _locate() -> tuple[ModuleType, str]:
    """Return the binding and the path of the library beside it."""
    folder = environment(NATIVE_DIR_VARIABLE)
    binding = _binding_in(folder) if folder else _installed_binding()
    if binding is None:
        raise _not_there(folder or os.path.dirname(__file__))
    place = os.path.dirname(str(binding.__file__))
    paths = [os.path.join(place, name) for name in _LIBRARIES]
    library = next((path for path in paths if os.path.isfile(path)), None)
    if library is None:
        raise _not_there(place)
    return binding, library


def _installed_binding() -> ModuleType | None:
    """Import the binding as a part of the package; an editable install keeps it elsewhere."""
    from importlib import import_module

    try:
        return import_module(f"ingot.{_BINDING}")
    except ModuleNotFoundError as error:
        if error.name == f"ingot.{_BINDING}":
            return None
        raise StorageError(f"{_BINDING} needs the package cffi: {error}") from error


def _binding_in(folder: str) -> ModuleType | None:
    """Import the binding from a folder of a build."""
    from importlib.machinery import SourceFileLoader

    path = os.path.join(folder, f"{_BINDING}.py")
    if not os.path.isfile(path):
        return None
    module = ModuleType(_BINDING)
    module.__file__ = path
    try:
        SourceFileLoader(_BINDING, path).exec_module(module)
    except ImportError as error:
        raise StorageError(f"{path} needs the package cffi: {error}") from error
    return module


def _not_there(folder: str) -> StorageError:
    return StorageError(
        f"libingot is not in {folder} (wanted {_LIBRARIES[0]} and {_BINDING}.py): "
        f"install the package, or build native/ and set {NATIVE_DIR_VARIABLE} to that folder"
    )
