"""The command line: parse, import the verb, call it."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from .errors import GovorError, one_line_errors


class Govor(click.Group):
    """Every verb's errors become one line and an exit code."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        with one_line_errors():
            return super().main(*args, **kwargs)


PATH = click.Path(path_type=Path)


@click.group(cls=Govor, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="govor")
def main() -> None:
    """Tune an open model on a person's chats.

    \b
    govor validate data/natasha.jsonl
    govor train configs/natasha.yaml
    govor eval runs/natasha
    govor chat runs/natasha
    govor merge runs/natasha
    """
    for stream in (sys.stdin, sys.stdout, sys.stderr):  # Cyrillic also where the terminal's own encoding lacks it
        stream.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]


@main.command()
@click.argument("files", nargs=-1, required=True, type=PATH)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else.")
def validate(files: tuple[Path, ...], as_json: bool) -> None:
    """Check JSONL files of chat rows: every problem with its line."""
    from .chats.checks import check_file, place

    shown = 100
    reports = [(path, check_file(path)) for path in files]
    valid = not any(report.errors for _, report in reports)
    examples = sum(report.examples for _, report in reports)
    if as_json:
        named = len(files) > 1

        def listed(kind: str) -> list[dict[str, object]]:
            return [
                {"file": str(path), **p._asdict()} if named else p._asdict()
                for path, report in reports
                for p in getattr(report, kind)
            ]

        result = {"valid": valid, "examples": examples, "errors": listed("errors"), "warnings": listed("warnings")}
        print(json.dumps(result, ensure_ascii=False))
    else:
        for path, report in reports:
            for label, problems in (("", report.errors), ("warning: ", report.warnings)):
                for problem in problems[:shown]:
                    print(f"{place(path, problem)}: {label}{problem.message} [{problem.kind}]")
                if len(problems) > shown:
                    print(f"{path}: {label}and {len(problems) - shown} more")
        errors = sum(len(report.errors) for _, report in reports)
        print(f"✅ Validation passed: {examples} training examples" if valid else f"❌ {errors} errors")
    raise SystemExit(0 if valid else 1)


@main.command()
@click.argument("config", type=PATH)
@click.argument("words", nargs=-1, metavar="[key=value …] [-- ACCELERATE FLAGS]")
def train(config: Path, words: tuple[str, ...]) -> None:
    """Train as the YAML file CONFIG says: prints the accelerate command and runs it.

    \b
    govor train configs/natasha.yaml training.max_steps=30
    govor train configs/natasha.yaml -- --config_file configs/accelerate/ddp.yaml
    """
    from .config import load_config
    from .launch import launch_command
    from .runs import require_free

    first_flag = next((at for at, word in enumerate(words) if word.startswith("-")), len(words))
    overrides, flags = words[:first_flag], words[first_flag:]
    require_free(load_config(config, overrides).name)  # what is wrong with the config shows before the launcher starts
    command = launch_command(config, overrides, flags)
    print(shlex.join(command), file=sys.stderr, flush=True)
    if subprocess.run(command).returncode != 0:
        raise SystemExit(2)  # sft.py has said why


@main.command(name="eval")
@click.argument("run", type=PATH)
def evaluate(run: Path) -> None:
    """Held-out loss and answers to the config's prompts, before and after training."""
    from .evaluate import evaluate as measure
    from .runs import open_run

    opened = open_run(run)
    result = measure(opened)
    for sample in result.samples[:2]:
        print(f"› {sample.prompt}\n  base:  {_one_line(sample.before)}\n  tuned: {_one_line(sample.after)}\n")
    if result.base_loss is not None and result.tuned_loss is not None:
        change = result.tuned_loss / result.base_loss - 1
        print(f"held-out loss: {result.base_loss:.3f} before, {result.tuned_loss:.3f} after ({change:+.0%})")
    print(f"answers: {opened.samples_file}\nreport:  {opened.report_file}")


@main.command()
@click.argument("run", type=PATH)
def merge(run: Path) -> None:
    """Fold the adapter into the base: one model in RUN/merged."""
    from .merge import merge as fold
    from .runs import open_run

    print(f"merged model: {fold(open_run(run))}")


@main.command()
@click.argument("run", type=PATH)
@click.option("--prompt", help="Print one answer and leave.")
@click.option("--merged", is_flag=True, help="Use the merged model, not base + adapter.")
def chat(run: Path, prompt: str | None, merged: bool) -> None:
    """Talk to the model of a run."""
    from .chat import chat as talk
    from .runs import open_run

    if prompt is not None and not prompt.strip():
        raise GovorError("--prompt is empty")
    talk(open_run(run), merged=merged, prompt=prompt)


def _one_line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    main()
