# SPDX-License-Identifier: Apache-2.0
"""Quality per byte on the bundled model: ours, llama.cpp's types and AutoRound.

    python tests/benchmarks/quality.py --calibration TEXT --evaluation TEXT
        --llama-python PEER/bin/python --autoround-python OTHER/bin/python

Every row has two columns of mean KL divergence against the full-precision logits of the same
windows: weight-only (the stored weights through `execute` in float32, embedding and head in full
precision) and as run (ours native with int8 activations and kv8, theirs in llama.cpp). All get the
same calibration text, llama.cpp as its importance matrix. Needs a Python with llama_cpp and gguf,
and one with auto-round. Writes tests/golden/quality.csv and quality.png; finished files are kept
in --work.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from quality_bars import Row, draw, judge, write_rows
from safetensors.numpy import save_file
from safetensors.torch import load_file

from ingot import Model
from ingot.container import Container
from ingot.packing import dequantize, unpack_record
from ingot.tokenizer import Tokenizer
from ingot_compressor.calibration import calibrate, pick_windows
from ingot_compressor.evaluate import UNSCORED, token_windows
from ingot_compressor.execute import TensorStore, execute
from ingot_compressor.importers import import_checkpoint
from ingot_compressor.passes.fuse import fuse
from ingot_compressor.passes.quantize import body_names
from ingot_compressor.recipe import load_recipe

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "examples/models/lantern"
LENGTH, EVALUATED, CALIBRATED, SHORT = 512, 16, 65536, 256
# What AutoRound gets: as much as preset `quality` trains on.
TRAINED = 1024 * SHORT
BATCH = 4
# Ours: the row's name and what `ingot compress` is asked for. All heads are q8.
OURS: Mapping[str, tuple[str, ...]] = {
    "c4 searched": ("--preset", "balanced", "--format", "c4"),
    "c4 trained": ("--preset", "quality", "--format", "c4"),
    "c3 searched": ("--preset", "balanced", "--format", "c3", "--allow-failing"),
    "c3 trained": ("--preset", "quality", "--format", "c3"),
    "c2 searched": ("--preset", "balanced", "--format", "c2", "--allow-failing"),
    "c2 trained": ("--preset", "tiny", "--format", "c2", "--allow-failing"),
    "mix of q4_k_m's bytes": ("--preset", "quality", "--bpw", "4.70"),
}
# llama.cpp's types; embedding and head in q8_0 as ours.
LLAMA = ("q4_k_s+pure", "q4_k_m", "iq4_xs", "q4_0", "q3_k_m", "q3_k_s", "q2_k", "q5_k_m", "q6_k")
AUTOROUND = ((4, 128), (3, 128), (2, 64))


class Bench:
    """The reference, the texts and the folder of intermediate files."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments, self.work = arguments, arguments.work
        self.work.mkdir(parents=True, exist_ok=True)
        imported = import_checkpoint(CHECKPOINT)
        self.program, self.store = fuse(imported.program), TensorStore()
        self._tokenizer = Tokenizer(imported.tokenizer_json, 0, False)
        self._bos = imported.chat["bos_token_id"] if imported.chat["add_bos"] else None
        windows = self.windows(arguments.evaluation, LENGTH, EVALUATED * LENGTH)
        self.tokens = np.stack(windows)
        self.body = body_names(self.program)
        self.reference = self._scored(self._execute(None))

    def windows(self, text: Path, length: int, tokens: int) -> list[NDArray[np.int64]]:
        """Return windows spread evenly over the first part of a text."""
        content = text.read_text(encoding="utf-8")[: 12 * tokens]
        ids = self._tokenizer.encode(content, begin=False)
        return pick_windows(list(token_windows(ids, length, self._bos)), tokens)

    def weight_only(self, weights: Mapping[str, torch.Tensor]) -> float:
        """Return the mean KL divergence with the body's weights replaced."""
        return self._divergence(self._execute(weights))

    def as_run(self, logits: NDArray[np.floating]) -> float:
        """Return the mean KL divergence of logits (windows, t, v)."""
        return self._divergence(torch.from_numpy(logits.astype(np.float32)))

    def _execute(self, weights: Mapping[str, torch.Tensor] | None) -> torch.Tensor:
        tokens = torch.from_numpy(self.tokens)
        with torch.inference_mode():
            parts = [
                execute(self.program, tokens[i : i + BATCH], store=self.store, weights=weights)
                for i in range(0, len(tokens), BATCH)
            ]
        return torch.cat(parts)

    @staticmethod
    def _scored(logits: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(logits[:, UNSCORED - 1 : -1], -1)

    def _divergence(self, logits: torch.Tensor) -> float:
        total = 0.0
        for reference, candidate in zip(self.reference, logits, strict=True):
            q = self._scored(candidate[None])[0]
            total += float((reference.exp() * (reference - q)).sum(-1).mean())
        return total / len(logits)


def ours(bench: Bench, name: str, options: Iterable[str]) -> Row:
    """Compress with the command line and measure the file."""
    path = bench.work / f"{name.replace(' ', '_')}.ingot"
    took = path.with_suffix(".seconds")
    if not (path.exists() and took.exists()):
        begin = time.monotonic()
        command = [sys.executable, "-m", "ingot", "compress", str(CHECKPOINT), "--out", str(path)]
        command += [*options, "--head-format", "q8", "--no-certificate"]
        command += ["--calibration", str(bench.arguments.calibration)]
        command += ["--threads", str(bench.arguments.threads)]
        subprocess.run(command, check=True)
        took.write_text(f"{time.monotonic() - begin:.0f}")
    seconds = float(took.read_text())
    weights, bits, size = {}, 0, 0
    with Container(path) as file:
        for tensor in bench.program.weights():
            number = file.tensor_id(tensor.name)
            quantized = unpack_record(file, number)
            if tensor.name in bench.body:
                weights[tensor.name] = torch.from_numpy(dequantize(quantized))
                bits += 8 * file.tensors[number].size
            size += file.tensors[number].size
    count = sum(weight.numel() for weight in weights.values())
    run = bench.as_run(_native_logits(path, bench.tokens))
    only, tokens = bench.weight_only(weights), _seen_tokens(options)
    return Row(name, "ingot", bits / count, size, only, run, seconds, tokens)


def _seen_tokens(options: Iterable[str]) -> int:
    """Return the most tokens of text that a step of the preset asks for."""
    given = list(options)
    recipe = load_recipe(given[given.index("--preset") + 1])
    sections = (recipe.rounding, recipe.distil)
    trained = [one.sequences * one.length for one in sections if one is not None]
    return max(recipe.method.calibration_tokens, *trained, 0)


def _native_logits(path: Path, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    with Model(path) as model:
        rows = min(LENGTH, model.info.chunk)
        with model.session(context=LENGTH, logits_rows=rows, kv="kv8") as session:
            found = []
            for window in tokens:
                session.reset()
                found.append(session.logits(window).copy())
    return np.stack(found)


def peer_weights(
    bench: Bench, tensors: Mapping[str, NDArray[np.float32]]
) -> dict[str, torch.Tensor]:
    """Return the body's weights of a checkpoint given by its tensors' Hugging Face names."""
    folder = bench.work / "checkpoint"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(CHECKPOINT, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    kept = {
        name: np.ascontiguousarray(w) for name, w in tensors.items() if name != "lm_head.weight"
    }
    save_file(kept, folder / "model.safetensors")
    program = fuse(import_checkpoint(folder).program)
    store = TensorStore()
    return {name: store.get(program.tensors[name]) for name in bench.body}


def llama(bench: Bench) -> list[Row]:
    """Let llama.cpp quantize and run each type."""
    wanted = [f"{kind}+head8" for kind in LLAMA] + ["q4_k_m"]
    work = bench.work
    tensors = load_file(CHECKPOINT / "model.safetensors")
    np.savez(work / "tensors.npz", **{name: w.float().numpy() for name, w in tensors.items()})
    shutil.copy(CHECKPOINT / "config.json", work)
    np.save(work / "windows.npy", bench.tokens)
    np.savez(work / "importance.npz", **_importance(bench))
    script = Path(__file__).with_name("quality_gguf.py")
    command = [bench.arguments.llama_python, str(script), str(work), *wanted]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    rows = []
    for line in done.stdout.splitlines():
        facts: dict[str, Any] = json.loads(line)
        kind = facts["type"]
        with np.load(work / f"{kind}.npz") as file:
            weights = peer_weights(bench, {name: file[name] for name in file.files})
        only, run = bench.weight_only(weights), bench.as_run(np.load(work / f"{kind}.npy"))
        seen = CALIBRATED
        row = Row(kind, "llama.cpp", facts["bits"], facts["bytes"], only, run, math.nan, seen)
        rows.append(row)
    return rows


def _importance(bench: Bench) -> dict[str, NDArray[np.float32]]:
    """Return the mean squares of each matrix's inputs by its name in GGUF."""
    windows = bench.windows(bench.arguments.calibration, LENGTH, CALIBRATED)
    statistics = calibrate(bench.program, windows, TensorStore())
    parts = {
        **{"attn_q": "attention.q", "attn_k": "attention.k", "attn_v": "attention.v"},
        **{"attn_output": "attention.o", "ffn_down": "mlp.down"},
        **{"ffn_gate": "mlp.gate_up", "ffn_up": "mlp.gate_up"},
    }
    layers = json.loads((CHECKPOINT / "config.json").read_text())["num_hidden_layers"]
    named = {
        f"blk.{layer}.{short}.weight": statistics.mean_squares[f"layers.{layer}.{long}"]
        for layer in range(layers)
        for short, long in parts.items()
    }
    named["token_embd.weight"] = statistics.mean_squares[bench.program.head()]
    return {name: values.astype(np.float32) for name, values in named.items()}


def autoround(bench: Bench, bits: int, group: int) -> Row:
    """Let AutoRound tune the same checkpoint on the same text; it stores float16 scales."""
    out = bench.work / f"autoround_{bits}_{group}.npz"
    if not out.exists():
        windows = bench.windows(bench.arguments.calibration, SHORT, TRAINED)
        np.save(bench.work / "calibration.npy", np.stack(windows))
        script = Path(__file__).with_name("quality_autoround.py")
        command = [bench.arguments.autoround_python, str(script), str(CHECKPOINT)]
        command += [str(bench.work / "calibration.npy"), str(out), str(bits), str(group)]
        subprocess.run(command, check=True, capture_output=True)
    with np.load(out) as file:
        weights = peer_weights(bench, {name: file[name] for name in file.files})
    only = bench.weight_only(weights)
    name, stored = f"W{bits}G{group}", bits + 16 / group
    return Row(name, "AutoRound", stored, 0, only, math.nan, math.nan, TRAINED)


def main() -> None:
    """Measure what is asked for and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--evaluation", type=Path, required=True)
    parser.add_argument("--llama-python", default="", help="without it no llama.cpp rows")
    parser.add_argument("--autoround-python", default="", help="without it no AutoRound rows")
    parser.add_argument("--work", type=Path, default=ROOT / "build/quality")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    bench = Bench(arguments)
    rows = [ours(bench, name, options) for name, options in OURS.items()]
    rows += llama(bench) if arguments.llama_python else []
    for bits, group in AUTOROUND if arguments.autoround_python else ():
        rows.append(autoround(bench, bits, group))
    golden = ROOT / "tests/golden"
    write_rows(golden / "quality.csv", rows)
    draw(golden / "quality.png", rows)
    for line in judge(rows):
        print(line)


if __name__ == "__main__":
    main()
