# SPDX-License-Identifier: Apache-2.0
"""Sessions over a library that a test scripts: endings, cancel, threads, limits."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from ingot.errors import (
    CancelledError,
    ContextFullError,
    InvalidArgumentError,
    StateError,
)
from ingot.session import Session
from ingot.session_config import SessionConfig
from ingot.tokenizer import NoText
from tests.runtime.fake_library import FakeModel, open_session

PROMPT = "hello"


def _open(ffi: Any, answer: str = "wörld 🦙!", **sizes: int) -> tuple[Session, Any]:
    return open_session(ffi, answer, len(PROMPT), **sizes)


def test_an_answer_ends_with_a_stop_id_and_surplus_ids_are_never_chosen(ffi: Any) -> None:
    session, _ = _open(ffi)
    generation = session.generate(PROMPT)
    assert generation.text == "wörld 🦙!"
    assert generation.finish_reason == "stop_id"
    assert bytes(generation.token_ids).decode() == generation.text
    assert bytes(generation.prompt_token_ids).decode() == PROMPT


def test_pieces_are_whole_characters(ffi: Any) -> None:
    session, _ = _open(ffi)
    assert list(session.stream(PROMPT)) == list("wörld 🦙!")


def test_a_stop_string_is_cut_off_and_never_seen(ffi: Any) -> None:
    session, _ = _open(ffi, "one. two. three")
    stream = session.stream(PROMPT, stop=[" tw", "x"])
    assert "".join(stream) == "one."
    assert stream.finish_reason == "stop_string"
    assert session.generate([65], stop="zz", max_tokens=1).finish_reason == "length"


def test_what_a_stop_string_held_back_comes_at_the_end(ffi: Any) -> None:
    session, _ = _open(ffi, "ends with ST")
    assert session.generate(PROMPT, stop=["STOP"]).text == "ends with ST"


def test_max_tokens_may_cut_a_character_and_says_so_with_a_replacement(ffi: Any) -> None:
    session, library = _open(ffi, "wö")
    generation = session.generate(PROMPT, max_tokens=2)
    assert (generation.text, generation.finish_reason) == ("w\ufffd", "length")
    assert len(library.fed) == len(PROMPT) + 1  # the last token is not fed until it is needed
    assert session.token_count == len(PROMPT) + 2


def test_a_second_prompt_continues_where_the_first_ended(ffi: Any) -> None:
    session, library = _open(ffi, "abc")
    session.generate(PROMPT, max_tokens=2)
    session.generate("XY", max_tokens=1)
    assert bytes(library.fed).decode() == "helloabXY"


def test_a_stop_id_of_the_caller(ffi: Any) -> None:
    session, _ = _open(ffi, "abc")
    generation = session.generate(PROMPT, stop_ids=[ord("b")])
    assert (generation.text, generation.finish_reason) == ("a", "stop_id")


def test_the_context_ends_an_answer_and_refuses_a_prompt(ffi: Any) -> None:
    session, library = _open(ffi, "abcdefgh", context=8)
    generation = session.generate(PROMPT)
    # Positions 5, 6, 7 are fed; the token chosen after the last position needs no place.
    assert (generation.text, generation.finish_reason) == ("abcd", "context")
    with pytest.raises(ContextFullError, match=r"1 tokens do not fit: the session has 8 of 8"):
        session.generate("x")
    session.reset()
    with pytest.raises(ContextFullError, match=r"9 tokens.*allows 8"):
        session.generate("x" * 9)
    assert library.fed == []


def test_prefill_goes_chunk_by_chunk(ffi: Any) -> None:
    session, library = open_session(ffi, "a", 20, chunk=8)
    session.generate("x" * 20, max_tokens=1)
    assert library.calls == [8, 8, 4]


def test_figures_of_a_generation(ffi: Any) -> None:
    session, _ = _open(ffi, "abc")
    generation = session.generate(PROMPT)
    stats = generation.stats
    assert session.stats == stats
    assert (stats.prompt_tokens, stats.prefill_tokens, stats.decode_tokens) == (5, 5, 3)
    assert stats.weight_bytes_read == 3000
    assert 0 < stats.prefill_seconds <= stats.first_token_seconds
    assert stats.decode_tokens_per_second > 0
    assert set(stats.to_json()) >= {"prefill_tokens_per_second", "decode_tokens_per_second"}
    assert "tok/s" in str(stats)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "no tokens"),
        ([], "no tokens"),
        (b"bytes", "is bytes: give text or a list"),
        (7, "is int"),
        ([1, "2"], "token 1 of the prompt is '2'"),
        ([1.0], "token 0"),
        ([True], "token 0"),
        ([-1], "expected an id from 0 to"),
        ([10**9], "expected an id from 0 to"),
    ],
)
def test_bad_prompts_are_named(ffi: Any, prompt: Any, message: str) -> None:
    session, library = _open(ffi)
    with pytest.raises(InvalidArgumentError, match=message):
        session.stream(prompt)
    assert library.fed == []


@pytest.mark.parametrize(
    "arguments", [{"max_tokens": 0}, {"max_tokens": 1.5}, {"stop": [""]}, {"stop_ids": ["x"]}]
)
def test_bad_options_are_refused_before_anything_runs(ffi: Any, arguments: Any) -> None:
    session, library = _open(ffi)
    with pytest.raises(InvalidArgumentError):
        session.stream(PROMPT, **arguments)
    assert library.fed == []


def test_arrays_are_prompts(ffi: Any) -> None:
    session, _ = _open(ffi)
    assert session.generate(np.frombuffer(PROMPT.encode(), np.uint8)).text == "wörld 🦙!"


def test_cancel_from_another_thread_during_prefill(ffi: Any) -> None:
    session, library = open_session(ffi, "abc", 30, chunk=4)
    library.gate = threading.Event()
    stream = session.stream("x" * 30)

    def cancel() -> None:
        library.entered.wait(10)
        session.cancel()
        library.gate.set()

    thread = threading.Thread(target=cancel)
    thread.start()
    assert "".join(stream) == ""
    thread.join()
    assert stream.finish_reason == "cancelled"
    assert session.token_count == len(library.fed) < 30
    # The session goes on as if the rest had not been asked for.
    library.script = [0] * len(library.fed) + list(b"ok") + [256]
    assert session.generate([65]).text == "ok"


def test_cancel_between_two_pieces(ffi: Any) -> None:
    session, _ = _open(ffi, "abcdef")
    stream = session.stream(PROMPT)
    pieces = [next(stream), next(stream)]
    session.cancel()
    assert pieces + list(stream) == ["a", "b"]
    assert stream.finish_reason == "cancelled"


def test_a_late_cancel_does_not_hit_the_next_generation(ffi: Any) -> None:
    session, library = _open(ffi, "abc")
    assert session.generate(PROMPT, max_tokens=1).text == "a"
    session.cancel()
    library.cancelled = True  # as if the library had been told just after its last pass
    assert session.generate("b", max_tokens=1).finish_reason == "length"


def test_cancelled_feeding_is_an_error(ffi: Any) -> None:
    session, library = _open(ffi, chunk=2)
    library.gate = threading.Event()

    def cancel() -> None:
        library.entered.wait(10)
        session.cancel()
        library.gate.set()

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(CancelledError):
        session.feed(PROMPT)
    thread.join()


def test_two_threads_at_once_are_told_so(ffi: Any) -> None:
    session, _ = _open(ffi)
    stream = session.stream(PROMPT)
    next(stream)
    messages: list[str] = []

    def intrude() -> None:
        for call in (lambda: session.stream("x"), lambda: next(stream), session.reset):
            try:
                call()
            except StateError as error:
                messages.append(str(error))

    thread = threading.Thread(target=intrude)
    thread.start()
    thread.join()
    assert len(messages) == 3 and all("one thread at a time" in text for text in messages)
    assert "".join(stream) == "örld 🦙!"


def test_another_thread_may_take_over_when_the_stream_is_closed(ffi: Any) -> None:
    session, _ = _open(ffi, "abc")
    stream = session.stream(PROMPT)
    next(stream)
    stream.close()
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(session.generate("x", max_tokens=1).text))
    thread.start()
    thread.join()
    assert len(found) == 1


def test_a_stream_left_behind_says_that_it_is_over(ffi: Any) -> None:
    session, _ = _open(ffi, "abc")
    first = session.stream(PROMPT)
    next(first)
    session.reset()
    with pytest.raises(StateError, match="used for something else"):
        next(first)


def test_truncate_and_reset(ffi: Any) -> None:
    session, library = _open(ffi, "abc")
    session.generate(PROMPT, max_tokens=2)
    session.truncate(6)
    assert bytes(session.token_ids).decode() == "helloa"
    session.truncate(3)
    assert bytes(library.fed).decode() == "hel"
    with pytest.raises(InvalidArgumentError, match="holds 3 tokens"):
        session.truncate(4)
    session.reset()
    assert session.token_count == 0


def test_logits_of_each_position_without_surplus(ffi: Any) -> None:
    session, _ = _open(ffi, "abc")
    logits = session.logits(list(PROMPT.encode()))
    assert logits.shape == (5, 258) and logits.dtype == np.float32
    assert logits[4].argmax() == ord("a")
    assert session.logits([ord("a")])[0].argmax() == ord("b")


def test_a_closed_session_says_so(ffi: Any) -> None:
    session, library = _open(ffi)
    with session:
        session.generate(PROMPT, max_tokens=1)
    session.close()
    assert library.destroyed == 1
    with pytest.raises(StateError, match="closed"):
        session.generate(PROMPT)
    session.cancel()
    assert session.stats.prefill_tokens == 5


def test_token_ids_work_without_a_tokenizer(ffi: Any) -> None:
    model = FakeModel(ffi, [0] * 4 + [65, 66, 256], 64, 8)
    model.detokenizer = NoText  # type: ignore[method-assign]
    session = Session(model, SessionConfig())  # type: ignore[arg-type]
    generation = session.generate(list(PROMPT.encode()))
    assert (generation.text, generation.token_ids) == ("", (65, 66))


@pytest.mark.parametrize("field", ["context", "threads", "memory_limit"])
def test_a_bad_configuration_is_named(ffi: Any, field: str) -> None:
    model = FakeModel(ffi, [0], 64, 8)
    with pytest.raises(InvalidArgumentError, match=field):
        Session(model, SessionConfig(**{field: -1}))  # type: ignore[arg-type]
