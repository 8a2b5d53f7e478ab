"""The run folder: what training leaves on disk and every later verb reads.

runs/NAME/
    config.yaml      resolved, complete, re-runnable
    manifest.json    versions, seed, base revision, data fingerprints, template hash, results
    metrics.jsonl    a line a logging step
    held_out.jsonl   the rows that were held out, so that later verbs need no other file
    checkpoints/     complete or absent
    adapter/         final adapter, tokenizer files of the base, frozen chat template
    merged/          the whole model: written by `govor merge`, or by full tuning itself
    samples.md  report.html
"""

import json
import math
import os
import re
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from train.core.config import Config, dump_config, load_config
from train.core.errors import RunError
from train.core.files import (
    ASIDE,
    is_aside_name,
    listed,
    remove_if_empty,
    remove_leftovers,
    remove_noted,
    sha256,
    write_atomically,
)
from train.core.lease import LEASE
from train.core.locks import LOCK
from train.core.manifest import MANIFEST

RUNS = Path("runs")
TOKEN_CACHE = RUNS / ".tokens"
TOKEN_FILE = re.compile(rf"[0-9a-f]{{64}}\.npz|\.[0-9a-f]{{64}}\.npz{ASIDE}|\.\d+\.partial")
"""Where, and under which names, earlier versions kept the ids of rows."""
CHECKPOINT = re.compile(r"checkpoint-(\d+)")
UNNOTED = re.compile(
    r"(adapter_)?model(-\d+-of-\d+)?\.safetensors(\.index\.json)?|(adapter_|generation_|tokenizer_)?config\.json"
    r"|tokenizer\.(json|model)|(special_tokens_map|added_tokens|vocab)\.json|merges\.txt|chat_template\.jinja"
    r"|trainer_state\.json|training_args\.bin|(optimizer|scheduler|scaler)\.pt|rng_state(_\d+)?\.pth"
)
"""Files of adapters, models and checkpoints of the last version, which left no note of what it wrote."""
UNNOTED_IN_CHECKPOINT = re.compile(f"{UNNOTED.pattern}|README\\.md")
"""In a checkpoint README.md is PEFT's card, which training removes from the adapter."""
MEND = "put it back from a copy of the run, or train again"
PARTIAL = ".partial"
"""Name of the folder in checkpoints/ in which a checkpoint is being written."""
LIBRARIES = ("govor", "torch", "transformers", "peft", "trl", "datasets", "accelerate", "bitsandbytes")


class Entries(dict[str, Any]):
    """An object of a file that we read back: an entry that is missing is a RunError which names it."""

    def __init__(self, file: Path, entries: dict[str, Any]) -> None:
        super().__init__(entries)
        self.file = file

    def __missing__(self, key: str) -> Any:
        raise RunError(f"{self.file}: damaged, {key} is missing: {MEND}")


