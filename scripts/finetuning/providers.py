"""What each provider can do, where it is, which key it takes; the types in which the script speaks of jobs."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol
from urllib.parse import urlsplit

from train.core.errors import ConfigError, GovorError
from train.core.latin import latin
from train.remote.services import SERVICES, service_of

Capability = Literal["upload", "create", "jobs", "chat"]
LAST_DAY = date(2027, 1, 6)
"""OpenAI takes new jobs up to this day (developers.openai.com/api/docs/deprecations, read 2026-11-20)."""
MIB = 1 << 20
OWN_SERVER = (
    "On a server of your own (govor jobs serve) this command trains an open base: --provider local, or "
    "GOVOR_BASE_URL=http://127.0.0.1:8000/v1"
)
"""What to do where a provider does not."""


class Provider(NamedTuple):
    """A service that tunes models, or only chats; the first six fields are those of train/remote/services.py."""

    name: str
    title: str
    base_url: str | None
    """Address of the API; None where it is built from project and location."""
    hosts: tuple[str, ...]
    """A base URL on these hosts means this provider."""
    keys: tuple[str, ...]
    """Environment variables with its key; the first that is set counts."""
    service: str
    """The provider's name in the price table."""
    capabilities: frozenset[Capability]
    offers: str
    """What it offers, for error messages."""
    model: str
    """The model that is tuned where --model names none."""
    family: str
    """The model family whose tokenizer estimates the number of tokens (train/plan/tokens.py)."""
    max_length: int
    """Tokens of the longest row; the provider cuts off what is beyond."""
    max_bytes: int
    """Bytes of the largest training file that it takes."""
    gone: tuple[tuple[str, str], ...] = ()
    """(a model's name, with or without what follows a dash, and why the provider tunes it no more)."""


ALL: frozenset[Capability] = frozenset({"upload", "create", "jobs", "chat"})
PROVIDERS = {
    provider.name: provider
    for provider in (
        Provider(
            *SERVICES["local"], ALL, "files, fine-tuning jobs, models, chat", "Qwen/Qwen3-4B-Instruct-2507", "qwen3",
            1 << 30, 512 * MIB,
        ),
        Provider(
            *SERVICES["openai"], ALL, "files, the jobs that exist, models, chat", "gpt-4.1-mini-2025-04-14", "gpt_oss",
            65_536, 512 * MIB,
            tuple((name, "shut down on 2026-10-23") for name in ("gpt-3.5-turbo", "gpt-4", "gpt-4.1-nano")),
        ),
        Provider(
            *SERVICES["kimi"], frozenset({"chat"}), "chat (--test MODEL), models, files for text extraction",
            "kimi-k2.6", "", 262_144, 100 * MIB,
        ),
        Provider(
            *SERVICES["google"], frozenset(), "chat with its own models, which its own programs ask",
            "gemini-3.5-flash", "gemma3_text", 131_072, 1024 * MIB,
        ),
        Provider(
            *SERVICES["vertex"], ALL, "tuning jobs, chat with tuned models", "gemini-3.5-flash", "gemma3_text",
            131_072, 1024 * MIB,
            (("gemini-1.0", "retired in April 2025"), ("gemini-1.5", "retired in September 2025")),
        ),
    )
}  # fmt: skip


class UnreachableError(GovorError):
    """No answer, or one that the next try may not get; watching goes on for a while."""


class NotReadyError(UnreachableError):
    """503 with the seconds after which to ask again."""

    def __init__(self, message: str, seconds: int) -> None:
        super().__init__(message)
        self.seconds = seconds


class BusyError(UnreachableError):
    """Too many requests, or a quota is used up: nothing was done."""


class JobFailedError(GovorError):
    """The job ended without a model."""

    exit_code = 1


class Job(NamedTuple):
    """A fine-tuning job as every provider has it."""

    id: str
    status: str
    """As OpenAI names it: validating_files, queued, running, paused, succeeded, failed, cancelled."""
    model: str
    tuned: str | None
    """The tuned model's name, once there is one."""
    epochs: int | None
    tokens: int | None
    """Trained tokens, once they are known."""
    ends: float | None
    """When it will be done, by the provider's own estimate (unix time)."""
    error: str | None
    code: str | None
    """The kind of the error, in one word."""


