"""What one step has measured: figures, checks passed or failed, and what could not run here."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DETAIL_LENGTH = 400


class Report:
    """Figures and checks of a step, on disk after every one, so that a step that is cut off loses none."""

    def __init__(self, name: str, folder: Path) -> None:
        """`folder`: for NAME.json and the outputs of the commands that the step runs."""
        self.name, self.folder = name, folder
        self.figures: dict[str, Any] = {}
        self.checks: list[dict[str, Any]] = []
        self.missing: list[str] = []

    def record(self, **figures: Any) -> None:
        self.figures |= figures
        print(" ", json.dumps(figures, ensure_ascii=False, default=str), flush=True)
        self.save()

    def check(self, what: str, passed: bool, detail: str = "") -> None:
        self.checks.append({"what": what, "passed": bool(passed), "detail": detail[:DETAIL_LENGTH]})
        print("PASS" if passed else "FAIL", f"{self.name}: {what}", detail, flush=True)
        self.save()

    def needs(self, requirement: str, what: str) -> None:
        """Note that `what` did not run because `requirement` is not there."""
        self.missing.append(f"{what}: needs {requirement}")
        print("NEEDS", requirement, f"{self.name}: {what}", flush=True)
        self.save()

    @contextmanager
    def fail_on_error(self, what: str) -> Iterator[None]:
        """Turn an exception into a failed check, so that what follows runs all the same."""
        try:
            yield
        except Exception as error:
            first_line = str(error).strip().split("\n", 1)[0]
            self.check(what, False, f"{type(error).__name__}: {first_line}")

    def save(self) -> None:
        result = {"figures": self.figures, "checks": self.checks, "missing": self.missing}
        text = json.dumps(result, ensure_ascii=False, default=str)
        aside = self.folder / f"{self.name}.json.part"  # the step may be cut off while it writes
        aside.write_text(text, encoding="utf-8")
        aside.replace(self.folder / f"{self.name}.json")
