# SPDX-License-Identifier: Apache-2.0
"""Compress the bundled model for this machine, stream a passage, and print what it cost.

Example:
    make demo
    .venv/bin/python examples/demo.py --max-tokens 200
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from ingot import Model, Session, Stats

EXAMPLES = Path(__file__).resolve().parent
PAGE_CHARACTERS = 4000
PROMPT = "The old house stood at the end of the lane, and"


def compress(out: Path) -> None:
    """Make the file with the command that users type."""
    command = ["ingot", "compress", str(EXAMPLES / "models" / "lantern"), "--out", str(out)]
    command += ["--target", "host", "--calibration", str(EXAMPLES / "text" / "calibration.txt")]
    command += ["--evaluate", str(EXAMPLES / "text" / "evaluation.txt")]
    print("$", " ".join(command), flush=True)
    subprocess.run([sys.executable, "-m", *command], check=True)


def prefill(session: Session) -> Stats:
    """Feed a page and return its figures; this also brings the weights into memory."""
    page = (EXAMPLES / "text" / "evaluation.txt").read_text(encoding="utf-8")
    tokens = session.model.tokenizer.encode(page[:PAGE_CHARACTERS])
    session.generate(tokens[: session.context // 2], max_tokens=1)
    stats = session.stats
    session.reset()
    return stats


def stream(model: Model, max_tokens: int) -> tuple[Stats, Stats]:
    """Print a passage as it comes; return the figures of a long prefill and of the passage."""
    with model.session() as session:
        page = prefill(session)
        answer = session.stream(
            PROMPT,
            max_tokens=max_tokens,
            temperature=0.8,
            top_p=0.95,
            repetition_penalty=1.1,
            seed=7,
        )
        print(f"\n{PROMPT}", end="", flush=True)
        for piece in answer:
            print(piece, end="", flush=True)
        print("\n")
        return page, answer.stats


def figures(model: Model, page: Stats, stats: Stats) -> list[tuple[str, str]]:
    """Return what the demo measured, and what the file's certificate says, line by line."""
    # Linux counts in units of 1024 bytes, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    lines = [
        ("prefill", f"{page.prefill_tokens_per_second:.0f} tok/s ({page.prefill_tokens} tokens)"),
        ("decode", f"{stats.decode_tokens_per_second:.0f} tok/s ({stats.decode_tokens} tokens)"),
        ("first token", f"{stats.first_token_seconds * 1e3:.1f} ms"),
        ("file", f"{model.info.file_size / 1e6:.2f} MB"),
        ("resident", f"{resident / 1e6:.0f} MB, of it Python, NumPy and the tokenizer"),
    ]
    certificate = model.certificate or {}
    lines.append(("certificate", f"{certificate.get('verdict')}: {certificate.get('reason')}"))
    for name, value in (certificate.get("quality") or {}).items():
        if isinstance(value, int | float):
            lines.append((f"  {name}", f"{value:.5g}"))
    return lines


def main() -> int:
    """Run the demo; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--max-tokens", type=int, default=120)
    parser.add_argument("--keep", type=Path, metavar="FILE", help="keep the ingot here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = arguments.keep or Path(folder) / "lantern.ingot"
        try:
            compress(out)
        except subprocess.CalledProcessError as error:
            return int(error.returncode)
        with Model(out) as model:
            page, stats = stream(model, arguments.max_tokens)
            for name, value in figures(model, page, stats):
                print(f"{name:<24} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
