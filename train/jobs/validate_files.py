"""Checks the files of new jobs, one job at a time, and queues them with their numbers resolved."""

import json
import subprocess
import tempfile
from dataclasses import dataclass, field
from typing import IO, Any

from train.core.errors import ConfigError
from train.jobs import run_config, training_process
from train.jobs.change import Entry
from train.jobs.finish import died, fail
from train.jobs.job_errors import file_problem, say, without_paths
from train.jobs.store import Store
from train.jobs.wire import Hyperparameters, JobError, JobMethod, Resolved


@dataclass
class Checking:
    """A job whose files are checked."""

    job: str
    process: "subprocess.Popen[bytes]"
    output: IO[bytes]
    reports: list[dict[str, Any]] = field(default_factory=list)
    """Of the files that are done: training, validation."""


class Checker:
    """Keeps nothing that a next server would need: what was not finished is checked again."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._checking: Checking | None = None

    def look(self) -> None:
        """One step on with the oldest job whose files are not checked yet."""
        checking = self._checking
        if checking is None:
            waiting = self.store.with_status("validating_files", 1)
            if waiting:
                self._checking = self._check(waiting[0].job.id, "train.jsonl", [])
            return
        entry = self.store.entry(checking.job)
        if entry is None or entry.job.status != "validating_files":  # cancelled
            self.close()
        elif checking.process.poll() is not None:
            self._read(checking, entry)

    def close(self) -> None:
        """End the check that runs, if one does."""
        checking, self._checking = self._checking, None
        if checking is not None:
            checking.process.kill()
            checking.process.wait()
            checking.output.close()

    def _check(self, job: str, name: str, reports: list[dict[str, Any]]) -> Checking:
        output = tempfile.TemporaryFile()  # noqa: SIM115 (closed when the check is read)
        path = self.store.job_folder(job) / name
        return Checking(job, training_process.validation(path, output.fileno()), output, reports)

    def _read(self, checking: Checking, entry: Entry) -> None:
        """The check of a file is over: on with the next file, or judge them all."""
        self._checking = None
        checking.output.seek(0)
        text = checking.output.read()
        checking.output.close()
        try:
            reports = [*checking.reports, json.loads(text)]
        except ValueError:  # it was killed
            died(self.store, checking.job, "check")
            return
        if len(reports) == 1 and entry.job.validation_file:
            self._checking = self._check(checking.job, "valid.jsonl", reports)
        else:
            self._judge(entry, reports)

    def _judge(self, entry: Entry, reports: list[dict[str, Any]]) -> None:
        """Queue the job with its numbers, or fail it with what is wrong in its files."""
        job = entry.job
        folder = self.store.job_folder(job.id)
        for report, name in zip(reports, ("training", "validation"), strict=False):
            problem = file_problem(report, name, folder)
            if problem is not None:
                found = report["errors"][:100]
                errors = [{**error, "message": without_paths(error["message"], folder)} for error in found]
                fail(self.store, job.id, problem, {"errors": errors, "error_count": report["error_count"]})
                return
        rows = int(reports[0]["examples"])
        try:
            config = run_config.write_config(folder / "config.yaml", entry.plan.tree)
            if config.data.eval_fraction:
                rows -= max(1, round(rows * config.data.eval_fraction))  # about; the manifest knows
            chosen = run_config.resolve(job.hyperparameters, config, rows)
            tree = run_config.with_numbers(entry.plan.tree, config, chosen)
            config = run_config.write_config(folder / "config.yaml", tree)
        except ConfigError as error:
            fail(self.store, job.id, JobError(code="invalid_config", message=str(error), param=None))
            return
        self._queue(job.id, tree, chosen, run_config.total_steps(config, rows))

    def _queue(self, job: str, tree: dict[str, Any], chosen: Hyperparameters, total: int) -> None:
        with self.store.change() as change:
            entry = change.entry(job)
            if entry is None or entry.job.status != "validating_files":
                return
            entry.plan.tree, entry.plan.total, entry.plan.alone = tree, total, 0
            entry.job.status = "queued"
            entry.job.hyperparameters = chosen
            entry.job.method = JobMethod(supervised=Resolved(hyperparameters=chosen))
            entry.job.govor.config = run_config.shown(tree)
            change.save(entry)
            change.add_event(job, "validated", "Files validated, moving job to queued state")
        say(f"{job}: files checked, queued")
