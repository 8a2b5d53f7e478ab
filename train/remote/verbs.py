"""The verbs that ask other models, as the command line has them: parse, import the verb, call it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

PATH = click.Path(path_type=Path)
Decorator = Callable[[Any], Any]


def _together(*options: Decorator) -> Decorator:
    """Several options as one decorator."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


BUDGET = _together(
    click.option("--budget", metavar="USD", help="Most to spend, earlier runs of the same included: 2USD."),
    click.option("--max-tokens", type=click.IntRange(1), help="The same in tokens, sent and received."),
    click.option("--dry-run", is_flag=True, help="Say what would be sent at most; no network."),
)
JUDGE = _together(
    click.option("--judge", metavar="URL#MODEL", help="Another model that judges; also openai:MODEL, kimi:MODEL."),
    click.option("--rubric", type=PATH, metavar="YAML", help="What it is asked.  [default: govor's, in Russian]"),
)
LANGUAGE = click.option("--lang", type=click.Choice(["ru", "en"]), help="Language of the page.  [default: by locale]")


@click.command()
@click.argument("files", nargs=-1, required=True, type=PATH, metavar="ROWS|TEXT…")
@click.option("--via", required=True, metavar="URL", help="OpenAI-compatible server, or openai, kimi.")
@click.option("--model", required=True, metavar="NAME", help="Its model.")
@click.option("--plan", "plan_file", required=True, type=PATH, help="What to ask for: configs/generate/…")
@BUDGET
@click.option("--limit", type=click.IntRange(1), help="Rows at most.  [default: those of the plan]")
@click.option("-o", "--output", required=True, type=PATH, help="File to write.")
@click.option("--force", is_flag=True, help="Replace the file.")
def generate(files: tuple[Path, ...], **how: Any) -> None:
    """More rows from another model: questions by a plan, answers in the persona's manner, all of them checked.

    \b
    govor generate data/natasha.jsonl --via kimi --model kimi-k2.6 --plan configs/generate/natasha.yaml \\
        --max-tokens 500000 -o more.jsonl

    Training rows and texts are sent to the server, held-out rows never. The same command goes on where it was cut off,
    and asks nothing twice. Exit code 1 where no row passed.
    """
    from train.remote.generate import generate as make

    raise SystemExit(0 if make(files, **how) else 1)


@click.command()
@click.argument("file", type=PATH)
@click.option("--sample", default=100, show_default=True, type=click.IntRange(1), help="Rows to look at.")
@click.option("-o", "--output", required=True, type=PATH, help="File for the rows that are kept.")
@JUDGE
@BUDGET
@click.option("--force", is_flag=True, help="Replace the file.")
def review(file: Path, output: Path, **how: Any) -> None:
    """Look at a sample of rows, generated ones first: y, n or edit, by one key each; can be left and taken up again.

    With --judge every row is scored first, and the worst are shown. What was dropped and why stands beside OUTPUT.
    Exit code 1 where it was left before the end: the new file is written after the last row of the sample.
    """
    from train.remote.review import review as ask

    raise SystemExit(0 if ask(file, output, **how) else 1)


@click.command()
@click.argument("name")
@click.argument("models", nargs=-1, required=True, metavar="MODEL…")
@click.option("--prompts", required=True, metavar="FILE|held-out", help="Rows, or a .txt with a prompt a line.")
@click.option("--run", type=PATH, help="Whose held-out prompts and system message these are; measures manner, too.")
@BUDGET
@click.option("--limit", type=click.IntRange(1), help="Prompts at most, spread over all.")
@click.option("--answer-tokens", default=700, show_default=True, type=click.IntRange(1), help="Longest answer.")
@click.option("--at-once", default=1, show_default=True, type=click.IntRange(1, 64), help="More distort the speeds.")
@LANGUAGE
@click.option("--force", is_flag=True, help="Replace a comparison of other models or prompts.")
def compare(name: str, models: tuple[str, ...], **how: Any) -> None:
    """The same prompts to several models: answers side by side, speed, price, manner.

    \b
    govor compare trial http://127.0.0.1:8000#natasha openai:gpt-4.1-mini kimi:kimi-k2.6 \\
        --prompts held-out --run runs/natasha --max-tokens 200000

    Held-out prompts are sent to every model, their answers to none. The same command goes on where it was cut off, and
    asks nothing twice. Exit code 1 where a model has left a prompt unanswered.
    """
    from train.remote.compare import compare as ask

    raise SystemExit(0 if ask(name, models, **how) else 1)


@click.command()
@click.argument("name")
@click.option("--port", default=8001, show_default=True, type=click.IntRange(0, 65535), help="0: any free one.")
@LANGUAGE
def vote(name: str, **how: Any) -> None:
    """A page on this machine to choose between the answers of a comparison without knowing whose they are.

    Can be left and taken up again; which model is which is told at the end. Decided pairs become rows for preference
    tuning in compare/NAME/preferences.jsonl.
    """
    from train.remote.vote import vote as ask

    ask(name, **how)


VERBS = (generate, review, compare, vote)
