"""The main job: tune a base model on chats, from the rows to a finished run folder.

    accelerate launch train/sft.py configs/natasha.yaml [key=value …] [--resume]

`govor train` runs the same command. The same path serves a CPU, one GPU and several processes.
"""

import gc
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a script: train/ stands first on the path and would shadow libraries
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from train.chats.rows import to_json
from train.chats.split import read_split
from train.core.config import Config, load_config
from train.core.errors import Stopped, one_line_errors
from train.core.files import require_disk_space, write_atomically
from train.core.runs import Run, create_run, last_checkpoint, now, require_free, resumable_run
from train.encoding.rows import Encoding, kept_encoder, require_vocabulary
from train.evaluation.report import write_report
from train.models.base import find_base
from train.models.load import import_peft, load_tokenizer, quiet_libraries, require_device, resolve_precision
from train.plan.fit import as_begun, require_fittable, settle
from train.plan.memory import workload_of
from train.plan.shapes import read_shapes
from train.tuning.manifest import describe_run, summary
from train.tuning.processes import describe, end_with_launcher, require_processes, say, see_one_gpu
from train.tuning.resume import date_of, go_on, is_last
from train.tuning.save import check_parity, checkpoint_bytes, save_result


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
    from train.tuning.rehearsal import out_of_memory
    from train.tuning.trainer import build_trainer, sft_config

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
        for line in encoding.report.lines():
            say(state, f"{kind}: {line}")
    trainer = build_trainer(config, base, tokenizer, precision, arguments, train_set.encoded, eval_set.encoded)
    if state.is_main_process and not resume:
        manifest = describe_run(config, base, tokenizer, trainer, train_set, eval_set, today)
        require_disk_space(run.path, checkpoint_bytes(trainer) * (2 + (config.training.save_total_limit or 10)), "training")
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


def fit_gpu(config: Config, base: Path, train_set: Encoding, eval_set: Encoding, state: Any) -> Config:
    """The config with `training.fit` carried out for the smallest GPU that takes part."""
    import torch
    from accelerate.utils import gather_object

    require_fittable(config, sharded=state.distributed_type == "FSDP")
    gpu = None
    if state.device.type == "cuda":
        gpu = min(gather_object([torch.cuda.get_device_properties(state.device).total_memory]))
    lengths = [[len(e.input_ids) for e in encoding.encoded] for encoding in (train_set, eval_set)]
    config, chosen = settle(config, gpu, workload_of(config, read_shapes(base), *lengths))
    say(state, chosen)
    return config


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
