"""Upload a file, tune a model on it, watch, ask the result: with one's own server or a hosted service.

    python scripts/upload_and_finetune.py --file data/natasha.jsonl --model tiny
    python scripts/upload_and_finetune.py --provider openai --file data/natasha.jsonl --estimate
    python scripts/upload_and_finetune.py --monitor ftjob-…
    python scripts/upload_and_finetune.py --provider vertex --project-id P --bucket B --file data/natasha.jsonl

The scripts in analysis/ are this one with the defaults of the guides that name them, see finetuning/guides.py.

Providers that speak OpenAI's API differ in base URL, key and what they can do, and in nothing else. Keys come from the
environment or from .env in the working folder: GOVOR_API_KEY where the local server wants one, OPENAI_API_KEY,
KIMI_API_KEY or MOONSHOT_API_KEY; Google has credentials of its own. What happened is noted in logs/, without keys and
chat text. Exit codes: 0 done, 1 the file is bad or the job failed, 2 wrong use or environment, 130 interrupted.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import click
from click.core import ParameterSource
from finetuning.arguments import LOCATION, Arguments, check_options, check_steps, script_command
from finetuning.estimate import estimate
from finetuning.guides import GUIDES, PLAIN, Guide
from finetuning.offline import print_estimate, rehearse, rehearse_vertex, validate, write_configs
from finetuning.providers import PROVIDERS, Job, Provider, Service, find_provider
from finetuning.vertex import VertexService
from finetuning.watch import Log, watch

from train.chats.readers import read_rows
from train.chats.rows import shared_system_message
from train.core.config import load_config
from train.core.errors import GovorError, MachineError, one_line_errors
from train.remote.services import find_key, read_env

PROMPTS = Path(__file__).resolve().parents[1] / "configs/natasha.yaml"
"""The five questions for a tuned model are those of this config."""
LOCAL_INTERVAL, HOSTED_INTERVAL = 1.5, 60.0
"""Seconds between two looks at a job: on one's own server, on somebody else's."""
PATH = click.Path(path_type=Path)
POSITIVE = click.FloatRange(0, min_open=True)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--provider", type=click.Choice(list(PROVIDERS)), help="Who tunes.  [default: by --base-url, else local]")
@click.option("--file", type=PATH, help="Training rows: JSONL in OpenAI's chat format.")
@click.option("--validation-file", type=PATH, help="Held-out rows in the same format.")
@click.option("--model", help="Base to tune.  [default: the provider's usual one]")
@click.option("--epochs", type=click.IntRange(1, 50), help="Passes over the rows.  [default: the provider chooses]")
@click.option("--batch-size", type=click.IntRange(1, 256), help="Rows a step.  [default: the provider chooses]")
@click.option(
    "--learning-rate",
    "--learning-rate-multiplier",
    "learning_rate",
    type=POSITIVE,
    help="Factor on the provider's own rate.",
)
@click.option("--absolute-learning-rate", type=POSITIVE, help="The rate itself, such as 1e-4; local only.")
@click.option("--suffix", help="Part of the new model's name.")
@click.option("--validate-only", is_flag=True, help="Check the rows, without network and key.")
@click.option("--estimate", is_flag=True, help="Tokens and price, without network and key.")
@click.option("--upload-only", is_flag=True, help="Check and upload the rows.")
@click.option("--monitor", metavar="JOB", help="Watch a job.")
@click.option("--test", metavar="MODEL", help="Ask a model the five questions; with --file after its system message.")
@click.option("--list-jobs", is_flag=True, help="The newest jobs.")
@click.option("--cancel", metavar="JOB", help="End a job.")
@click.option("--dry-run", is_flag=True, help="Print the requests, send none.")
@click.option("--base-url", help="Another address of the API.  [default: GOVOR_BASE_URL, also from .env]")
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
@click.pass_context
def main(context: click.Context, **options: object) -> None:
    """Check rows, upload them, tune a model, watch the job, ask the model."""
    guide: Guide = context.obj or PLAIN
    typed = context.get_parameter_source("learning_rate") == ParameterSource.COMMANDLINE
    if options["absolute_learning_rate"] and not typed:
        options["learning_rate"] = None  # the guide's
    for stream in (sys.stdout, sys.stderr):  # the terminal's own encoding may lack Cyrillic and ✅
        stream.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    with one_line_errors():
        options["base_url"] = str(options["base_url"] or "").strip() or None
        if options["provider"] in (None, "local"):
            options["base_url"] = options["base_url"] or _own_server()
        run(Arguments(**options, guide=guide))  # type: ignore[arg-type]


def follow_guide(name: str) -> None:
    """Run as the script of a guide: with its provider, defaults and words."""
    main(obj=GUIDES[name], default_map=GUIDES[name].defaults())


def _own_server() -> str | None:
    """GOVOR_BASE_URL, from the environment or from .env in the working folder."""
    return os.environ.get("GOVOR_BASE_URL", "").strip() or read_env(Path(".env")).get("GOVOR_BASE_URL") or None


def run(arguments: Arguments) -> None:
    """Do what the command line says; all that can be refused without a request is refused before the first."""
    guide = arguments.guide
    provider = find_provider(arguments.provider or (None if arguments.base_url else guide.provider), arguments.base_url)
    check_options(arguments, provider)
    if guide.provider and guide.provider != provider.name:
        print(f"note: {arguments.base_url} takes the place of {PROVIDERS[guide.provider].title}", file=sys.stderr)
    if arguments.validate_only:
        validate(arguments, provider)
    elif arguments.estimate:
        print_estimate(arguments, provider)
    elif arguments.write_config:
        write_configs(arguments, provider)
    else:
        if arguments.trains or arguments.upload_only:
            validate(arguments, provider)
        check_steps(arguments, provider)
        if arguments.dry_run and provider.name == "vertex":
            rehearse_vertex(arguments, provider)
            return
        with closing(connect(arguments, provider)) as service:
            (rehearse if arguments.dry_run else act)(arguments, provider, service)


def connect(arguments: Arguments, provider: Provider) -> Service:
    """The provider's service; ConfigError without a key."""
    if provider.name == "vertex":
        project = arguments.google_project()
        project.require("--project-id", *(["--bucket"] if arguments.trains or arguments.upload_only else []))
        return VertexService(project, arguments.when_lossy)
    try:
        from finetuning.openai_api import OpenAiService
    except ModuleNotFoundError as error:
        raise MachineError(f"{error.name} is not installed: pip install -c constraints.txt openai") from None
    key, name = find_key(provider, Path.cwd())
    assert provider.base_url is not None
    return OpenAiService(provider, arguments.base_url or provider.base_url, key, name, dry_run=arguments.dry_run)


