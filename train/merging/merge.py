"""The adapter folded into the base: one model that every tool loads, and proof that it answers as the adapter did."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from train.core.config import Config
from train.core.errors import MachineError, RunError
from train.core.files import aside_folder, complete_folder
from train.core.runs import Run
from train.merging.drift import Measured, MergeDrift, Target, Tune, measure_drift
from train.merging.merged_files import write_merged
from train.models.base import run_base
from train.models.load import import_peft, quiet_libraries

Device = Literal["cpu", "cuda"]
MAX_DRIFT, LEAST_BOUND = 0.1, 0.005  # nats a token; LOG.md has the figures
LEAST_KEPT = 0.1
"""Share of what training gained, in held-out loss, that a merged model keeps unless it does better than the adapter."""


class Merged(NamedTuple):
    """A merged model and what is known of it."""

    folder: Path
    target: Target
    dtype: str
    """Type of the weights as torch names it: bfloat16, …"""
    seconds: float
    trained_in: Target
    """The precision of the base in training."""
    measured: Measured | None
    """None where the drift was not measured: switched off, or no row was held out."""
    max_drift: float | None
    """Highest mean KL that passes, where the user set one."""

    @property
    def bound(self) -> float:
        """Highest mean KL that passes, in nats a token."""
        return self.bound_of(self.target)

    def bound_of(self, target: Target) -> float:
        assert self.measured is not None
        changed = self.measured.targets[target].tune.untuned.mean_kl
        return min(MAX_DRIFT, max(LEAST_BOUND, changed / 2)) if self.max_drift is None else self.max_drift

    @property
    def passed(self) -> bool | None:
        return None if self.measured is None else self.fault is None

    @property
    def fault(self) -> str | None:
        """Why the merged model does not pass, None where it does or was not measured."""
        if self.measured is None:
            return None
        merged, tune = self.measured.targets[self.target]
        if not merged.mean_kl <= self.bound:
            return (
                f"mean KL {merged.mean_kl:.2g} is above {self.bound:.2g} nats a token: "
                "it answers otherwise than base + adapter"
            )
        gain, kept = self.measured.trained.gain, tune.untuned.loss - merged.loss
        if gain > 0 and merged.loss > self.measured.trained.loss and kept < LEAST_KEPT * gain:
            return (
                f"held-out loss {merged.loss:.3f} keeps {kept:.3f} of the {gain:.3f} nats that training gained, and "
                f"the adapter has {self.measured.trained.loss:.3f}"
            )
        return None


def merge(
    run: Run,
    target: Target = "16bit",
    *,
    device: Device | None = None,
    force: bool = False,
    measure: bool = True,
    compare: bool = False,
    max_drift: float | None = None,
) -> Merged:
    """Write runs/NAME/merged, W' = W + (lora_alpha / r) · B A in every adapted layer, and measure its drift.

    W is the base's own weight or, for the target nf4, that which training unpacked from NF4. The sum is made in
    float32 and rounded once, to model.dtype or to the type of the base's own file. `compare`: measure the other target
    too. `max_drift`: mean KL in nats a token; unset, MAX_DRIFT or half of what the adapter changed, if that is less.
    """
    config = run.config()
    require_mergeable(run, config, target, force=force)
    if compare and not config.model.load_in_4bit:
        raise RunError(f"{run.path} was not trained over NF4: there is one target, 16bit, and nothing to compare")
    device = resolve_device(device, config)
    quiet_libraries()
    import_peft(config)
    base = run_base(run)
    started = time.perf_counter()
    with _advice_on_memory(run):
        dtype = replace_merged(run, base, target, device, force=force)
    seconds = round(time.perf_counter() - started, 1)
    written = {"target": target, "dtype": dtype, "seconds": seconds}
    run.update_manifest(merge={**written, "drift": None, "passed": None})

    def merged_models() -> Iterator[tuple[Target, Path]]:
        yield target, run.merged
        if compare:
            other: Target = "16bit" if target == "nf4" else "nf4"
            with aside_folder(run.path / "merged") as folder:
                write_merged(run, base, other, device, folder)
                yield other, folder

    with _advice_on_memory(run):
        measured = measure_drift(run, merged_models(), use_cpu=device == "cpu") if measure else None
    trained_in: Target = "nf4" if config.model.load_in_4bit else "16bit"
    result = Merged(run.merged, target, dtype, seconds, trained_in, measured, max_drift)
    if measured is not None:
        run.update_manifest(
            merge={**written, "drift": _figures(result, measured), "passed": result.passed, "fault": result.fault}
        )
    return result


@contextmanager
def _advice_on_memory(run: Run) -> Iterator[None]:
    """Turn a full GPU into a MachineError that says how to go on."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        there = run.merged.exists()
        what = "its check" if there else "the merge"
        raise MachineError(
            f"the GPU has no memory left for {what}: govor merge {run.path} --device cpu{' --force' * there}"
        ) from None


def _figures(result: Merged, measured: Measured) -> dict[str, Any]:
    """What manifest.json says of the drift: the models as trained, then every target in its own precision."""
    targets: dict[str, Any] = {
        name: {
            **found.merged._asdict(),
            "adapter_loss": found.tune.loss,
            "base_loss": found.tune.untuned.loss,
            "max_drift": result.bound_of(name),
        }
        for name, found in measured.targets.items()
    }
    trained = {"adapter_loss": measured.trained.loss, "untuned": measured.trained.untuned._asdict()}
    return {"rows": measured.rows, "tokens": measured.tokens, **trained, **targets, "max_drift": result.bound}


