"""What the manifest says of a run before its first step, and what is printed after its last."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from train.chats.rows import shared_system_message
from train.core.config import Config
from train.core.files import sha256
from train.core.runs import Run
from train.encoding.loss_mask import IGNORE_INDEX, template_hash
from train.encoding.rows import Encoding
from train.models.base import base_revision, template_entry, weights_fingerprint
from train.tuning.processes import device_name


def describe_run(
    config: Config,
    base: Path,
    tokenizer: Any,
    trainer: Any,
    train_set: Encoding,
    eval_set: Encoding,
    today: datetime,
) -> dict[str, Any]:
    """The manifest's entries that are known before the first step, as JSON values."""
    import numpy as np

    def describe_rows(path: Path | None, encoding: Encoding) -> dict[str, Any]:
        return {
            "file": str(path or config.data.train_file),
            "sha256": sha256(path or config.data.train_file),
            "rows": len(encoding.rows),
            "tokens": sum(len(e.input_ids) for e in encoding.encoded),
            "trained_tokens": sum(label != IGNORE_INDEX for e in encoding.encoded for label in e.labels),
            **asdict(encoding.report),
        }

    start = config.lora.start_from if config.lora else None
    counts, edges = np.histogram([len(e.input_ids) for e in train_set.encoded], bins=30)
    if config.lora:
        trainable, total = trainer.model.get_nb_trainable_parameters()  # counts two weights a byte of NF4
    else:
        trainable = total = trainer.model.num_parameters()
    state = trainer.accelerator.state
    return {
        "seed": config.training.seed,
        "base": {
            "name_or_path": config.model.name_or_path,
            "path": str(base.resolve()),
            "revision": base_revision(base),
            "weights": weights_fingerprint(base),
        },
        **({"start": weights_fingerprint(start / "adapter")} if start else {}),
        "data": {
            "train": describe_rows(None, train_set),
            "held_out": describe_rows(config.data.eval_file, eval_set),
            "system_message": shared_system_message(train_set.rows),
        },
        "template": {
            **template_entry(config.model, base),
            "sha256": template_hash(tokenizer),
            "end_of_turn": sorted({e.end_of_turn for e in train_set.encoded}),
            "date": today.isoformat(timespec="seconds") if train_set.report.dated else None,
        },
        "lengths": {"counts": counts.tolist(), "edges": edges.tolist()},
        "parameters": {"trainable": trainable, "all": total},
        "kernels": sorted(trainer.kernels),
        "processes": {
            "num_processes": state.num_processes,
            "distributed_type": state.distributed_type.value,
            "device": device_name(state.device),
        },
    }


def summary(run: Run) -> str:
    """A finished run in a few lines: steps and losses, the held-out loss, what speaks against it, where it lies."""
    metrics, manifest = run.metrics(), run.manifest()
    losses = [entry["loss"] for entry in metrics if "loss" in entry]
    held_out = [entry["eval_loss"] for entry in metrics if "eval_loss" in entry]
    trained = f"{manifest['parameters']['trainable']:,} of {manifest['parameters']['all']:,} weights trained"
    lines = [f"{manifest['steps']} steps in {manifest['seconds']:.0f} s, {trained}"]
    if losses:
        lines[0] += f", training loss {losses[0]:.3f} → {losses[-1]:.3f}"
    if len(held_out) > 1:
        lines.append(f"held-out loss {held_out[0]:.3f} → {held_out[-1]:.3f}")
    lines += _told_apart(metrics, manifest.get("preferences"))
    lines += [f"warning: {text}" for text in manifest.get("warnings", ())]
    lines.append(f"saved in {run.path}, report in {run.report_file}")
    return "\n".join(lines)


def _told_apart(metrics: Sequence[dict[str, Any]], by_length: dict[str, Any] | None) -> Iterator[str]:
    """Of preference tuning: how well the held-out pairs are told apart, beside what length alone tells."""
    lines = [entry for entry in metrics if "eval_rewards/accuracies" in entry]
    if by_length is None or not lines:
        return
    last = lines[-1]
    shorter = by_length["shorter"]
    rule = f"the {'shorter' if shorter >= 0.5 else 'longer'} answer is preferred in {max(shorter, 1 - shorter):.0%}"
    yield (
        f"held-out pairs told rightly {last['eval_rewards/accuracies']:.0%}, "
        f"margin {last['eval_rewards/margins']:.2f}; by length alone {by_length['accuracy']:.0%} "
        f"({rule} of the training pairs)"
    )
