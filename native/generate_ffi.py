# SPDX-License-Identifier: Apache-2.0
"""Writes the Python binding of libingot from its header: `generate_ffi.py ingot.h _ingot_ffi.py`.

The output is cffi's out-of-line ABI module: the device needs neither a compiler nor pycparser.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import sys
from pathlib import Path

BEGIN = "/* cffi: begin */"
END = "/* cffi: end */"
MODULE = "_ingot_ffi"


def declarations(header: str) -> str:
    """Return the part of a header that cffi can read.

    Raises: ValueError if the markers are missing, doubled or in the wrong order.
    """
    if header.count(BEGIN) != 1 or header.count(END) != 1:
        raise ValueError(f"expected one '{BEGIN}' and one '{END}'")
    rest = header.partition(BEGIN)[2]
    region, found, _ = rest.partition(END)
    if not found:
        raise ValueError(f"'{END}' stands before '{BEGIN}'")
    return re.sub(r"\bINGOT_API\b\s*", "", region)


def write_module(header: Path, output: Path) -> None:
    """Write the binding module; the file appears whole or not at all."""
    from cffi import FFI

    ffi = FFI()
    ffi.set_source(MODULE, None)
    ffi.cdef(declarations(header.read_text(encoding="utf-8")))
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_suffix(".partial")
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            ffi.emit_python_code(str(partial))
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)


def main(argv: list[str] | None = None) -> int:
    """Run the generator; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("header", type=Path, help="path of ingot.h")
    parser.add_argument("output", type=Path, help=f"path of {MODULE}.py to write")
    args = parser.parse_args(argv)
    try:
        write_module(args.header, args.output)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"generate_ffi: {args.header}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
