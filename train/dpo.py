"""Preference tuning: teach a model which of two answers people prefer, from pairs to a finished run folder.

    accelerate launch train/dpo.py configs/tiny-dpo.yaml [key=value …] [--resume]

`govor train` runs the same command for a config with a section dpo. It begins with a base, or by lora.start_from with a
run's adapter; the model that it begins with is also the one whose answers count as zero (arXiv 2305.18290).
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # run as a script: train/ stands first on the path and would shadow libraries
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from train.chats.pairs import read_pair_split
from train.core.config import Config, load_config
from train.core.errors import ConfigError
from train.core.runs import Run
from train.encoding.pairs import encode_pairs, tell_by_length
from train.evaluation.report import write_report
from train.tuning.manifest import summary
from train.tuning.phases import check_rows, finish, hold_run, make_run_folder, prepare, run_as_script, take_steps


def train(config: Config, *, resume: bool = False) -> Run:
    """Tune the config's base, or the adapter in lora.start_from, on its pairs and return the finished run.

    `resume` goes on from its last checkpoint. The errors are those of train/sft.py.
    """
    if config.dpo is None:
        raise ConfigError("the config has no section dpo: add it, or run train/sft.py, which learns from chat rows")
    with hold_run(config, resume=resume) as (config, run):
        # 1. Pairs, held out by dialogue
        pairs = read_pair_split(config)

        # 2. Processes and base; then the config is final
        setting = prepare(config, run, pairs.split, resume=resume)

        # 3. Pairs → token ids: each answer after the same prompt
        encode = setting.encoder()
        train_set, eval_set = encode_pairs(encode, pairs.train), encode_pairs(encode, pairs.held_out)
        check_rows(setting, pairs.split, train_set.preferred, eval_set.preferred, [*train_set.other, *eval_set.other])
        by_length = tell_by_length(train_set, eval_set)

        # 4. Base + adapter + pairs in TRL's trainer; the run folder is made once that has worked
        from train.tuning.preference_trainer import build_preference_trainer

        trainer = build_preference_trainer(
            setting.config, setting.base, setting.tokenizer, setting.precision, setting.arguments, train_set, eval_set
        )
        preferences = {"preferences": by_length._asdict()}
        warnings = make_run_folder(setting, trainer, train_set.preferred, eval_set.preferred, **preferences)

        # 5. The steps
        started = time.perf_counter()
        moved = take_steps(setting, trainer, train_set.preferred)

        # 6. The result: adapter, prompts compared, report
        finish(setting, trainer, eval_set.preferred, started, warnings, moved=moved)
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
