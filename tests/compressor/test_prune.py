# SPDX-License-Identifier: Apache-2.0
"""A whole model without some of its superblocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ingot import Model
from ingot.errors import InvalidArgumentError
from ingot.format import Dtype
from ingot.packing import Quantized, dequantize
from ingot_compressor.calibration import NO_STATISTICS, calibrate
from ingot_compressor.execute import TensorStore, execute
from ingot_compressor.importers import import_checkpoint
from ingot_compressor.ir import Program, Weight
from ingot_compressor.numerics import Encoding, quantize_matrix, relative_error
from ingot_compressor.numerics.hessian import hessian_bytes
from ingot_compressor.passes import moments as moments_module
from ingot_compressor.passes.blocks import split_blocks
from ingot_compressor.passes.emit import emit
from ingot_compressor.passes.fine_masks import FinePattern
from ingot_compressor.passes.fuse import fuse
from ingot_compressor.passes.moments import WORK_BYTES, block_moments
from ingot_compressor.passes.prune import (
    PruneWork,
    SuperblockChoice,
    choose_superblocks,
    prune_superblocks,
)
from ingot_compressor.passes.quantize import (
    Choices,
    assign,
    body_names,
    measure_sizes,
    quantize,
)
from tests.compressor.tiny_models import LLAMA, write_checkpoint

Double = NDArray[np.float64]


def tiny(folder: Path) -> Program:
    values = {**LLAMA, "hidden_size": 160, "intermediate_size": 192, "head_dim": 40}
    return fuse(import_checkpoint(write_checkpoint(folder, values, deviation=0.08)).program)


def windows(count: int = 6, length: int = 40) -> list[NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 300, length) for _ in range(count)]


def encodings(program: Program, dtype: Dtype, sparsity: float = 0.0) -> dict[str, Encoding]:
    """Return one format for all; head and embedding must stay whole whatever they say."""
    encoding = Encoding(dtype, search=False, sparsity=sparsity)
    return assign(program, Choices(encoding, encoding, encoding))


def distance(program: Program, other: Program) -> float:
    tokens = torch.from_numpy(np.stack(windows()))
    with torch.inference_mode():
        return float((execute(program, tokens) - execute(other, tokens)).square().mean())


def test_nothing_dropped_is_plain_quantization(tmp_path: Path) -> None:
    program = tiny(tmp_path)
    chosen = encodings(program, Dtype.Q8)
    found, records = prune_superblocks(program, windows(), chosen, SuperblockChoice())
    plain = quantize(program, chosen, NO_STATISTICS)
    for tensor in program.weights():
        ours, theirs = (p.tensors[tensor.name].source for p in (found, plain))
        assert isinstance(ours, Quantized) and isinstance(theirs, Quantized)
        assert not ours.present.size
        assert np.array_equal(ours.codes, theirs.codes)
    assert {record.name for record in records} == set(body_names(program))
    assert not any(record.dropped or record.error > 1e-10 for record in records)


def test_superblocks_of_a_model_go_by_share_and_the_others_make_up_for_them(
    tmp_path: Path,
) -> None:
    program = tiny(tmp_path)
    errors = {}
    for name, choice in {
        "magnitude": SuperblockChoice("magnitude", compensate=False),
        "wanda": SuperblockChoice("wanda", compensate=False),
        "hessian": SuperblockChoice("hessian"),
        "sweep": SuperblockChoice("hessian", sweep=True),
        "by tile": SuperblockChoice("wanda", by_tile=True),
    }.items():
        chosen = encodings(program, Dtype.Q4, 0.4 if choice.by_tile else 0.3)
        pruned, records = prune_superblocks(program, windows(), chosen, choice)
        errors[name] = distance(program, pruned)
        for record in records:
            source = pruned.tensors[record.name].source
            assert isinstance(source, Quantized)
            assert record.dropped == (~source.present).sum()
            if not choice.by_tile:
                assert record.dropped == int(0.3 * record.of)
            else:
                # 3 superblocks of 64 in 160 or 192 columns: one of them goes in every tile
                assert ((~source.present).sum(axis=1) == 1).all()
        for name in (program.head(), program.embedding()):
            source = pruned.tensors[name].source
            assert isinstance(source, Quantized) and not source.present.size
    assert errors["hessian"] < 0.9 * min(errors["wanda"], errors["magnitude"])
    assert errors["sweep"] < 0.95 * errors["hessian"]


def test_pruned_model_runs_natively_and_takes_fewer_bytes(tmp_path: Path) -> None:
    program = tiny(tmp_path / "m")
    imported = import_checkpoint(tmp_path / "m")
    chosen = encodings(program, Dtype.Q8)
    sparse_ones = encodings(program, Dtype.Q8, 0.3)
    pruned, _ = prune_superblocks(program, windows(), sparse_ones, SuperblockChoice())
    path = tmp_path / "pruned.ingot"
    emit(pruned, path, imported.tokenizer_json, imported.chat, {})
    tokens = windows()[0]
    expected = execute(pruned, torch.from_numpy(tokens)[None], quantize_activations=True)
    with Model(path) as model, model.session(logits_rows=len(tokens)) as session:
        found = session.logits(tokens)
    # int8 activations that round the other way, and a state that is rounded too
    wrong = np.sqrt(np.square(found - expected[0].numpy()).mean())
    assert wrong < 0.05 * float(expected.std())
    assert distance(program, pruned) > 0.1**2 * float(expected.var())
    dense = measure_sizes(quantize(program, chosen, NO_STATISTICS), chosen)
    sparse = measure_sizes(pruned, sparse_ones)
    # the lists of superblocks take their share on matrices as narrow as these
    assert 0.7 < sparse.bits_per_weight_body / dense.bits_per_weight_body < 0.85


def test_tied_table_is_quantized_for_what_flows_into_the_head(tmp_path: Path) -> None:
    values = {**LLAMA, "tie_word_embeddings": True}
    program = fuse(import_checkpoint(write_checkpoint(tmp_path, values)).program)
    rough = Encoding(Dtype.C3)
    chosen = {**encodings(program, Dtype.Q8), program.head(): rough}
    found, _ = prune_superblocks(program, windows(), chosen, SuperblockChoice())
    table = program.tensors[program.head()].source
    stored = found.tensors[program.head()].source
    assert isinstance(table, Weight) and isinstance(stored, Quantized)
    h = calibrate(program, windows(), TensorStore()).importance(program.head())
    blind = quantize_matrix(table.load(), rough)
    assert relative_error(table.load(), stored, h) < 0.99 * relative_error(table.load(), blind, h)


def test_short_superblock_counts_by_the_weights_that_it_has() -> None:
    w = np.ones((16, 160), np.float32)  # superblocks of q8: 64, 64 and 32 columns
    w[:, 128:] = 1.2
    choice = SuperblockChoice("magnitude", compensate=False)
    encoding = Encoding(Dtype.Q8, sparsity=0.34)
    present, pruned = choose_superblocks(w, np.eye(160), encoding, choice)
    assert present.tolist() == [[False, True, True]]
    assert not pruned[:, :64].any() and np.array_equal(pruned[:, 64:], w[:, 64:])
    w[:, 128:] = 0.9
    present, _ = choose_superblocks(w, np.eye(160), encoding, choice)
    assert present.tolist() == [[True, True, False]]


def test_pruning_refuses(tmp_path: Path) -> None:
    program = tiny(tmp_path)
    for share, choice, message in (
        (1.0, SuperblockChoice(), "share"),
        (0.1, SuperblockChoice("guess"), "expected one of magnitude, wanda, hessian"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            prune_superblocks(program, windows(), encodings(program, Dtype.Q8, share), choice)
    chosen = encodings(program, Dtype.Q8, 0.1)
    with pytest.raises(InvalidArgumentError, match="no window"):
        prune_superblocks(program, [], chosen, SuperblockChoice())
    done = quantize(program, encodings(program, Dtype.Q8), NO_STATISTICS)
    with pytest.raises(InvalidArgumentError, match="already quantized"):
        prune_superblocks(done, windows(), chosen, SuperblockChoice())
    with pytest.raises(InvalidArgumentError, match="t2 has no groups"):
        prune_superblocks(
            program, windows(), encodings(program, Dtype.T2), SuperblockChoice(sweep=True)
        )


def test_each_weight_has_its_own_share(tmp_path: Path) -> None:
    program = tiny(tmp_path)
    dense, sparse = (encodings(program, Dtype.Q8, share)[program.head()] for share in (0.0, 0.5))
    chosen = {
        name: sparse if "layers.1." in name else dense
        for name in (tensor.name for tensor in program.weights())
    }
    _, records = prune_superblocks(program, windows(), chosen, SuperblockChoice())
    for record in records:
        expected = int(0.5 * record.of) if "layers.1." in record.name else 0
        assert record.dropped == expected


def test_moments_keep_to_their_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fits is gathered in parts; what does not is left out, whatever else has room."""
    program = tiny(tmp_path)
    block = split_blocks(program)[1]
    x = torch.randn((3, 10, 160), generator=torch.Generator().manual_seed(0))
    wanted = {tensor.name for tensor in block.weights()}
    runs: list[int] = []
    real = moments_module._sums

    def counted(*arguments: Any) -> Any:
        runs.append(len(arguments[2]))
        return real(*arguments)

    monkeypatch.setattr(moments_module, "_sums", counted)
    everything = dict(block_moments(block, x, wanted, 1 << 30))
    assert runs == [4] and {name for names in everything for name in names} == wanted
    runs.clear()
    one = hessian_bytes(192, 1, WORK_BYTES)
    alone = dict(block_moments(block, x, wanted, one))
    assert sum(runs) == 4 and len(runs) > 1
    assert all(torch.equal(alone[names], everything[names]) for names in everything)
    fewer = dict(block_moments(block, x, wanted, one - 1))
    assert wanted - {name for names in fewer for name in names} == {"layers.0.mlp.down"}
    first = {"layers.0.attention.q"}
    assert [names for names, _ in block_moments(block, x, first, one)] == [tuple(first)]


