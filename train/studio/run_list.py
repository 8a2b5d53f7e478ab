"""The runs of a project as they are now, read from their folders: what `govor runs` and the studio list."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from train.bot.store import DATABASE as BOT  # its folder has a lock as well
from train.core.config import Config, load_config
from train.core.errors import GovorError
from train.core.locks import LOCK, lock_holder
from train.core.runs import Run, whole_checkpoints
from train.jobs.data_folder import DATA_MARKER

PLACES = ("runs", ".", "runs/jobs/runs")
"""Where run folders lie in a project: those of `govor train`, of the folder itself, and of `govor jobs serve`."""
TAIL = 1 << 16  # bytes at the end of metrics.jsonl in which the last numbers are looked for first

State = Literal["training", "working", "finished", "stopped", "damaged"]


@dataclass(frozen=True)
class RunState:
    """A run as it is now. What is not known yet, or does not apply, is None."""

    id: str
    """Its name, with a number behind it where several folders have runs of that name."""
    path: str
    state: State
    """working: finished, and another command of govor works on its folder."""
    doing: str | None = None
    """What holds its lock: training, merge, export."""
    base: str | None = None
    method: str | None = None
    rows: int | None = None
    held_out: int | None = None
    step: int | None = None
    steps: int | None = None
    epoch: float | None = None
    loss: float | None = None
    eval_loss: float | None = None
    tokens: int | None = None
    """Tokens of the rows that were gone through so far, without padding."""
    tokens_per_second: float | None = None
    memory_gib: float | None = None
    """Peak so far, of the card or on a CPU of the process."""
    seconds_left: float | None = None
    checkpoints: tuple[str, ...] = ()
    started: str | None = None
    finished: str | None = None
    merged: bool = False
    job: bool = False
    """Whether it belongs to a job of `govor jobs serve`, which alone may stop it."""
    problem: str | None = None


def find_runs(folders: Sequence[Path]) -> dict[str, Path]:
    """Id → run folder, of every project folder. A link that leads out of the place where it lies is passed over."""
    found: dict[str, Path] = {}
    for folder in folders:
        for place in PLACES:
            root = folder / place
            inside = sorted(root.iterdir()) if root.is_dir() else []
            for path in inside:
                if _is_run(path) and path.resolve().parent == root.resolve() and path not in found.values():
                    same = sum(id_ == path.name or id_.startswith(f"{path.name}~") for id_ in found)
                    found[f"{path.name}~{same + 1}" if same else path.name] = path
    return found


def is_text(name: str) -> bool:
    """Whether a file's name is UTF-8, so that a page can name it."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def _is_run(path: Path) -> bool:
    if not is_text(path.name) or not path.is_dir():
        return False
    return (path / "manifest.json").is_file() or ((path / LOCK).is_file() and not (path / BOT).is_file())


def list_runs(folders: Sequence[Path]) -> list[RunState]:
    """The state of every run, the one begun last first."""
    states = [run_state(id_, path) for id_, path in find_runs(folders).items()]
    return sorted(states, key=lambda state: (state.state == "training", state.started or ""), reverse=True)


def run_state(id_: str, path: Path) -> RunState:
    """The state of one run; a folder that is damaged has it said in `problem`."""
    run, holder = Run(path), lock_holder(path)
    doing = holder.what if holder else None
    job = (path.parent.parent / DATA_MARKER).is_file()
    if not run.manifest_file.is_file():  # until its base is loaded a training has its lock alone
        started = holder.since.isoformat() if holder else None
        return RunState(id_, str(path), "training" if holder else "stopped", doing, started=started, job=job)
    try:
        config = _config(run.config_file, run.config_file.stat().st_mtime_ns)
        manifest = run.manifest()
        numbers = last_numbers(run.metrics_file)
    except (GovorError, OSError) as error:
        return RunState(id_, str(path), "damaged", doing, job=job, problem=str(error))
    done = manifest.get("status") == "finished"
    state: State = "working" if doing and done else "training" if doing else "finished" if done else "stopped"
    steps = manifest["steps"] if done else _all_steps(config, numbers)
    data = manifest["data"]
    step = steps if done else numbers.get("step")
    return RunState(
        id=id_,
        path=str(path),
        state=state,
        doing=doing,
        base=config.model.name_or_path,
        method=method_of(config),
        rows=(data.get("train") or {}).get("rows"),
        held_out=(data.get("held_out") or {}).get("rows"),
        step=step,
        steps=steps,
        epoch=numbers.get("epoch"),
        loss=numbers.get("loss"),
        eval_loss=numbers.get("eval_loss"),
        tokens=numbers.get("num_tokens"),
        tokens_per_second=numbers.get("tokens_per_second"),
        memory_gib=numbers.get("memory_gib"),
        seconds_left=_seconds_left(numbers, steps) if state == "training" else None,
        checkpoints=tuple(folder.name for folder in whole_checkpoints(run.checkpoints)),
        started=manifest.get("started"),
        finished=manifest.get("finished"),
        merged=run.merged.is_dir(),
        job=job,
    )


