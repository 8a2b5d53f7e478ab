"""The command line of upload_and_finetune.py, and what is wrong with it before anything is sent."""

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from train.core.errors import ConfigError

from .providers import JobRequest, Provider, require, warning
from .vertex import GoogleProject

LOCATION = "us-central1"
ACTIONS = ("validate_only", "upload_only", "monitor", "test", "list_jobs", "cancel", "estimate", "write_config")
SCRIPT = Path(__file__).parents[1] / "upload_and_finetune.py"


@dataclass(frozen=True)
class Arguments:
    """The options of the command line."""

    provider: str | None
    file: Path | None
    model: str | None
    epochs: int | None
    learning_rate: float | None
    learning_rate_multiplier: float | None
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

    @property
    def trains(self) -> bool:
        """Whether the whole way is to be gone: no option asks for a part of it."""
        return not any(getattr(self, name) for name in ACTIONS)

    def job_request(self, provider: Provider) -> JobRequest:
        return JobRequest(
            model=self.model or provider.model,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            multiplier=self.learning_rate_multiplier,
            suffix=self.suffix,
        )

    def google_project(self) -> GoogleProject:
        return GoogleProject(self.project_id, self.bucket, self.location, self.base_url)


def check_options(arguments: Arguments, provider: Provider) -> None:
    """ConfigError where options contradict each other or the provider."""
    chosen = [f"--{name.replace('_', '-')}" for name in ACTIONS if getattr(arguments, name)]
    if len(chosen) > 1:
        raise ConfigError(f"{' and '.join(chosen)}: one at a time")
    for name in ("monitor", "test", "cancel"):
        if getattr(arguments, name) == "":
            raise ConfigError(f"--{name} is empty: a {'model' if name == 'test' else 'job'} is needed")
    needs_file = arguments.trains or arguments.validate_only or arguments.upload_only or arguments.estimate
    if needs_file and arguments.file is None:
        raise ConfigError("--file FILE is needed: the training rows")
    if arguments.learning_rate is not None and provider.name != "local":
        raise ConfigError(
            f"--learning-rate: {provider.title} takes no rate, only a factor on its own: --learning-rate-multiplier, "
            "where 1 changes nothing"
        )
    if arguments.learning_rate is not None and arguments.learning_rate_multiplier is not None:
        raise ConfigError("--learning-rate and --learning-rate-multiplier: give one of them")
    suffix = r".{1,128}" if provider.name == "vertex" else r"[A-Za-z0-9_-]{1,64}"
    if arguments.suffix is not None and not re.fullmatch(suffix, arguments.suffix):
        letters = "128 characters" if provider.name == "vertex" else "64 letters a-z, A-Z, digits, `_` and `-`"
        raise ConfigError(f"--suffix {arguments.suffix!r}: 1 to {letters}")
    if (arguments.project_id or arguments.bucket) and provider.name != "vertex" and not arguments.write_config:
        raise ConfigError("--project-id and --bucket go with --provider vertex")
    if arguments.dry_run and (arguments.validate_only or arguments.estimate or arguments.write_config):
        raise ConfigError("--dry-run: nothing is sent here anyway")


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
            if (text := warning(provider)) is not None:
                print(f"note: {text}", file=sys.stderr)


def script_command(arguments: Arguments, provider: Provider, *options: str) -> str:
    """The command that runs this script with other options for the same provider."""
    shown = SCRIPT.relative_to(Path.cwd()) if SCRIPT.is_relative_to(Path.cwd()) else SCRIPT
    command = ["python", str(shown), "--provider", provider.name]
    for option, value in (("--base-url", arguments.base_url), ("--project-id", arguments.project_id)):
        command += [option, value] if value else []
    command += ["--location", arguments.location] if arguments.location != LOCATION else []
    return shlex.join([*command, *options])
