"""The phases of a training, of rows and of pairs alike; train/sft.py and train/dpo.py put them in their order."""

import gc
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from train.chats.rows import row_to_json
from train.chats.split import Split
from train.core.compat import launched_with_fsdp
from train.core.config import Config, why_rate_ruins
from train.core.errors import DivergedError, Stopped, one_line_errors
from train.core.files import require_disk_space, write_atomically
from train.core.locks import hold_folder
from train.core.runs import Run, create_run, forget_tokens, last_checkpoint, now, require_free, resumable_run
from train.encoding.chosen_template import load_base_tokenizer
from train.encoding.loss_mask import Encoded
from train.encoding.rows import Encoding, encoder, require_positions, require_vocabulary
from train.models.base import describe_template, find_base, require_trainable, template_entry
from train.models.load import (
    Precision,
    import_peft,
    precision_warning,
    quiet_libraries,
    require_device,
    resolve_precision,
)
from train.plan.fit import as_begun, fit_to_rows
from train.tuning.manifest import describe_run
from train.tuning.processes import (
    describe,
    end_with_launcher,
    join_processes,
    say,
    see_one_gpu,
    smallest_gpu_bytes,
    use_expandable_segments,
)
from train.tuning.resume import (
    discard_failed_start,
    is_last,
    require_same_rows,
    require_same_template,
    require_start,
    require_template_of_start,
    restore_counters,
)
from train.tuning.save import check_saved_prompts, checkpoint_bytes, save_result


@dataclass(frozen=True)
class Setting:
    """What a training works with, once its config is final."""

    config: Config
    run: Run
    resume: bool
    checkpoint: Path | None
    """What it goes on from."""
    state: Any
    """accelerate's PartialState."""
    base: Path
    precision: Precision
    arguments: Any
    """TRL's."""
    tokenizer: Any
    today: datetime
    """The date that the chat template is told."""

    def say(self, text: str) -> None:
        """Print a line on stderr, once for all processes."""
        say(self.state, text)

    def encoder(self) -> Callable[..., Encoding]:
        """A function that encodes rows as the config says."""
        return encoder(self.config, self.tokenizer, self.base, self.today)


@contextmanager
def hold_run(config: Config, *, resume: bool) -> Iterator[tuple[Config, Run]]:
    """(the config, its run folder) of a training; nobody else writes there within the block."""
    config = as_begun(config) if resume else config
    run = (
        resumable_run(config) if resume else require_free(config.name, trust_remote_code=config.model.trust_remote_code)
    )
    with hold_folder(run.path, "training"):
        if resume:
            run = resumable_run(config)  # it may have ended while we waited to hold it
        quiet_libraries()
        require_device(config)
        forget_tokens()
        yield config, run


def prepare(config: Config, run: Run, split: Split, *, resume: bool) -> Setting:
    """Join the processes, find the base and settle the config; what does not fit together is said before a step."""
    import_peft(config)
    checkpoint = last_checkpoint(run) if resume else None
    state = join_processes(config.training)
    with state.main_process_first():  # the first one downloads, the others find the files
        base = find_base(config.model)
    if note := require_trainable(base, config.model):
        say(state, note)
    require_start(config.lora, base)
    if config.training.fit:
        gpu_bytes = smallest_gpu_bytes(state)
        sharded = launched_with_fsdp()
        config, chosen = fit_to_rows(config, base, split.train, split.held_out, gpu_bytes, sharded=sharded)
        say(state, chosen)
    from train.tuning.arguments import trl_arguments

    precision = resolve_precision(config)
    if warning := precision_warning(base, precision):
        say(state, warning)
    if why := why_rate_ruins(config.training.learning_rate, adapter=config.lora is not None):
        say(state, f"warning: training.learning_rate={why}")
    resumed = checkpoint is not None
    arguments = trl_arguments(config, run, precision, evaluate=bool(split.held_out), resumed=resumed)
    tokenizer = load_base_tokenizer(config.model, base)
    if resume:
        require_same_template(run, tokenizer)
    require_template_of_start(config.lora, tokenizer)
    if config.model.chat_template:
        say(state, f"chat template: {describe_template(template_entry(config.model, base))}")
    today = (run.template_date() if resume else None) or datetime.now()
    return Setting(config, run, resume, checkpoint, state, base, precision, arguments, tokenizer, today)


