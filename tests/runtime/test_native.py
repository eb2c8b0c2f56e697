# SPDX-License-Identifier: Apache-2.0
"""The binding: statuses, struct sizes, messages, and what is said when the library is not there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ingot import errors
from ingot._native import Native, check_layout
from ingot.errors import InternalError, error_from_status
from tests.runtime.fake_library import generator


def test_every_status_of_the_header_has_a_class(ffi: Any) -> None:
    statuses = ffi.typeof("ingot_status").elements
    assert len(statuses) > 10
    missing = [name for value, name in statuses.items() if value and value not in errors._CLASSES]
    assert missing == []
    unknown = set(errors._CLASSES) - set(statuses)
    assert unknown == set()


def test_an_error_has_its_status_its_message_and_a_builtin_base() -> None:
    error = error_from_status(41, "context 9 needs more")
    assert isinstance(error, (errors.MemoryLimitError, MemoryError))
    assert (error.status, str(error)) == (41, "context 9 needs more")
    found = error_from_status(20, "bad magic", 2)
    assert isinstance(found, errors.FormatError) and isinstance(found, ValueError)
    assert found.rule is not None and found.rule.name == "MAGIC"
    assert type(error_from_status(77, "?")) is InternalError


def _library(ffi: Any, version: int = 1, difference: int = 0) -> Native:
    names = ffi.typeof("ingot_struct").elements
    sizes = {
        value: ffi.sizeof("ingot_" + name.removeprefix("INGOT_STRUCT_").lower()) + difference
        for value, name in names.items()
    }
    lib = SimpleNamespace(
        ingot_abi_version=lambda: version, ingot_struct_size=lambda which: sizes[which]
    )
    return Native(ffi, lib, Path("libingot.so"))


def test_another_abi_or_struct_size_is_refused(ffi: Any) -> None:
    check_layout(_library(ffi))
    with pytest.raises(InternalError, match="ABI 2, expected 1"):
        check_layout(_library(ffi, version=2))
    with pytest.raises(InternalError, match=r"has \d+ bytes, the binding has"):
        check_layout(_library(ffi, difference=8))


def test_the_generator_drops_the_api_macro_and_wants_both_markers(repo_root: Path) -> None:
    module = generator(repo_root)
    text = module.declarations("x /* cffi: begin */\nINGOT_API int f(void);\n/* cffi: end */ y")
    assert text.strip() == "int f(void);"
    with pytest.raises(ValueError, match="expected one"):
        module.declarations("/* cffi: begin */ int f(void);")
    with pytest.raises(ValueError, match="stands before"):
        module.declarations("/* cffi: end */ /* cffi: begin */")


def test_a_missing_library_says_where_it_was_looked_for(tmp_path: Path) -> None:
    code = (
        "import ingot, os\n"
        "try:\n    ingot.Model('x')\n"
        "except ingot.StorageError as error:\n    print(error)"
    )
    done = _python(code, INGOT_NATIVE_DIR=str(tmp_path))
    assert str(tmp_path) in done and "INGOT_NATIVE_DIR" in done


def test_import_loads_neither_torch_nor_the_text_packages() -> None:
    late = "{'torch', 'numpy', 'tokenizers', 'jinja2', 'cffi', 'transformers', 'dataclasses'}"
    assert _python(f"import sys, ingot\nprint(sorted({late} & set(sys.modules)))").strip() == "[]"


def test_text_streams_without_numpy(stories: Path) -> None:
    code = (
        "import sys\nfrom ingot import Model\n"
        f"with Model({str(stories)!r}) as model, model.session() as session:\n"
        "    a = session.generate([1, 403], max_tokens=8)\n"
        "    b = session.generate('Once', max_tokens=8, temperature=1.0, top_p=0.9, seed=1)\n"
        "    assert len(a.token_ids) == 8 and a.text and b.text\n"
        "    late = {'numpy', 'ingot.format'} & set(sys.modules)\n"
        "    print(sorted(late), session.feed([1]).shape, 'numpy' in sys.modules)"
    )
    assert _python(code).strip() == "[] (512,) True"


def test_token_ids_alone_load_little(stories: Path) -> None:
    code = (
        "import sys\nfrom ingot import Model, Options\n"
        f"with Model({str(stories)!r}) as model, model.session() as session:\n"
        "    found = session.begin([1, 403], Options(max_tokens=8, text=False)).result()\n"
        "    assert len(found.token_ids) == 8 and found.text == ''\n"
        "    late = {'dataclasses', 'typing', 'pathlib', 'hashlib', 'tokenizers', 'numpy'}\n"
        "    print(sorted(late & set(sys.modules)))"
    )
    assert _python(code).strip() == "[]"


def test_numpy_is_loaded_with_threads_that_sleep_and_the_environment_is_kept() -> None:
    # A module in NumPy's place notes what it would have been loaded with.
    code = (
        "import os, sys\nname = 'OPENBLAS_THREAD_TIMEOUT'\nseen = []\n"
        "class Finder:\n"
        "    def find_spec(self, module, path=None, target=None):\n"
        "        if module == 'numpy': seen.append(os.environ.get(name))\n"
        "sys.meta_path.insert(0, Finder())\nimport ingot.reference\n"
        "print(seen, os.environ.get(name))"
    )
    assert _python(code).strip() == "['4'] None"
    assert _python(code, OPENBLAS_THREAD_TIMEOUT="20").strip() == "['20'] 20"


def _python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout
