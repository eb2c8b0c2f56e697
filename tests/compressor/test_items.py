# SPDX-License-Identifier: Apache-2.0
"""Files of items: kinds, published tasks, and the line that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingot.errors import InvalidArgumentError, StorageError
from ingot_compressor.evaluation.items import (
    Choice,
    Generate,
    LastWord,
    Pair,
    read_items,
    read_task,
)

PAIRS = Path(__file__).with_name("data") / "pairs.jsonl"


def write(folder: Path, *lines: str) -> Path:
    path = folder / "mine.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_lines_name_their_kind(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '{"kind": "pair", "good": "a\u2028b", "bad": "b a"}',
        "",
        '{"kind": "last_word", "context": "x", "continuation": " y"}',
        '{"kind": "choice", "query": "q", "choices": [" a", " b"], "gold": 1}',
        '{"kind": "generate", "prompt": "p", "json": true, "stop": ["\\n"], "max_tokens": 9}',
    )
    assert read_items(path) == [
        Pair("mine", 1, "a\u2028b", "b a"),
        LastWord("mine", 3, "x", " y"),
        Choice("mine", 4, "q", (" a", " b"), 1),
        Generate("mine", 5, "p", None, "text", True, False, 9, ("\n",)),
    ]
    assert [item.line for item in read_items(path, most=2)] == [1, 5]


def test_published_tasks_bind_their_own_fields(tmp_path: Path) -> None:
    path = write(tmp_path, '{"choices": ["one", "two"], "query": "Question: which?", "gold": 1}')
    choice = Choice("arc", 1, "Question: which?\nAnswer:", (" one", " two"), 1)
    assert read_task(f"arc={path}") == [choice]
    path = write(tmp_path, '{"context": "to the", "continuation": "end"}')
    assert read_task(f"lambada={path}") == [LastWord("lambada", 1, "to the", " end")]
    path = write(tmp_path, '{"uid": "x", "good": "He is.", "bad": "He are."}')
    assert read_task(f"blimp={path}") == [Pair("blimp", 1, "He is.", "He are.")]
    path = write(tmp_path, '{"question": "1 + 1?", "answer": "so\\n#### 1,002"}')
    [item] = read_task(f"gsm8k={path}")
    assert isinstance(item, Generate) and item.prompt == "Question: 1 + 1?\nAnswer:"
    assert (item.answer, item.match, item.stop) == ("1,002", "number", ("Question:",))


@pytest.mark.parametrize(
    ("task", "line", "message"),
    [
        (None, "{oops", "mine.jsonl:2: not valid JSON"),
        (None, "[1]", "mine.jsonl:2: expected an object"),
        (None, '{"good": "a", "bad": "b"}', '"kind" is None, expected one of pair, last_word'),
        (None, '{"kind": "pair", "good": "a"}', "no 'bad'; an item of kind pair has good, bad"),
        (None, '{"kind": "pair", "good": "a", "bad": 3}', "'bad' is 3, expected str"),
        (None, '{"kind": "pair", "good": "a", "bad": " "}', "a text is empty"),
        (
            None,
            '{"kind": "generate", "prompt": "a", "max": 3}',
            "unknown field 'max'; an item of kind generate has prompt, optional answer, match",
        ),
        (None, '{"kind": "generate", "prompt": "a", "match": "x"}', "'match' is 'x', expected one"),
        (None, '{"kind": "generate", "prompt": "a", "max_tokens": 0}', "expected at least 1"),
        (
            None,
            '{"kind": "choice", "query": "a", "choices": ["b", "c"], "gold": 2}',
            "'gold' is 2, expected 0 to 1",
        ),
        (
            None,
            '{"kind": "choice", "query": "a", "choices": ["b", "c"], "gold": true}',
            "'gold' is True, expected int",
        ),
        (None, '{"kind": "choice", "query": "a", "choices": ["b"], "gold": 0}', "at least 2"),
        (None, '{"kind": "choice", "query": "a", "choices": "bc", "gold": 0}', "a list of texts"),
        ("arc", '{"query": "a", "gold": 0}', "no 'choices'; a line of task arc has query, choices"),
        ("arc", '{"query": "a", "gold": 0, "choices": 3}', "not a line of task arc"),
        ("gsm8k", '{"question": "a", "answer": 3}', "not a line of task gsm8k"),
        ("blimp", '{"good": ["a"], "bad": "b"}', "expected str"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, task: str, line: str, message: str) -> None:
    path = write(tmp_path, "", line)
    with pytest.raises(InvalidArgumentError) as caught:
        read_items(path, task)
    assert str(caught.value).startswith(f"{path}:2: ") and message in str(caught.value)


def test_files_that_give_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="no items"):
        read_items(write(tmp_path, " "))
    with pytest.raises(StorageError, match="absent"):
        read_items(tmp_path / "absent.jsonl")
    with pytest.raises(InvalidArgumentError, match="unknown task 'winogrande'"):
        read_task("winogrande=x.jsonl")


@pytest.mark.parametrize(
    ("task", "file", "count"),
    [
        ("blimp", "blimp_dev", 20100),
        ("lambada", "lambada_dev", 2500),
        ("arc", "arc_easy_dev", 600),
        ("gsm8k", "gsm8k_train_1500", 1500),
    ],
)
def test_published_files_are_read_whole(shared_dir: Path, task: str, file: str, count: int) -> None:
    path = shared_dir / "data" / f"{file}.jsonl"
    if not path.is_file():
        pytest.skip(f"no {path.name} in 'shared'")
    assert len(read_task(f"{task}={path}")) == count
    assert len(read_task(f"{task}={path}", 100)) == 100


def test_the_bundled_pairs_are_forty() -> None:
    items = read_items(PAIRS)
    assert len(items) == 40 and all(isinstance(item, Pair) for item in items)
