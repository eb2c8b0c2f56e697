# SPDX-License-Identifier: Apache-2.0
"""Writes transcripts/*.json: prompts and answers as token ids, for `ingot bench --replay`.

    python tests/benchmarks/make_transcripts.py

copy_edit: a passage of a public-domain book, then the same passage with its spelling and some words
brought up to date by the list below. free_prose: a passage, and how the book goes on.
The ids are those of the bundled model's tokenizer, which any larger vocabulary covers.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).with_name("transcripts")
PASSAGE, CONTINUATION = 2400, 2400
EDITS = {
    "upon": "on",
    "shall": "will",
    "whilst": "while",
    "ardour": "zeal",
    "inveigh": "speak",
    "appellation": "name",
    "amongst": "among",
    "endeavour": "try",
    "hitherto": "until now",
    "honour": "honor",
}


def edit(text: str) -> str:
    """Replace the words of the list, whole words only."""
    pattern = re.compile(rf"\b({'|'.join(EDITS)})\b")
    return pattern.sub(lambda match: EDITS[match.group(1)], text)


def write(name: str, note: str, prompt: str, output: str) -> None:
    """Write one transcript."""
    path = ROOT / "examples" / "models" / "lantern" / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    ids = {
        key: tokenizer.encode(text).ids for key, text in (("prompt", prompt), ("output", output))
    }
    FOLDER.mkdir(exist_ok=True)
    text = json.dumps({"note": note, **ids})
    (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """Write both."""
    book = (ROOT / "examples" / "text" / "evaluation.txt").read_text(encoding="utf-8")
    passage = book[:PASSAGE]
    edited = edit(passage)
    changed = sum(passage.count(word) for word in EDITS)
    note = f"a passage, then itself with about {changed} words replaced"
    prompt = f"Bring the language of this text up to date.\n\n{passage}\n\nThe text:\n\n"
    write("copy_edit", note, prompt, edited)
    rest = book[PASSAGE : PASSAGE + CONTINUATION]
    write("free_prose", "a passage of a book and how the book goes on", passage, rest)


if __name__ == "__main__":
    main()
