"""Runs every test target of the Makefile, each to its end, and prints a table.

    python scripts/test_all.py [TARGET …]        `make test-all` runs this

What each printed lies in logs/test-all/TARGET.log. A target is skipped, with the reason, where its peers cannot
be installed or the machine has no CUDA card. Exit code 1: one of them failed.
"""

import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[1]
LOGS = REPOSITORY / "logs/test-all"
TARGETS: dict[str, str | None] = {
    "test": None,
    "test-long": None,
    "test-engines": ".engines/installed",
    "test-peers": ".peers/installed",
    "test-studio": ".browser/installed",
    "test-ray": ".ray/installed",
    "test-clients": None,
    "test-real": ".bases/installed",
    "test-gpu-rehearsal": None,
    "test-gpu": "cuda-card",
}
"""Each with the target that makes what it needs, in the order in which they run."""

PASSED_ON = "MAKEFLAGS", "MFLAGS", "MAKELEVEL"
"""Variables by which one make tells another its options: the targets must not inherit them."""


class Result(NamedTuple):
    target: str
    verdict: str
    """PASS, FAIL or SKIP."""
    seconds: float
    note: str
    """Numbers of tests, or why it was skipped or failed."""


def main(names: Sequence[str]) -> int:
    LOGS.mkdir(parents=True, exist_ok=True)
    results = []
    for target in names or TARGETS:
        print(f"{target} … ({LOGS.relative_to(REPOSITORY) / target}.log)", flush=True)
        results.append(run(target, TARGETS.get(target)))
    print("\n".join(table(results)))
    return int(any(result.verdict == "FAIL" for result in results))


def run(target: str, needed: str | None) -> Result:
    """One target, to its end."""
    started = time.monotonic()
    log = LOGS / f"{target}.log"
    log.write_bytes(b"")
    if needed and make(needed, log) != 0:
        return Result(target, "SKIP", time.monotonic() - started, f"make {needed}: {last_error(log)}")
    exit_code = make(target, log)
    counts = tests_counted(log.read_text(encoding="utf-8", errors="replace"))
    note = ", ".join(f"{number} {word}" for word, number in counts.items())
    if exit_code and not (counts.get("failed") or counts.get("error")):
        note = ", ".join(filter(None, (note, last_error(log))))
    return Result(target, "FAIL" if exit_code else "PASS", time.monotonic() - started, note)


def make(target: str, log: Path) -> int:
    """Exit code of `make`, its output at the log's end; a make that called us passes on none of its options."""
    environment = {name: value for name, value in os.environ.items() if name not in PASSED_ON}
    command = ["make", "--no-print-directory", target]
    with log.open("ab") as file:
        process = subprocess.run(command, cwd=REPOSITORY, env=environment, stdout=file, stderr=subprocess.STDOUT)
    return process.returncode


def tests_counted(output: str) -> Mapping[str, int]:
    """Numbers of tests by outcome, from the last line of each run of pytest; nothing where none ran."""
    summaries = re.findall(r"^.*\d+ (?:passed|failed|skipped|errors?)\b.* in [\d.]+s.*$", output, re.MULTILINE)
    counts = Counter[str]()
    for number, word in re.findall(r"(\d+) (passed|skipped|failed|error)", "\n".join(summaries)):
        counts[word] += int(number)
    return counts


def last_error(log: Path) -> str:
    """The last line that names an error, else the last one that says anything; make's own comes after it."""
    stripped = map(str.strip, log.read_text(encoding="utf-8", errors="replace").splitlines())
    lines = [line for line in stripped if line and not line.startswith("make:")] or ["no output"]
    return next((line for line in reversed(lines) if "error" in line.lower()), lines[-1])[:200]


def table(results: Sequence[Result]) -> list[str]:
    width = max(len(result.target) for result in results)
    lines = [f"{'target':{width}}  result  min:s  tests"]
    for target, verdict, seconds, note in results:
        minutes, rest = divmod(round(seconds), 60)
        lines.append(f"{target:{width}}  {verdict:6}  {minutes:>3}:{rest:02}  {note}".rstrip())
    return lines


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
