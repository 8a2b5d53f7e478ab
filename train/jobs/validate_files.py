"""Checks the files of new jobs, one job at a time, and queues them with their numbers resolved."""

import json
import subprocess
import tempfile
from dataclasses import dataclass, field
from typing import IO, Any

from train.core.errors import ConfigError
from train.jobs import run_config, training_process
from train.jobs.change import JobEntry
from train.jobs.finish import Deaths, fail_job
from train.jobs.job_errors import FileReport, file_problem, is_harmless, log_line, method_problem, without_paths
from train.jobs.store import Store
from train.jobs.wire import Hyperparameters, JobError, method_of


@dataclass
class FileCheck:
    """The running check of a file of a job."""

    job: str
    process: "subprocess.Popen[bytes]"
    output: IO[bytes]
    reports: list[FileReport] = field(default_factory=list)
    """Reports on the job's files that are checked already: first training, then validation."""


class FileChecker:
    """Checks the files of one job after the other; what a dead server left unfinished is checked again."""

    def __init__(self, store: Store, deaths: Deaths) -> None:
        self.store = store
        self.deaths = deaths
        self._current: FileCheck | None = None

    def advance(self) -> None:
        """Go one step on with the oldest job whose files are not checked yet; returns at once."""
        check = self._current
        if check is None:
            waiting = self.store.jobs_with_status("validating_files", 1)
            if waiting:
                self._current = self._start_check(waiting[0].job.id, "train.jsonl", [])
            return
        entry = self.store.entry(check.job)
        if entry is None or entry.job.status != "validating_files":  # it was cancelled
            self.close()
        elif check.process.poll() is not None:
            self._finish_check(check, entry)

    def close(self) -> None:
        """End the check that runs, if one does."""
        check, self._current = self._current, None
        if check is not None:
            check.process.kill()
            check.process.wait()
            check.output.close()

    def _start_check(self, job: str, name: str, reports: list[FileReport]) -> FileCheck:
        output = tempfile.TemporaryFile()  # noqa: SIM115 (closed when the check is read)
        path = self.store.job_folder(job) / name
        return FileCheck(job, training_process.start_validation(path, output.fileno()), output, reports)

    def _finish_check(self, check: FileCheck, entry: JobEntry) -> None:
        """Read the report of a check that has ended, then check the next file or judge them all."""
        self._current = None
        check.output.seek(0)
        text = check.output.read()
        check.output.close()
        try:
            reports = [*check.reports, json.loads(text)]
        except ValueError:  # it was killed
            self.deaths.note(check.job, "check")
            return
        if len(reports) == 1 and entry.job.validation_file:
            self._current = self._start_check(check.job, "valid.jsonl", reports)
        else:
            self._judge(entry, reports)

    def _judge(self, entry: JobEntry, reports: list[FileReport]) -> None:
        """Queue the job with its hyperparameters resolved, or fail it with what is wrong in its files."""
        job = entry.job
        folder = self.store.job_folder(job.id)
        for report, name in zip(reports, ("training", "validation"), strict=False):
            problem = method_problem(report, name, job, folder) or file_problem(report, name, folder)
            if problem is not None:
                first = report["errors"][:100]
                errors = [{**error, "message": without_paths(error["message"], folder)} for error in first]
                fail_job(self.store, job.id, problem, {"errors": errors, "error_count": report["error_count"]})
                return
        keys = [
            f"{name} file: {without_paths(error['message'], folder).removesuffix(': remove it')}: left unread"
            for report, name in zip(reports, ("Training", "Validation"), strict=False)
            for error in filter(is_harmless, report["errors"])
        ]
        rows = int(reports[0]["examples"])
        try:
            config = run_config.write_config(folder / "config.yaml", entry.state.tree)
            if config.data.eval_fraction:
                rows -= max(1, round(rows * config.data.eval_fraction))  # roughly; the manifest has the exact number
            hyperparameters = run_config.resolve_hyperparameters(job.method.chosen, config, rows)
            tree = run_config.with_hyperparameters(entry.state.tree, config, hyperparameters)
            own_rate = config.training.learning_rate
            config = run_config.write_config(folder / "config.yaml", tree)
        except ConfigError as error:
            fail_job(self.store, job.id, JobError(code="invalid_config", message=str(error), param=None))
            return
        total = run_config.total_steps(config, rows)
        rate = None
        if job.method.chosen.learning_rate_multiplier != "auto":
            multiplier = config.training.learning_rate / own_rate
            rate = run_config.describe_rate(own_rate, multiplier, config, total)
        self._queue(job.id, tree, hyperparameters, total, rate, keys)

    def _queue(
        self,
        job: str,
        tree: dict[str, Any],
        hyperparameters: Hyperparameters,
        total: int,
        rate: tuple[str, bool] | None,
        keys: list[str],
    ) -> None:
        """`rate`: of a job with a multiplier, what to say of it, and whether it is a warning. `keys`: warnings."""
        with self.store.change() as change:
            entry = change.entry(job)
            if entry is None or entry.job.status != "validating_files":
                return
            entry.state.tree, entry.state.total, entry.state.deaths_in_a_row = tree, total, 0
            entry.job.status = "queued"
            entry.job.hyperparameters = hyperparameters if entry.job.hyperparameters else None
            entry.job.method = method_of(hyperparameters)
            entry.job.govor.config = run_config.public_sections(tree)
            change.save(entry)
            change.add_event(job, "validated", "Files validated, moving job to queued state")
            for number, text in enumerate(keys[:10]):
                change.add_event(job, f"extra key {number}", text, level="warn")
            if rate is not None:
                change.add_event(job, "rate", rate[0], level="warn" if rate[1] else "info")
        log_line(f"{job}: files checked, queued")