class Event(NamedTuple):
    """A message about a job, or one of its training steps."""

    id: str
    at: float
    """Unix time."""
    level: str
    message: str
    step: dict[str, Any] | None
    """step, total_steps, train_loss, … of a training step; None for a message."""


class JobRequest(NamedTuple):
    """A job to create."""

    model: str
    epochs: int | None = None
    learning_rate: float | None = None
    multiplier: float | None = None
    batch_size: int | None = None
    suffix: str | None = None


class Service(Protocol):
    """A provider that answers. Errors are GovorError in one line; UnreachableError where a later try may succeed."""

    def close(self) -> None: ...

    def require_model(self, name: str) -> None:
        """GovorError where the provider says that it tunes no model of that name."""

    def upload(self, path: Path) -> str: ...

    def create(self, request: JobRequest, training_file: str, validation_file: str | None) -> Job: ...

    def job(self, id_: str) -> Job: ...

    def new_events(self, id_: str, seen: set[str]) -> list[Event]:
        """The events that are not in `seen`, oldest first; their ids are added to it."""

    def jobs(self) -> list[Job]:
        """The latest jobs, newest first."""

    def cancel(self, id_: str) -> Job: ...

    def chat(self, model: str, messages: list[dict[str, str]]) -> str: ...


def find_provider(name: str | None, base_url: str | None) -> Provider:
    """The provider of that name, else the one whose host the URL names, else local."""
    if base_url is not None and urlsplit(base_url).scheme not in ("http", "https"):
        raise ConfigError(f"--base-url or GOVOR_BASE_URL {base_url}: expected http://… or https://…")
    if name is not None:
        return PROVIDERS[name]
    return PROVIDERS[service_of(base_url).name]


def require(provider: Provider, capability: Capability) -> None:
    """GovorError, before any request, where the provider lacks the capability; it names providers that have it."""
    if capability not in provider.capabilities:
        why = "tunes no models since May 2025" if provider.name == "google" else "documents no fine-tuning API"
        raise GovorError(
            f"{provider.title} {why}; it has: {provider.offers}. {OWN_SERVER}; OpenAI (--provider openai, until "
            f"{LAST_DAY}) and Google Vertex AI (--provider vertex) tune models of their own"
        )
    if provider.name == "openai" and capability == "create" and today() > LAST_DAY:
        raise GovorError(
            f"OpenAI has created no fine-tuning jobs since {LAST_DAY}; it has: {provider.offers}. {OWN_SERVER}; or "
            "--provider vertex"
        )


def require_model(provider: Provider, model: str) -> None:
    """GovorError, before any request, where the provider is known to tune no model of that name any more."""
    why = next((why for name, why in provider.gone if model == name or model.startswith(f"{name}-")), None)
    if why is not None:
        raise GovorError(f"{provider.title} tunes no {model} any more ({why}): --model {provider.model}. {OWN_SERVER}")


def warning(provider: Provider) -> str | None:
    """A warning to print before a job is created there; None where there is nothing to warn of."""
    if provider.name != "openai":
        return None
    left = (LAST_DAY - today()).days
    return (
        f"OpenAI takes jobs only from organisations that have used fine-tuning (since 2026-05-07 from none that is new "
        f"to it), and from nobody after {LAST_DAY}, in {left} days; --provider local has no such end"
    )


def today() -> date:
    return datetime.now(UTC).date()


def openai_body(request: JobRequest, training_file: str, validation_file: str | None) -> dict[str, Any]:
    """The body that creates the job at OpenAI's API."""
    optional = {
        "n_epochs": request.epochs,
        "batch_size": request.batch_size,
        "learning_rate_multiplier": request.multiplier,
    }
    hyperparameters = {name: value for name, value in optional.items() if value is not None}
    body: dict[str, Any] = {"model": request.model, "training_file": training_file}
    if validation_file is not None:
        body["validation_file"] = validation_file
    if request.suffix is not None:
        body["suffix"] = latin(request.suffix)
        if body["suffix"] != request.suffix:
            body["metadata"] = {"suffix": request.suffix}
    if hyperparameters:
        body["method"] = {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}
    return body
