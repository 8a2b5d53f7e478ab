"""Every provider that speaks OpenAI's API, through OpenAI's own SDK; and a rehearsal that sends nothing."""

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2
import openai
from openai.pagination import SyncCursorPage
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from pydantic import BaseModel

from train.core.errors import ConfigError, GovorError, MachineError
from train.remote.services import LOOPBACK, without_keys

from .providers import BusyError, Event, Job, JobRequest, NotReadyError, Provider, UnreachableError, openai_body

T = TypeVar("T", bound=BaseModel)
LONGEST_LOAD = 1800.0
"""Seconds that a server of one's own may take to load a model, as train/jobs/model_loader.py has it."""
LONGEST_PAUSE = 20.0
"""Seconds between two questions to it: it says what it expects, but may be done before."""


class OpenAiService:
    """Files, jobs and chat of one provider."""

    def __init__(
        self, provider: Provider, base_url: str, key: str | None, key_name: str, *, dry_run: bool = False
    ) -> None:
        if key is None and provider.name != "local" and not dry_run:
            raise ConfigError(f"no key for {provider.title}: set {key_name} in the environment or in .env")
        self.provider = provider
        self.url = base_url.rstrip("/")
        self.key = key
        self.key_name = key_name
        host = urlsplit(base_url).hostname or ""
        transport: dict[str, Any] = {"transport": Rehearsal()} if dry_run else {}
        self.client = openai.OpenAI(
            base_url=self.url,
            api_key=key or "none",  # the SDK insists on one; a local server without a key takes any
            http_client=openai.DefaultHttpxClient(trust_env=host not in LOOPBACK, **transport),
        )

    def close(self) -> None:
        self.client.close()

    def require_model(self, name: str) -> None:
        """Only our own server is asked: what others list is what they chat with, not what they tune."""
        if self.provider.name != "local":
            return
        with self._one_line_errors():
            try:
                about = getattr(self.client.models.retrieve(name), "metadata", None)  # a server of ours has it
            except openai.NotFoundError as error:
                if error.code != "model_not_found":
                    return  # a server that knows only how to list
                names = [model.id for model in self._call(self.client.models.list).data]
                bases = ", ".join(name for name in names if not name.startswith("ft:")) or "none"
                raise GovorError(f"{self._message(error)} Bases there: {bases}") from None
        if isinstance(about, dict) and about.get("cannot_be_tuned"):
            raise GovorError(str(about["cannot_be_tuned"]))

    def upload(self, path: Path) -> str:
        with path.open("rb") as rows:  # a path would be read into memory whole
            file = self._call(lambda: self.client.files.create(file=(path.name, rows), purpose="fine-tune"))
        if file.status == "uploaded":
            file = self._call(lambda: self.client.files.wait_for_processing(file.id))
        if file.status == "error":
            why = self._without_key(file.status_details or "")
            raise GovorError(f"{path}: {self.provider.title} could not read it: {why}")
        return file.id

    def create(self, request: JobRequest, training_file: str, validation_file: str | None) -> Job:
        """Create the job. Where no answer came, only our own server is asked again: it notices a repeated request."""
        client, extra = self.client, None
        if self.provider.name != "local":
            client = client.with_options(max_retries=0)
        if request.learning_rate is not None:
            extra = {"govor": {"training": {"learning_rate": request.learning_rate}}}
        body = openai_body(request, training_file, validation_file)
        try:
            return _job(self._call(lambda: client.fine_tuning.jobs.create(**body, extra_body=extra)))
        except BusyError:
            raise
        except UnreachableError as error:
            raise UnreachableError(f"{error}; whether the job was created is not known: --list-jobs shows it") from None

    def job(self, id_: str) -> Job:
        id_ = id_.rpartition("/")[2]  # Vertex' guide writes projects/…/pipelineJobs/ID
        return _job(self._call(lambda: self.client.fine_tuning.jobs.retrieve(id_)))

    def new_events(self, id_: str, seen: set[str]) -> list[Event]:
        events: list[Event] = []
        page = self._events(id_)
        while True:
            new = [event for event in page.data if event.id not in seen]
            for event in new:
                step = event.data if event.type == "metrics" and isinstance(event.data, dict) else None
                events.append(Event(event.id, event.created_at, event.level, event.message, step))
            if not page.has_more or len(new) < len(page.data):
                break
            page = self._events(id_, after=page.data[-1].id)
        seen.update(event.id for event in events)
        return events[::-1]

    def _events(self, id_: str, after: str | openai.Omit = openai.omit) -> SyncCursorPage[FineTuningJobEvent]:
        """A page of a job's events, newest first."""
        id_ = id_.rpartition("/")[2]
        return self._call(lambda: self.client.fine_tuning.jobs.list_events(id_, limit=100, after=after))

    def jobs(self) -> list[Job]:
        return [_job(job) for job in self._call(lambda: self.client.fine_tuning.jobs.list(limit=20)).data]

    def cancel(self, id_: str) -> Job:
        return _job(self._call(lambda: self.client.fine_tuning.jobs.cancel(id_)))

    def chat(self, model: str, messages: list[dict[str, str]]) -> str:
        """The model's answer. A server of one's own loads it first, which takes minutes: it is asked until it has."""
        untyped: Any = messages
        until = time.monotonic() + LONGEST_LOAD
        while True:
            try:
                answer = self._call(lambda: self.client.chat.completions.create(model=model, messages=untyped))
                return (answer.choices[0].message.content if answer.choices else None) or ""
            except NotReadyError as error:
                if self.provider.name != "local" or time.monotonic() > until:
                    raise
                print(f"waiting: {error}", file=sys.stderr, flush=True)
                time.sleep(min(error.seconds, LONGEST_PAUSE))

    def _call(self, call: Callable[[], T]) -> T:
        not_openai = GovorError(f"{self.url} does not answer as OpenAI's API does: base URLs usually end in /v1")
        with self._one_line_errors():
            try:
                answer = call()
            except (AttributeError, ValueError):  # the SDK trips over a web page where it expects a list
                raise not_openai from None
        if not isinstance(answer, BaseModel):  # and hands it on as text elsewhere
            raise not_openai
        return answer

    @contextmanager
    def _one_line_errors(self) -> Iterator[None]:
        """Raise the SDK's errors as GovorError of one line."""
        try:
            yield
        except openai.APITimeoutError:
            raise UnreachableError(f"{self.url} gives no answer") from None
        except openai.APIConnectionError as error:
            hint = "start it: govor jobs serve" if self.provider.name == "local" else "is there a network, a proxy?"
            why = self._without_key(str(error.__cause__ or error))
            raise UnreachableError(f"{self.url} cannot be reached ({why}): {hint}") from None
        except openai.AuthenticationError as error:
            what = f"refuses the key in {self.key_name}" if self.key else f"wants a key: set {self.key_name}"
            hint = "; keys of api.moonshot.ai and api.moonshot.cn differ: --base-url" * (self.provider.name == "kimi")
            raise ConfigError(f"{self.url} {what}: {self._message(error)}{hint}") from None
        except openai.APIStatusError as error:
            if error.status_code == 404 and error.body == "url.not_found":
                raise GovorError(f"{self.provider.title} has no {error.request.url.path}") from None
            message = self._message(error)
            if error.status_code == 503 and (seconds := error.response.headers.get("retry-after", "")).isdigit():
                raise NotReadyError(f"{self.provider.title} answers 503: {message}", int(seconds)) from None
            if error.status_code == 404 and "Unknown request URL" in message and self.provider.name == "local":
                message += " Jobs are for govor jobs serve; govor serve only answers"
            kind = UnreachableError if error.status_code >= 500 else GovorError
            kind = BusyError if error.status_code == 429 else kind
            if error.status_code == 404 and "/v1" not in self.url and "base URL" not in message:
                message += " Is the base URL right? It usually ends in /v1"
            raise kind(f"{self.provider.title} answers {error.status_code}: {message}") from None
        except openai.OpenAIError as error:
            raise GovorError(f"{self.provider.title}: {self._without_key(str(error))}") from None
        except OSError as error:
            raise MachineError(f"{error.filename or self.url}: {error.strerror or error}") from None

    def _message(self, error: openai.APIStatusError) -> str:
        message = error.body.get("message") if isinstance(error.body, dict) else None
        if isinstance(message, str) and message:
            return self._without_key(message)
        return "without saying why; is the base URL right? It usually ends in /v1"

    def _without_key(self, text: str) -> str:
        return without_keys(text, self.key)


