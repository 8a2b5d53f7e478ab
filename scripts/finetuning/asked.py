"""The command line of upload_and_finetune.py, and what is wrong with it before anything is sent."""

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from train.core.errors import ConfigError

from .providers import Provider, Request, require, warning
from .vertex import Place

LOCATION = "us-central1"
ACTIONS = ("validate_only", "upload_only", "monitor", "test", "list_jobs", "cancel", "estimate", "write_config")
SCRIPT = Path(__file__).parents[1] / "upload_and_finetune.py"


@dataclass(frozen=True)
class Asked:
    """The command line."""

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
        """Whether nothing else than the whole way was asked for."""
        return not any(getattr(self, name) for name in ACTIONS)

    def request(self, provider: Provider) -> Request:
        return Request(
            model=self.model or provider.model,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            multiplier=self.learning_rate_multiplier,
            suffix=self.suffix,
        )

    def place(self) -> Place:
        return Place(self.project_id, self.bucket, self.location, self.base_url)


def check_options(asked: Asked, provider: Provider) -> None:
    """ConfigError where options contradict each other or the provider."""
    chosen = [f"--{name.replace('_', '-')}" for name in ACTIONS if getattr(asked, name)]
    if len(chosen) > 1:
        raise ConfigError(f"{' and '.join(chosen)}: one at a time")
    for name in ("monitor", "test", "cancel"):
        if getattr(asked, name) == "":
            raise ConfigError(f"--{name} is empty: a {'model' if name == 'test' else 'job'} is needed")
    needs_file = asked.trains or asked.validate_only or asked.upload_only or asked.estimate
    if needs_file and asked.file is None:
        raise ConfigError("--file FILE is needed: the training rows")
    if asked.learning_rate is not None and provider.name != "local":
        raise ConfigError(
            f"--learning-rate: {provider.title} takes no rate, only a factor on its own: --learning-rate-multiplier, "
            "where 1 changes nothing"
        )
    if asked.learning_rate is not None and asked.learning_rate_multiplier is not None:
        raise ConfigError("--learning-rate and --learning-rate-multiplier: give one of them")
    name = r".{1,128}" if provider.name == "vertex" else r"[A-Za-z0-9_-]{1,64}"
    if asked.suffix is not None and not re.fullmatch(name, asked.suffix):
        letters = "128 characters" if provider.name == "vertex" else "64 letters a-z, A-Z, digits, `_` and `-`"
        raise ConfigError(f"--suffix {asked.suffix!r}: 1 to {letters}")
    if (asked.project_id or asked.bucket) and provider.name != "vertex" and not asked.write_config:
        raise ConfigError("--project-id and --bucket go with --provider vertex")
    if asked.dry_run and (asked.validate_only or asked.estimate or asked.write_config):
        raise ConfigError("--dry-run: nothing is sent here anyway")


def check_steps(asked: Asked, provider: Provider) -> None:
    """GovorError where the provider cannot do what was asked for."""
    if asked.test:
        require(provider, "chat")
    elif asked.monitor or asked.list_jobs or asked.cancel:
        require(provider, "jobs")
    else:
        require(provider, "upload")
        if not asked.upload_only:
            require(provider, "create")
            if (text := warning(provider)) is not None:
                print(f"note: {text}", file=sys.stderr)


def again(asked: Asked, provider: Provider, *words: str) -> str:
    """This script's command for the same provider."""
    shown = SCRIPT.relative_to(Path.cwd()) if SCRIPT.is_relative_to(Path.cwd()) else SCRIPT
    command = ["python", str(shown), "--provider", provider.name]
    for option, value in (("--base-url", asked.base_url), ("--project-id", asked.project_id)):
        command += [option, value] if value else []
    command += ["--location", asked.location] if asked.location != LOCATION else []
    return shlex.join([*command, *words])
