"""The command line: which steps run, where their results go."""

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import click
from bench_train import claim

from gpu_check.machine import REPOSITORY, default_work_folder, has_cuda
from gpu_check.readme_table import write_tables
from gpu_check.report import Report
from gpu_check.schedule import Call, run_steps
from gpu_check.steps import BY_NAME, MAKERS, STEPS, Step
from gpu_check.summary import all_passed, read_outcomes, table, write_outcomes
from gpu_check.training_speed import UNSLOTH_VARIABLE

LOGS = REPOSITORY / "logs"


@click.command()
@click.option("--rehearse", is_flag=True, help="Run every step on the CPU with tiny shapes; measures nothing.")
@click.option("--seconds", default=540.0, help="Time of this call; what does not fit is left for --resume.")
@click.option("--started", type=float, help="Seconds since the epoch from which --seconds counts.")
@click.option("--resume", is_flag=True, help="Run what an earlier call has left.")
@click.option("--only", help="Names of steps, with commas.")
@click.option("--skip", default="", help="Names of steps, with commas.")
@click.option("--unsloth", type=click.Path(path_type=Path, exists=True), help="Virtual environment with Unsloth in it.")
@click.option("--results", type=click.Path(path_type=Path), help="Folder of the results; below logs/ unless given.")
@click.option("--work", type=click.Path(path_type=Path), help="Folder of bases and runs, 45 GB; in memory if they fit.")
@click.option("--copy-to", type=click.Path(path_type=Path), help="A second folder of the results, after every step.")
@click.option("--readme", is_flag=True, help="Write the table of the results into README.md and README.ru.md, no more.")
@click.option("--step", hidden=True, help="Run this step in this process.")
def main(
    rehearse: bool, seconds: float, started: float | None, resume: bool, only: str | None, skip: str,
    unsloth: Path | None, results: Path | None, work: Path | None, copy_to: Path | None,
    readme: bool, step: str | None,
) -> None:  # fmt: skip
    """Measure everything that only a CUDA card can tell about govor, most important first."""
    if step:
        assert work and results
        BY_NAME[step].run(Report(step, results), work)
        return
    results = (results or LOGS / ("gpu_rehearsal" if rehearse else "gpu_check")).resolve()
    if readme:
        write_tables(read_outcomes(results), REPOSITORY)
        return
    if not rehearse and not has_cuda():
        raise click.UsageError("torch sees no CUDA card; --rehearse runs the steps on the CPU")
    if unsloth:
        os.environ[UNSLOTH_VARIABLE] = str(unsloth.resolve())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # else the step that runs would outlive us
    deadline = (started or time.time()) + (3600 if rehearse else seconds)
    work = (work or (results / "work" if rehearse else default_work_folder())).resolve()
    for folder in (results, work):
        if resume:
            folder.mkdir(parents=True, exist_ok=True)
        else:
            claim(folder)
            shutil.rmtree(folder)
            claim(folder)
    outcomes = read_outcomes(results)
    steps = choose(only, skip, set(outcomes), work)
    for outcome in run_steps(steps, Call(work, results, deadline, rehearse)):
        click.echo(f"{outcome.verdict} {outcome.name} ({outcome.seconds:.0f} s)")
        outcomes[outcome.name] = outcome
        outcomes = {one.name: outcomes[one.name] for one in STEPS if one.name in outcomes}
        write_outcomes(outcomes, results, copy_to)
    click.echo("\n".join(table(outcomes)))
    if any(outcome.verdict == "SKIP" for outcome in outcomes.values()):
        click.echo(f"--resume runs what is left; until then {work} keeps the bases")
    else:
        shutil.rmtree(work)
    click.echo(f"results: {results}")
    sys.exit(0 if all_passed(outcomes) else 1)


def choose(only: str | None, skip: str, done: set[str], work: Path) -> list[Step]:
    """The steps to run, in their order; with them the makers of bases that they train and that are not there."""
    wanted = set(only.split(",")) if only else set(BY_NAME) - done
    skipped = set(filter(None, skip.split(",")))
    if unknown := (wanted | skipped) - set(BY_NAME):
        raise click.UsageError(f"no such step: {', '.join(sorted(unknown))}; there are {', '.join(BY_NAME)}")
    steps = wanted - skipped
    bases = {BY_NAME[name].base for name in steps} - {None}
    makers = {maker.name for base, maker in MAKERS.items() if base in bases and not maker.made(work)}
    return [step for step in STEPS if step.name in steps | makers]
