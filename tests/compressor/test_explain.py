# SPDX-License-Identifier: Apache-2.0
"""Which layer, role, weight and token a file's error comes from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ingot import Model
from ingot.cli import main
from ingot.errors import InvalidArgumentError
from ingot.format import Dtype
from ingot_compressor.calibration import NO_STATISTICS
from ingot_compressor.evaluation.explanation import ExplainOptions, Explanation, explain
from ingot_compressor.execute import TensorStore, execute
from ingot_compressor.importers import import_checkpoint
from ingot_compressor.ir import FloatArray, Program
from ingot_compressor.numerics import Encoding
from ingot_compressor.passes.emit import emit
from ingot_compressor.passes.fuse import fuse
from ingot_compressor.passes.quantize import quantize, quantize_tensor
from ingot_compressor.passes.swapped import SwappedRun
from ingot_compressor.progress import SilentProgress
from ingot_compressor.weight_names import Place, order_roles, place_of
from tests.compressor.tiny_models import LLAMA, in_f16, write_checkpoint

DEEP = {**LLAMA, "num_hidden_layers": 3}
TIED = {**LLAMA, "tie_word_embeddings": True}
WORDS = "the lamp was lit and nobody in the house had seen who had done it before the rain "
DAMAGED = "layers.1.mlp.down"


@pytest.fixture(autouse=True)
def one_torch_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def planted(program: Program) -> Program:
    """Return the program in f16, with one matrix at two bits' worth."""
    damage = quantize_tensor(program.tensors[DAMAGED], Encoding(Dtype.T2), NO_STATISTICS)
    damaged = replace(program.tensors[DAMAGED], dtype=Dtype.T2, source=damage)
    return in_f16(program).with_tensors({DAMAGED: damaged})


def in_c3(program: Program) -> Program:
    encodings = {tensor.name: Encoding(Dtype.C3) for tensor in program.weights()}
    return quantize(program, encodings, NO_STATISTICS)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Return checkpoints, files and explanations of: one damaged matrix, all in c3, a tied head."""
    folder = tmp_path_factory.mktemp("explain")
    (folder / "text.txt").write_text(
        " ".join(f"{i} {WORDS}" for i in range(8)) * 3, encoding="utf-8"
    )
    found = SimpleNamespace(folder=folder, text=folder / "text.txt")

    def make(name: str, values: dict[str, Any], change: Callable[[Program], Program]) -> None:
        source = write_checkpoint(folder / name, values, deviation=0.1)
        imported = import_checkpoint(source)
        program, path = fuse(imported.program), folder / f"{name}.ingot"
        emit(change(program), path, imported.tokenizer_json, imported.chat, {})
        options = ExplainOptions(path, source, found.text, max_tokens=512, worst=7, threads=1)
        result = explain(options, SilentProgress())
        setattr(found, name, SimpleNamespace(**vars_of(program, options, result)))

    make("damaged", DEEP, planted)
    make("c3", DEEP, in_c3)
    make("tied", TIED, in_c3)
    return found


def vars_of(program: Program, options: ExplainOptions, result: Explanation) -> dict[str, Any]:
    return {"program": program, "options": options, "found": result}


def windows_of(case: SimpleNamespace) -> list[np.ndarray[Any, Any]]:
    """Return the windows as `explain` says it takes them: 8 of 64, spread over the text."""
    with Model(case.options.file) as model:
        ids = model.tokenizer.encode(case.options.text.read_text(encoding="utf-8"), begin=False)
        bos = [model.chat.bos_token_id] if model.chat.add_bos else []
    step = 64 - len(bos)
    parts = [np.array(bos + ids[i : i + step]) for i in range(0, len(ids) - step + 1, step)]
    return [parts[i] for i in np.linspace(0, len(parts) - 1, 8).round().astype(int)]


def divergence(p: FloatArray, q: FloatArray) -> np.ndarray[Any, Any]:
    """KL(p || q) of logits, by the definition. Shapes: (m, v) -> (m,)."""
    a, b = (torch.log_softmax(torch.from_numpy(x).double(), dim=-1) for x in (p, q))
    return (a.exp() * (a - b)).sum(dim=-1).numpy()


def test_a_planted_damage_is_found(made: SimpleNamespace) -> None:
    found = made.damaged.found
    assert found.layers[0].name == "layer 1"
    assert found.roles[0].name == "down"
    assert found.weights[0].name == DAMAGED
    assert found.weights[0].formats == ("t2",) and found.layers[0].formats == ("f16", "t2")
    others = [found.embedding, found.head, *found.layers[1:], *found.roles[1:], *found.weights[1:]]
    assert found.layers[0].mean_kl > 3e-3 > 1e-5 > max(one.mean_kl for one in others)
    # nothing else is wrong: layer, role, weight and the whole are the same experiment
    for same in (found.roles[0].mean_kl, found.weights[0].mean_kl, found.weights_kl):
        assert same == pytest.approx(found.layers[0].mean_kl, rel=0.02)
    assert found.sum_of_layers == pytest.approx(found.weights_kl, rel=0.02)


def test_figures_are_those_of_whole_runs(made: SimpleNamespace) -> None:
    """A layer's divergence is that of a whole run with its weights replaced."""
    case = made.c3
    program, quantized = case.program, in_c3(case.program)
    tokens = torch.from_numpy(np.stack(windows_of(case)))
    store = TensorStore()
    right = execute(program, tokens, store=store)[:, 31:-1, :301].flatten(0, 1).numpy()

    def whole(chosen: Callable[[str], bool]) -> float:
        changed = {t.name: quantized.tensors[t.name] for t in program.weights() if chosen(t.name)}
        wrong = execute(program.with_tensors(changed), tokens, store=TensorStore())
        return float(divergence(right, wrong[:, 31:-1, :301].flatten(0, 1).numpy()).mean())

    found = case.found
    assert (found.windows, found.window, found.tokens) == (8, 64, 8 * 32)
    for one in found.layers:
        layer = f"layers.{one.name.split()[1]}."
        assert one.mean_kl == pytest.approx(whole(lambda n, p=layer: n.startswith(p)), rel=1e-3)
    for one in found.roles:
        end = f".{one.name}"
        assert one.mean_kl == pytest.approx(whole(lambda n, e=end: n.endswith(e)), rel=1e-3)
    assert found.head.mean_kl == pytest.approx(whole(lambda name: name == "head"), rel=1e-3)
    assert found.embedding.mean_kl == pytest.approx(whole(lambda n: n == "embed"), rel=1e-3)
    assert found.weights_kl == pytest.approx(whole(lambda name: True), rel=1e-3)
    parts = [found.embedding, found.head]
    assert found.sum_of_layers == sum(one.mean_kl for one in [*parts, *found.layers])
    assert found.sum_of_roles == sum(one.mean_kl for one in [*parts, *found.roles])
    for parts in (found.layers, found.roles, found.weights):
        assert list(parts) == sorted(parts, key=lambda one: -one.mean_kl)
    assert {one.name for one in found.roles} == {"q", "k", "v", "o", "gate_up", "down"}


