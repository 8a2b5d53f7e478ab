"""Runs steps, each in a process of its own with a time limit, and tells what became of each."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from gpu_check.machine import REPOSITORY, end_with_children
from gpu_check.steps import MAKERS, Step

Verdict = Literal["PASS", "FAIL", "NEEDS", "SKIP"]
"""NEEDS: nothing of the step can run here. SKIP: there was no time, and the next call takes it up."""
LEAST_SECONDS = 12
"""Less than this is not worth the start of a step: the libraries alone take most of it."""
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass
class Outcome:
    name: str
    verdict: Verdict
    seconds: float = 0.0
    reason: str = ""
    """Why it failed as a whole or was left out."""
    figures: dict[str, Any] = field(default_factory=dict)
    checks: list[dict[str, Any]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """What could not run here, and what it needs."""


class Call(NamedTuple):
    """What all steps of one call share."""

    work: Path
    results: Path
    deadline: float
    """Seconds since the epoch."""
    rehearse: bool


class Running(NamedTuple):
    step: Step
    process: subprocess.Popen[bytes]
    started: float
    ends: float
    """When it is stopped if it still runs."""


def run_steps(steps: Sequence[Step], call: Call) -> Iterator[Outcome]:
    """The outcome of each step as it ends. On a card one runs at a time; a rehearsal measures nothing and runs two."""
    waiting, running = list(steps), list[Running]()
    at_once = 2 if call.rehearse else 1
    try:
        while waiting or running:
            while len(running) < at_once and (step := next_step(waiting, running)):
                waiting.remove(step)
                if reason := why_not(step, call):
                    yield reason
                else:
                    running.append(start(step, call))
            for one in list(running):
                if one.process.poll() is not None or time.time() > one.ends:
                    running.remove(one)
                    yield finish(one, call)
            time.sleep(0.1)
    finally:
        for one in running:
            end_group(one.process)


def next_step(waiting: Sequence[Step], running: Sequence[Running]) -> Step | None:
    """The first one whose base is not still to be made."""
    unmade = {step.name for step in (*waiting, *(one.step for one in running))}
    return next((step for step in waiting if step.base is None or MAKERS[step.base].name not in unmade), None)


def why_not(step: Step, call: Call) -> Outcome | None:
    """The outcome of a step that cannot be started; None where it can."""
    if call.deadline - time.time() < LEAST_SECONDS:
        return Outcome(step.name, "SKIP", reason="no time left")
    if step.base and not MAKERS[step.base].made(call.work):
        maker = MAKERS[step.base].name
        if missing := read_written(maker, call).get("missing"):
            return Outcome(step.name, "NEEDS", missing=[f"{step.name}: as {what}" for what in missing])
        return Outcome(step.name, "FAIL", reason=f"{maker} has made no base")
    return None


def read_written(name: str, call: Call) -> Mapping[str, Any]:
    """What the step of that name has written so far."""
    file = call.results / f"{name}.json"
    return json.loads(file.read_bytes()) if file.exists() else {}


def start(step: Step, call: Call) -> Running:
    (call.results / f"{step.name}.json").unlink(missing_ok=True)
    command = [sys.executable, str(Path(__file__).parent), "--step", step.name]
    command += ["--work", str(call.work), "--results", str(call.results)]
    environment = {**os.environ, **ENVIRONMENT, "PYTHONUNBUFFERED": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    if call.rehearse:
        environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "01"}  # sft.py replaces a plain 1
    elif not step.every_card:
        environment["CUDA_VISIBLE_DEVICES"] = environment.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    with (call.results / f"{step.name}.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=call.work, start_new_session=True
        )
    started = time.time()
    return Running(step, process, started, call.deadline if call.rehearse else min(started + step.limit, call.deadline))


def finish(running: Running, call: Call) -> Outcome:
    """What a step has written, and what its end says."""
    exit_code, now = running.process.poll(), time.time()
    end_group(running.process)
    outcome = Outcome(running.step.name, "PASS", round(now - running.started, 1))
    written = read_written(outcome.name, call)
    outcome.figures, outcome.checks = written.get("figures", {}), written.get("checks", [])
    outcome.missing = written.get("missing", [])
    failed = any(not check["passed"] for check in outcome.checks)
    if exit_code is None and now >= call.deadline and not failed:
        outcome.verdict, outcome.reason = "SKIP", "cut off: no time left"
    elif exit_code is None:
        outcome.verdict, outcome.reason = "FAIL", f"took more than {running.step.limit} s"
    elif exit_code:
        outcome.verdict, outcome.reason = "FAIL", f"exit code {exit_code}: {last_lines(call, outcome.name)}"
    elif failed:
        outcome.verdict = "FAIL"
    elif not outcome.checks and outcome.missing:
        outcome.verdict = "NEEDS"
    elif not outcome.checks:
        outcome.verdict, outcome.reason = "FAIL", f"checked nothing: {last_lines(call, outcome.name)}"
    return outcome


def last_lines(call: Call, name: str) -> str:
    text = (call.results / f"{name}.log").read_text(encoding="utf-8", errors="replace")
    return " | ".join([line for line in text.splitlines() if line.strip()][-3:])[:400]


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End the process and whatever it has started: what is left of the group that it leads, too."""
    end_with_children(process.pid)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
