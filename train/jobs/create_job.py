"""A request → the job in the store, with its own links to the files; once, however often the request comes."""

import filecmp
import hashlib
import secrets
import shutil
import time
from pathlib import Path

from train.core.config import why_rate_ruins
from train.core.errors import ConfigError
from train.core.files import complete_folder
from train.core.latin import latin
from train.jobs import run_config
from train.jobs.bases import Base, Catalogue, merge_sections
from train.jobs.change import Change, JobEntry, JobState, new_id
from train.jobs.route_helpers import RETRY_WINDOW
from train.jobs.store import Store, link_or_copy
from train.jobs.wire import File, GovorDetails, Hyperparameters, Job, JobMethod, JobRequest, SupervisedMethod
from train.serving.api_errors import ApiError

ORGANIZATION = "org-local"


def create_job(
    store: Store, catalogue: Catalogue, request: JobRequest, raw: bytes, *, key: str | None, retried: bool
) -> str:
    """JSON of the job: a new one, or the one that this very request has created before.

    raw: the request's body. key: its Idempotency-Key. retried: whether the client says that it has sent it before.
    ApiError where the request cannot be met.
    """
    base = choose_base(catalogue, request)
    body_hash = hashlib.sha256(raw).hexdigest()
    with store.change() as change:
        earlier = _find_earlier(change, body_hash, key, retried)
    if earlier is not None:
        return earlier
    job_id = new_id("ftjob-")
    entry = _new_entry(store, request, base, job_id)
    folder = store.job_folder(job_id)
    store.reserve(job_id)
    try:
        with complete_folder(folder) as aside:
            _link_files(store, entry.job, aside)
            run_config.write_config(aside / "config.yaml", entry.state.tree)
        with store.change() as change:
            earlier = _find_earlier(change, body_hash, key, retried)
            if earlier is None:
                _add_job(change, entry, body_hash, key)
    except ConfigError as error:
        raise ApiError(400, str(error), param="govor") from None
    finally:
        if store.object_json("jobs", job_id) is None:
            shutil.rmtree(folder, ignore_errors=True)
    return earlier or entry.job.model_dump_json()


def _add_job(change: Change, entry: JobEntry, body_hash: str, key: str | None) -> None:
    job = entry.job
    change.add_job(entry, body_hash, key)
    change.add_event(job.id, "created", f"Created fine-tuning job: {job.id}")
    if job.govor.requested_model != job.model:
        text = f"On this server {job.govor.requested_model} stands for {job.model}"
        change.add_event(job.id, "alias", text, level="warn")
    files = f"Validating training file: {job.training_file}"
    if job.validation_file:
        files += f" and validation file: {job.validation_file}"
    change.add_event(job.id, "validating", files)
    if job.validation_file and not entry.state.tree["data"].get("eval_file"):
        text = "Training file and validation file hold the same rows: there will be no validation loss"
        change.add_event(job.id, "same rows", text, level="warn")


def _new_entry(store: Store, request: JobRequest, base: Base, job_id: str) -> JobEntry:
    """The job as it begins; ApiError where the request contradicts itself."""
    hyperparameters = _hyperparameters(request)
    seed = secrets.randbelow(2**31) if request.seed is None else request.seed
    sections = request.govor or {}
    try:
        run_config.check_client_config(sections)
    except ConfigError as error:
        raise ApiError(400, str(error), param="govor") from None
    folder = store.job_folder(job_id)
    tree_of_base = merge_sections(base.tree, sections)
    rate = (sections.get("training") or {}).get("learning_rate")
    adapter = tree_of_base.get("lora", {}) is not None
    if isinstance(rate, int | float) and (why := why_rate_ruins(rate, adapter=adapter)):
        text = f"govor.training.learning_rate: {why} (method.supervised.hyperparameters.learning_rate_multiplier)"
        raise ApiError(400, text, param="govor")
    validated = request.validation_file is not None and not _same_rows(store, request)
    eval_file = folder / "valid.jsonl" if validated else None
    tree = run_config.job_tree(tree_of_base, job_id, folder / "train.jsonl", eval_file, seed)
    job = Job(
        id=job_id,
        model=base.name,
        created_at=int(time.time()),
        organization_id=ORGANIZATION,
        validation_file=request.validation_file,
        training_file=request.training_file,
        hyperparameters=hyperparameters,
        user_provided_suffix=request.suffix and latin(request.suffix),
        seed=seed,
        metadata=_metadata(request),
        method=JobMethod(supervised=SupervisedMethod(hyperparameters=hyperparameters)),
        govor=GovorDetails(requested_model=request.model, base=base.reference, config=sections),
    )
    return JobEntry(job, JobState(tree=tree, name_suffix=new_id("", 8)))


