"""What the page can have done: govor's own commands, shown as a person would type them, each a process of its own.

They outlive the studio. What they print is kept as long as it runs; what they did stands in the run folder.
"""

import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train.core.errors import GovorError, RunError
from train.core.locks import lock_holder
from train.studio.run_list import RunState

EXPORTS = ("llamafactory", "gguf", "ollama")
EVALUATIONS = (None, "quick", "checkpoints")
"""What is evaluated: the run, its losses and configured prompts alone, or each of its checkpoints as well."""
KEPT = 50
"""Commands of which the studio remembers what they printed."""
SHOWN = 6000  # bytes of a command's output that are shown, its last


def project_of(run: Path) -> Path:
    """The working folder of a run's commands: relative paths in its config begin there."""
    return run.parent.parent if run.parent.name == "runs" else run.parent


def words_of(run: Path, verb: str, target: str | None = None) -> list[str]:
    """The command, from the run's project folder, without `govor` before it; GovorError for an unknown verb."""
    name = str(run.relative_to(project_of(run)))
    if verb == "resume":
        return ["train", str(Path(name) / "config.yaml"), "--resume"]
    if verb == "merge":
        return ["merge", name]
    if verb == "eval" and target in EVALUATIONS:
        return ["eval", name, *([f"--{target}"] if target else [])]
    if verb == "export" and target in EXPORTS:
        return ["export", name, "--to", target]
    raise GovorError(f"{verb} {target or ''}: no command of the page")


def commands_of(state: RunState) -> list[dict[str, Any]]:
    """The commands that make sense for a run now: [{"verb", "target", "command"}, …]."""
    run = Path(state.path)
    found: list[tuple[str, str | None]] = []
    if not state.job and state.state == "finished":
        found = [*(("eval", target) for target in EVALUATIONS), ("merge", None)]
        found += [("export", target) for target in EXPORTS]
        if state.merged:
            found.remove(("merge", None))  # also after full tuning, which leaves a whole model
    if not state.job and state.state == "stopped" and state.base and run.parent.name == "runs":
        found = [("resume", None)]
    listed = [
        {"verb": verb, "target": target, "command": shlex.join(["govor", *words_of(run, verb, target)])}
        for verb, target in found
    ]
    holder = None if state.job or state.state != "training" else lock_holder(run)
    if holder:
        listed.append({"verb": "stop", "target": None, "command": f"kill -TERM {holder.pid}"})
    return listed


def stop(run: Path) -> int:
    """Ask the training of a run to save and end, whoever began it; the number of its process.

    RunError where nothing trains there: the lock's process must be the one that took it, see `lock_holder`.
    """
    holder = lock_holder(run)
    if holder is None or holder.what != "training":
        raise RunError(f"{run}: no training runs there now")
    try:
        os.kill(holder.pid, signal.SIGTERM)
    except PermissionError:
        raise RunError(f"{run}: process {holder.pid} is another user's, who alone may stop it") from None
    return holder.pid


class Commands:
    """The commands begun since the studio started, the last first."""

    def __init__(self) -> None:
        self._begun: list[_Begun] = []

    def start(self, words: Sequence[str], folder: Path, run: str | None = None) -> dict[str, Any]:
        """Begin `govor WORDS` in that folder; what `listed` says of it. `run`: the id of the run it works on."""
        begun = _Begun(len(self._begun) + 1, list(words), folder, run)
        self._begun.append(begun)
        for old in [each for each in self._begun[:-KEPT] if each.exit_code() is not None]:
            old.output.close()
            self._begun.remove(old)
        return begun.told()

    def listed(self) -> list[dict[str, Any]]:
        """[{"id", "run", "command", "exit_code", "output"}, …]; exit_code is None while it runs."""
        return [begun.told() for begun in reversed(self._begun)]

    def close(self) -> None:
        """Let go of what was printed; the commands go on."""
        for begun in self._begun:
            begun.output.close()


class _Begun:
    def __init__(self, number: int, words: list[str], folder: Path, run: str | None) -> None:
        self.number, self.run = number, run
        self.command = shlex.join(["govor", *words])
        self.output = tempfile.NamedTemporaryFile(prefix="govor-studio-")  # noqa: SIM115 (open as long as it is shown)
        self.process = subprocess.Popen(
            command_line(words),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in the studio's terminal is not meant for it
        )

    def exit_code(self) -> int | None:
        return self.process.poll()

    def told(self) -> dict[str, Any]:
        code = self.exit_code()  # before the output, so that of an ended command nothing is missing
        with Path(self.output.name).open("rb") as output:
            output.seek(max(0, output.seek(0, os.SEEK_END) - SHOWN))
            tail = output.read().decode("utf-8", "replace")
        return {"id": self.number, "run": self.run, "command": self.command, "exit_code": code, "output": tail}


def command_line(words: Sequence[str]) -> list[str]:
    """`govor WORDS` for this Python."""
    return [sys.executable, "-m", "train.cli", *words]
