"""The adapter folded into the base: one model that every tool loads, and proof that it answers as the adapter did."""

import json
import time
from pathlib import Path
from typing import Any, Literal, NamedTuple

from train.core.config import Config
from train.core.errors import MachineError, RunError
from train.core.files import aside_folder, complete_folder
from train.core.runs import Run
from train.merging.drift import Drift, Reference, drift_of, tuned_reference
from train.merging.merged_files import Target, write_merged
from train.models.base import run_base
from train.models.load import quiet_libraries

Device = Literal["cpu", "cuda"]
MAX_DRIFT, LEAST_BOUND = 0.1, 0.005  # nats a token; LOG.md has the figures


class Merged(NamedTuple):
    """A merged model and what is known of it."""

    folder: Path
    target: Target
    dtype: str
    """Type of the weights as torch names it: bfloat16, …"""
    seconds: float
    reference: Reference | None
    """The tuned model's answers; None where the drift was not measured: switched off, or no row was held out."""
    drift: dict[Target, Drift]
    bound: float
    """Highest mean KL that passes."""

    @property
    def passed(self) -> bool | None:
        return self.drift[self.target].mean_kl <= self.bound if self.drift else None


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
    base = run_base(run)
    started = time.perf_counter()
    dtype = replace_merged(run, base, target, device, force=force)
    seconds = round(time.perf_counter() - started, 1)
    written = {"target": target, "dtype": dtype, "seconds": seconds}
    run.update_manifest(merge={**written, "drift": None, "passed": None})
    if not measure:
        return Merged(run.merged, target, dtype, seconds, None, {}, 0.0)

    use_cpu = device == "cpu"
    drift: dict[Target, Drift] = {}
    bound = max_drift or 0.0
    with tuned_reference(run, use_cpu=use_cpu) as reference:
        if reference is not None:
            if max_drift is None:
                bound = min(MAX_DRIFT, max(LEAST_BOUND, reference.untuned.mean_kl / 2))
            drift[target] = drift_of(reference, run, run.merged, use_cpu=use_cpu)
            if compare:
                other: Target = "16bit" if target == "nf4" else "nf4"
                with aside_folder(run.path / "merged") as folder:
                    write_merged(run, base, other, device, folder)
                    drift[other] = drift_of(reference, run, folder, use_cpu=use_cpu)
    result = Merged(run.merged, target, dtype, seconds, reference, drift, bound)
    if reference is not None:
        figures: dict[str, Any] = {name: found._asdict() for name, found in drift.items()}
        measured: dict[str, Any] = {"rows": reference.rows, "tokens": reference.tokens, "adapter_loss": reference.loss}
        measured |= {"untuned": reference.untuned._asdict(), **figures, "max_drift": bound}
        run.update_manifest(merge={**written, "drift": measured, "passed": result.passed})
    return result


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
    if result.reference is None:
        return f"{lines[0]}; its drift was not measured" + (": no row was held out" if measured else "")
    reference = result.reference
    lines.append(f"\nagainst the adapter at {reference.tokens} trained tokens of {reference.rows} held-out rows:")
    lines.append(f"{'':18}{'mean KL':>10}{'max KL':>10}{'same choice':>13}{'loss':>9}")
    lines.append(f"{'adapter':18}{'':33}{reference.loss:9.4f}")
    rows = [*((f"merged, {name}", drift) for name, drift in result.drift.items())]
    for name, drift in [*rows, ("without adapter", reference.untuned)]:
        lines.append(f"{name:18}{drift.mean_kl:10.2g}{drift.max_kl:10.2g}{drift.top1:13.1%}{drift.loss:9.4f}")
    found = result.drift[result.target].mean_kl
    if result.passed:
        lines.append(f"✅ mean KL {found:.2g} is within {result.bound:.2g} nats a token")
    else:
        lines.append(
            f"❌ mean KL {found:.2g} is above {result.bound:.2g} nats a token: it answers otherwise than trained"
        )
    return "\n".join(lines)
