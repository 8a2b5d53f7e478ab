"""Upload a file, tune a model on it, watch, ask the result: with one's own server or a hosted service.

    python scripts/upload_and_finetune.py --file data/natasha.jsonl --model tiny
    python scripts/upload_and_finetune.py --provider openai --file data/natasha.jsonl --estimate
    python scripts/upload_and_finetune.py --monitor ftjob-…
    python scripts/upload_and_finetune.py --provider vertex --project-id P --bucket B --file data/natasha.jsonl

Providers that speak OpenAI's API differ in base URL, key and what they can do, and in nothing else. Keys come from the
environment or from .env in the working folder: GOVOR_API_KEY where the local server wants one, OPENAI_API_KEY,
KIMI_API_KEY or MOONSHOT_API_KEY; Google has credentials of its own. What happened is noted in logs/, without keys and
chat text. Exit codes: 0 done, 1 the file is bad or the job failed, 2 wrong use or environment, 130 interrupted.
"""

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import click
from finetuning.asked import LOCATION, Asked, again, check_options, check_steps
from finetuning.estimate import estimate
from finetuning.offline import print_estimate, rehearse, rehearse_vertex, validate, write_configs
from finetuning.providers import PROVIDERS, Job, Provider, Service, find_key, find_provider
from finetuning.vertex import VertexService
from finetuning.watch import Log, watch

from train.chats.readers import read_rows
from train.chats.rows import shared_system_message
from train.core.config import load_config
from train.core.errors import GovorError, MachineError, one_line_errors

PROMPTS = Path(__file__).resolve().parents[1] / "configs/natasha.yaml"
"""The five questions for a tuned model are those of this config."""
LIVE, HOSTED = 1.5, 60.0
"""Seconds between two looks at a job: one's own server, somebody else's."""
PATH = click.Path(path_type=Path)
POSITIVE = click.FloatRange(0, min_open=True)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--provider", type=click.Choice(list(PROVIDERS)), help="Who tunes.  [default: by --base-url, else local]")
@click.option("--file", type=PATH, help="Training rows: JSONL in OpenAI's chat format.")
@click.option("--validation-file", type=PATH, help="Held-out rows in the same format.")
@click.option("--model", help="Base to tune.  [default: the provider's usual one]")
@click.option("--epochs", type=click.IntRange(1, 50), help="Passes over the rows.  [default: the provider chooses]")
@click.option("--learning-rate", type=POSITIVE, help="The rate itself, such as 1e-4; local only.")
@click.option("--learning-rate-multiplier", type=POSITIVE, help="Factor on the provider's own rate.")
@click.option("--suffix", help="Part of the new model's name.")
@click.option("--validate-only", is_flag=True, help="Check the rows, without network and key.")
@click.option("--estimate", is_flag=True, help="Tokens and price, without network and key.")
@click.option("--upload-only", is_flag=True, help="Check and upload the rows.")
@click.option("--monitor", metavar="JOB", help="Watch a job.")
@click.option("--test", metavar="MODEL", help="Ask a model the five questions; with --file after its system message.")
@click.option("--list-jobs", is_flag=True, help="The newest jobs.")
@click.option("--cancel", metavar="JOB", help="End a job.")
@click.option("--dry-run", is_flag=True, help="Print the requests, send none.")
@click.option("--base-url", help="Another address of the API.")
@click.option("--write-config", is_flag=True, help="Write request bodies for Google and Kimi, to be sent by hand.")
@click.option("--project-id", help="vertex: Google Cloud project.")
@click.option("--bucket", help="vertex: Cloud Storage bucket for the rows.")
@click.option("--location", default=LOCATION, show_default=True, help="vertex: region.")
@click.option(
    "--when-lossy",
    type=click.Choice(["refuse", "drop", "split"]),
    default="refuse",
    show_default=True,
    help="vertex: rows that Gemini's format cannot say whole, as in govor convert.",
)
@click.option("--force", is_flag=True, help="With --write-config: replace the files.")
def main(**options: object) -> None:
    """Check rows, upload them, tune a model, watch the job, ask the model."""
    for stream in (sys.stdout, sys.stderr):  # the terminal's own encoding may lack Cyrillic and ✅
        stream.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    with one_line_errors():
        run(Asked(**options))  # type: ignore[arg-type]


def run(asked: Asked) -> None:
    """Do what the command line says; all that can be refused without a request is refused before the first."""
    provider = find_provider(asked.provider, asked.base_url)
    check_options(asked, provider)
    if asked.validate_only:
        validate(asked, provider)
    elif asked.estimate:
        print_estimate(asked, provider)
    elif asked.write_config:
        write_configs(asked, provider)
    else:
        check_steps(asked, provider)
        if asked.trains or asked.upload_only:
            validate(asked, provider)
        if asked.dry_run and provider.name == "vertex":
            rehearse_vertex(asked, provider)
            return
        with closing(connect(asked, provider)) as service:
            (rehearse if asked.dry_run else act)(asked, provider, service)


