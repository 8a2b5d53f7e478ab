"""Going on from a checkpoint: the run folder and the counters as they were when it was written."""

import json
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from train.core.config import Lora
from train.core.errors import RunError
from train.core.runs import MEND, Run, discard_run, open_run
from train.encoding.loss_mask import template_hash
from train.encoding.rows import Encoding
from train.models.base import weights_fingerprint
from train.models.load import require_safe_adapter
from train.tuning.processes import say

WEIGHTS = "adapter_model.safetensors"


def require_same_template(run: Run, tokenizer: Any) -> None:
    """RunError where the tokenizer's chat template is not the one that the run was begun with."""
    if run.manifest()["template"]["sha256"] != template_hash(tokenizer):
        name = run.config().model.chat_template
        what = f"model.chat_template={name}" if name else "the base's chat template"
        raise RunError(f"{what} has changed since {run.path} was begun: resume it with the same template")


def require_same_rows(run: Run, train_set: Encoding) -> None:
    """RunError where other rows are trained on than the run was begun with, though their file is the same.

    lora.start_from's held-out questions are left out of pairs, for one.
    """
    known = run.manifest()["data"]["train"]
    begun, now = (
        [known["rows"], known["tokens"]],
        [len(train_set.rows), sum(len(e.input_ids) for e in train_set.encoded)],
    )
    if begun != now:
        what = f"{begun[0]} rows of {begun[1]} tokens, would go on with {now[0]} of {now[1]}"
        raise RunError(f"{run.path} was begun with {what}: put back what has changed since, or begin another run")


def require_template_of_start(lora: Lora | None, tokenizer: Any) -> None:
    """RunError where the run in lora.start_from has learned another chat template than the tokenizer has."""
    if lora is None or lora.start_from is None:
        return
    start = open_run(lora.start_from)
    if start.manifest()["template"]["sha256"] != template_hash(tokenizer):
        raise RunError(
            f"lora.start_from={start.path}: it has learned another chat template: set "
            f"model.chat_template={start.adapter / 'chat_template.jinja'}"
        )


def restore_counters(trainer: Any, run: Run, checkpoint: Path | None, base: Path) -> None:
    """Bring the run folder and the trainer's counters to where the checkpoint was written."""
    if run.manifest()["base"]["weights"] != weights_fingerprint(base):
        raise RunError(f"the base has changed since {run.path} was begun: resume it over the same weights")
    lora, known = run.config().lora, run.manifest().get("start")  # runs of earlier versions have not noted it
    start = lora.start_from if lora else None
    if start and known is not None and known != weights_fingerprint(start / "adapter"):
        raise RunError(f"lora.start_from={start}: its adapter has changed since {run.path} was begun")
    if checkpoint:
        require_whole(checkpoint, f"move {checkpoint} away, and --resume goes on from the checkpoint before it")
    if checkpoint and trainer.args.save_only_model and not is_last(checkpoint):
        raise RunError(
            f"{checkpoint} holds weights alone (training.save_only_model): optimizer and schedule would begin anew; "
            "begin another run"
        )
    step = int(checkpoint.name.split("-")[1]) if checkpoint else -1
    say(trainer.accelerator.state, f"going on after step {step}" if checkpoint else "no checkpoint yet: from the start")
    if trainer.accelerator.is_main_process:
        run.forget_metrics_after(step)
    trainer.accelerator.wait_for_everyone()
    trainer.trained_tokens = max((entry.get("num_tokens", 0) for entry in run.metrics()), default=0)


def discard_failed_start(trainer: Any, run: Run, *, resume: bool) -> None:
    """Take away the folder of a run that failed before its first step was done, so that its name is free again."""
    if not resume and trainer.state.global_step == 0 and trainer.accelerator.is_main_process:
        discard_run(run)


def require_start(lora: Lora | None, base: Path) -> None:
    """RunError where the run in lora.start_from has no adapter that fits this base and this section."""
    if lora is None or lora.start_from is None:
        return
    start = open_run(lora.start_from)
    before, place = start.config().lora, f"lora.start_from={start.path}"
    if before is None or not start.adapter.exists():
        raise RunError(f"{place}: it was tuned whole and has no adapter")
    require_safe_adapter(start.adapter)
    require_whole(start.adapter, MEND)
    if not (start.adapter / WEIGHTS).is_file():
        raise RunError(f"{place}: its adapter has no {WEIGHTS}: {MEND}")
    if before.changes_base:
        raise RunError(f"{place}: its adapter began in the base's weights ({before.init_lora_weights})")
    if start.manifest()["base"]["weights"] != weights_fingerprint(base):
        raise RunError(f"{place}: it was trained over {start.config().model.name_or_path}, not over this base")
    same = {"start_from", "init_lora_weights", "lora_dropout"}
    old, new = before.model_dump(exclude=same), lora.model_dump(exclude=same)
    if changed := [f"lora.{name}={old[name]}" for name in old if old[name] != new[name]]:
        raise RunError(f"{place}: its adapter has {', '.join(changed)}: set the same")


def load_start(model: Any, lora: Lora, adapter: str) -> None:
    """Give the model's fresh adapter of that name the weights of lora.start_from."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    assert lora.start_from is not None
    weights = load_file(open_run(lora.start_from).adapter / WEIGHTS)
    left = set_peft_model_state_dict(model, weights, adapter_name=adapter).unexpected_keys
    if left:
        raise RunError(f"lora.start_from={lora.start_from}: its adapter has other layers: {left[0]}")


def require_whole(folder: Path, instead: str) -> None:
    """RunError where a file of a checkpoint or an adapter is damaged, with what to do instead.

    Changed weights in a file of the right form are not seen.
    """
    from safetensors import safe_open

    for file in sorted(folder.iterdir()):
        try:
            if file.suffix == ".safetensors":
                with safe_open(file, "pt"):
                    pass
            elif file.suffix in (".pt", ".pth"):  # torch's are archives with a checksum of every member
                with ZipFile(file) as archive:
                    if member := archive.testzip():
                        raise ValueError(f"wrong checksum of {member}")
            elif file.name == "trainer_state.json":
                is_last(folder)
        except Exception as error:
            what = f"{type(error).__name__} {error}".splitlines()[0]
            raise RunError(f"{file} is damaged ({what}): {instead}") from None


def is_last(checkpoint: Path) -> bool:
    """Whether a checkpoint was written after the last step of its run."""
    state = json.loads((checkpoint / "trainer_state.json").read_bytes())
    return bool(state["global_step"] >= state["max_steps"])
