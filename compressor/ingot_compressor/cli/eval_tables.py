# SPDX-License-Identifier: Apache-2.0
"""The tables that `ingot eval` prints."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from ingot_compressor.evaluate import Quality
from ingot_compressor.evaluation.comparison import Evaluation
from ingot_compressor.evaluation.generation import GenerationQuality
from ingot_compressor.evaluation.layers import LayerError
from ingot_compressor.evaluation.recovery import Recovery
from ingot_compressor.evaluation.simulation import Simulation

__all__ = ["print_evaluation", "print_simulation"]

RECOVERY_COLUMNS = ("task", "items", "checkpoint", "file", "recovery", "interval")
SIMULATED_COLUMNS = ("inputs", "stored", "mean KL", "99 % KL", "top-1", "of rounding")
LAYER_COLUMNS = ("layer", "dB", "cosine", "dB alone")


def print_evaluation(found: Evaluation) -> None:
    """Print what was measured on standard output, a table for each kind of figure."""
    console = Console()
    console.print(_table("against the checkpoint", ("", ""), _quality_rows(found.quality)))
    if found.recoveries:
        console.print(_table("solved", RECOVERY_COLUMNS, _recovery_rows(found.recoveries)))
    if found.generation is not None:
        console.print(_table("greedy text", ("", ""), _generation_rows(found.generation)))
    if found.layers:
        console.print(_table("layers", LAYER_COLUMNS, _layer_rows(found.layers)))
    for note in found.notes:
        console.print(note, markup=False)
    if found.judgement is not None:
        console.print(
            f"verdict {found.judgement.verdict.value}: {found.judgement.reason}", markup=False
        )


def print_simulation(found: Simulation) -> None:
    """Print a recipe's figures, a row for each rounding of inputs, its own last."""
    console = Console()
    title = (
        f"recipe {found.recipe} in PyTorch: {found.weights},"
        f" {found.bits_per_weight_body:.2f} bits per weight"
        f"{f', scales {found.scales}' if found.scales else ''}"
    )
    console.print(_table(title, SIMULATED_COLUMNS, _simulated_rows(found)))
    quality = found.own.quality
    console.print(f"scored {quality.tokens} tokens in {quality.windows} windows", markup=False)
    for note in found.notes:
        console.print(note, markup=False)
    if found.judgement is not None:
        console.print(
            f"verdict {found.judgement.verdict.value}: {found.judgement.reason}", markup=False
        )


def _simulated_rows(found: Simulation) -> Iterator[tuple[str, ...]]:
    for row in found.rows:
        q = row.quality
        figures = f"{q.mean_kl:.6f}", f"{q.p99_kl:.6f}", f"{q.top1_agreement:.4f}"
        yield row.activations, row.stored, *figures, f"{row.rounding_kl:.6f}"


def _table(title: str, columns: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> Table:
    table = Table(title=title, title_justify="left", show_header=any(columns))
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _quality_rows(quality: Quality) -> Iterator[tuple[str, ...]]:
    yield "mean KL", f"{quality.mean_kl:.6f}"
    yield "99 % KL", f"{quality.p99_kl:.6f}"
    yield "99.9 % KL", f"{quality.p999_kl:.6f}"
    yield "top-1 agreement", f"{quality.top1_agreement:.4f}"
    yield "top-5 agreement", f"{quality.top5_agreement:.4f}"
    yield "perplexity", f"{quality.perplexity:.4f}"
    yield "reference perplexity", f"{quality.reference_perplexity:.4f}"
    yield "scored", f"{quality.tokens} tokens in {quality.windows} windows"


def _recovery_rows(recoveries: dict[str, Recovery]) -> Iterator[tuple[str, ...]]:
    for name, r in recoveries.items():
        accuracies = f"{r.reference_accuracy:.4f}", f"{r.accuracy:.4f}"
        yield name, str(r.items), *accuracies, f"{r.ratio:.4f}", f"{r.low:.4f} to {r.high:.4f}"


def _generation_rows(quality: GenerationQuality) -> Iterator[tuple[str, ...]]:
    yield "items", str(quality.items)
    yield "stopped", f"{quality.stop_rate:.4f}"
    yield "looped", f"{quality.loop_rate:.4f}"
    if quality.exact_match is not None:
        yield "exact match", f"{quality.exact_match:.4f}"
    if quality.json_validity is not None:
        yield "valid JSON", f"{quality.json_validity:.4f}"
    yield "tokens", f"{quality.mean_tokens:.1f}"


def _layer_rows(layers: list[LayerError]) -> Iterator[tuple[str, ...]]:
    for layer in layers:
        decibels = f"{layer.decibels:.2f}", f"{layer.cosine:.6f}", f"{layer.own_decibels:.2f}"
        yield layer.name, *decibels