def test_a_tied_matrix_is_swapped_in_one_place(made: SimpleNamespace) -> None:
    found = made.tied.found
    assert made.tied.program.head() == made.tied.program.embedding()
    assert 0 < found.embedding.mean_kl != found.head.mean_kl > 0


def test_worst_tokens_are_those_of_a_search(made: SimpleNamespace) -> None:
    case, windows = made.c3, windows_of(made.c3)
    right = execute(case.program, torch.from_numpy(np.stack(windows)))[..., :301].numpy()
    with Model(case.options.file) as model:
        decode, every = model.tokenizer.decode, []
        with model.session(64, 1, logits_rows=32, kv="f16") as session:
            for number, window in enumerate(windows):
                session.reset()
                wrong = session.logits(window)[:, :301]
                kl = divergence(right[number], wrong)
                for at in range(32, 64):
                    said = int(right[number, at - 1].argmax()), int(wrong[at - 1].argmax())
                    every.append((float(kl[at - 1]), number, at, said))
        found = case.found
        assert found.mean_kl == pytest.approx(np.mean([one[0] for one in every]), rel=1e-5)
        best = sorted(every, key=lambda one: -one[0])[:7]
        for one, (kl_, number, at, said) in zip(found.worst_tokens, best, strict=True):
            assert one.kl == pytest.approx(kl_, rel=1e-4)
            assert (one.window, one.position) == (number, at)
            assert one.token == decode([int(windows[number][at])])
            assert one.context == decode(windows[number][at - 24 : at].tolist())
            assert (one.reference_token, one.file_token) == (decode([said[0]]), decode([said[1]]))
            assert 0 < one.reference_probability <= 1 and 0 < one.file_probability <= 1
    means = [np.mean([one[0] for one in every if one[1] == w]) for w in range(8)]
    order = [one.window for one in found.worst_windows]
    assert order == np.argsort(means)[::-1][:7].tolist()
    assert found.worst_windows[0].mean_kl == pytest.approx(max(means), rel=1e-4)


def test_the_command_prints_tables_and_json(
    made: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    options = made.damaged.options
    arguments = ["explain", str(options.file), "--against", str(options.source), "--quiet"]
    arguments += ["--text", str(options.text), "--max-tokens", "64", "--threads", "1"]
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["layers"][0]["name"] == "layer 1" and found["windows"] == 1
    assert {"sum_of_layers", "sum_of_roles", "weights_kl", "worst_tokens"} <= set(found)
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "by layer" in out and "worst tokens" in out and DAMAGED[:12] in out
    assert main([*arguments, "--window", "65"]) == 1
    assert "longer than the file's context 64" in capsys.readouterr().err
    assert main([*arguments, "--worst", "0"]) == 1
    assert "--worst is 0" in capsys.readouterr().err


def test_what_does_not_belong_together_is_refused(made: SimpleNamespace) -> None:
    other = replace(made.c3.options, source=wide(made))
    with pytest.raises(InvalidArgumentError, match="not the same model"):
        explain(other, SilentProgress())
    short = made.folder / "short.txt"
    short.write_text("the lamp", encoding="utf-8")
    with pytest.raises(InvalidArgumentError, match="longer text"):
        explain(replace(made.c3.options, text=short), SilentProgress())


def wide(made: SimpleNamespace) -> Path:
    return write_checkpoint(made.folder / "wide", {**DEEP, "intermediate_size": 59})


def test_windows_of_different_lengths_are_refused(made: SimpleNamespace) -> None:
    windows = [np.arange(40), np.arange(41)]
    with pytest.raises(InvalidArgumentError, match=r"above 33, found lengths \[40, 41\]"):
        SwappedRun(made.c3.program, unread, windows, TensorStore())
    run = SwappedRun(made.c3.program, unread, windows[:1], TensorStore())
    assert run.divergence({}) == run.divergence({1: ()}) == 0.0


def unread(name: str) -> FloatArray:
    raise AssertionError(f"{name} is read")


def test_places_are_read_from_names() -> None:
    assert place_of("layers.12.mlp.gate_up") == Place(12, "gate_up")
    assert place_of("embed") == Place(None, "embed")
    assert order_roles(["down", "new", "q", "down"]) == ["q", "down", "new"]
