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

if __name__ == "__main__":  # run as a script: train/ stands first on the path and would shadow libraries
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from train.chats.rows import row_to_json
from train.chats.split import read_split
from train.core.compat import launched_with_fsdp
from train.core.config import Config, load_config, why_rate_ruins
from train.core.errors import DivergedError, Stopped, one_line_errors
from train.core.files import require_disk_space, write_atomically
from train.core.locks import hold_folder
from train.core.runs import Run, create_run, forget_tokens, last_checkpoint, now, require_free, resumable_run
from train.encoding.chosen_template import load_base_tokenizer
from train.encoding.rows import encoder, require_positions, require_vocabulary
from train.evaluation.report import write_report
from train.models.base import describe_template, find_base, require_trainable, template_entry
from train.models.load import (
    import_peft,
    precision_warning,
    quiet_libraries,
    require_device,
    resolve_precision,
)
from train.plan.fit import as_begun, fit_to_rows
from train.tuning.manifest import describe_run, summary
from train.tuning.processes import (
    describe,
    end_with_launcher,
    join_processes,
    say,
    see_one_gpu,
    smallest_gpu_bytes,
    use_expandable_segments,
)
from train.tuning.resume import discard_failed_start, is_last, require_same_template, require_start, restore_counters
from train.tuning.save import check_saved_prompts, checkpoint_bytes, save_result


def train(config: Config, *, resume: bool = False) -> Run:
    """Tune the config's base on its rows and return the finished run; `resume` goes on from its last checkpoint.

    DataError: the rows cannot be trained on. ConfigError, RunError, BaseError, MachineError: what they name does not
    fit this training. Stopped: a signal came, and what was learned is saved.
    """
    config = as_begun(config) if resume else config
    run = (
        resumable_run(config) if resume else require_free(config.name, trust_remote_code=config.model.trust_remote_code)
    )
    with hold_folder(run.path, "training"):
        return _train(config, run, resume=resume)


def _train(config: Config, run: Run, *, resume: bool) -> Run:
    """The training, in a run folder that nobody else writes in."""
    # 1. Rows: what is wrong with them shows before the libraries are imported
    checkpoint = last_checkpoint(run) if resume else None
    quiet_libraries()
    require_device(config)
    forget_tokens()
    split = read_split(config)
    rows, held_out = split.train, split.held_out
    import_peft(config)

    # 2. Processes and base; then the config is final
    state = join_processes(config.training)
    with state.main_process_first():  # the first one downloads, the others find the files
        base = find_base(config.model)
    if note := require_trainable(base, config.model):
        say(state, note)
    require_start(config.lora, base)
    if config.training.fit:
        gpu_bytes = smallest_gpu_bytes(state)
        config, chosen = fit_to_rows(config, base, rows, held_out, gpu_bytes, sharded=launched_with_fsdp())
        say(state, chosen)
    import torch

    from train.tuning.divergence import warnings_of
    from train.tuning.end_of_turn import unlearned_end_of_turn
    from train.tuning.progress import watch
    from train.tuning.rehearsal import out_of_memory
    from train.tuning.trainer import build_trainer, sft_config

    precision = resolve_precision(config)
    if warning := precision_warning(base, precision):
        say(state, warning)
    if why := why_rate_ruins(config.training.learning_rate, adapter=config.lora is not None):
        say(state, f"warning: training.learning_rate={why}")
    arguments = sft_config(config, run, precision, evaluate=bool(held_out), resumed=checkpoint is not None)

    # 3. Rows → token ids and loss mask
    tokenizer = load_base_tokenizer(config.model, base)
    if resume:
        require_same_template(run, tokenizer)
    if config.model.chat_template:
        say(state, f"chat template: {describe_template(template_entry(config.model, base))}")
    today = (run.template_date() if resume else None) or datetime.now()
    encode = encoder(config, tokenizer, base, today)
    train_set, eval_set = encode(rows), encode(held_out)
    require_vocabulary(base, tokenizer, [*train_set.encoded, *eval_set.encoded])
    require_positions(base, train_set)
    require_positions(base, eval_set)
    for note in split.notes():
        say(state, note)
    say(state, f"{len(train_set.rows)} rows to train on, {len(eval_set.rows)} held out; {describe(state, precision)}")
    for kind, encoding in (("rows to train on", train_set), ("held-out rows", eval_set)):
        for line in encoding.report.lines():
            say(state, f"{kind}: {line}")

    # 4. Base + adapter + rows in TRL's trainer; the run folder is made once that has worked
    trainer = build_trainer(config, base, tokenizer, precision, arguments, train_set.encoded, eval_set.encoded)
    unlearned = unlearned_end_of_turn(trainer.model, tokenizer, train_set.encoded)
    if unlearned:
        say(state, f"warning: {unlearned}")
    if state.is_main_process and not resume:
        manifest = describe_run(config, base, tokenizer, trainer, train_set, eval_set, today)
        kept = 2 + (config.training.save_total_limit or 10)
        require_disk_space(run.path, kept * checkpoint_bytes(trainer), "training")
        create_run(config, manifest)
        write_atomically(run.held_out_file, "".join(row_to_json(row) + "\n" for row in eval_set.rows))
    state.wait_for_everyone()

    # 5. The steps
    if resume:
        restore_counters(trainer, run, checkpoint, base)
    stop, movement = watch(trainer, run, train_set)
    started = time.perf_counter()
    try:
        if checkpoint and is_last(checkpoint):
            trainer.load_checkpoint(checkpoint)  # train() would take one step too many
        else:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except torch.OutOfMemoryError:
        discard_failed_start(trainer, run, resume=resume)
        raise out_of_memory(trainer, config, base, f"step {trainer.state.global_step + 1}") from None
    except DivergedError as error:
        discard_failed_start(trainer, run, resume=resume)
        left = last_checkpoint(run)
        raise DivergedError(f"{error}{f'; {left} is from before' if left else ''}") from None
    except BaseException:
        discard_failed_start(trainer, run, resume=resume)
        raise
    if stop.requested:
        raise Stopped(f"stopped after step {trainer.state.global_step} and saved; --resume goes on from there")

    # 6. The result: adapter, prompts compared, report
    save_result(trainer, run, base, tokenizer, config)
    if state.is_main_process:
        check_saved_prompts(run, eval_set, today)
        seconds = round(time.perf_counter() - started, 1)
        ended = {"status": "finished", "finished": now(), "seconds": seconds, "steps": trainer.state.global_step}
        found = warnings_of(run.metrics(), moved=movement.moved)
        run.update_manifest(**ended, warnings=[unlearned, *found] if unlearned else found)
        write_report(run)
        print(summary(run))
    state.wait_for_everyone()
    return run


def main(arguments: Sequence[str]) -> None:
    """Train as the command line says: `CONFIG [key=value …] [--resume]`."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        raise SystemExit(0 if arguments else 2)
    resume = "--resume" in arguments
    config_file, *overrides = [argument for argument in arguments if argument != "--resume"]
    with one_line_errors():
        see_one_gpu()
        use_expandable_segments()
        end_with_launcher()
        train(load_config(Path(config_file), overrides), resume=resume)
    gc.freeze()  # Python would look through a million objects of the libraries before it ends: more than a second


if __name__ == "__main__":
    main(sys.argv[1:])
