"""A request for a job → the job in the store: what it asks for, its hold of the files, once however often it comes."""

import hashlib
import secrets
import shutil
import time
from pathlib import Path

from train.core.errors import ConfigError
from train.core.files import complete_folder
from train.jobs import run_config
from train.jobs.bases import Base, Catalogue, merge
from train.jobs.change import Change, Entry, Plan, new_id
from train.jobs.route_helpers import RETRY_WINDOW
from train.jobs.store import Store, link_or_copy
from train.jobs.wire import File, Hyperparameters, Job, JobMethod, JobRequest, Resolved, Truth
from train.serving.api_errors import ApiError

ORGANIZATION = "org-local"


def create_job(
    store: Store, catalogue: Catalogue, asked: JobRequest, raw: bytes, *, key: str | None, retried: bool
) -> str:
    """The job's JSON: a new one, or that which this very request has made before.

    raw: the body as it came. key: its Idempotency-Key. retried: the client says that it has sent it before.
    """
    base = _base(catalogue, asked)
    body = hashlib.sha256(raw).hexdigest()
    with store.change() as change:
        earlier = _earlier(change, body, key, retried)
    if earlier is not None:
        return earlier
    job_id = new_id("ftjob-")
    entry = _entry(store, asked, base, job_id)
    folder = store.job_folder(job_id)
    store.reserve(job_id)
    try:
        with complete_folder(folder) as aside:
            _take_files(store, entry.job, aside)
            run_config.write_config(aside / "config.yaml", entry.plan.tree)
        with store.change() as change:
            earlier = _earlier(change, body, key, retried)
            if earlier is None:
                _add_job(change, entry, body, key)
    except ConfigError as error:
        raise ApiError(400, str(error), param="govor") from None
    finally:
        if store.text("jobs", job_id) is None:
            shutil.rmtree(folder, ignore_errors=True)
    return earlier or entry.job.model_dump_json()


def _add_job(change: Change, entry: Entry, body: str, key: str | None) -> None:
    job = entry.job
    change.add_job(entry, body, key)
    change.add_event(job.id, "created", f"Created fine-tuning job: {job.id}")
    if job.govor.requested_model != job.model:
        text = f"On this server {job.govor.requested_model} stands for {job.model}"
        change.add_event(job.id, "alias", text, level="warn")
    files = f"Validating training file: {job.training_file}"
    if job.validation_file:
        files += f" and validation file: {job.validation_file}"
    change.add_event(job.id, "validating", files)


def _entry(store: Store, asked: JobRequest, base: Base, job_id: str) -> Entry:
    """The job as it begins; ApiError where the request contradicts itself."""
    hyperparameters = _hyperparameters(asked)
    seed = secrets.randbelow(2**31) if asked.seed is None else asked.seed
    sections = asked.govor or {}
    try:
        run_config.check_client_config(sections)
    except ConfigError as error:
        raise ApiError(400, str(error), param="govor") from None
    folder = store.job_folder(job_id)
    eval_file = folder / "valid.jsonl" if asked.validation_file is not None else None
    tree = run_config.run_tree(merge(base.tree, sections), job_id, folder / "train.jsonl", eval_file, seed)
    job = Job(
        id=job_id,
        model=base.name,
        created_at=int(time.time()),
        organization_id=ORGANIZATION,
        validation_file=asked.validation_file,
        training_file=asked.training_file,
        hyperparameters=hyperparameters,
        user_provided_suffix=asked.suffix,
        seed=seed,
        metadata=asked.metadata,
        method=JobMethod(supervised=Resolved(hyperparameters=hyperparameters)),
        govor=Truth(requested_model=asked.model, base=base.shown, config=sections),
    )
    return Entry(job, Plan(tree=tree, letters=new_id("", 8)))


def _take_files(store: Store, job: Job, folder: Path) -> None:
    """The job's own names for its files' contents: they may be deleted while it trains."""
    for param, id_, name in (
        ("training_file", job.training_file, "train.jsonl"),
        ("validation_file", job.validation_file, "valid.jsonl"),
    ):
        if id_ is None:
            continue
        text = store.text("files", id_)
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


def _earlier(change: Change, body: str, key: str | None, retried: bool) -> str | None:
    """The job that this request has made before, if it is a repetition."""
    if key is not None:
        earlier = change.created_under(key)
        if earlier is not None and earlier[1] != body:
            raise ApiError(400, "This Idempotency-Key was used with another request.", param="idempotency-key")
        return earlier[0] if earlier else None
    return change.created_by(body, int(time.time()) - RETRY_WINDOW) if retried else None


def _hyperparameters(asked: JobRequest) -> Hyperparameters:
    """Those of `method`, or the old ones at the top."""
    method = asked.method
    if method is not None and method.type != "supervised":
        message = f"The method '{method.type}' is not available on this server: only 'supervised' is."
        raise ApiError(400, message, param="method.type")
    if method is not None and (method.dpo is not None or method.reinforcement is not None):
        raise ApiError(400, "The method is 'supervised': leave out the other methods' settings.", param="method")
    new = method.supervised.hyperparameters if method and method.supervised else None
    old = asked.hyperparameters
    if new is not None and old is not None and new != old:
        message = "`hyperparameters` and `method.supervised.hyperparameters` differ: give only the second."
        raise ApiError(400, message, param="hyperparameters")
    return new or old or Hyperparameters()


def _base(catalogue: Catalogue, asked: JobRequest) -> Base:
    if asked.integrations:
        message = "This server sends nothing to other services: leave `integrations` out and read the job's events."
        raise ApiError(400, message, param="integrations")
    base = catalogue.find(asked.model)
    if base is None:
        known = ", ".join(catalogue.bases) or "none"
        message = f"Model {asked.model} is not available for fine-tuning or does not exist. Bases here: {known}."
        if asked.model.startswith("ft:"):
            message = "A fine-tuned model cannot be tuned further on this server: begin with its base."
        raise ApiError(400, message, param="model", code="model_not_available")
    return base
