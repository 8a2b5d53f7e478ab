"""Requests and answers, as they stand on the wire (OpenAI's API, fine-tuning; openai-openapi, August 2026)."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictStr, model_validator

from train.core.latin import latin
from train.serving.api_errors import bounded_json, without_nulls
from train.serving.chat_request import Metadata

Purpose = Literal["fine-tune", "assistants", "batch", "user_data", "vision", "evals"]
Status = Literal["validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"]
ENDED_STATUSES = ("succeeded", "failed", "cancelled")

Epochs = Literal["auto"] | Annotated[int, Field(strict=True, ge=1, le=50)]
BatchSize = Literal["auto"] | Annotated[int, Field(strict=True, ge=1, le=256)]
Multiplier = Literal["auto"] | Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Beta = Literal["auto"] | Annotated[float, Field(strict=True, gt=0, le=2)]
SmallJson = Annotated[dict[str, Any], bounded_json(2**16)]


def _suffix(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", latin(text)):
        raise ValueError("expected 1 to 64 letters a-z, A-Z or Cyrillic ones, digits, `_` and `-`")
    return text


class RequestModel(BaseModel):
    """What clients send; a field that OpenAI does not have is refused, unless it is null."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, body: Any) -> Any:
        return without_nulls(cls, body)


class Hyperparameters(RequestModel):
    n_epochs: Epochs = "auto"
    batch_size: BatchSize = "auto"
    learning_rate_multiplier: Multiplier = "auto"


class DpoHyperparameters(Hyperparameters):
    beta: Beta = "auto"


class SupervisedRequest(RequestModel):
    hyperparameters: Hyperparameters | None = None


class DpoRequest(RequestModel):
    hyperparameters: DpoHyperparameters | None = None


class MethodRequest(RequestModel):
    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: SupervisedRequest | None = None
    dpo: DpoRequest | None = None
    reinforcement: SmallJson | None = None


class JobRequest(RequestModel):
    """POST /v1/fine_tuning/jobs."""

    model: Annotated[StrictStr, Field(min_length=1, max_length=512)]
    training_file: Annotated[StrictStr, Field(min_length=1, max_length=512)]
    validation_file: Annotated[StrictStr, Field(max_length=512)] | None = None
    suffix: Annotated[StrictStr, Field(min_length=1, max_length=64), AfterValidator(_suffix)] | None = None
    """Cyrillic letters and spaces become what a model's name may have, see `core/latin.py`."""
    seed: Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)] | None = None
    method: MethodRequest | None = None
    hyperparameters: Hyperparameters | None = None
    integrations: Annotated[list[SmallJson], Field(max_length=5)] | None = None
    metadata: Metadata | None = None
    govor: SmallJson | None = None
    """govor's own field, sent in `extra_body`: sections of a config, such as {"lora": {"r": 8}}."""