def connect(asked: Asked, provider: Provider) -> Service:
    """The provider; ConfigError without a key."""
    if provider.name == "vertex":
        place = asked.place()
        place.require("--project-id", *(["--bucket"] if asked.trains or asked.upload_only else []))
        return VertexService(place, asked.when_lossy)
    try:
        from finetuning.openai_api import OpenAiService
    except ModuleNotFoundError as error:
        raise MachineError(f"{error.name} is not installed: pip install -c constraints.txt openai") from None
    key, name = find_key(provider, Path.cwd())
    assert provider.base_url is not None
    return OpenAiService(provider, asked.base_url or provider.base_url, key, name, dry=asked.dry_run)


def act(asked: Asked, provider: Provider, service: Service) -> None:
    """What the provider is needed for, with a log."""
    if asked.list_jobs:
        print("\n".join(map(line, service.jobs())) or "no jobs yet")
        return
    log = Log(Path("logs"))
    log.note(f"provider {provider.name}, {asked.base_url or provider.base_url or asked.location}")
    try:
        if asked.cancel:
            job = service.cancel(asked.cancel)
            log.say(f"Job ID: {job.id}")
            log.say(f"Status: {job.status}")
        elif asked.test:
            ask(asked, service, asked.test, log)
        elif asked.monitor:
            with goes_on(asked, provider, log, asked.monitor):
                follow(asked, provider, service, asked.monitor, log, tokens=None)
        else:
            finetune(asked, provider, service, log)
    except GovorError as error:
        log.note(f"ended: {type(error).__name__}")  # its words may quote a row
        raise
    finally:
        print(f"Log: {log.path}", flush=True)


def finetune(asked: Asked, provider: Provider, service: Service, log: Log) -> None:
    """Upload → create → watch → ask."""
    assert asked.file is not None
    request = asked.request(provider)
    tokens = estimate(asked.file, provider, request.model, asked.epochs).tokens
    log.note(f"training file {asked.file.name}, {asked.file.stat().st_size} bytes")
    training_file, validation_file = service.upload(asked.file), None
    log.say(f"File ID: {training_file}")
    if asked.validation_file is not None:
        validation_file = service.upload(asked.validation_file)
        log.say(f"Validation file ID: {validation_file}")
    if asked.upload_only:
        return
    with goes_on(asked, provider, log) as known:
        job = service.create(request, training_file, validation_file)
        known.append(job.id)
        log.say(f"Job ID: {job.id}")
        if job.model and job.model != request.model:
            log.say(f"Model: {request.model} stands for {job.model} there")
        job = follow(asked, provider, service, job.id, log, tokens=tokens)
    assert job.tuned is not None
    ask(asked, service, job.tuned, log)


@contextmanager
def goes_on(asked: Asked, provider: Provider, log: Log, *ids: str) -> Iterator[list[str]]:
    """Ctrl-C ends the watching and not the job: say how to go on. The block adds the id of a job that it creates."""
    known = [*ids]
    try:
        yield known
    except KeyboardInterrupt:
        if known:
            log.say(f"\nJob {known[0]} goes on. To watch it again:\n  {again(asked, provider, '--monitor', known[0])}")
        else:
            command = again(asked, provider, "--list-jobs")
            log.say(f"\nWhether the job was created is not known. To see it:\n  {command}")
        raise SystemExit(130) from None


def follow(asked: Asked, provider: Provider, service: Service, id_: str, log: Log, *, tokens: int | None) -> Job:
    """Watch a job to its end."""
    command = again(asked, provider, "--monitor", id_)
    job = watch(service, id_, log, every=LIVE if provider.name == "local" else HOSTED, tokens=tokens, again=command)
    log.say(f"✅ Fine-tuned model: {job.tuned}")
    if job.tokens is not None:
        log.say(f"Trained tokens: {job.tokens:,}")
    return job


def ask(asked: Asked, service: Service, model: str, log: Log) -> None:
    """The five questions, after the system message that the rows share; the log has their number."""
    system = shared_system_message(read_rows(asked.file)) if asked.file else None
    log.note(f"asks {model}")
    for number, prompt in enumerate(load_config(PROMPTS).prompts, 1):
        messages = [{"role": message.role, "content": message.content} for message in prompt]
        if system is not None:
            messages = [{"role": "system", "content": system}, *messages]
        print(f"\n{number}. {'… ' if len(prompt) > 1 else ''}{prompt[-1].content}", flush=True)
        print(service.chat(model, messages) or "(an empty answer)", flush=True)
        log.note(f"answer {number}")
    print()


def line(job: Job) -> str:
    """One job for a list."""
    return f"{job.id}  {job.status:<16}  {job.model}  {job.tuned or ''}".rstrip()


if __name__ == "__main__":
    main()