def act(arguments: Arguments, provider: Provider, service: Service) -> None:
    """Do what needs the provider, and keep a log."""
    if arguments.list_jobs:
        print("\n".join(map(job_line, service.jobs())) or "no jobs yet")
        return
    log = Log(Path("logs"), arguments.guide.log)
    log.note(f"provider {provider.name}, {arguments.base_url or provider.base_url or arguments.location}")
    try:
        if arguments.cancel:
            job = service.cancel(arguments.cancel)
            log.say(f"Job ID: {job.id}")
            log.say(f"Status: {job.status}")
        elif arguments.test:
            ask_prompts(arguments, service, arguments.test, log)
        elif arguments.monitor:
            with job_goes_on(arguments, provider, log, arguments.monitor):
                follow(arguments, provider, service, arguments.monitor, log, tokens=None)
        else:
            finetune(arguments, provider, service, log)
    except GovorError as error:
        log.note(f"ended: {type(error).__name__}")  # its words may quote a row
        raise
    finally:
        print(f"Log: {log.path}", flush=True)


def finetune(arguments: Arguments, provider: Provider, service: Service, log: Log) -> None:
    """Upload → create → watch → ask."""
    assert arguments.file is not None
    request = arguments.job_request(provider)
    tokens = estimate(arguments.file, provider, request.model, arguments.epochs).tokens
    log.note(f"training file {arguments.file.name}, {arguments.file.stat().st_size} bytes")
    if not arguments.upload_only:
        service.require_model(request.model)
    training_file, validation_file = service.upload(arguments.file), None
    log.say(f"✅ File uploaded successfully{arguments.guide.to}")
    log.say(f"   File ID: {training_file}")
    if arguments.validation_file is not None:
        validation_file = service.upload(arguments.validation_file)
        log.say(f"   Validation file ID: {validation_file}")
    if arguments.upload_only:
        return
    with job_goes_on(arguments, provider, log) as job_ids:
        job = service.create(request, training_file, validation_file)
        job_ids.append(job.id)
        log.say(f"\n✅ Fine-tuning job created successfully{arguments.guide.within}")
        log.say(f"   Job ID: {job.id}")
        # the guides' word for a job whose files are still being checked, too
        log.say(f"   Status: {'queued' if job.status == 'validating_files' else job.status}")
        if job.model and job.model != request.model:
            log.say(f"   Model: {request.model} stands for {job.model} there")
        log.say("\n⏳ Starting to monitor fine-tuning job...\n   (This may take several hours)")
        job = follow(arguments, provider, service, job.id, log, tokens=tokens)
    assert job.tuned is not None
    ask_prompts(arguments, service, job.tuned, log)


