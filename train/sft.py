"""The main job: tune a base model on chats, from the rows to a finished run folder.

    accelerate launch train/sft.py configs/natasha.yaml [key=value …] [--resume]

`govor train` runs the same command. The same path serves a CPU, one GPU and several processes.
"""

import gc
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a script: train/ stands first on the path and would shadow libraries
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from train.chats.rows import shared_system_message, to_json
from train.chats.split import read_split
from train.core.config import Config, load_config
from train.core.errors import MachineError, RunError, Stopped, one_line_errors
from train.core.files import write_atomically
from train.core.runs import (
    Run,
    complete_folder,
    create_run,
    last_checkpoint,
    now,
    require_free,
    require_room,
    resumable_run,
    sha256,
)
from train.encoding.loss_mask import IGNORED, render, template_hash
from train.encoding.rows import Encoding, kept_encoder, parity, require_vocabulary
from train.evaluation.report import write_report
from train.models.load import (
    Precision,
    base_revision,
    copy_tokenizer,
    find_base,
    import_peft,
    load_tokenizer,
    put_over_unchanged_base,
    quiet_libraries,
    require_device,
    resolve_precision,
    weights_fingerprint,
    write_generation_config,
)
from train.plan.fit import as_begun, require_fittable, settle
from train.plan.memory import facts_of
from train.plan.shapes import read_shapes


def train(config: Config, *, resume: bool = False) -> Run:
    """The whole story, top to bottom. Returns the finished run. `resume`: go on from the last whole checkpoint."""
    config = as_begun(config) if resume else config
    run = resumable_run(config) if resume else require_free(config.name)
    checkpoint = last_checkpoint(run) if resume else None
    quiet_libraries()
    require_device(config)
    rows, held_out = read_split(config)

    import_peft(config)
    import torch

    from train.tuning.progress import watch
    from train.tuning.trainer import build_trainer, out_of_memory, sft_config

    precision = resolve_precision(config)
    arguments = sft_config(config, run, precision, evaluate=bool(held_out))
    arguments.eval_on_start &= checkpoint is None
    state = require_processes(arguments)
    with state.main_process_first():  # the first one downloads, the others find the files
        base = find_base(config.model)
    tokenizer = load_tokenizer(base)
    today = date_of(run) if resume else datetime.now()
    encode = kept_encoder(config, tokenizer, base, today)
    train_set, eval_set = encode(rows), encode(held_out)
    require_vocabulary(base, tokenizer, [*train_set.encoded, *eval_set.encoded])
    if config.training.fit:
        config = fit_gpu(config, base, train_set, eval_set, state)
        arguments = sft_config(config, run, precision, evaluate=bool(held_out))

    say(state, f"{len(train_set.rows)} rows to train on, {len(eval_set.rows)} held out; {describe(state, precision)}")
    for kind, encoding in (("rows to train on", train_set), ("held-out rows", eval_set)):
        for line in encoding.account.lines():
            say(state, f"{kind}: {line}")
    trainer = build_trainer(config, base, tokenizer, precision, arguments, train_set.encoded, eval_set.encoded)
    if state.is_main_process and not resume:
        manifest = describe_run(config, base, tokenizer, trainer, train_set, eval_set, today)
        require_room(run.path, checkpoint_bytes(trainer) * (2 + (config.training.save_total_limit or 10)), "training")
        create_run(config, manifest)
        write_atomically(run.held_out_file, "".join(to_json(row) + "\n" for row in eval_set.rows))
    state.wait_for_everyone()

    if resume:
        go_on(trainer, run, checkpoint, base)
    stop = watch(trainer, run)
    started = time.perf_counter()
    try:
        if checkpoint and is_last(checkpoint):
            trainer._load_from_checkpoint(str(checkpoint))  # train() would take one step too many
        else:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except torch.OutOfMemoryError:
        raise out_of_memory(trainer, config, base, f"step {trainer.state.global_step + 1}") from None
    if stop.asked:
        raise Stopped(f"stopped after step {trainer.state.global_step} and saved; --resume goes on from there")
    save_result(trainer, run, base, tokenizer, config)
    if state.is_main_process:
        check_parity(run, eval_set, today)
        seconds = round(time.perf_counter() - started, 1)
        run.update_manifest(status="finished", finished=now(), seconds=seconds, steps=trainer.state.global_step)
        write_report(run)
        print(summary(run))
    state.wait_for_everyone()
    return run