def _metadata(request: JobRequest) -> dict[str, str] | None:
    """The request's metadata, with its suffix where the model's name has another one; a key of the client's stays."""
    if request.suffix is None or latin(request.suffix) == request.suffix:
        return request.metadata
    return {"suffix": request.suffix, **(request.metadata or {})}


def _same_rows(store: Store, request: JobRequest) -> bool:
    """Whether training and validation file hold the very same bytes."""
    ids = (request.training_file, request.validation_file or "")
    if any(store.object_json("files", id_) is None for id_ in ids):  # said when they are linked
        return False
    try:
        return filecmp.cmp(store.file_path(ids[0]), store.file_path(ids[1]), shallow=False)
    except OSError:
        return False


def _link_files(store: Store, job: Job, folder: Path) -> None:
    """Link the job's files into its folder: clients may delete them while it trains."""
    for param, id_, name in (
        ("training_file", job.training_file, "train.jsonl"),
        ("validation_file", job.validation_file, "valid.jsonl"),
    ):
        if id_ is None:
            continue
        text = store.object_json("files", id_)
        if text is None:
            raise ApiError(400, f"invalid {param}: {id_}: no such file", param=param)
        purpose = File.model_validate_json(text).purpose
        if purpose != "fine-tune":
            message = f"invalid {param}: {id_} was uploaded with the purpose '{purpose}', expected 'fine-tune'"
            raise ApiError(400, message, param=param)
        try:
            link_or_copy(store.file_path(id_), folder / name)
        except FileNotFoundError:
            raise ApiError(400, f"invalid {param}: {id_}: no such file", param=param) from None


def _find_earlier(change: Change, body_hash: str, key: str | None, retried: bool) -> str | None:
    """JSON of the job that this request has created before, if it is a repetition."""
    if key is not None:
        earlier = change.created_under(key)
        if earlier is not None and earlier[1] != body_hash:
            raise ApiError(400, "This Idempotency-Key was used with another request.", param="idempotency-key")
        return earlier[0] if earlier else None
    return change.created_by(body_hash, int(time.time()) - RETRY_WINDOW) if retried else None


def _hyperparameters(request: JobRequest) -> Hyperparameters:
    """The hyperparameters of `method`, or those at the top level, where OpenAI had them before."""
    method = request.method
    if method is not None and method.type != "supervised":
        message = f"The method '{method.type}' is not available on this server: only 'supervised' is."
        raise ApiError(400, message, param="method.type")
    if method is not None and (method.dpo is not None or method.reinforcement is not None):
        raise ApiError(400, "The method is 'supervised': leave out the other methods' settings.", param="method")
    in_method = method.supervised.hyperparameters if method and method.supervised else None
    at_top = request.hyperparameters
    if in_method is not None and at_top is not None and in_method != at_top:
        message = "`hyperparameters` and `method.supervised.hyperparameters` differ: give only the second."
        raise ApiError(400, message, param="hyperparameters")
    return in_method or at_top or Hyperparameters()


def choose_base(catalogue: Catalogue, request: JobRequest) -> Base:
    """The base that the request names; ApiError where the server has none of that name, or cannot run it."""
    if request.integrations:
        message = "This server sends nothing to other services: leave `integrations` out and read the job's events."
        raise ApiError(400, message, param="integrations")
    base = catalogue.find(request.model)
    if base is None:
        names = ", ".join(catalogue.bases) or "none"
        message = f"Model {request.model} is not available for fine-tuning or does not exist. Bases here: {names}."
        if request.model.startswith("ft:"):
            message = "A fine-tuned model cannot be tuned further on this server: begin with its base."
        raise ApiError(400, message, param="model", code="model_not_available")
    if (why := catalogue.why_not_here(request.model)) is not None:
        raise ApiError(400, why, param="model", code="model_not_available")
    return base
