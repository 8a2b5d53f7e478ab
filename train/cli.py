"""The command line: parse, import the verb, call it."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from .errors import DataError, GovorError, one_line_errors

TARGETS = ("openai", "alpaca", "sharegpt", "gemini")
SHOWN = 100  # problems printed of a file; all are counted


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

        result: dict[str, object] = {"valid": valid, "examples": examples}
        result |= {name: listed(name) for name in ("errors", "warnings")}
        for name in ("error_count", "warning_count"):
            result[name] = sum(getattr(report, name) for _, report in reports)
        print(json.dumps(result, ensure_ascii=False))
    else:
        for path, report in reports:
            for label, problems, count in (
                ("", report.errors, report.error_count),
                ("warning: ", report.warnings, report.warning_count),
            ):
                for problem in problems:
                    print(f"{place(path, problem)}: {label}{problem.message} [{problem.kind}]")
                if count > len(problems):
                    print(f"{path}: {label}and {count - len(problems)} more")
        errors = sum(report.error_count for _, report in reports)
        print(f"✅ Validation passed: {examples} training examples" if valid else f"❌ {errors} errors")
    raise SystemExit(0 if valid else 1)


@main.command()
@click.argument("file", type=PATH)
@click.option("--to", "target", required=True, type=click.Choice(TARGETS), help="Format to write.")
@click.option("-o", "--output", required=True, type=PATH, help="File to write.")
@click.option(
    "--when-lossy",
    type=click.Choice(["refuse", "drop", "split"]),
    default="refuse",
    show_default=True,
    help="What the format cannot say: refuse; drop it and count; split into one row for each trained answer.",
)
@click.option("--force", is_flag=True, help="Replace the file.")
def convert(file: Path, target: str, output: Path, when_lossy: str, force: bool) -> None:
    """Rows of any known format, written in another.

    Reads OpenAI chat, ShareGPT, Alpaca, prompt-completion and query-response rows as JSONL, JSON array, CSV or TSV,
    also gzip and zstd.
    """
    from .chats.readers import read_records
    from .chats.writers import convert as to_target
    from .files import require_new, write_whole

    require_new(output, force)
    found, rows = read_records(file)
    result = to_target(rows, target, when_lossy)
    if result.refused:
        shown = [f"{file}:{line}: {target} has no place for: {why}" for line, why in result.refused[:SHOWN]]
        hint = "" if when_lossy == "drop" else "; --when-lossy drop or split says what to do"
        raise DataError("\n  ".join([f"{len(result.refused)} rows cannot be written{hint}:", *shown]))
    write_whole(output, (json.dumps(record, ensure_ascii=False) + "\n" for record in result.records))
    lost = "".join(f"; dropped: {what} in {count} rows" for what, count in sorted(result.lost.items()))
    print(f"{output}: {len(result.records)} rows, read as {found}, written as {target}{lost}")


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


@main.command()
@click.argument("config", type=PATH)
@click.argument("overrides", nargs=-1, metavar="[key=value …]")
@click.option("--row", type=int, help="The row at this line of the training file; without it the first three.")
@click.option("--json", "as_json", is_flag=True, help="Ids, labels and tokens as JSON; of every row without --row.")
def inspect(config: Path, overrides: tuple[str, ...], row: int | None, as_json: bool) -> None:
    """Show rows as the model sees them: trained tokens, context, what is cut, what the template adds."""
    from rich.console import Console

    from .config import load_config
    from .preview import preview, to_json, to_plain, to_terminal

    shown = preview(load_config(config, overrides), row, None if as_json else 3)
    console = Console()
    if as_json:
        print(json.dumps(to_json(shown), ensure_ascii=False))
        return
    for item in shown:
        if console.is_terminal:
            console.print(to_terminal(item), end="\n\n")
        else:
            print(to_plain(item), end="\n\n")


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
