"""The rows that a run is judged by: held out, trained on, and of the runs that it went on from."""

from collections.abc import Sequence

from train.chats.rows import Row
from train.chats.split import Split, read_split
from train.core.errors import DataError, GovorError
from train.core.files import sha256
from train.core.runs import Run, open_run
from train.encoding.held_out import held_out_rows
from train.models.base import weights_fingerprint


def start_of(run: Run) -> Run | None:
    """The run of its lora.start_from; None where there is none, or it is gone or has changed since."""
    lora = run.config().lora
    if lora is None or lora.start_from is None:
        return None
    try:
        start = open_run(lora.start_from)
    except GovorError:
        return None
    known = run.manifest().get("start")  # runs of earlier versions have not noted it
    return start if known is None or known == weights_fingerprint(start.adapter) else None


def persona_run(run: Run) -> Run:
    """The run whose rows show the persona.

    Of preference tuning that is the run that it went on from: the better of two answers may be the model's own.
    """
    start = start_of(run) if run.config().dpo else None
    return persona_run(start) if start and held_out_rows(start) else run


def trained_rows(run: Run, held_out: Sequence[Row]) -> list[Row] | None:
    """The rows that were trained on; None where the file is gone or has changed, or gives other held-out rows."""
    split = _split_of(run)
    same = split and [row.messages for row in split.held_out] == [row.messages for row in held_out]
    return split.train if split and same else None


def training_file_is_same(run: Run) -> bool:
    """Whether the run's training file is there and still what was trained on."""
    file, trained = run.config().data.train_file, run.manifest()["data"].get("train") or {}
    return file.is_file() and sha256(file) == trained.get("sha256")


def _split_of(run: Run) -> Split | None:
    """The rows of the run's training file; None where that is gone or has changed."""
    try:
        return read_split(run.config()) if training_file_is_same(run) else None
    except (DataError, OSError):
        return None


def other_rows(run: Run) -> list[Row] | None:
    """What the run has learned besides the rows of its `persona_run`; None where some are gone or have changed."""
    found: list[Row] = []
    persona, one = persona_run(run).path, run
    while True:
        if one.path != persona:
            if (split := _split_of(one)) is None:
                return None
            found += split.train
        lora = one.config().lora
        if lora is None or lora.start_from is None:
            return found
        if (start := start_of(one)) is None:
            return None
        one = start