@dataclass(frozen=True)
class Run:
    """A run folder. Its attributes are the paths inside it."""

    path: Path
    trust_remote_code: bool = False
    """Whether the user has said that Python code of its base may run; what its own config.yaml says does not count."""

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def manifest_file(self) -> Path:
        return self.path / "manifest.json"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def held_out_file(self) -> Path:
        return self.path / "held_out.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def merged(self) -> Path:
        return self.path / "merged"

    @property
    def samples_file(self) -> Path:
        return self.path / "samples.md"

    @property
    def evaluation(self) -> Path:
        """Answers sampled, evaluation.json, evaluation.html."""
        return self.path / "evaluation"

    @property
    def report_file(self) -> Path:
        return self.path / "report.html"

    def config(self) -> Config:
        return load_config(self.config_file, ["model.trust_remote_code=true"] if self.trust_remote_code else [])

    def manifest(self) -> dict[str, Any]:
        try:
            manifest: dict[str, Any] = json.loads(
                self.manifest_file.read_bytes(), object_hook=partial(Entries, self.manifest_file)
            )
            MANIFEST.validate_python(manifest)
        except ValidationError as error:
            first = error.errors()[0]
            at = ".".join(map(str, first["loc"])) or "the whole"
            raise RunError(f"{self.manifest_file}: damaged, {at}: {first['msg']}: {MEND}") from None
        except (ValueError, RecursionError) as error:
            raise RunError(f"{self.manifest_file}: damaged, not valid JSON: {error}: {MEND}") from None
        return manifest

    def end_of_turn(self) -> list[int]:
        """Ids of the tokens that end the assistant's turn in the rows that were trained."""
        ids: list[int] = self.manifest()["template"]["end_of_turn"]
        return ids

    def template_date(self) -> datetime | None:
        """The date under which the chat template rendered the rows; None where it writes no date."""
        date: str | None = self.manifest()["template"].get("date")
        try:
            return datetime.fromisoformat(date) if date else None
        except ValueError:
            raise RunError(f"{self.manifest_file}: damaged, template.date is no date: {MEND}") from None

    def update_manifest(self, **entries: Any) -> None:
        write_atomically(self.manifest_file, _json({**self.manifest(), **entries}))

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; empty before the first."""
        if not self.metrics_file.exists():
            return []
        lines = self.metrics_file.read_bytes().split(b"\n")
        entries = []
        for number, line in enumerate(lines[:-1], 1):  # behind the last line break a crash may have left half a line
            try:
                entry = json.loads(line)
                numbers = all(isinstance(value, int | float) for value in entry.values())
                if not numbers or not isinstance(entry["step"], int):
                    raise ValueError("expected numbers, among them a step")
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                raise RunError(f"{self.metrics_file}:{number}: damaged: {error}: {MEND}") from None
            entries.append(entry)
        return entries

    def forget_metrics_after(self, step: int) -> None:
        """Drop the lines of steps that will be taken again."""
        kept = [entry for entry in self.metrics() if entry["step"] <= step]
        write_atomically(self.metrics_file, "".join(json.dumps(entry) + "\n" for entry in kept))

    def append_metrics(self, entry: dict[str, Any]) -> None:
        """Add a line; a number that JSON has no word for is left out."""
        entry = {key: value for key, value in entry.items() if not isinstance(value, float) or math.isfinite(value)}
        with self.metrics_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, allow_nan=False) + "\n")


def require_free(name: str, *, trust_remote_code: bool = False) -> Run:
    """The folder that a new run would get, or a RunError where it holds another run."""
    run = Run(RUNS / name, trust_remote_code)
    logs = run.checkpoints / "runs"  # TensorBoard's, of a run that never came to a checkpoint
    ours = (run.path / LOCK, run.path / LEASE)
    others = (path for path in run.path.rglob("*") if logs not in path.parents and path not in ours)
    if run.path.is_file() or any(path.is_symlink() or not path.is_dir() for path in others):
        state = "a finished run" if run.adapter.exists() or run.merged.exists() else "an unfinished run"
        if not run.manifest_file.exists():
            state = "other files"
        raise RunError(f"{run.path} already holds {state}: choose another name=… or move that folder away")
    return run


def resumable_run(config: Config) -> Run:
    """The unfinished run of that name, or a RunError that says why it cannot go on with this config."""
    run = Run(RUNS / config.name, config.model.trust_remote_code)
    if not run.manifest_file.exists():
        raise RunError(f"{run.path} holds no run to resume: start it without --resume")
    if run.adapter.exists() or run.merged.exists():
        raise RunError(f"{run.path} is finished: there is nothing to resume")
    # an option that is newer than the run counts with its default
    before, after = (_flat(yaml.safe_load(dump_config(one))) for one in (run.config(), config))
    changed = [f"{key}: {before.get(key)!r} → {after.get(key)!r}" for key in sorted({*before, *after})
               if before.get(key) != after.get(key)]  # fmt: skip
    if changed:
        raise RunError(f"{run.path} was begun with another config ({'; '.join(changed)}): resume it with the same")
    for name, path in (("train", config.data.train_file), ("held_out", config.data.eval_file)):
        if path is not None and run.manifest()["data"][name]["sha256"] != sha256(path):
            raise RunError(f"{path} has changed since {run.path} was begun: resume it with the same rows")
    return run


def whole_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints in RUN/checkpoints by step; what a crash has left half-written has another name."""
    paths = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    paths = [path for path in paths if CHECKPOINT.fullmatch(path.name)]
    return sorted(paths, key=lambda path: int(path.name.split("-")[1]))


def last_checkpoint(run: Run) -> Path | None:
    """The newest complete checkpoint."""
    return next(reversed(whole_checkpoints(run.checkpoints)), None)