class ResponseModel(BaseModel):
    """What the server answers with."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class File(ResponseModel):
    object: Literal["file"] = "file"
    id: str
    purpose: Purpose | Literal["fine-tune-results"]
    filename: str
    bytes: int
    created_at: int
    expires_at: int | None = None
    status: Literal["uploaded", "processed", "error"] = "processed"
    status_details: str | None = None


class FileLifetime(RequestModel):
    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(strict=True, ge=3600, le=2_592_000)]


class UploadRequest(RequestModel):
    """POST /v1/uploads."""

    bytes: Annotated[int, Field(strict=True, ge=1)]
    filename: Annotated[StrictStr, Field(min_length=1, max_length=255)]
    mime_type: Annotated[StrictStr, Field(max_length=255)]
    purpose: Purpose
    expires_after: FileLifetime | None = None


class CompleteRequest(RequestModel):
    """POST /v1/uploads/{upload_id}/complete."""

    part_ids: Annotated[list[Annotated[StrictStr, Field(max_length=64)]], Field(min_length=1, max_length=10_000)]
    md5: Annotated[StrictStr, Field(pattern=r"^[0-9A-Fa-f]{32}$")] | None = Field(
        default=None, description="the MD5 of the whole file as 32 hexadecimal digits"
    )


class Upload(ResponseModel):
    object: Literal["upload"] = "upload"
    id: str
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: Purpose
    status: Literal["pending", "completed", "cancelled", "expired"] = "pending"
    file: File | None = None


class UploadPart(ResponseModel):
    object: Literal["upload.part"] = "upload.part"
    id: str
    created_at: int
    upload_id: str


class JobError(ResponseModel):
    code: str
    message: str
    param: str | None


class SupervisedMethod(ResponseModel):
    hyperparameters: Hyperparameters


class JobMethod(ResponseModel):
    type: Literal["supervised"] = "supervised"
    supervised: SupervisedMethod

    @property
    def chosen(self) -> Hyperparameters:
        return self.supervised.hyperparameters


class DpoMethod(ResponseModel):
    hyperparameters: DpoHyperparameters


class DpoJobMethod(ResponseModel):
    type: Literal["dpo"] = "dpo"
    dpo: DpoMethod

    @property
    def chosen(self) -> DpoHyperparameters:
        return self.dpo.hyperparameters


AnyMethod = Annotated[JobMethod | DpoJobMethod, Field(discriminator="type")]


def method_of(hyperparameters: Hyperparameters) -> JobMethod | DpoJobMethod:
    """The method of a job with these hyperparameters, as the job shows it."""
    if isinstance(hyperparameters, DpoHyperparameters):
        return DpoJobMethod(dpo=DpoMethod(hyperparameters=hyperparameters))
    return JobMethod(supervised=SupervisedMethod(hyperparameters=hyperparameters))


class GovorDetails(ResponseModel):
    """govor's own field of a job: what really happens on this server."""

    requested_model: str
    """The model's name in the request; the job's `model` is what it stands for here."""
    base: str
    """Hub id or folder of the weights that are tuned."""
    config: dict[str, Any]
    """Sections of the run's config, complete once the files are checked."""


class Job(ResponseModel):
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    id: str
    model: str
    created_at: int
    finished_at: int | None = None
    fine_tuned_model: str | None = None
    organization_id: str
    result_files: list[str] = []
    status: Status = "validating_files"
    validation_file: str | None
    training_file: str
    hyperparameters: Hyperparameters | None
    """Those of `method` once more; None unless it is supervised, as OpenAI has it."""
    trained_tokens: int | None = None
    error: JobError | None = None
    user_provided_suffix: str | None
    seed: int
    estimated_finish: int | None = None
    integrations: list[dict[str, Any]] = []
    metadata: dict[str, str] | None
    usage_metrics: None = None
    shared_with_openai: Literal[False] = False
    method: AnyMethod
    govor: GovorDetails


class Event(ResponseModel):
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    id: str
    created_at: int
    level: Literal["info", "warn", "error"] = "info"
    message: str
    data: dict[str, Any] | None = None
    type: Literal["message", "metrics"] = "message"


class Checkpoint(ResponseModel):
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    id: str
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    step_number: int
    metrics: dict[str, float]


class ModelMetadata(ResponseModel):
    system_message: str | None
    """What a conversation without a system message gets."""
    cannot_be_tuned: str | None = None
    """Why no job can tune this base here, although it answers; said where one model is asked for."""


class ModelObject(ResponseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    shutdown_date: str | None = None
    metadata: ModelMetadata | None = None


class Deleted(ResponseModel):
    id: str
    object: Literal["file", "model"]
    deleted: Literal[True] = True


class Files(ResponseModel):
    object: Literal["list"] = "list"
    data: list[File]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Jobs(ResponseModel):
    object: Literal["list"] = "list"
    data: list[Job]
    has_more: bool


class Events(ResponseModel):
    object: Literal["list"] = "list"
    data: list[Event]
    has_more: bool


class Checkpoints(ResponseModel):
    object: Literal["list"] = "list"
    data: list[Checkpoint]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Models(ResponseModel):
    object: Literal["list"] = "list"
    data: list[ModelObject]


class ErrorDetail(ResponseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorEnvelope(ResponseModel):
    """The body of every response with a status of 400 and above."""

    error: ErrorDetail
