"""The server's own log, and what is wrong with a job in OpenAI's words."""

import os
import sys
from pathlib import Path
from typing import TypedDict

from train.jobs.wire import Job, JobError

MIN_EXAMPLES = 10


class FileProblem(TypedDict):
    """One problem of a file, as `govor validate --json` prints it."""

    line: int
    message: str
    kind: str


class FileReport(TypedDict):
    """What `govor validate --json` prints about a file, as far as the server reads it."""

    examples: int
    errors: list[FileProblem]
    preferences: bool
    """Whether the rows have two answers each."""
    error_count: int
    """Number of all errors; `errors` holds the first of them."""


def log_line(text: str) -> None:
    """Write a line to the server's log: states and names, never rows or keys."""
    print(text, file=sys.stderr, flush=True)


def is_harmless(problem: FileProblem) -> bool:
    """Whether a problem is a key that no chat template reads; one for thoughts may be read."""
    thoughts = any(key in problem["message"] for key in ("reasoning", "think", "tool_call_id"))
    return problem["kind"] in ("extra_key", "extra_message_key") and not thoughts


def file_problem(report: FileReport, name: str, folder: Path) -> JobError | None:
    """The first problem of a file, from its `govor validate --json`; None where it can be trained on.

    name: training or validation. folder: the job's.
    """
    param = f"{name}_file"
    too_few = [error for error in report["errors"] if error["kind"] == "too_few_examples"]
    errors = _of_rows(report)
    if errors or report["error_count"] > len(report["errors"]):
        first = (errors or report["errors"])[0]
        where = f"Example {first['line']}, " if first["line"] else ""
        text = f"Invalid file format. {where}{without_paths(first['message'], folder)}"
        more = report["error_count"] - len(too_few) - sum(map(is_harmless, report["errors"])) - 1
        if more > 0:
            text += f" ({more} more problems)"
        return _invalid(param, text)
    if too_few and name == "training":
        count = report["examples"]
        text = f"Training file has {count} example(s), but must have at least {MIN_EXAMPLES} examples"
        return JobError(code="invalid_n_examples", message=text, param=param)
    return None


def method_problem(report: FileReport, name: str, job: Job, folder: Path) -> JobError | None:
    """The problem of a file whose rows are another method's; None where they fit. name: training or validation."""
    method = job.method.type
    if report["preferences"] == (method == "dpo"):
        return None
    if method == "dpo" and _of_rows(report) and (problem := file_problem(report, name, folder)):  # rows of no method
        keys = "`input`, `preferred_output` and `non_preferred_output`"
        return problem.model_copy(update={"message": f"{problem.message}. For method=dpo each row has {keys}"})
    form, meant = ("fine-tune-preference", "dpo") if report["preferences"] else ("fine-tune-chat", "supervised")
    file = job.training_file if name == "training" else job.validation_file
    return _invalid(
        f"{name}_file",
        f"Invalid file format. Input file {file} is in the {form} format, but the specified fine-tuning job is not "
        f"using '{meant}' as the training method (provided method={method}).",
    )


def _of_rows(report: FileReport) -> list[FileProblem]:
    """The problems for which rows cannot be learned from, of those that the report has."""
    return [error for error in report["errors"] if error["kind"] != "too_few_examples" and not is_harmless(error)]


def training_problem(error_text: str, folder: Path) -> JobError:
    """The error with which a training ended, as the job's error. folder: the job's."""
    text = without_paths(error_text, folder)
    if "valid.jsonl" in error_text:
        return _invalid("validation_file", text)
    if "train.jsonl" in error_text or "rows are longer than" in error_text:
        return _invalid("training_file", text)
    return JobError(code="server_error", message=f"The job failed: {text}", param=None)


def without_paths(text: str, folder: Path) -> str:
    """The text without the server's paths: files have the names that clients know."""
    for name in ("train.jsonl", "valid.jsonl"):
        text = text.replace(f"{folder / name}:", "line ").replace(str(folder / name), name)
    return text.replace(f"{folder.parents[1]}{os.sep}", "")


def _invalid(param: str, text: str) -> JobError:
    start = f"The job failed due to an invalid {param.replace('_', ' ')}. "
    return JobError(code=f"invalid_{param}", message=start + text, param=param)