def rotate_checkpoints(folder: Path, most: int | None, best: int | None) -> None:
    """Delete the oldest complete checkpoints until `most` are left; the newest and that of step `best` stay.

    transformers' own also deletes what merely begins so: a copy that was put by as checkpoint-50-good.
    """
    if not most or folder.is_symlink():  # a link may lead to another run's
        return
    paths = whole_checkpoints(folder)
    kept = {*paths[-1:], folder / f"checkpoint-{best}"} & {*paths}
    excess = max(0, len(paths) - max(most, len(kept)))
    for path in [path for path in paths if path not in kept][:excess]:
        remove_noted(path, UNNOTED_IN_CHECKPOINT)


def clear_partial_checkpoint(folder: Path) -> None:
    """Remove what a kill has left of a save in RUN/checkpoints; RunError where something else is in it."""
    partial = folder / PARTIAL
    if partial.is_symlink():
        raise RunError(f"{partial} is a link, which govor did not make: move it away")
    if not partial.exists():
        return
    others = [path.name for path in partial.iterdir() if not CHECKPOINT.fullmatch(path.name)]
    if others:
        raise RunError(f"{partial} holds what govor did not write ({listed(others)}): move it away")
    shutil.rmtree(partial, ignore_errors=True)


def discard_run(run: Run) -> list[Path]:
    """Remove what training wrote into a run folder, and the folder if that was all; what is left in it is returned.

    Exports stay: a person has asked for them. So do TensorBoard's logs: others may lie beside training's own.
    """
    if run.path.is_symlink() or not run.path.is_dir():
        return [run.path] if os.path.lexists(run.path) else []
    files = [run.config_file, run.manifest_file, run.metrics_file, run.held_out_file, run.samples_file, run.report_file]
    files += [run.path / LOCK, run.path / LEASE]
    for path in run.path.iterdir():
        if path.is_file() and any(path == file or is_aside_name(path.name, file) for file in files):
            path.unlink()
    remove_leftovers(run.adapter)
    remove_leftovers(run.merged)
    for folder in (run.adapter, run.merged):
        remove_noted(folder, UNNOTED)
    if not run.checkpoints.is_symlink():
        for folder in whole_checkpoints(run.checkpoints):
            remove_noted(folder, UNNOTED_IN_CHECKPOINT)
        with suppress(RunError):
            clear_partial_checkpoint(run.checkpoints)
        remove_if_empty(run.checkpoints)
    remove_noted(run.path)  # the folder that a checkpoint is served from is noted as a whole
    remove_if_empty(run.path)
    return sorted(run.path.iterdir()) if run.path.exists() else []


def forget_tokens() -> None:
    """Remove the ids of rows that earlier versions kept beside the runs: they are the rows in another form."""
    for path in TOKEN_CACHE.glob("*") if TOKEN_CACHE.is_dir() else ():
        if TOKEN_FILE.fullmatch(path.name):
            path.unlink(missing_ok=True)
    remove_if_empty(TOKEN_CACHE)


def create_run(config: Config, manifest: dict[str, Any]) -> Run:
    """Make the folder with its config and manifest; RunError where it holds another run already."""
    run = require_free(config.name, trust_remote_code=config.model.trust_remote_code)
    run.path.mkdir(parents=True, exist_ok=True)
    write_atomically(run.config_file, dump_config(config))
    started = {"status": "running", "started": now(), "versions": _versions(), "git_commit": _git_commit()}
    write_atomically(run.manifest_file, _json({**started, **manifest}))
    return run


def open_run(path: Path, *, trust_remote_code: bool = False) -> Run:
    """The finished run in a folder, or a RunError that says what is missing.

    `trust_remote_code`: the user's own word that code of its base may run.
    """
    run = Run(path, trust_remote_code)
    if not path.exists():
        known = ", ".join(str(p.parent) for p in sorted(RUNS.glob("*/config.yaml"))) or "none here yet"
        raise RunError(f"{path}: no such run folder (runs: {known})")
    if not run.config_file.exists() or not run.manifest_file.exists():
        raise RunError(f"{path} is not a run folder: it has no config.yaml and manifest.json")
    if not run.adapter.exists() and not run.merged.exists():
        raise RunError(f"{path} is unfinished: training has left no adapter/ in it")
    return run


def now() -> str:
    """Local time with its zone, to the second."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def _flat(tree: dict[str, Any], before: str = "") -> dict[str, Any]:
    """{"training.seed": 42, …} of a config's tree."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{before}{key}.") if isinstance(value, dict) else {f"{before}{key}": value}
    return flat


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def _versions() -> dict[str, str | None]:
    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    return {name: installed(name) for name in LIBRARIES}


def _git_commit() -> str | None:
    """Commit of govor's own source, where it runs from a clone."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
