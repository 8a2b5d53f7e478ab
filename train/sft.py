"""The main job: tune a base model on chats, from the rows to a finished run folder.

    accelerate launch train/sft.py configs/natasha.yaml [key=value …] [--resume]

`govor train` runs the same command. The same path serves a CPU, one GPU and several processes.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # run as a script: train/ stands first on the path and would shadow libraries
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from train.chats.split import read_split
from train.core.config import Config, load_config
from train.core.errors import ConfigError
from train.core.runs import Run
from train.evaluation.report import write_report
from train.tuning.manifest import summary
from train.tuning.phases import check_rows, finish, hold_run, make_run_folder, prepare, run_as_script, take_steps


def train(config: Config, *, resume: bool = False) -> Run:
    """Tune the config's base on its rows and return the finished run; `resume` goes on from its last checkpoint.

    DataError: the rows cannot be trained on. ConfigError, RunError, BaseError, MachineError: what they name does not
    fit this training. Stopped: a signal came, and what was learned is saved.
    """
    if config.dpo:
        raise ConfigError("the config has a section dpo: train/dpo.py learns from preference rows, as govor train does")
    with hold_run(config, resume=resume) as (config, run):
        # 1. Rows: what is wrong with them shows before the libraries are imported
        split = read_split(config)

        # 2. Processes and base; then the config is final
        setting = prepare(config, run, split, resume=resume)

        # 3. Rows → token ids and loss mask
        encode = setting.encoder()
        train_set, eval_set = encode(split.train), encode(split.held_out)
        check_rows(setting, split, train_set, eval_set)

        # 4. Base + adapter + rows in TRL's trainer; the run folder is made once that has worked
        from train.tuning.trainer import build_trainer

        trainer = build_trainer(
            setting.config, setting.base, setting.tokenizer, setting.precision, setting.arguments,
            train_set.encoded, eval_set.encoded,
        )  # fmt: skip
        warnings = make_run_folder(setting, trainer, train_set, eval_set)

        # 5. The steps
        started = time.perf_counter()
        moved = take_steps(setting, trainer, train_set)

        # 6. The result: adapter, prompts compared, report
        finish(setting, trainer, eval_set, started, warnings, moved=moved)
        if setting.state.is_main_process:
            write_report(run)
            print(summary(run))
        setting.state.wait_for_everyone()
        return run


def main(arguments: Sequence[str]) -> None:
    """Train as the command line says: `CONFIG [key=value …] [--resume]`."""
    run_as_script(train, load_config, __doc__, arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
