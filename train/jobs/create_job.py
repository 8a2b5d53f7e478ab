"""A request → the job in the store, with its own links to the files; once, however often the request comes."""

import filecmp
import hashlib
import secrets
import shutil
import time
from pathlib import Path

from train.core.config import Config, why_rate_ruins
from train.core.errors import ConfigError
from train.core.files import complete_folder
from train.core.latin import latin
from train.jobs import run_config
from train.jobs.bases import Base, Catalogue, merge_sections
from train.jobs.change import Change, JobEntry, JobState, new_id
from train.jobs.route_helpers import RETRY_WINDOW
from train.jobs.store import ModelOrigin, Store, copy_result, link_or_copy
from train.jobs.wire import DpoHyperparameters, File, GovorDetails, Hyperparameters, Job, JobRequest, method_of
from train.serving.api_errors import ApiError

ORGANIZATION = "org-local"
START = "start"
"""Folder, in that of a job, with the result of the run that it goes on from."""


def create_job(
    store: Store, catalogue: Catalogue, request: JobRequest, raw: bytes, *, key: str | None, retried: bool
) -> str:
    """JSON of the job: a new one, or the one that this very request has created before.

    raw: the request's body. key: its Idempotency-Key. retried: whether the client says that it has sent it before.
    ApiError where the request cannot be met.
    """
    base, start = choose_start(store, catalogue, request)
    body_hash = hashlib.sha256(raw).hexdigest()
    with store.change() as change:
        earlier = _find_earlier(change, body_hash, key, retried)
    if earlier is not None:
        return earlier
    job_id = new_id("ftjob-")
    entry = _new_entry(store, request, base, job_id, goes_on=start is not None)
    folder = store.job_folder(job_id)
    store.reserve(job_id)
    try:
        with complete_folder(folder) as aside:
            _link_files(store, entry.job, aside)
            if start:  # clients may delete the model while it is gone on from
                (aside / START).mkdir()
                copy_result(store.run(start.job), start.step, aside / START)
            _check_rate(request, run_config.write_config(aside / "config.yaml", entry.state.tree))
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


def _check_rate(request: JobRequest, config: Config) -> None:
    """ApiError where the request names a rate with which training ends in nonsense."""
    named = "learning_rate" in (request.govor or {}).get("training", {})
    if named and (why := why_rate_ruins(config.training.learning_rate, adapter=config.lora is not None)):
        text = f"govor.training.learning_rate: {why} (hyperparameters.learning_rate_multiplier)"
        raise ApiError(400, text, param="govor")


def _add_job(change: Change, entry: JobEntry, body_hash: str, key: str | None) -> None:
    job = entry.job
    change.add_job(entry, body_hash, key)
    change.add_event(job.id, "created", f"Created fine-tuning job: {job.id}")
    if job.govor.requested_model.startswith("ft:"):
        text = f"Going on from {job.govor.requested_model}, which was tuned from {job.model}"
        change.add_event(job.id, "start", text)
    elif job.govor.requested_model != job.model:
        text = f"On this server {job.govor.requested_model} stands for {job.model}"
        change.add_event(job.id, "alias", text, level="warn")
    files = f"Validating training file: {job.training_file}"
    if job.validation_file:
        files += f" and validation file: {job.validation_file}"
    change.add_event(job.id, "validating", files)
    if job.validation_file and not entry.state.tree["data"].get("eval_file"):
        text = "Training file and validation file hold the same rows: there will be no validation loss"
        change.add_event(job.id, "same rows", text, level="warn")


def _new_entry(store: Store, request: JobRequest, base: Base, job_id: str, *, goes_on: bool) -> JobEntry:
    """The job as it begins, from its base or `goes_on` from a result; ApiError where the request contradicts itself."""
    hyperparameters = _hyperparameters(request)
    seed = secrets.randbelow(2**31) if request.seed is None else request.seed
    sections = request.govor or {}
    try:
        run_config.check_client_config(sections)
    except ConfigError as error:
        raise ApiError(400, str(error), param="govor") from None
    folder = store.job_folder(job_id)
    own = run_config.preference_tree(base) if isinstance(hyperparameters, DpoHyperparameters) else base.tree
    if goes_on:
        if fixed := sorted({*sections.get("lora", {})} - {"lora_dropout"}):
            text = f"govor.lora.{fixed[0]}: the adapter of {request.model} is gone on with as it is: leave it out"
            raise ApiError(400, text, param="govor")
        own = merge_sections(own, {"lora": {"start_from": str(folder / START)}})
    tree_of_base = merge_sections(own, sections)
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
        hyperparameters=None if isinstance(hyperparameters, DpoHyperparameters) else hyperparameters,
        user_provided_suffix=request.suffix and latin(request.suffix),
        seed=seed,
        metadata=_metadata(request),
        method=method_of(hyperparameters),
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
    method, at_top = request.method, request.hyperparameters
    if method is not None and method.type == "reinforcement":
        message = "The method 'reinforcement' is not available on this server: 'supervised' and 'dpo' are."
        raise ApiError(400, message, param="method.type")
    given = (
        {"supervised": method.supervised, "dpo": method.dpo, "reinforcement": method.reinforcement} if method else {}
    )
    if method and any(settings is not None for name, settings in given.items() if name != method.type):
        message = f"The method is '{method.type}': leave out the other methods' settings."
        raise ApiError(400, message, param="method")
    if method and method.type == "dpo":
        if at_top is not None:
            message = "`hyperparameters` belong to the method 'supervised': use `method.dpo.hyperparameters`."
            raise ApiError(400, message, param="hyperparameters")
        return (method.dpo and method.dpo.hyperparameters) or DpoHyperparameters()
    in_method = method.supervised.hyperparameters if method and method.supervised else None
    if in_method is not None and at_top is not None and in_method != at_top:
        message = "`hyperparameters` and `method.supervised.hyperparameters` differ: give only the second."
        raise ApiError(400, message, param="hyperparameters")
    return in_method or at_top or Hyperparameters()


def choose_start(store: Store, catalogue: Catalogue, request: JobRequest) -> tuple[Base, ModelOrigin | None]:
    """(the base, what to go on from) of the model that the request names; ApiError where it cannot be tuned here.

    Of a fine-tuned model the base has the adapter and the weights' form that it was tuned with.
    """
    origin = store.model_origin(request.model)
    if origin is None:
        return choose_base(catalogue, request), None
    entry = store.entry(origin.job)
    assert entry is not None
    base = choose_base(catalogue, request.model_copy(update={"model": entry.job.model}))
    if not store.run(origin.job).adapter.exists():
        message = f"{request.model} was tuned whole and has no adapter to go on with: begin with its base."
        raise ApiError(400, message, param="model", code="model_not_available")
    sections = {name: value for name, value in entry.state.tree.items() if name in ("model", "lora")}
    return base.model_copy(update={"tree": merge_sections(base.tree, sections)}), origin


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
            message = f"There is no fine-tuned model {request.model} on this server, or its base is gone from it."
        raise ApiError(400, message, param="model", code="model_not_available")
    if (why := catalogue.why_not_here(request.model)) is not None:
        raise ApiError(400, why, param="model", code="model_not_available")
    return base