def require_processes(arguments: Any) -> Any:
    """accelerate's state; MachineError where it is not what the launcher was asked for."""
    state = arguments.distributed_state
    if os.environ.get("ACCELERATE_USE_FSDP") == "true" and state.distributed_type != "FSDP":
        raise MachineError(f"FSDP was asked for, but accelerate runs {state.distributed_type.value}: FSDP needs GPUs")
    if int(os.environ.get("WORLD_SIZE", "1")) != state.num_processes:
        started = os.environ["WORLD_SIZE"]
        raise MachineError(f"{started} processes were started, accelerate joined {state.num_processes}")
    if arguments.use_cpu and os.environ.get("OMP_NUM_THREADS") == "1":
        import torch  # `accelerate launch` sets one thread a process, which leaves the other cores idle

        torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    return state


def fit_gpu(config: Config, base: Path, train_set: Encoding, eval_set: Encoding, state: Any) -> Config:
    """The config with `training.fit` carried out for the smallest GPU that takes part."""
    import torch
    from accelerate.utils import gather_object

    require_fittable(config, sharded=state.distributed_type == "FSDP")
    gpu = None
    if state.device.type == "cuda":
        gpu = min(gather_object([torch.cuda.get_device_properties(state.device).total_memory]))
    lengths = [[len(e.input_ids) for e in encoding.encoded] for encoding in (train_set, eval_set)]
    config, chosen = settle(config, gpu, facts_of(config, read_shapes(base), *lengths))
    say(state, chosen)
    return config