def method_of(config: Config) -> str:
    """How the base is tuned, in a word or two."""
    if config.lora is None:
        return "full"
    return f"{'QLoRA' if config.model.load_in_4bit else 'LoRA'} r={config.lora.r}"


@lru_cache(maxsize=1024)
def _config(path: Path, changed: int) -> Config:
    """The config of a run folder; `changed`: nanoseconds, so that it is read again when it was written again."""
    return load_config(path)


def last_numbers(file: Path) -> dict[str, Any]:
    """The last value of every number in metrics.jsonl; empty before the first line."""
    if not file.is_file():
        return {}
    stat = file.stat()
    return _last_numbers(file, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=1024)
def _last_numbers(file: Path, changed: int, size: int) -> dict[str, Any]:
    with file.open("rb") as handle:
        handle.seek(max(0, size - TAIL))
        numbers = _merged(handle.read(min(size, TAIL)))
        if size > TAIL and not {"loss", "eval_loss"} <= numbers.keys():  # the held-out loss may stand far above
            handle.seek(0)
            numbers = _merged(handle.read(size))
    return numbers


def _merged(block: bytes) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    for line in block.split(b"\n")[:-1]:  # behind the last line break stands half a line, or nothing
        try:
            entry = json.loads(line)
            numbers.update(
                {k: value for k, value in entry.items() if isinstance(value, int | float) and isfinite(value)}
            )
        except (ValueError, AttributeError, OverflowError, RecursionError):
            continue  # the first line of the block, cut in two
    return numbers


def _all_steps(config: Config, numbers: dict[str, Any]) -> int | None:
    """Steps of the whole run, by the share of the epochs that its last step stands at."""
    given = getattr(config.training, "max_steps", None)
    if given and given > 0:
        return int(given)
    step, epoch = numbers.get("step"), numbers.get("epoch")
    return round(step * config.training.num_train_epochs / epoch) if step and epoch else None


def _seconds_left(numbers: dict[str, Any], steps: int | None) -> float | None:
    step, tokens, rate = (numbers.get(name) for name in ("step", "num_tokens", "tokens_per_second"))
    return max(0, steps - step) * tokens / step / rate if steps and step and tokens and rate else None


def print_runs(folders: Sequence[Path], *, as_json: bool) -> None:
    """`govor runs`: the list as a table, or as one JSON object."""
    states = list_runs(folders)
    if as_json:
        print(json.dumps({"runs": [asdict(state) for state in states]}, ensure_ascii=False))
        return
    if not states:
        print(f"no runs in {', '.join(map(str, folders))}: govor train CONFIG begins one")
        return
    rows: list[tuple[str, ...]] = [
        ("run", "state", "base", "rows", "step", "loss", "held-out", "tokens/s", "left", "checkpoints")
    ]
    rows += [tuple(_cells(state)) for state in states]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())


def _cells(state: RunState) -> Iterator[str]:
    """The cells of a run's line in the terminal, with nothing in them that could steer it."""

    def number(value: float | None, form: str = ",.0f") -> str:
        return "" if value is None else format(value, form)

    def plain(text: str | None) -> str:
        return "".join(letter if letter.isprintable() else "�" for letter in text or "")

    yield plain(state.path)
    yield state.doing or state.state if state.state == "working" else state.state
    yield plain(state.base)
    yield number(state.rows)
    yield f"{number(state.step)}/{number(state.steps)}" if state.step is not None else ""
    yield number(state.loss, ".3f")
    yield number(state.eval_loss, ".3f")
    yield number(state.tokens_per_second)
    yield "" if state.seconds_left is None else duration(state.seconds_left)
    yield str(len(state.checkpoints) or "")


def duration(seconds: float) -> str:
    """Seconds as people read them: 45 s, 12 min, 1.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
