"""The command line: parse, import the verb, call it."""

import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .errors import DataError, GovorError, one_line_errors

if TYPE_CHECKING:
    from .chats.dialogues import Account
    from .chats.privacy import Scrubber

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
@click.option("--resume", is_flag=True, help="Go on with an unfinished run from its last checkpoint.")
def train(config: Path, words: tuple[str, ...], resume: bool) -> None:
    """Train as the YAML file CONFIG says: prints the accelerate command and runs it.

    \b
    govor train configs/natasha.yaml training.max_steps=30
    govor train configs/natasha.yaml -- --config_file configs/accelerate/ddp.yaml
    """
    from .config import load_config
    from .launch import launch_command
    from .runs import require_free, resumable_run

    first_flag = next((at for at, word in enumerate(words) if word.startswith("-")), len(words))
    overrides, flags = words[:first_flag], words[first_flag:]
    loaded = load_config(config, overrides)  # what is wrong with the config shows before the launcher starts
    if resume:
        resumable_run(loaded)
    else:
        require_free(loaded.name)
    command = launch_command(config, [*overrides, *(["--resume"] if resume else [])], flags)
    print(shlex.join(command), file=sys.stderr, flush=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for sft.py, which saves first; the launcher inherits this
    if subprocess.run(command).returncode != 0:
        raise SystemExit(2)  # sft.py has said why


@main.command()
@click.argument("export", type=PATH)
@click.option("--persona", required=True, metavar="NAME|ID", help="Whose answers are to be learned.")
@click.option("--name", help="Beginning of the files' names.  [default: the persona's first name]")
@click.option("--gap-hours", default=6.0, show_default=True, help="Silence after which a new dialogue begins.")
@click.option("--system", help="System message put before every row.")
@click.option("--scrub/--no-scrub", default=True, show_default=True, help="Replace personal data by placeholders.")
@click.option("-o", "--output", type=PATH, default=Path(), help="Folder for the files.")
@click.option("--force", is_flag=True, help="Replace the files.")
def collect(
    export: Path,
    persona: str,
    name: str | None,
    gap_hours: float,
    system: str | None,
    scrub: bool,
    output: Path,
    force: bool,
) -> None:
    """Make training rows from a Telegram Desktop export (result.json)."""
    from .chats.dialogues import collect as collect_dialogues
    from .chats.dialogues import write_collected
    from .chats.participants import find_persona, survey
    from .chats.privacy import Scrubber

    found = survey(export)
    speaker = find_persona(found, persona)
    others = [name for who in found.participants if who.id != speaker.id for name in who.names]
    scrubber = Scrubber(names=others, keep=speaker.names)
    replace = scrubber.scrub if scrub else None
    collected = collect_dialogues(export, speaker, survey=found, gap_hours=gap_hours, scrub=replace, system=system)
    if not collected.rows:
        raise DataError(f"{export}: {persona} answers nobody in what is left; {_account(collected.account)}")
    written = write_collected(collected, output, name or _file_name(speaker.names, speaker.id), force=force)
    if scrub:
        written.append(_write_table(scrubber, written[0], force=True))
    print(_account(collected.account))
    for path in written:
        print(f"wrote {path}")


@main.command()
@click.argument("file", type=PATH)
@click.option("--name", "names", multiple=True, help="A name to replace in all its forms; may be repeated.")
@click.option("--keep", multiple=True, help="A name that stays, such as the persona's; may be repeated.")
@click.option("-o", "--output", type=PATH, help="File to write.  [default: FILE_scrubbed.jsonl]")
@click.option("--force", is_flag=True, help="Replace the file.")
def scrub(file: Path, names: tuple[str, ...], keep: tuple[str, ...], output: Path | None, force: bool) -> None:
    """Replace personal data in rows by placeholders; what was replaced goes to a private file beside the rows."""
    from .chats.privacy import Scrubber, scrub_row
    from .chats.readers import read_rows
    from .chats.rows import to_json
    from .files import require_new, write_whole

    target = output or file.with_name(f"{file.name.split('.')[0]}_scrubbed.jsonl")
    require_new(target, force)
    scrubber = Scrubber(names, keep)
    rows = [scrub_row(row, scrubber) for row in read_rows(file)]
    write_whole(target, (to_json(row) + "\n" for row in rows))
    table = _write_table(scrubber, target, force=True)
    count = sum(replacement.times for replacement in scrubber.replaced)
    print(f"{target}: {len(rows)} rows, {count} places replaced\n{table}: what was replaced, for your eyes only")


@main.command()
@click.argument("file", type=PATH)
@click.option("--base", help="Count tokens with this model's tokenizer: Hub id or folder.")
@click.option("--max-length", type=int, help="Count rows longer than this, in tokens; needs --base.")
@click.option("--topics", type=PATH, help="Topics as lists of words, in YAML like train/chats/topics.yaml.")
@click.option("-o", "--output", type=PATH, default=Path(), help="Folder for dataset_stats.json and dataset_stats.html.")
@click.option("--force", is_flag=True, help="Replace the files.")
def analyze(
    file: Path, base: str | None, max_length: int | None, topics: Path | None, output: Path, force: bool
) -> None:
    """Lengths, topics, duplicates, personal data left and quality of training rows."""
    from rich.console import Console

    from .analyze import channels_of, to_terminal, token_counter, write_json, write_page
    from .chats.readers import read_rows
    from .chats.statistics import statistics
    from .chats.topics import load_topics
    from .files import require_new

    if max_length is not None and base is None:
        raise GovorError("--max-length counts tokens: give --base too")
    output.mkdir(parents=True, exist_ok=True)
    files = [output / f"dataset_stats.{ending}" for ending in ("json", "html")]
    for path in files:
        require_new(path, force)
    rows = read_rows(file)
    stats = statistics(
        rows,
        topics=load_topics(topics),
        count_tokens=token_counter(base) if base else None,
        max_length=max_length,
        channels=channels_of(file),
    )
    Console().print(to_terminal(stats))
    write_json(stats, files[0], force=force)
    write_page(stats, files[1], force=force)
    for path in files:
        print(f"wrote {path}")


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


def _account(account: "Account") -> str:
    """What became of every message, in a few lines."""
    lines = [
        f"{account.channels} channels, {account.read} messages read",
        f"{account.kept} kept ({account.share_kept:.0%}) in {account.dialogues} dialogues, {account.rows} rows",
        f"{account.dropped.total()} left out" + ": " * bool(account.dropped),
    ]
    return "\n".join(lines) + ", ".join(f"{reason} {n}" for reason, n in account.dropped.most_common())


def _file_name(names: Sequence[str], id_: str) -> str:
    """A name for files from a display name: its first word, without what file systems dislike."""
    word = re.sub(r"[^\w-]", "", names[0].split()[0]) if names and names[0].split() else ""
    return word or id_


def _write_table(scrubber: "Scrubber", beside: Path, *, force: bool) -> Path:
    """The private table of what was replaced, readable by its owner alone."""
    from .chats.privacy import table
    from .files import require_new, write_whole

    path = beside.with_name(f"{beside.stem}_replaced.csv")
    require_new(path, force)
    with beside.open(encoding="utf-8", newline="\n") as written:
        write_whole(path, [table(scrubber, written)], mode=0o600)
    return path


def _one_line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    main()
