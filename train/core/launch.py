"""The `accelerate launch` command that runs train/sft.py or train/dpo.py."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from train.core.config import Config

SCRIPTS = ("sft.py", "dpo.py")
"""Names of the entry points of training in train/: for rows of one answer, for preference rows."""
SINGLE = (
    *("--num_processes", "1", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no"),
)
"""One process, to which the script gives one GPU. The config decides on mixed precision (train/models/load.py)."""


def launch_command(
    config_file: Path, config: Config, overrides: Sequence[str], accelerate_flags: Sequence[str]
) -> list[str]:
    """The command as a list of words, for what file and overrides make; the flags replace those for one process."""
    program = shutil.which("accelerate", path=str(Path(sys.executable).parent)) or "accelerate"
    script = Path(__file__).resolve().parents[1] / SCRIPTS[config.dpo is not None]
    return [
        _from_here(Path(program)),
        "launch",
        "--quiet",  # the launcher's own traceback would follow our one line
        *(accelerate_flags or SINGLE),
        _from_here(script),
        str(config_file),
        *overrides,
    ]


def _from_here(path: Path) -> str:
    """The path relative to the working folder where it lies below it, so that the printed command reads well."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def split_at_flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """(arguments before the first that begins with `-`, the rest: flags for another program)."""
    first = next((at for at, argument in enumerate(arguments) if argument.startswith("-")), len(arguments))
    return list(arguments[:first]), list(arguments[first:])