def require_mergeable(run: Run, config: Config, target: Target, *, force: bool) -> None:
    """RunError where there is nothing to merge, or where the target or an earlier merge stands against it."""
    if not run.adapter.exists():
        raise RunError(f"{run.path} was tuned whole: {run.merged} already is the model")
    if run.merged.exists() and not force:
        kind = (run.manifest().get("merge") or {}).get("target")
        raise RunError(f"{run.merged} is there already{f' ({kind})' if kind else ''}: --force replaces it")
    if target == "nf4" and not config.model.load_in_4bit:
        raise RunError(f"{run.path} was not trained over NF4 (model.load_in_4bit): merge it into the base, 16bit")
    file = run.adapter / "adapter_config.json"
    try:
        trained_on = json.loads(file.read_bytes())["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        raise RunError(f"{file} is missing or damaged: train the run again") from None
    if trained_on != config.model.name_or_path:
        raise RunError(
            f"{run.adapter} was trained over {trained_on}, the run over {config.model.name_or_path}: "
            "an adapter fits its own base only"
        )


def resolve_device(device: Device | None, config: Config) -> Device:
    """The requested device, or the GPU where there is one and the config does not set use_cpu."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise MachineError(f"torch {torch.__version__} sees no CUDA GPU: merge with --device cpu")
    return device or ("cuda" if torch.cuda.is_available() and not config.training.use_cpu else "cpu")


def replace_merged(run: Run, base: Path, target: Target, device: str, *, force: bool) -> str:
    """Write merged/ anew, complete or as it was; returns the type of its weights."""
    with complete_folder(run.merged, replace=force) as folder:
        dtype = write_merged(run, base, target, device, folder)
        if run.manifest().get("merge"):
            run.update_manifest(merge=None)  # it tells of the folder that goes now
    return dtype


def report(result: Merged, *, measured: bool) -> str:
    """The merge for the terminal: what was written and, where it was `measured`, how far it drifted, as a table."""
    lines = [f"merged model: {result.folder} ({result.target}, {result.dtype}, {result.seconds:.1f} s)"]
    found = result.measured
    if found is None:
        return f"{lines[0]}; its drift was not measured" + (": no row was held out" if measured else "")
    lines.append(f"\nagainst the adapter at {found.tokens} trained tokens of {found.rows} held-out rows:")
    lines.append(f"{'':24}{'mean KL':>10}{'max KL':>10}{'same choice':>13}{'loss':>9}")
    lines += _table_rows(result.trained_in, found.trained, found.targets.get(result.trained_in))
    for name, drift in found.targets.items():
        if name != result.trained_in:
            lines += _table_rows(name, drift.tune, drift)
    if result.fault is None:
        kl = found.targets[result.target].merged.mean_kl
        lines.append(f"✅ mean KL {kl:.2g} is within {result.bound:.2g} nats a token")
    else:
        lines.append(f"❌ {result.fault}")
    return "\n".join([*lines, *_advice(result, found)])


def _table_rows(precision: Target, tune: Tune, merged: MergeDrift | None) -> list[str]:
    """Adapter, merged model and base in one precision of the base."""
    rows = [(f"merged, {precision}", merged.merged)] if merged else []
    rows.append((f"without adapter, {precision}", tune.untuned))
    lines = [f"{f'adapter, {precision}':24}{'':33}{tune.loss:9.4f}"]
    for name, drift in rows:
        lines.append(f"{name:24}{drift.mean_kl:10.2g}{drift.max_kl:10.2g}{drift.top1:13.1%}{drift.loss:9.4f}")
    return lines


def _advice(result: Merged, measured: Measured) -> list[str]:
    """After QLoRA: what NF4 took from the base, what stays of the tune's gain in 16 bits, and which target to use."""
    if result.trained_in != "nf4":
        return []
    if "16bit" not in measured.targets:
        return ["nf4 answers as trained; --compare tells whether 16bit, over a base that lost nothing, does better"]
    trained, (merged, tune) = measured.trained, measured.targets["16bit"]
    gap, kept = trained.untuned.loss - tune.untuned.loss, tune.untuned.loss - merged.loss
    lines = [
        f"NF4 costs the base {gap:.3f} nats a token ({tune.untuned.loss:.3f} in 16 bits, {trained.untuned.loss:.3f} in "
        f"NF4); of the {trained.gain:.3f} that training gained over NF4, {kept:.3f} stay in 16 bits"
    ]
    nf4 = measured.targets["nf4"].merged.loss if "nf4" in measured.targets else trained.loss
    best: Target = "16bit" if merged.loss <= nf4 else "nf4"
    losses = f"held-out loss {min(merged.loss, nf4):.3f}, against {max(merged.loss, nf4):.3f}"
    other = "" if best == result.target else f": govor merge {result.folder.parent} --target {best} --force"
    return [*lines, f"use {best}: {losses} of {'nf4' if best == '16bit' else '16bit'}{other}"]