def check_rows(
    setting: Setting, split: Split, train_set: Encoding, eval_set: Encoding, other: Sequence[Encoded] = ()
) -> None:
    """DataError or BaseError where the base cannot read the rows; what became of them is said. `other`: of pairs."""
    base = setting.base
    require_vocabulary(base, setting.tokenizer, [*train_set.encoded, *eval_set.encoded, *other])
    require_positions(base, train_set)
    require_positions(base, eval_set)
    for note in split.notes():
        setting.say(note)
    counts = f"{len(train_set.rows)} rows to train on, {len(eval_set.rows)} held out"
    setting.say(f"{counts}; {describe(setting.state, setting.precision)}")
    for kind, encoding in (("rows to train on", train_set), ("held-out rows", eval_set)):
        for line in encoding.report.lines():
            setting.say(f"{kind}: {line}")
    if setting.resume:
        require_same_rows(setting.run, train_set)


def make_run_folder(setting: Setting, trainer: Any, train_set: Encoding, eval_set: Encoding, **more: Any) -> list[str]:
    """Make the run folder, whose manifest gets `more` entries; warnings of what this training cannot learn."""
    from train.tuning.end_of_turn import unlearned_end_of_turn

    unlearned = unlearned_end_of_turn(trainer.model, setting.tokenizer, train_set.encoded)
    if unlearned:
        setting.say(f"warning: {unlearned}")
    config, run = setting.config, setting.run
    if setting.state.is_main_process and not setting.resume:
        manifest = describe_run(config, setting.base, setting.tokenizer, trainer, train_set, eval_set, setting.today)
        kept = 2 + (config.training.save_total_limit or 10)
        require_disk_space(run.path, kept * checkpoint_bytes(trainer), "training")
        create_run(config, manifest | more)
        write_atomically(run.held_out_file, "".join(row_to_json(row) + "\n" for row in eval_set.rows))
    setting.state.wait_for_everyone()
    return [unlearned] if unlearned else []


def take_steps(setting: Setting, trainer: Any, train_set: Encoding) -> bool:
    """The steps; whether they moved any weight.

    Stopped: a signal came, and what was learned is saved. MachineError: out of memory. DivergedError.
    """
    import torch

    from train.tuning.progress import watch
    from train.tuning.rehearsal import out_of_memory

    run, checkpoint, resume = setting.run, setting.checkpoint, setting.resume
    if resume:
        restore_counters(trainer, run, checkpoint, setting.base)
    try:
        with watch(trainer, run, train_set) as (stop, movement):
            if checkpoint and is_last(checkpoint):
                trainer.load_checkpoint(checkpoint)  # train() would take one step too many
            else:
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except torch.OutOfMemoryError:
        discard_failed_start(trainer, run, resume=resume)
        raise out_of_memory(trainer, setting.config, setting.base, f"step {trainer.state.global_step + 1}") from None
    except DivergedError as error:
        discard_failed_start(trainer, run, resume=resume)
        left = last_checkpoint(run)
        raise DivergedError(f"{error}{f'; {left} is from before' if left else ''}") from None
    except BaseException:
        discard_failed_start(trainer, run, resume=resume)
        raise
    if stop.requested:
        raise Stopped(f"stopped after step {trainer.state.global_step} and saved; --resume goes on from there")
    return movement.moved


def finish(
    setting: Setting, trainer: Any, eval_set: Encoding, started: float, warnings: Iterable[str], *, moved: bool
) -> None:
    """Save the adapter, compare its prompts and close the manifest. `started`: by time.perf_counter()."""
    from train.tuning.divergence import warnings_of

    run = setting.run
    save_result(trainer, run, setting.base, setting.tokenizer, setting.config)
    if setting.state.is_main_process:
        check_saved_prompts(run, eval_set, setting.today)
        seconds = round(time.perf_counter() - started, 1)
        ended = {"status": "finished", "finished": now(), "seconds": seconds, "steps": trainer.state.global_step}
        run.update_manifest(**ended, warnings=[*warnings, *warnings_of(run.metrics(), moved=moved)])


def run_as_script(
    train: Callable[..., Run], load: Callable[..., Config], usage: str | None, arguments: Sequence[str]
) -> None:
    """Train as the command line says: `CONFIG [key=value …] [--resume]`."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage)
        raise SystemExit(0 if arguments else 2)
    resume = "--resume" in arguments
    config_file, *overrides = [argument for argument in arguments if argument != "--resume"]
    with one_line_errors():
        see_one_gpu()
        use_expandable_segments()
        end_with_launcher()
        train(load(Path(config_file), overrides), resume=resume)
    gc.freeze()  # Python would look through a million objects of the libraries before it ends: more than a second