@contextmanager
def job_goes_on(arguments: Arguments, provider: Provider, log: Log, *ids: str) -> Iterator[list[str]]:
    """Say at Ctrl-C, which ends only the watching, how to go on. The block adds the id of a job that it creates."""
    job_ids = [*ids]
    try:
        yield job_ids
    except KeyboardInterrupt:
        if job_ids:
            command = script_command(arguments, provider, "--monitor", job_ids[0])
            log.say(f"\nJob {job_ids[0]} goes on. To watch it again:\n  {command}")
        else:
            command = script_command(arguments, provider, "--list-jobs")
            log.say(f"\nWhether the job was created is not known. To see it:\n  {command}")
        raise SystemExit(130) from None


def follow(
    arguments: Arguments, provider: Provider, service: Service, id_: str, log: Log, *, tokens: int | None
) -> Job:
    """Watch a job to its end and print the model's name."""
    command = script_command(arguments, provider, "--monitor", id_)
    job = watch(
        service,
        id_,
        log,
        interval=LOCAL_INTERVAL if provider.name == "local" else HOSTED_INTERVAL,
        tokens=tokens,
        resume_command=command,
    )
    log.say(f"✅ Fine-tuned model: {job.tuned}")
    if job.tokens is not None:
        log.say(f"Trained tokens: {job.tokens:,}")
    return job


def ask_prompts(arguments: Arguments, service: Service, model: str, log: Log) -> None:
    """Ask the five questions after the system message that the rows share; the log has only their numbers."""
    system = shared_system_message(read_rows(arguments.file)) if arguments.file else None
    log.note(f"asks {model}")
    for number, prompt in enumerate(load_config(PROMPTS).prompts, 1):
        messages = [{"role": message.role, "content": message.content} for message in prompt]
        if system is not None:
            messages = [{"role": "system", "content": system}, *messages]
        print(f"\nTest {number}: {'… ' if len(prompt) > 1 else ''}{prompt[-1].content}", flush=True)
        print(f"Response: {service.chat(model, messages) or '(an empty answer)'}", flush=True)
        log.note(f"answer {number}")
    print()


def job_line(job: Job) -> str:
    """The job as one line of a list."""
    return f"{job.id}  {job.status:<16}  {job.model}  {job.tuned or ''}".rstrip()


if __name__ == "__main__":
    main()