class Rehearsal(httpx2.BaseTransport):
    """Prints what would be sent and answers, so that the next request can be shown, with names in capitals."""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        print(f"{request.method} {request.url}\nAuthorization: Bearer ***")
        kind = request.headers.get("content-type", "")
        content = request.read()
        if "boundary=" in kind:
            print("Content-Type: multipart/form-data")
            for part in _parts(content, kind.partition("boundary=")[2]):
                print(f"  {part}")
        elif content:
            print(f"Content-Type: {kind}\n{json.dumps(json.loads(content), ensure_ascii=False, indent=2)}")
        print()
        return httpx2.Response(200, json=_answer(request.url.path), request=request)


def _parts(content: bytes, boundary: str) -> Iterator[str]:
    """The fields of a form as text; of a file its name and size."""
    for part in content.split(f"--{boundary}".encode())[1:-1]:
        head, _, value = part[2:-2].partition(b"\r\n\r\n")
        names = dict(re.findall(r'(name|filename)="([^"]*)"', head.decode()))
        shown = f"{names['filename']} ({len(value):,} bytes)" if "filename" in names else value.decode()
        yield f"{names['name']}: {shown}"


def _answer(path: str) -> dict[str, Any]:
    """An answer with placeholders in capitals."""
    if path.endswith("/files"):
        return {"id": "FILE_ID", "object": "file", "status": "processed"}
    if path.endswith("/chat/completions"):
        return {"object": "chat.completion", "choices": []}
    if path.endswith(("/events", "/fine_tuning/jobs")):
        return {"object": "list", "data": [], "has_more": False, "id": "JOB_ID", "status": "queued", "model": ""}
    return {"id": "JOB_ID", "status": "succeeded", "fine_tuned_model": "FINE_TUNED_MODEL", "model": ""}


def _job(job: FineTuningJob) -> Job:
    """The job as our `Job`. OpenAI's `error` is {} on healthy jobs, which the SDK makes an object."""
    error = job.error if job.error and job.error.message else None
    supervised = job.method.supervised if job.method else None
    epochs = getattr((supervised and supervised.hyperparameters) or job.hyperparameters, "n_epochs", None)
    return Job(
        id=job.id,
        status=job.status,
        model=job.model,
        tuned=job.fine_tuned_model,
        epochs=epochs if isinstance(epochs, int) else None,
        tokens=job.trained_tokens,
        ends=job.estimated_finish,
        error=error.message if error else None,
        code=error.code if error else None,
    )
