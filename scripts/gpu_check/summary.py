"""The outcomes of all calls in one file, and as a table."""

import json
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from gpu_check.schedule import Outcome
from gpu_check.training_speed import comparisons

RESULTS_FILE, TABLE_FILE, LOGS_FILE = "results.json", "results.txt", "logs.tar.gz"


def read_outcomes(results: Path) -> dict[str, Outcome]:
    """What earlier calls have found, by step; what was skipped is left out, since it is still to be done."""
    file = results / RESULTS_FILE
    if not file.exists():
        return {}
    outcomes = {name: Outcome(**outcome) for name, outcome in json.loads(file.read_bytes()).items()}
    return {name: outcome for name, outcome in outcomes.items() if outcome.verdict != "SKIP"}


def write_outcomes(outcomes: Mapping[str, Outcome], results: Path, copy_to: Path | None) -> None:
    """results.json, results.txt and the logs as they stand now; also in `copy_to`."""
    tree = {name: asdict(outcome) for name, outcome in outcomes.items()}
    (results / RESULTS_FILE).write_text(json.dumps(tree, ensure_ascii=False, indent=1), encoding="utf-8")
    (results / TABLE_FILE).write_text("\n".join(table(outcomes)) + "\n", encoding="utf-8")
    if copy_to is None:
        return
    copy_to.mkdir(parents=True, exist_ok=True)
    for name in (RESULTS_FILE, TABLE_FILE):
        shutil.copy(results / name, copy_to / name)
    with tarfile.open(copy_to / LOGS_FILE, "w:gz") as archive:
        for log in sorted(results.glob("*.log")):
            archive.add(log, log.name)


def table(outcomes: Mapping[str, Outcome]) -> Iterator[str]:
    """A line a step; then what failed, what could not run here, and the tools beside each other."""
    width = max(map(len, outcomes), default=4)
    yield f"{'step':{width}}  verdict  seconds  checks"
    for name, outcome in outcomes.items():
        passed = sum(check["passed"] for check in outcome.checks)
        more = f"  ({len(outcome.missing)} not here)" if outcome.missing else ""
        yield f"{name:{width}}  {outcome.verdict:7}  {outcome.seconds:7.1f}  {passed} of {len(outcome.checks)}{more}"
    for name, outcome in outcomes.items():
        if outcome.reason:
            yield f"{outcome.verdict} {name}: {outcome.reason}"
        for check in outcome.checks:
            if not check["passed"]:
                yield f"FAIL {name}: {check['what']}: {check['detail']}"
    for name, outcome in outcomes.items():
        for what in outcome.missing:
            yield f"NEEDS {name}: {what}"
    for agrees, sentence in compared(outcomes):
        yield f"{'PASS' if agrees else 'FAIL'} {sentence}"


def compared(outcomes: Mapping[str, Outcome]) -> list[tuple[bool, str]]:
    return list(comparisons({name: outcome.figures for name, outcome in outcomes.items()}))


def all_passed(outcomes: Mapping[str, Outcome]) -> bool:
    """Whether nothing that ran has failed; where nothing ran, nothing passed."""
    verdicts = {outcome.verdict for outcome in outcomes.values()} - {"SKIP"}
    return bool(verdicts) and "FAIL" not in verdicts and all(agrees for agrees, _ in compared(outcomes))
