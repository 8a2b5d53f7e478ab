"""Google Vertex AI (now Gemini Enterprise Agent Platform): rows to Cloud Storage, tuning by google-genai.

The Gemini API of AI Studio tunes no models since May 2025. Google's libraries are imported when a request is to be
made and no sooner: pip install -c constraints.txt -e '.[vertex]'.
"""

import hashlib
import json
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from train.chats.readers import read_rows
from train.chats.writers import convert_rows
from train.core.errors import ConfigError, DataError, GovorError, MachineError
from train.core.files import write_whole

from .providers import Event, Job, JobRequest, UnreachableError

T = TypeVar("T")
BUCKET_FOLDER = "govor"
JOB_STATES = {
    "QUEUED": "queued", "PENDING": "queued", "RUNNING": "running", "UPDATING": "running", "CANCELLING": "running",
    "PAUSED": "paused", "SUCCEEDED": "succeeded", "PARTIALLY_SUCCEEDED": "succeeded", "FAILED": "failed",
    "EXPIRED": "failed", "CANCELLED": "cancelled",
}  # fmt: skip
"""Google's JOB_STATE_… → OpenAI's name of it."""
SHOWN_ROWS = 5


class GoogleProject:
    """A project in Google's cloud, its bucket and region."""

    def __init__(self, project: str | None, bucket: str | None, location: str, base_url: str | None) -> None:
        if location == "global":
            raise ConfigError("--location global: models are tuned in a region, such as us-central1")
        self.project = project or "PROJECT_ID"
        self.bucket = (bucket or "BUCKET").removeprefix("gs://").strip("/")
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]", self.bucket) and bucket:
            raise ConfigError(f"--bucket {bucket}: expected a bucket's name, such as my-bucket, without folders")
        self.location = location
        self.base_url = base_url
        self.options = {"--project-id": project, "--bucket": bucket}

    def require(self, *options: str) -> None:
        """ConfigError where an option is missing."""
        missing = [option for option in options if not self.options[option]]
        if missing:
            raise ConfigError(f"--provider vertex needs {' and '.join(missing)}")

    def jobs_url(self, version: str = "v1") -> str:
        """The address of the project's tuning jobs in the REST API."""
        start = (self.base_url or f"https://{self.location}-aiplatform.googleapis.com").rstrip("/")
        return f"{start}/{version}/projects/{self.project}/locations/{self.location}/tuningJobs"


def sdk_arguments(request: JobRequest, training_uri: str, validation_uri: str | None) -> dict[str, Any]:
    """Arguments of google-genai's `client.tunings.tune`, as plain values."""
    config: dict[str, Any] = {}
    if validation_uri is not None:
        config["validation_dataset"] = {"gcs_uri": validation_uri}
    for name, value in (
        ("tuned_model_display_name", request.suffix),
        ("epoch_count", request.epochs),
        ("learning_rate_multiplier", request.multiplier),
    ):
        if value is not None:
            config[name] = value
    return {"base_model": request.model, "training_dataset": {"gcs_uri": training_uri}, "config": config}


def rest_body(request: JobRequest, training_uri: str, validation_uri: str | None) -> dict[str, Any]:
    """The body of `POST …/tuningJobs`."""
    spec: dict[str, Any] = {"trainingDatasetUri": training_uri}
    if validation_uri is not None:
        spec["validationDatasetUri"] = validation_uri
    optional = {"epochCount": request.epochs, "learningRateMultiplier": request.multiplier}
    if hyperparameters := {name: value for name, value in optional.items() if value is not None}:
        spec["hyperParameters"] = hyperparameters
    body: dict[str, Any] = {"baseModel": request.model, "supervisedTuningSpec": spec}
    if request.suffix is not None:
        body["tunedModelDisplayName"] = request.suffix
    return body


def gemini_rows(path: Path, when_lossy: str) -> list[str]:
    """The rows as lines in Gemini's format; DataError names those that it cannot say."""
    result = convert_rows(read_rows(path), "gemini", when_lossy)
    if result.refused:
        shown = [f"{path}:{line}: gemini has no place for: {why}" for line, why in result.refused[:SHOWN_ROWS]]
        hint = "" if when_lossy == "drop" else "; --when-lossy drop or split says what to do"
        raise DataError("\n  ".join([f"{len(result.refused)} rows cannot be written{hint}:", *shown]))
    return [json.dumps(record, ensure_ascii=False) + "\n" for record in result.records]


def object_name(path: Path, lines: list[str]) -> str:
    """The name in the bucket, which differs where the content differs."""
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    stem = re.sub(r"[^\w.-]", "_", path.stem)
    return f"{BUCKET_FOLDER}/{stem}-{digest[:12]}.jsonl"