def describe_run(
    config: Config,
    base: Path,
    tokenizer: Any,
    trainer: Any,
    train_set: Encoding,
    eval_set: Encoding,
    today: datetime,
) -> dict[str, Any]:
    """What the manifest says before the first step."""
    import numpy as np

    def facts(path: Path | None, encoding: Encoding) -> dict[str, Any]:
        return {
            "file": str(path or config.data.train_file),
            "sha256": sha256(path or config.data.train_file),
            "rows": len(encoding.rows),
            "tokens": sum(len(e.input_ids) for e in encoding.encoded),
            "trained_tokens": sum(label != IGNORED for e in encoding.encoded for label in e.labels),
            **asdict(encoding.account),
        }

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
        "data": {
            "train": facts(None, train_set),
            "held_out": facts(config.data.eval_file, eval_set),
            "system_message": shared_system_message(train_set.rows),
        },
        "template": {
            "sha256": template_hash(tokenizer),
            "end_of_turn": sorted({e.end_of_turn for e in train_set.encoded}),
            "date": today.isoformat(timespec="seconds") if train_set.account.dated else None,
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


def go_on(trainer: Any, run: Run, checkpoint: Path | None, base: Path) -> None:
    """Bring the run folder and the trainer's counters to where the checkpoint was written."""
    if run.manifest()["base"]["weights"] != weights_fingerprint(base):
        raise RunError(f"the base has changed since {run.path} was begun: resume it over the same weights")
    step = int(checkpoint.name.split("-")[1]) if checkpoint else -1
    say(trainer.accelerator.state, f"going on after step {step}" if checkpoint else "no checkpoint yet: from the start")
    if trainer.accelerator.is_main_process:
        run.forget_metrics_after(step)
    trainer.accelerator.wait_for_everyone()
    trainer._total_train_tokens = max((entry.get("num_tokens", 0) for entry in run.metrics()), default=0)


def is_last(checkpoint: Path) -> bool:
    """Whether it was written after the last step of its run."""
    state = json.loads((checkpoint / "trainer_state.json").read_bytes())
    return bool(state["global_step"] >= state["max_steps"])


def checkpoint_bytes(trainer: Any) -> int:
    """Trained weights and Adam's two sums, in float32."""
    return 12 * sum(int(parameter.numel()) for parameter in trainer.model.parameters() if parameter.requires_grad)


def save_result(trainer: Any, run: Run, base: Path, tokenizer: Any, config: Config) -> None:
    """adapter/, or merged/ after full tuning; complete or absent. Every process takes part, the first one writes."""
    weights = trainer.accelerator.get_state_dict(trainer.model)  # gathers what FSDP has spread
    if not trainer.accelerator.is_main_process:
        return
    model = trainer.accelerator.unwrap_model(trainer.model)
    with complete_folder(run.adapter if config.lora else run.merged) as folder:
        if config.lora:
            for adapter in model.peft_config.values():
                adapter.base_model_name_or_path = config.model.name_or_path
            model.save_pretrained(folder, state_dict=weights)
            if trainer.initial_adapter:
                put_over_unchanged_base(folder, trainer.initial_adapter)
            (folder / "README.md").unlink(missing_ok=True)  # PEFT's card is a form to fill in
        else:
            model.save_pretrained(folder, state_dict=weights)
        copy_tokenizer(base, tokenizer, folder)
        stop = run.manifest()["template"]["end_of_turn"]
        write_generation_config(base, tokenizer, config.generation, stop, folder)


def date_of(run: Run) -> datetime:
    """The date that a run's rows were rendered under; any, where their template writes none."""
    date: str | None = run.manifest()["template"].get("date")
    return datetime.fromisoformat(date) if date else datetime.now()


def check_parity(run: Run, eval_set: Encoding, today: datetime) -> None:
    """Render the held-out prompts as a server does, from the files just saved; what differs is said and recorded."""
    served = load_tokenizer(run.adapter if run.adapter.exists() else run.merged)
    differing = parity(
        lambda messages, tools: render(served, messages, tools=tools, today=today),
        eval_set.rows,
        eval_set.encoded,
        served.decode,
    )
    count = len(eval_set.rows)
    print(f"parity: {count - len(differing)} of {count} held-out prompts render as trained", file=sys.stderr)
    for line, reason in differing[:5]:
        print(f"parity: held-out row at line {line}: {reason}", file=sys.stderr)
    run.update_manifest(parity={"prompts": count, "differing": [line for line, _ in differing]})


def describe(state: Any, precision: Precision) -> str:
    """`1 process on NVIDIA H100 (NO), bfloat16 weights, bf16 autocast`."""
    count = f"{state.num_processes} process{'es' if state.num_processes > 1 else ''}"
    kind = f"{precision.weights} weights".removeprefix("torch.")
    autocast = f", {precision.autocast} autocast" if precision.autocast else ""
    return f"{count} on {device_name(state.device)} ({state.distributed_type.value}), {kind}{autocast}"


def device_name(device: Any) -> str:
    import torch

    return str(torch.cuda.get_device_name(device)) if device.type == "cuda" else str(device.type)


def summary(run: Run) -> str:
    """Three lines about a finished run."""
    metrics, manifest = run.metrics(), run.manifest()
    losses = [entry["loss"] for entry in metrics if "loss" in entry]
    held_out = [entry["eval_loss"] for entry in metrics if "eval_loss" in entry]
    trained = f"{manifest['parameters']['trainable']:,} of {manifest['parameters']['all']:,} weights trained"
    lines = [f"{manifest['steps']} steps in {manifest['seconds']:.0f} s, {trained}"]
    if losses:
        lines[0] += f", training loss {losses[0]:.3f} → {losses[-1]:.3f}"
    if len(held_out) > 1:
        lines.append(f"held-out loss {held_out[0]:.3f} → {held_out[-1]:.3f}")
    lines.append(f"saved in {run.path}, report in {run.report_file}")
    return "\n".join(lines)


def see_one_gpu() -> None:
    """Hide the other GPUs from a process that works alone; the trainer would refuse to run beside them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[0]


def end_with_launcher() -> None:
    """Save and stop also where only the launcher was told to end (Linux; elsewhere signal this process)."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def say(state: Any, text: str) -> None:
    if state.is_main_process:
        print(text, file=sys.stderr, flush=True)


def main(argv: Sequence[str]) -> None:
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        raise SystemExit(0 if argv else 2)
    resume = "--resume" in argv
    words = [word for word in argv if word != "--resume"]
    with one_line_errors():
        see_one_gpu()
        end_with_launcher()
        train(load_config(Path(words[0]), words[1:]), resume=resume)
    gc.freeze()  # Python would look through a million objects of the libraries before it ends: more than a second


if __name__ == "__main__":
    main(sys.argv[1:])