def test_what_does_not_fit_in_memory_goes_by_what_is_known(tmp_path: Path) -> None:
    program = tiny(tmp_path)
    statistics = calibrate(program, windows(), TensorStore())
    chosen = encodings(program, Dtype.Q8, 0.3)
    work = PruneWork(statistics, most_bytes=0)
    pruned, records = prune_superblocks(program, windows(), chosen, SuperblockChoice(), work)
    assert all(record.blind and record.dropped == int(0.3 * record.of) for record in records)
    plain = quantize(program, chosen, statistics)
    for name in body_names(program):
        ours, theirs = (p.tensors[name].source for p in (pruned, plain))
        assert isinstance(ours, Quantized) and isinstance(theirs, Quantized)
        assert np.array_equal(ours.present, theirs.present)
    fine = SuperblockChoice(fine=FinePattern(kept=1, of=2))
    dense = encodings(program, Dtype.Q8)
    _, records = prune_superblocks(program, windows(), dense, fine, work)
    assert all(record.blind and record.dropped == record.of / 2 for record in records)


def test_known_statistics_serve_head_and_table(tmp_path: Path) -> None:
    """Moments of the head's inputs are as wide as the model and serve for their diagonal alone."""
    program = tiny(tmp_path)
    statistics = calibrate(program, windows(), TensorStore())
    chosen = {**encodings(program, Dtype.Q8), program.head(): Encoding(Dtype.C3)}
    found, _ = prune_superblocks(
        program, windows(), chosen, SuperblockChoice(), PruneWork(statistics, threads=2)
    )
    plain = quantize(program, chosen, statistics)
    ours, theirs = (p.tensors[program.head()].source for p in (found, plain))
    assert isinstance(ours, Quantized) and isinstance(theirs, Quantized)
    assert np.array_equal(dequantize(ours), dequantize(theirs))