class VertexService:
    """Cloud Storage and tuning jobs of one project."""

    def __init__(self, project: GoogleProject, when_lossy: str) -> None:
        try:
            from google import genai
        except ImportError:
            raise MachineError("google-genai is not installed: pip install -c constraints.txt -e '.[vertex]'") from None
        self.project = project
        self.when_lossy = when_lossy
        options = genai.types.HttpOptions(base_url=project.base_url) if project.base_url else None
        with self._one_line_errors():
            self.client = genai.Client(
                enterprise=True, project=project.project, location=project.location, http_options=options
            )

    def close(self) -> None:
        self.client.close()

    def require_model(self, name: str) -> None:
        """Nothing is asked: Google says so when the job is created, and what is known to be gone is known before."""

    def upload(self, path: Path) -> str:
        """The gs:// address of the rows in Gemini's format; what is there already is not sent again."""
        try:
            from google.api_core.exceptions import PreconditionFailed
            from google.cloud import storage
        except ImportError:
            raise MachineError(
                "google-cloud-storage is not installed: pip install -c constraints.txt -e '.[vertex]'"
            ) from None
        lines = gemini_rows(path, self.when_lossy)
        name = object_name(path, lines)
        with tempfile.TemporaryDirectory() as folder, self._one_line_errors(), ExitStack() as stack:
            gemini_file = Path(folder) / "rows.jsonl"
            write_whole(gemini_file, lines)
            client = stack.enter_context(closing(storage.Client(project=self.project.project)))
            blob = client.bucket(self.project.bucket).blob(name)
            with suppress(PreconditionFailed):  # what is there has the same rows: its name says so
                blob.upload_from_filename(str(gemini_file), content_type="application/jsonl", if_generation_match=0)
        return f"gs://{self.project.bucket}/{name}"

    def create(self, request: JobRequest, training_file: str, validation_file: str | None) -> Job:
        from google.genai import types

        arguments = sdk_arguments(request, training_file, validation_file)
        config = types.CreateTuningJobConfig(**arguments["config"])  # of a plain dict the SDK drops fields in silence
        dataset = types.TuningDataset(**arguments["training_dataset"])
        with warnings.catch_warnings(), self._one_line_errors():
            warnings.simplefilter("ignore")  # that the SDK's tuning may change
            return _job(self.client.tunings.tune(base_model=request.model, training_dataset=dataset, config=config))

    def job(self, id_: str) -> Job:
        return self._call(lambda: _job(self.client.tunings.get(name=self._name(id_))))

    def new_events(self, id_: str, seen: set[str]) -> list[Event]:
        """No events: Google tells only a job's state, its curves are in the console."""
        return []

    def jobs(self) -> list[Job]:
        return self._call(lambda: [_job(job) for job in self.client.tunings.list(config={"page_size": 20}).page])

    def cancel(self, id_: str) -> Job:
        self._call(lambda: self.client.tunings.cancel(name=self._name(id_)))
        return self.job(id_)

    def chat(self, model: str, messages: list[dict[str, str]]) -> str:
        from google.genai import types

        system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
        contents = [
            types.Content(
                role="model" if message["role"] == "assistant" else "user",
                parts=[types.Part(text=message["content"])],
            )
            for message in messages
            if message["role"] != "system"
        ]
        config = types.GenerateContentConfig(system_instruction=system or None)
        untyped: Any = contents
        answer = self._call(lambda: self.client.models.generate_content(model=model, contents=untyped, config=config))
        return answer.text or ""

    def _name(self, id_: str) -> str:
        if "/" in id_:
            return id_
        return f"projects/{self.project.project}/locations/{self.project.location}/tuningJobs/{id_}"

    def _call(self, call: Callable[[], T]) -> T:
        with self._one_line_errors():
            return call()

    @contextmanager
    def _one_line_errors(self) -> Iterator[None]:
        """Raise the SDKs' errors as GovorError of one line."""
        import httpx2
        import requests
        from google.api_core.exceptions import GoogleAPICallError, RetryError
        from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
        from google.genai.errors import APIError

        try:
            yield
        except DefaultCredentialsError:
            raise ConfigError(
                "no Google credentials: gcloud auth application-default login, or a service account's file in "
                "GOOGLE_APPLICATION_CREDENTIALS"
            ) from None
        except GoogleAuthError as error:
            raise GovorError(f"Google does not accept the credentials: {_line(error)}") from None
        except (APIError, GoogleAPICallError) as error:
            code = int(error.code or 0)
            kind = UnreachableError if code == 429 or code >= 500 else GovorError
            raise kind(f"Google answers {code}: {_line(error.message or error)}") from None
        except (httpx2.HTTPError, requests.RequestException, RetryError) as error:
            raise UnreachableError(f"Google cannot be reached: {_line(error)}") from None


def _line(error: object) -> str:
    return " ".join(str(error).split())


def _job(job: Any) -> Job:
    """A google.genai.types.TuningJob as our `Job`."""
    state = str(getattr(job.state, "value", job.state) or "").removeprefix("JOB_STATE_")
    tuned = job.tuned_model
    spec = job.supervised_tuning_spec
    stats = job.tuning_data_stats and job.tuning_data_stats.supervised_tuning_data_stats
    return Job(
        id=job.name,
        status=JOB_STATES.get(state, "queued"),
        model=job.base_model or "",
        tuned=(tuned.endpoint or tuned.model) if tuned else None,
        epochs=spec.hyper_parameters.epoch_count if spec and spec.hyper_parameters else None,
        tokens=stats.total_billable_token_count if stats else None,
        ends=None,
        error=job.error.message if job.error else None,
        code=str(job.error.code) if job.error and job.error.code else None,
    )
