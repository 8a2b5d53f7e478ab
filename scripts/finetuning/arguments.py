"""The command line of upload_and_finetune.py, and what is wrong with it before anything is sent."""

import math
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from train.core.config import LARGEST_RATE, why_rate_ruins
from train.core.errors import ConfigError
from train.core.latin import latin

from .guides import DATA, PLAIN, Guide
from .providers import JobRequest, Provider, require, require_model, warning
from .vertex import GoogleProject

LOCATION = "us-central1"
ACTIONS = ("validate_only", "upload_only", "monitor", "test", "list_jobs", "cancel", "estimate", "write_config")
SCRIPTS = Path(__file__).parents[1]


@dataclass(frozen=True)
class Arguments:
    """The options of the command line."""

    provider: str | None
    file: Path | None
    model: str | None
    epochs: int | None
    batch_size: int | None
    learning_rate: float | None
    """The factor on the provider's own rate."""
    absolute_learning_rate: float | None
    suffix: str | None
    validation_file: Path | None
    validate_only: bool
    upload_only: bool
    monitor: str | None
    test: str | None
    list_jobs: bool
    cancel: str | None
    estimate: bool
    write_config: bool
    dry_run: bool
    base_url: str | None
    project_id: str | None
    bucket: str | None
    location: str
    when_lossy: str
    force: bool
    guide: Guide = PLAIN

    @property
    def trains(self) -> bool:
        """Whether the whole way is to be gone: no option asks for a part of it."""
        return not any(getattr(self, name) for name in ACTIONS)

    def job_request(self, provider: Provider) -> JobRequest:
        return JobRequest(
            model=self.model or provider.model,
            epochs=self.epochs,
            learning_rate=self.absolute_learning_rate,
            multiplier=self.learning_rate,
            batch_size=self.batch_size,
            suffix=self.suffix,
        )

    def google_project(self) -> GoogleProject:
        return GoogleProject(self.project_id, self.bucket, self.location, self.base_url)


def check_options(arguments: Arguments, provider: Provider) -> None:
    """ConfigError where options contradict each other or the provider."""
    chosen = [f"--{name.replace('_', '-')}" for name in ACTIONS if getattr(arguments, name)]
    if len(chosen) > 1:
        raise ConfigError(f"{' and '.join(chosen)}: one at a time")
    for name in ("model", "test", "monitor", "cancel"):
        value = getattr(arguments, name)
        if value is not None and not value.strip():  # "$MODEL", say, which is not set
            raise ConfigError(f"--{name} is empty: a {'model' if name in ('model', 'test') else 'job'} is needed")
    for name in ("learning_rate", "absolute_learning_rate"):
        if not math.isfinite(value := getattr(arguments, name) or 0):
            raise ConfigError(f"--{name.replace('_', '-')} {value}: expected a number such as 0.1")
    needs_file = arguments.trains or arguments.validate_only or arguments.upload_only or arguments.estimate
    if needs_file and arguments.file is None:
        looked = f"{DATA}/ here holds no natasha_finetuning_*.jsonl and no natasha.jsonl: " * (arguments.guide != PLAIN)
        raise ConfigError(f"{looked}--file FILE is needed, the training rows")
    if (rate := arguments.absolute_learning_rate) is not None:
        if provider.name != "local":
            raise ConfigError(
                f"--absolute-learning-rate: {provider.title} takes no rate, only a factor on its own: --learning-rate, "
                "where 1 changes nothing"
            )
        if arguments.learning_rate is not None:
            raise ConfigError("--learning-rate (a factor) and --absolute-learning-rate: give one of them")
        if rate > LARGEST_RATE:
            raise ConfigError(f"--absolute-learning-rate {why_rate_ruins(rate)}. As a factor: --learning-rate {rate:g}")
    _check_suffix(arguments.suffix, provider)
    vertex = "vertex" in (provider.name, arguments.guide.provider)
    if (arguments.project_id or arguments.bucket) and not vertex and not arguments.write_config:
        raise ConfigError("--project-id and --bucket go with --provider vertex")
    if arguments.dry_run and (arguments.validate_only or arguments.estimate or arguments.write_config):
        raise ConfigError("--dry-run: nothing is sent here anyway")


def _check_suffix(suffix: str | None, provider: Provider) -> None:
    """ConfigError where the provider takes no such suffix; but for Vertex, Cyrillic letters go out as Latin ones."""
    if suffix is None:
        return
    if provider.name == "vertex":
        longest, letters, fits = 128, "characters", True
    else:
        longest, letters = 64, "Latin or Cyrillic letters, digits, spaces, `_` and `-`"
        fits = re.fullmatch(r"[A-Za-z0-9_-]+", latin(suffix)) is not None
    if not fits or not 1 <= len(suffix) <= longest:
        raise ConfigError(f"--suffix {suffix!r}: 1 to {longest} {letters}")


def check_steps(arguments: Arguments, provider: Provider) -> None:
    """GovorError where the provider cannot do what was asked for."""
    if arguments.test:
        require(provider, "chat")
    elif arguments.monitor or arguments.list_jobs or arguments.cancel:
        require(provider, "jobs")
    else:
        require(provider, "upload")
        if not arguments.upload_only:
            require(provider, "create")
            require_model(provider, arguments.model or provider.model)
            if arguments.batch_size and provider.name == "vertex":
                print("note: Google chooses the batch size of Gemini itself: --batch-size is left out", file=sys.stderr)
            if (text := warning(provider)) is not None:
                print(f"note: {text}", file=sys.stderr)


def script_command(arguments: Arguments, provider: Provider, *options: str) -> str:
    """The command that runs this script with other options for the same provider."""
    script = SCRIPTS / arguments.guide.script
    shown = script.relative_to(Path.cwd()) if script.is_relative_to(Path.cwd()) else script
    command = ["python", str(shown)]
    if arguments.provider or arguments.guide is PLAIN:
        command += ["--provider", provider.name]
    for option, value in (("--base-url", arguments.base_url), ("--project-id", arguments.project_id)):
        command += [option, value] if value else []
    command += ["--location", arguments.location] if arguments.location != LOCATION else []
    return shlex.join([*command, *options])
