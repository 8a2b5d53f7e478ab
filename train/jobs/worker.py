"""Makes the processes follow the store: checks files, starts, watches, stops and settles trainings.

One thread, a look every quarter of a second. It keeps nothing in mind that the next look could not find again.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ..config import Config, load_config
from ..errors import ConfigError
from ..files import write_whole
from ..launch import launch_command
from ..runs import Run, last_checkpoint
from . import processes, recipe
from .metrics import Steps, Tail, by_step, full_validation, on_the_wire, result_csv
from .objects import ENDED, Checkpoint, File, Hyperparameters, JobError, JobMethod, Resolved
from .store import Change, Entry, Store, new_id, remove

PAUSE = 0.25
"""Seconds between two looks."""
ALONE = 10
"""Processes of a job in a row that may end without a word and without a new step before the job fails."""
MIN_EXAMPLES = 10
STOPPED = ("stopped after step", "interrupted")
"""Last words of a training that was asked to stop: it goes on later."""


@dataclass
class Watched:
    """A job whose training runs."""

    training: processes.Training
    slot: int
    tail: Tail
    steps: Steps | None = None
    config: Config | None = None
    times: list[tuple[float, int]] = field(default_factory=list)
    """(time, step) of the steps seen here, for the time left."""


@dataclass
class Checking:
    """A job whose files are checked."""

    job: str
    process: "subprocess.Popen[bytes]"
    output: IO[bytes]
    reports: list[dict[str, Any]] = field(default_factory=list)


class Worker(threading.Thread):
    """`make_room` blocks until no engine holds the card's memory; `give_room` says that training is over."""

    def __init__(self, store: Store, slots: int, room: "Room") -> None:
        super().__init__(name="worker", daemon=True)
        self.store = store
        self.slots = slots
        self.room = room
        self.wake = threading.Event()
        self._stopping = threading.Event()
        self._watched: dict[str, Watched] = {}
        self._checking: Checking | None = None
        self._expired = time.monotonic()

    def run(self) -> None:
        self._adopt()
        while not self._stopping.is_set():
            try:
                self._look()
            except Exception as error:  # a full disk, a locked file: the next look may fare better
                say(f"worker: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
                self._stopping.wait(2)
            self.wake.wait(PAUSE)
            self.wake.clear()
        self._let_go()

    def stop(self) -> None:
        """End every training with its state saved; the jobs stay as they are and go on with the next server."""
        self._stopping.set()
        self.wake.set()

    def _adopt(self) -> None:
        """Take over the trainings of a server before us."""
        start = self._mark("")
        for mark in sorted(processes.marked(start)):
            job = mark.removeprefix(start)
            if self.store.entry(job) is not None:
                self._watch(job, processes.Training(mark))
                say(f"{job}: its training still runs, taken over")

    def _look(self) -> None:
        for job, watched in list(self._watched.items()):
            entry = self.store.entry(job)
            if entry is None:
                continue
            running = watched.training.runs()
            if entry.job.status == "queued" and running and watched.training.asked_at is None:
                entry = self._set_running(job)  # started by a server that died before it could say so
            if entry.job.status == "running":
                self._follow(entry, watched, ended=not running)
            elif running:
                saved = last_checkpoint(self.store.run(job))
                since = watched.training.asked_at
                watched.training.ask_to_stop(bool(saved and since and saved.stat().st_mtime > since))
            if not running:
                del self._watched[job]
                self._settle(job)
        self._check_files()
        self._launch()
        if not self._watched:
            self.room.give()
        if time.monotonic() - self._expired > 60:
            self._expired = time.monotonic()
            self.store.expire()

    # Files

    def _check_files(self) -> None:
        """One step on with the oldest job whose files are not checked yet."""
        checking = self._checking
        if checking is None:
            waiting = self.store.with_status("validating_files")
            if waiting:
                self._checking = self._check(waiting[0].job.id, "train.jsonl", [])
            return
        entry = self.store.entry(checking.job)
        if entry is None or entry.job.status != "validating_files":  # cancelled
            checking.process.kill()
            checking.process.wait()
            self._checking = None
            return
        if checking.process.poll() is None:
            return
        self._checking = None
        checking.output.seek(0)
        report = _report(checking.output.read())
        checking.output.close()
        if report is None:
            self._died(checking.job, "check")
            return
        reports = [*checking.reports, report]
        if len(reports) == 1 and entry.job.validation_file:
            self._checking = self._check(checking.job, "valid.jsonl", reports)
        else:
            self._judge(entry, reports)

    def _check(self, job: str, name: str, reports: list[dict[str, Any]]) -> Checking:
        output = tempfile.TemporaryFile()  # noqa: SIM115 (closed when the check is read)
        path = self.store.job_folder(job) / name
        return Checking(job, processes.validation(path, output.fileno()), output, reports)

    def _judge(self, entry: Entry, reports: list[dict[str, Any]]) -> None:
        """Queue the job with its numbers, or fail it with what is wrong in its files."""
        job = entry.job
        folder = self.store.job_folder(job.id)
        for report, name, id_ in zip(
            reports, ("training", "validation"), (job.training_file, job.validation_file), strict=False
        ):
            problem = file_problem(report, name, id_ or "", folder)
            if problem is not None:
                errors = [{**found, "message": _no_paths(found["message"], folder)} for found in report["errors"][:100]]
                self._fail(job.id, problem, {"errors": errors, "error_count": report["error_count"]})
                return
        rows = int(reports[0]["examples"])
        try:
            config = recipe.write_config(folder / "config.yaml", entry.plan.tree)
            if config.data.eval_fraction:
                rows -= max(1, round(rows * config.data.eval_fraction))  # about; the manifest knows
            chosen = recipe.resolve(job.hyperparameters, config, rows)
            tree = recipe.with_numbers(entry.plan.tree, config, chosen)
            config = recipe.write_config(folder / "config.yaml", tree)
        except ConfigError as error:
            self._fail(job.id, JobError(code="invalid_config", message=str(error), param=None))
            return
        self._queue(entry, tree, chosen, recipe.total_steps(config, rows))

    def _queue(self, entry: Entry, tree: dict[str, Any], chosen: Hyperparameters, total: int) -> None:
        with self.store.change() as change:
            now = change.entry(entry.job.id)
            if now is None or now.job.status != "validating_files":
                return
            now.plan.tree, now.plan.total = tree, total
            now.job.status = "queued"
            now.job.hyperparameters = chosen
            now.job.method = JobMethod(supervised=Resolved(hyperparameters=chosen))
            now.job.govor.config = shown(tree)
            change.save(now)
            change.add_event(now.job.id, "validated", "Files validated, moving job to queued state")
        say(f"{entry.job.id}: files checked, queued")

    # Training

    def _launch(self) -> None:
        """Start what waits for a slot: first what ran before a crash, then the queue."""
        for entry in [*self.store.with_status("running"), *self.store.with_status("queued")]:
            if len(self._watched) >= self.slots:
                return
            if entry.job.id not in self._watched and not self._stopping.is_set():
                self._start(entry)

    def _start(self, entry: Entry) -> None:
        job = entry.job.id
        run, mark = self.store.run(job), self._mark(job)
        if finished(run):  # it ended while nobody looked
            self._set_running(job)
            self._settle(job)
            return
        self.room.make()
        if processes.find(mark):
            self._watch(job, processes.Training(mark))
            return
        resume = last_checkpoint(run) is not None and run.manifest_file.exists()
        if not resume:
            shutil.rmtree(run.path, ignore_errors=True)  # a folder without a checkpoint has nothing to go on from
        if self._set_running(job).job.status != "running":
            return
        config = self.store.job_folder(job) / "config.yaml"
        command = launch_command(config, ["--resume"] if resume else [], ())
        script = next(word for word in command if Path(word).name == "sft.py")
        command = [str(Path(word).absolute()) if word in (command[0], script) else word for word in command]
        slot = min(set(range(self.slots)) - {watched.slot for watched in self._watched.values()})
        log = self.store.job_folder(job) / "output.log"
        training = processes.start(command, mark, self.store.folder, log, self._card(slot))
        self._watch(job, training, slot)
        say(f"{job}: training {'goes on' if resume else 'begins'} in slot {slot}")

    def _set_running(self, job: str) -> Entry:
        with self.store.change() as change:
            entry = change.entry(job)
            assert entry is not None
            if entry.job.status == "queued":
                entry.job.status = "running"
                change.save(entry)
                change.add_event(job, "started", "Fine-tuning job started")
        return entry

    def _card(self, slot: int) -> dict[str, str]:
        """Several slots have a card each."""
        if self.slots == 1:
            return {}
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        cards = visible.split(",") if visible else [] if visible == "" else [str(n) for n in range(self.slots)]
        return {"CUDA_VISIBLE_DEVICES": cards[slot]} if slot < len(cards) else {}

    def _watch(self, job: str, training: processes.Training, slot: int | None = None) -> None:
        if slot is None:
            taken = {watched.slot for watched in self._watched.values()}
            slot = next(n for n in range(len(taken) + 1) if n not in taken)
        self._watched[job] = Watched(training, slot, Tail(self.store.run(job).metrics_file))

    def _follow(self, entry: Entry, watched: Watched, *, ended: bool) -> None:
        """New steps and checkpoints as events."""
        run = self.store.run(entry.job.id)
        lines = watched.tail.new_lines()
        if watched.steps is None:
            if not run.manifest_file.exists() or not (lines or ended):
                return
            watched.config = load_config(self.store.job_folder(entry.job.id) / "config.yaml")
            rows = run.manifest()["data"]["train"]["rows"]
            every = recipe.steps_an_epoch(watched.config, rows) if watched.config.training.eval_strategy != "no" else 0
            watched.steps = Steps(recipe.total_steps(watched.config, rows), every, entry.plan.step)
        watched.steps.take(lines)
        steps = list(watched.steps.ready(ended=ended))
        checkpoints = self._new_checkpoints(entry, watched, run, watched.steps.after)
        if not steps and not checkpoints:
            return
        with self.store.change() as change:
            now = change.entry(entry.job.id)
            if now is None or now.job.status != "running":
                return
            pending = list(checkpoints)
            for step in steps:
                now.plan.step, now.plan.alone = step.step, 0
                change.add_event(now.job.id, f"step {step.step}", step.message, type="metrics", data=step.data)
                while pending and pending[0].step_number <= step.step:
                    _add_checkpoint(change, pending.pop(0))
            for checkpoint in pending:
                _add_checkpoint(change, checkpoint)
            now.plan.total = watched.steps.total
            now.job.estimated_finish = watched_finish(watched, now.plan.step)
            change.save(now)

    def _new_checkpoints(self, entry: Entry, watched: Watched, run: Run, last: int) -> list[Checkpoint]:
        """Checkpoints at the end of an epoch, of steps that are known already."""
        assert watched.config is not None and watched.steps is not None
        known = {checkpoint.step_number for checkpoint in self.store.checkpoints(entry.job.id)}
        epoch = recipe.steps_an_epoch(watched.config, run.manifest()["data"]["train"]["rows"])
        found = sorted(int(path.name.split("-")[1]) for path in run.checkpoints.glob("checkpoint-*"))
        wanted = [s for s in found if s not in known and s <= last and (s % epoch == 0 or s == watched.steps.total)]
        if not wanted:
            return []
        lines = by_step(run.metrics())
        made = []
        for step in wanted:
            line = lines.get(step, {})
            made.append(
                Checkpoint(
                    id=new_id("ftckpt_"),
                    created_at=int(time.time()),
                    fine_tuned_model_checkpoint=f"{model_name(entry)}:ckpt-step-{step}",
                    fine_tuning_job_id=entry.job.id,
                    step_number=step,
                    metrics={"step": step, **on_the_wire(line), **full_validation(line)},
                )
            )
        return made

    def _settle(self, job: str) -> None:
        """A training is over: what that means for the job."""
        entry = self.store.entry(job)
        if entry is None or entry.job.status != "running":
            return
        run = self.store.run(job)
        if finished(run):
            self._follow(entry, Watched(processes.Training(self._mark(job)), 0, Tail(run.metrics_file)), ended=True)
            self._succeed(job, run)
            return
        folder = self.store.job_folder(job)
        said = processes.last_words(folder / "output.log")
        if said is None:
            self._died(job, "training")
        elif not said.startswith(STOPPED):
            self._fail(job, training_problem(said, entry, folder))

    def _died(self, job: str, what: str) -> None:
        """A process of the job ended without a word: it begins again, unless that has happened too often."""
        with self.store.change() as change:
            entry = change.entry(job)
            assert entry is not None
            entry.plan.alone += 1
            change.save(entry)
            number = change.count_events(job, "died") + 1
            text = f"The {what} process ended unexpectedly; the job goes on from what it had saved"
            change.add_event(job, f"died {number}", text, level="warn")
        say(f"{job}: its {what} process ended without a word")
        if entry.plan.alone >= ALONE:
            text = f"The {what} process was killed {ALONE} times without a new step: the machine may lack memory"
            self._fail(job, JobError(code="server_error", message=text, param=None))

    def _succeed(self, job: str, run: Run) -> None:
        """Model, result file, last events and status: all of it or nothing."""
        metrics = run.metrics()
        text = result_csv(metrics)
        file = File(
            id=new_id("file-"),
            purpose="fine-tune-results",
            filename="step_metrics.csv",
            bytes=len(text.encode()),
            created_at=int(time.time()),
        )
        write_whole(self.store.file_path(file.id), [text])
        with self.store.change() as change:
            entry = change.entry(job)
            if entry is None or entry.job.status != "running":
                remove(self.store.file_path(file.id))
                return
            name = model_name(entry)
            change.add_file(file, "")
            for checkpoint in change.checkpoints(job):
                change.add_model(checkpoint.fine_tuned_model_checkpoint, job, checkpoint.step_number)
            change.add_model(name, job, None)
            change.add_event(job, "model", "New fine-tuned model created", data={"fine_tuned_model": name})
            change.add_event(job, "succeeded", "The job has successfully completed")
            entry.job.status, entry.job.fine_tuned_model = "succeeded", name
            entry.job.result_files, entry.job.estimated_finish = [file.id], None
            entry.job.finished_at = int(time.time())
            entry.job.trained_tokens = int(max((line.get("num_tokens", 0) for line in metrics), default=0))
            change.save(entry)
        say(f"{job}: succeeded")
        for path in run.checkpoints.glob("checkpoint-*/*.pt*"):
            path.unlink()  # the optimizer's state: nothing goes on from here

    def _fail(self, job: str, error: JobError, data: dict[str, Any] | None = None) -> None:
        with self.store.change() as change:
            entry = change.entry(job)
            if entry is None or entry.job.status in ENDED:
                return
            entry.job.status, entry.job.error = "failed", error
            entry.job.finished_at, entry.job.estimated_finish = int(time.time()), None
            change.save(entry)
            change.add_event(job, "failed", error.message, level="error", data=data)
        say(f"{job}: failed ({error.code})")

    def _let_go(self) -> None:
        if self._checking is not None:
            self._checking.process.kill()
            self._checking.process.wait()
        deadline = time.monotonic() + processes.GRACE + 5
        while self._watched and time.monotonic() < deadline:
            for job, watched in list(self._watched.items()):
                if watched.training.runs():
                    watched.training.ask_to_stop(saved=False)
                else:
                    del self._watched[job]
            time.sleep(0.1)

    def _mark(self, job: str) -> str:
        return f"{self.store.folder}:{job}"


class Room:
    """The memory of the cards, when nothing but training asks for it."""

    def make(self) -> None:
        """Return when no engine holds memory; from then on none starts."""

    def give(self) -> None:
        """No training runs."""


def finished(run: Run) -> bool:
    """Whether its result is complete: these folders are written aside and renamed."""
    return run.adapter.exists() or run.merged.exists()


def model_name(entry: Entry) -> str:
    suffix = entry.job.user_provided_suffix or ""
    return f"ft:{entry.job.model}:local:{suffix}:{entry.plan.letters}"


def shown(tree: dict[str, Any]) -> dict[str, Any]:
    """The sections without the server's paths."""
    sections = {key: value for key, value in tree.items() if key in ("lora", "training", "generation")}
    model = {key: value for key, value in tree.get("model", {}).items() if key != "name_or_path"}
    return sections | {"model": model}


def watched_finish(watched: Watched, step: int) -> int | None:
    """When the last step will be done, by the pace of the steps seen here (unix time)."""
    assert watched.steps is not None
    watched.times.append((time.time(), step))
    (began, first), (now, last) = watched.times[0], watched.times[-1]
    if last <= first:
        return None
    return int(now + (watched.steps.total - last) * (now - began) / (last - first)) + 1


def file_problem(report: dict[str, Any], name: str, id_: str, folder: Path) -> JobError | None:
    """What is wrong with a file, in OpenAI's words; None where it can be trained on."""
    errors = report["errors"]
    param = f"{name}_file"
    few = [found for found in errors if found["kind"] == "too_few_examples"]
    errors = [found for found in errors if found["kind"] != "too_few_examples"]
    if errors:
        first = errors[0]
        where = f"Example {first['line']}, " if first["line"] else ""
        text = f"Invalid file format. {where}{_no_paths(first['message'], folder)}"
        start = f"The job failed due to an invalid {name} file. "
        more = report["error_count"] - len(few) - 1
        if more > 0:
            text += f" ({more} more problems)"
        return JobError(code=f"invalid_{param}", message=start + text, param=param)
    if few and name == "training":
        count = report["examples"]
        text = f"Training file has {count} example(s), but must have at least {MIN_EXAMPLES} examples"
        return JobError(code="invalid_n_examples", message=text, param=param)
    return None


def training_problem(said: str, entry: Entry, folder: Path) -> JobError:
    """Training's own last words as the job's error."""
    text = _no_paths(said, folder)
    if "valid.jsonl" in said:
        param = "validation_file"
    elif "train.jsonl" in said or "rows are longer than" in said:
        param = "training_file"
    else:
        return JobError(code="server_error", message=f"The job failed: {text}", param=None)
    start = f"The job failed due to an invalid {param.replace('_', ' ')}. "
    return JobError(code=f"invalid_{param}", message=start + text, param=param)


def _no_paths(text: str, folder: Path) -> str:
    """Without the server's paths: the files by the names that clients know."""
    for name in ("train.jsonl", "valid.jsonl"):
        text = text.replace(f"{folder / name}:", "line ").replace(str(folder / name), name)
    return text.replace(f"{folder.parents[1]}{os.sep}", "")


def _report(text: bytes) -> dict[str, Any] | None:
    """What `govor validate --json` has printed; None where it was killed."""
    try:
        report: dict[str, Any] = json.loads(text)
    except ValueError:
        return None
    return report


def _add_checkpoint(change: Change, checkpoint: Checkpoint) -> None:
    change.add_checkpoint(checkpoint)
    step = checkpoint.step_number
    change.add_event(checkpoint.fine_tuning_job_id, f"checkpoint {step}", f"Checkpoint created at step {step}")


def say(text: str) -> None:
    """A line of the server's log: states and names, never rows or keys."""
    print(text, file=sys.stderr, flush=True)
