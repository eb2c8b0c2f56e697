# SPDX-License-Identifier: Apache-2.0
"""Reading of checkpoints: what is taken, and what each damage or unknown option is called."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from ingot.errors import IngotError, StorageError
from ingot_compressor.importers import Imported, import_checkpoint, read_model
from ingot_compressor.importers.configuration import Configuration
from ingot_compressor.importers.rope import Rope, rope_table
from ingot_compressor.importers.tokenizer_files import read_tokenizer_files
from tests.benchmarks.random_checkpoint import write_tokenizer
from tests.compressor.tiny_models import LLAMA, LLAMA3, QWEN2, QWEN3, write_checkpoint

SHARD = "model-00000.safetensors"
INDEX = "model.safetensors.index.json"
SEPARATOR = "\n__ggml_vocab_test__\n"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "tiny", LLAMA)


def change(folder: Path, tensors: Mapping[str, torch.Tensor | None]) -> None:
    """Replace, add or (None) drop tensors of a checkpoint of one shard, index included."""
    stored = load_file(folder / SHARD)
    for name, values in tensors.items():
        stored.pop(name, None)
        if values is not None:
            stored[name] = values
    save_file(stored, folder / SHARD)
    index = {"weight_map": dict.fromkeys(stored, SHARD)}
    (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")


def configure(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **values}), encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def settings_of(folder: Path) -> dict[str, Any]:
    return dict(read_tokenizer_files(folder, "llama").chat)


def embedding(imported: Imported) -> np.ndarray[Any, np.dtype[np.float32]]:
    source = imported.program.tensors["embed"].source
    values = source.load()  # type: ignore[union-attr]
    assert isinstance(values, np.ndarray)
    return values


def test_matrices_are_read_when_asked_for(tiny: Path) -> None:
    imported = import_checkpoint(tiny)
    stored = load_file(tiny / SHARD)["model.embed_tokens.weight"]
    assert np.array_equal(embedding(imported), stored.numpy())
    (tiny / SHARD).unlink()
    with pytest.raises(IngotError, match=SHARD):
        embedding(imported)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_becomes_float32_exactly(tiny: Path, dtype: torch.dtype) -> None:
    stored = load_file(tiny / SHARD)["model.embed_tokens.weight"].to(dtype)
    change(tiny, {"model.embed_tokens.weight": stored})
    values = embedding(import_checkpoint(tiny))
    assert values.dtype == np.float32
    assert np.array_equal(values, stored.float().numpy())


def test_one_file_without_an_index_is_read(tiny: Path) -> None:
    (tiny / SHARD).rename(tiny / "model.safetensors")
    (tiny / INDEX).unlink()
    assert import_checkpoint(tiny).meta["model_type"] == "llama"


def test_several_shards_are_read(tiny: Path) -> None:
    stored = load_file(tiny / SHARD)
    moved = "model.layers.1.mlp.down_proj.weight"
    save_file({moved: stored.pop(moved)}, tiny / "second.safetensors")
    save_file(stored, tiny / SHARD)
    mapping = {**dict.fromkeys(stored, SHARD), moved: "second.safetensors"}
    write_json(tiny / INDEX, {"weight_map": mapping})
    program = import_checkpoint(tiny).program
    assert program.tensors["layers.1.mlp.down"].shape == (40, 43)
    (tiny / "second.safetensors").unlink()
    with pytest.raises(IngotError, match=r"shard 'second.safetensors' is missing"):
        import_checkpoint(tiny)


@pytest.mark.parametrize("kept", [4, 900, -1])
def test_a_shard_cut_short_is_named(tiny: Path, kept: int) -> None:
    data = (tiny / SHARD).read_bytes()
    (tiny / SHARD).write_bytes(data[:kept])
    with pytest.raises(IngotError, match=f"{SHARD}: cut short or no safetensors file"):
        import_checkpoint(tiny)


def test_a_tensor_that_is_not_where_the_index_says_is_named(tiny: Path) -> None:
    stored = load_file(tiny / SHARD)
    save_file({"lm_head.weight": stored["lm_head.weight"]}, tiny / "second.safetensors")
    mapping = {**dict.fromkeys(stored, SHARD), "model.norm.weight": "second.safetensors"}
    write_json(tiny / INDEX, {"weight_map": mapping})
    with pytest.raises(IngotError, match=r"second.safetensors: tensor 'model.norm.weight' is not"):
        import_checkpoint(tiny)


def test_a_shard_outside_of_the_folder_is_refused(tiny: Path) -> None:
    (tiny / SHARD).rename(tiny.parent / SHARD)
    write_json(tiny / INDEX, {"weight_map": {"model.norm.weight": f"../{SHARD}"}})
    with pytest.raises(IngotError, match="outside of the checkpoint"):
        import_checkpoint(tiny)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_no_number_is_named(tiny: Path, value: float) -> None:
    name = "model.layers.1.self_attn.q_proj.weight"
    weight = load_file(tiny / SHARD)[name]
    weight[3, 5] = value
    change(tiny, {name: weight})
    program = import_checkpoint(tiny).program
    source = program.tensors["layers.1.attention.q"].source
    with pytest.raises(IngotError, match=f"tensor '{name}' has 1 of 1600 values"):
        source.load()  # type: ignore[union-attr]


def test_a_norm_that_is_no_number_is_named(tiny: Path) -> None:
    change(tiny, {"model.norm.weight": torch.full((40,), torch.nan)})
    with pytest.raises(IngotError, match=r"tensor 'model.norm.weight' has 40 of 40 values"):
        import_checkpoint(tiny)


def test_missing_unknown_and_misshapen_tensors_are_named(tiny: Path) -> None:
    change(tiny, {"model.norm.weight": None})
    with pytest.raises(IngotError, match=r"lacks tensor 'model.norm.weight'"):
        import_checkpoint(tiny)
    change(tiny, {"model.norm.weight": torch.ones(40), "adapter.a": torch.ones(2)})
    with pytest.raises(IngotError, match=r"has no tensor 'adapter.a'"):
        import_checkpoint(tiny)
    change(tiny, {"adapter.a": None, "model.norm.weight": torch.ones(41)})
    with pytest.raises(IngotError, match=r"'model.norm.weight' has shape \(41,\), .* \(40,\)"):
        import_checkpoint(tiny)


def test_a_quantized_tensor_is_named(tiny: Path) -> None:
    change(tiny, {"model.norm.weight": torch.ones(40, dtype=torch.int8)})
    with pytest.raises(IngotError, match=r"'model.norm.weight' is I8; supported: BF16, F16, F32"):
        import_checkpoint(tiny)


def test_known_leftovers_are_ignored(tiny: Path) -> None:
    change(tiny, {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(5)})
    assert import_checkpoint(tiny).meta["tied"] is False


def test_a_tied_head_must_equal_the_embedding(tiny: Path) -> None:
    configure(tiny, tie_word_embeddings=True)
    with pytest.raises(IngotError, match=r"lm_head.weight differs"):
        import_checkpoint(tiny)
    table = load_file(tiny / SHARD)["model.embed_tokens.weight"]
    change(tiny, {"lm_head.weight": table.clone()})
    program = import_checkpoint(tiny).program
    assert program.head() == program.embedding()


def test_files_that_are_not_there_or_no_json(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no such folder"):
        import_checkpoint(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StorageError, match=r"config.json"):
        import_checkpoint(tmp_path / "empty")
    (tiny / INDEX).write_text("{", encoding="utf-8")
    with pytest.raises(IngotError, match="not valid JSON"):
        import_checkpoint(tiny)
    (tiny / INDEX).unlink()
    with pytest.raises(IngotError, match=r"neither model.safetensors nor"):
        import_checkpoint(tiny)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2' is not supported; supported: llama, qwen2"),
        ({"hidden_act": "quick_gelu"}, "hidden_act 'quick_gelu'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"num_experts": 8}, "num_experts is 8"),
        ({"sliding_window": 32}, "sliding_window is 32"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "'sliding_attention'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_type 'yarn'"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor is missing"),
        ({"rope_scaling": {**LLAMA3, "factor": -1}}, "factor is -1"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5"),
        ({"rope_parameters": {"full_attention": {}}}, "per layer type"),
        ({"rope_interleaved": True}, "rope_interleaved"),
        ({"num_key_value_heads": 3}, "4 attention heads do not share 3"),
        ({"head_dim": 7}, "head size 7 is odd"),
        ({"hidden_size": "wide"}, "hidden_size is 'wide'"),
        ({"num_hidden_layers": None}, "num_hidden_layers is missing"),
        ({"rms_norm_eps": 0}, "rms_norm_eps is 0"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings is 1"),
        ({"rope_scaling": 3}, "rope_scaling is 3"),
    ],
)
def test_options_that_are_not_supported_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(IngotError, match=message):
        read_model(Configuration({**LLAMA, **values}))


def test_a_sliding_window_that_is_on_is_refused() -> None:
    for family in (QWEN2, QWEN3):
        read_model(Configuration({**family, "sliding_window": 8, "use_sliding_window": False}))
        with pytest.raises(IngotError, match="use_sliding_window"):
            read_model(Configuration({**family, "sliding_window": 8, "use_sliding_window": True}))


def test_qwen3_has_its_own_head_size() -> None:
    values = {key: value for key, value in QWEN3.items() if key != "head_dim"}
    assert read_model(Configuration(values))[1].head_size == 128


def test_model_type_comes_from_the_architectures_where_it_is_missing() -> None:
    values = {key: value for key, value in QWEN3.items() if key != "model_type"}
    assert read_model(Configuration(values))[0] == "qwen3"
    del values["architectures"]
    assert read_model(Configuration(values))[0] == "llama"


def test_context_is_the_model_s_own_unless_asked(tiny: Path) -> None:
    assert import_checkpoint(tiny).program.context == 64
    program = import_checkpoint(tiny, 16).program
    assert (program.context, program.chunk) == (16, 16)
    assert program.tensors["rope"].shape == (16, 10)
    with pytest.raises(IngotError, match="context 65 is longer than the 64 positions"):
        import_checkpoint(tiny, 65)
    with pytest.raises(IngotError, match="context 0"):
        import_checkpoint(tiny, 0)
    configure(tiny, max_position_embeddings=131072)
    assert import_checkpoint(tiny).program.context == 4096


def test_dynamic_rope_depends_on_the_context_of_the_file() -> None:
    rope = Rope(theta=100.0, kind="dynamic", factor=2.0, original_context=32)
    plain = rope_table(Rope(theta=100.0), 8, 64)
    assert np.array_equal(rope_table(rope, 8, 32), plain[:32])
    stretched = rope_table(rope, 8, 64)
    # base * (2 * 64 / 32 - 1) ** (8 / 6); the slowest pair turns by base ** -(6 / 8)
    slowest = (100.0 * 3.0 ** (8 / 6)) ** -0.75
    assert stretched[10, 3] == pytest.approx(np.cos(10 * slowest), abs=1e-6)
    assert stretched[10, 7] == pytest.approx(np.sin(10 * slowest), abs=1e-6)


def test_a_tokenizer_with_more_ids_than_rows_is_refused(tiny: Path) -> None:
    write_tokenizer(tiny, 302)
    with pytest.raises(IngotError, match="302 ids, the embedding only 301 rows"):
        import_checkpoint(tiny)


def test_a_smaller_tokenizer_is_reported_and_bounds_sampling(tiny: Path) -> None:
    write_tokenizer(tiny, 290)
    imported = import_checkpoint(tiny)
    assert imported.program.vocabulary == 290
    assert imported.meta["warnings"] == [
        "the embedding has 301 rows, the tokenizer 290 ids; the surplus ids are never sampled"
    ]
    assert import_checkpoint(write_checkpoint(tiny, LLAMA)).meta["warnings"] == []


def test_tokenizers_that_cannot_be_used_are_named(tiny: Path) -> None:
    (tiny / "tokenizer.json").write_text("[]", encoding="utf-8")
    with pytest.raises(IngotError, match="not a tokenizer file"):
        import_checkpoint(tiny)
    (tiny / "tokenizer.json").unlink()
    with pytest.raises(IngotError, match="no tokenizer; expected"):
        import_checkpoint(tiny)
    (tiny / "tokenizer.model").write_bytes(b"\n")
    with pytest.raises(IngotError, match="only a sentencepiece tokenizer"):
        import_checkpoint(tiny)


def test_special_tokens_and_stop_ids_are_collected(tiny: Path) -> None:
    settings = {
        "bos_token": "<dummy 260>",
        "eos_token": {"content": "<dummy 261>", "lstrip": False},
        "chat_template": [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}],
    }
    write_json(tiny / "tokenizer_config.json", settings)
    write_json(tiny / "generation_config.json", {"eos_token_id": [270, 261]})
    assert settings_of(tiny) == {
        "chat_template": "d",
        "special_tokens": {"bos_token": "<dummy 260>", "eos_token": "<dummy 261>"},
        "bos_token_id": 260,
        "add_bos": False,
        "eos_token_ids": [261, 270],
    }
    write_json(tiny / "tokenizer_config.json", {**settings, "add_bos_token": True})
    (tiny / "chat_template.jinja").write_text("from a file", encoding="utf-8")
    chat = settings_of(tiny)
    assert (chat["add_bos"], chat["chat_template"]) == (True, "from a file")


def test_ids_of_the_configuration_are_taken_where_nothing_else_names_them(tiny: Path) -> None:
    configure(tiny, bos_token_id=5, eos_token_id=6)
    chat = settings_of(tiny)
    assert (chat["bos_token_id"], chat["eos_token_ids"], chat["add_bos"]) == (5, [6], False)


def test_bos_follows_the_tokenizer_s_own_template(shared_dir: Path) -> None:
    models = shared_dir / "models"
    assert settings_of(models / "stories260k")["add_bos"] is True
    assert settings_of(models / "lantern")["add_bos"] is False


@pytest.mark.parametrize(("family", "vectors"), [("gpt2", "gpt-2"), ("qwen2.5", "qwen2")])
def test_vocab_and_merges_give_the_known_token_ids(
    family: str, vectors: str, shared_dir: Path
) -> None:
    folder = shared_dir / "tokenizers"
    files = read_tokenizer_files(folder / family, "llama" if family == "gpt2" else "qwen2")
    tokenizer = Tokenizer.from_str(files.json.decode("utf-8"))
    source = (folder / "vectors" / f"{vectors}.inp").read_bytes().decode("utf-8")
    expected = (folder / "vectors" / f"{vectors}.out").read_text(encoding="utf-8").splitlines()
    inputs = source.split(SEPARATOR)
    assert len(inputs) >= 40
    for text, line in zip(inputs, expected, strict=False):
        assert tokenizer.encode(text, add_special_tokens=False).ids == [
            int(i) for i in line.split()
        ]


def test_added_tokens_of_qwen_get_their_ids(shared_dir: Path) -> None:
    files = read_tokenizer_files(shared_dir / "tokenizers" / "qwen2.5", "qwen2")
    tokenizer = Tokenizer.from_str(files.json.decode("utf-8"))
    assert files.size == 151665
    assert tokenizer.encode("<|im_start|>user").ids[0] == 151644
    assert files.chat["eos_token_ids"] == [151645]
    assert "<|im_start|>" in files.chat["chat_template"]
