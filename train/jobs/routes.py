"""The routes: files, fine-tuning jobs, models.

Answers are the store's own JSON; a request changes it in one transaction.
"""

import asyncio
import hashlib
import json
import secrets
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import ValidationError

from ..errors import ConfigError
from ..serving.app import read_body
from ..serving.envelope import ApiError, model_not_found
from . import objects, recipe
from .catalogue import Base, Catalogue, merge
from .objects import File, Hyperparameters, Job, JobMethod, JobRequest, Resolved, Truth
from .store import Change, Entry, NoSuchCursorError, Page, Plan, Store, link_or_copy, new_id, remove
from .uploads import LARGEST, receive, sync_folder

ORGANIZATION = "org-local"
RETRY_WINDOW = 15 * 60
"""Seconds in which a repeated request counts as the same one: the SDKs' timeout is ten minutes."""
PURPOSES = get_args(objects.Purpose)
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": objects.Envelope} for status in (400, 401, 403, 404, 409, 413, 503)
}
T = TypeVar("T")

After = Annotated[str | None, Query()]
Action = Literal["cancel", "pause", "resume"]
Order = Annotated[Literal["asc", "desc"], Query()]


def job_routes(store: Store, catalogue: Catalogue, wake: Callable[[], None]) -> APIRouter:
    """Everything but chat. `wake`: there is news for the worker."""
    routes = APIRouter(prefix="/v1", responses=ERRORS)
    _file_routes(routes, store)
    _fine_tuning_routes(routes, store, catalogue, wake)
    _model_routes(routes, store, catalogue)
    return routes


def _file_routes(routes: APIRouter, store: Store) -> None:
    @routes.post("/files", response_model=objects.File, openapi_extra=UPLOAD)
    async def upload(request: Request) -> Response:
        id_ = new_id("file-")
        path = store.file_path(id_)
        received = await receive(request, path)
        try:
            file = _file(id_, received.fields, received.filename or "upload", received.size)
            retried = _retries(request) > 0
            text = await asyncio.to_thread(_add_file, store, file, received.sha256, retried)
        except BaseException:
            remove(path)
            raise
        if text is not None:  # the first answer was lost on its way
            remove(path)
            return _json(text)
        return _json(file.model_dump_json())

    @routes.get("/files", response_model=objects.Files)
    async def files(
        after: After = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
        order: Order = "desc",
        purpose: Annotated[str | None, Query()] = None,
    ) -> Response:
        where: list[tuple[str, Any]] = [("(expires_at IS NULL OR expires_at > ?)", int(time.time()))]
        if purpose is not None:
            where.append(("purpose = ?", purpose))
        return _list(store, "files", where, after, limit, oldest_first=order == "asc", ends=True)

    @routes.get("/files/{file_id}", response_model=objects.File)
    async def file(file_id: str) -> Response:
        return _json(_found(store.text("files", file_id), _no_file(file_id)))

    @routes.delete("/files/{file_id}", response_model=objects.Deleted)
    async def delete_file(file_id: str) -> Response:
        _found(store.text("files", file_id), _no_file(file_id))
        if not await asyncio.to_thread(_change, store, lambda change: change.delete("files", file_id)):
            raise _no_file(file_id)
        remove(store.file_path(file_id))
        return _json(objects.Deleted(id=file_id, object="file").model_dump_json())

    @routes.get("/files/{file_id}/content", response_class=Response, responses=CONTENT)
    async def content(file_id: str) -> Response:
        file = File.model_validate_json(_found(store.text("files", file_id), _no_file(file_id)))
        return _download(store.file_path(file_id), file)


def _fine_tuning_routes(routes: APIRouter, store: Store, catalogue: Catalogue, wake: Callable[[], None]) -> None:
    @routes.post("/fine_tuning/jobs", response_model=objects.Job, openapi_extra=_body(JobRequest))
    async def create(request: Request) -> Response:
        raw = await read_body(request)
        asked = _read(JobRequest, raw)
        base = _base(catalogue, asked)
        key = request.headers.get("idempotency-key")
        text = await asyncio.to_thread(_create, store, asked, base, raw, key, _retries(request) > 0)
        wake()
        return _json(text)

    @routes.get("/fine_tuning/jobs", response_model=objects.Jobs)
    async def jobs(request: Request, after: After = None, limit: Annotated[int, Query(ge=1, le=1000)] = 20) -> Response:
        return _list(store, "jobs", _metadata_filter(request), after, limit)

    @routes.get("/fine_tuning/jobs/{job_id}", response_model=objects.Job)
    async def job(job_id: str) -> Response:
        return _json(_found(store.text("jobs", job_id), _no_job(job_id)))

    async def act(job_id: str, action: Action) -> Response:
        _found(store.text("jobs", job_id), _no_job(job_id))
        text = await asyncio.to_thread(_change, store, lambda change: _act(change, job_id, action))
        wake()
        return _json(text)

    @routes.post("/fine_tuning/jobs/{job_id}/cancel", response_model=objects.Job)
    async def cancel(job_id: str) -> Response:
        return await act(job_id, "cancel")

    @routes.post("/fine_tuning/jobs/{job_id}/pause", response_model=objects.Job)
    async def pause(job_id: str) -> Response:
        return await act(job_id, "pause")

    @routes.post("/fine_tuning/jobs/{job_id}/resume", response_model=objects.Job)
    async def resume(job_id: str) -> Response:
        return await act(job_id, "resume")

    @routes.get("/fine_tuning/jobs/{job_id}/events", response_model=objects.Events)
    async def events(job_id: str, after: After = None, limit: Annotated[int, Query(ge=1, le=1000)] = 20) -> Response:
        _found(store.text("jobs", job_id), _no_job(job_id))
        return _list(store, "events", [("job = ?", job_id)], after, limit)

    @routes.get("/fine_tuning/jobs/{job_id}/checkpoints", response_model=objects.Checkpoints)
    async def checkpoints(
        job_id: str, after: After = None, limit: Annotated[int, Query(ge=1, le=1000)] = 10
    ) -> Response:
        _found(store.text("jobs", job_id), _no_job(job_id))
        return _list(store, "checkpoints", [("job = ?", job_id)], after, limit, ends=True)


def _model_routes(routes: APIRouter, store: Store, catalogue: Catalogue) -> None:
    began = int(time.time())

    def bases() -> Iterable[str]:
        for name in catalogue.bases:
            yield objects.Model(id=name, created=began, owned_by="catalogue").model_dump_json()

    @routes.get("/models", response_model=objects.Models)
    async def models() -> Response:
        return _json(f'{{"object":"list","data":[{",".join([*store.all_models(), *bases()])}]}}')

    @routes.get("/models/{model:path}", response_model=objects.Model)
    async def model(model: str) -> Response:
        base = next((text for name, text in zip(catalogue.bases, bases(), strict=True) if name == model), None)
        return _json(_found(store.text("models", model) or base, model_not_found(model)))

    @routes.delete("/models/{model:path}", response_model=objects.Deleted)
    async def delete_model(model: str) -> Response:
        if model in catalogue.bases:
            raise ApiError(403, f"{model} is a base of the server's catalogue: only fine-tuned models can be deleted.")
        origin = store.origin(model)
        if origin is None or not await asyncio.to_thread(_change, store, lambda change: change.delete("models", model)):
            raise model_not_found(model)
        if origin[1] is not None:
            remove(store.checkpoint_run(*origin).path)
        if not store.models_of(origin[0]):
            store.forget_run(origin[0])
        return _json(objects.Deleted(id=model, object="model").model_dump_json())


def _create(store: Store, asked: JobRequest, base: Base, raw: bytes, key: str | None, retried: bool) -> str:
    """The job's JSON: a new one, or that which this very request has made before."""
    body = hashlib.sha256(raw).hexdigest()
    with store.change() as change:
        earlier = _earlier(change, body, key, retried)
    if earlier is not None:
        return earlier
    job_id = new_id("ftjob-")
    entry = _entry(store, asked, base, job_id)
    folder = store.job_folder(job_id)
    try:
        _take_files(store, entry.job, folder)
        recipe.write_config(folder / "config.yaml", entry.plan.tree)
        with store.change() as change:
            earlier = _earlier(change, body, key, retried)
            if earlier is None:
                _add_job(change, entry, body, key)
    except ConfigError as error:
        raise ApiError(400, str(error), param="govor") from None
    finally:
        if store.text("jobs", job_id) is None:
            remove(folder)
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
        recipe.check_client_config(sections)
    except ConfigError as error:
        raise ApiError(400, str(error), param="govor") from None
    folder = store.job_folder(job_id)
    eval_file = folder / "valid.jsonl" if asked.validation_file is not None else None
    tree = recipe.run_tree(merge(base.tree, sections), job_id, folder / "train.jsonl", eval_file, seed)
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
    folder.mkdir(parents=True)
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
    sync_folder(folder)


def _earlier(change: Change, body: str, key: str | None, retried: bool) -> str | None:
    """The job that this request has made before, if it is a repetition."""
    if key is not None:
        earlier = change.created_under(key)
        if earlier is not None and earlier[1] != body:
            raise ApiError(400, "This Idempotency-Key was used with another request.", param="idempotency-key")
        return earlier[0] if earlier else None
    return change.created_by(body, int(time.time()) - RETRY_WINDOW) if retried else None


def _act(change: Change, job_id: str, action: Action) -> str:
    """Cancel, pause or resume. The worker brings the processes after it, within seconds."""
    entry = change.entry(job_id)
    assert entry is not None
    job = entry.job
    allowed = {"cancel": ("validating_files", "queued", "running", "paused"), "pause": ("queued", "running")}
    done = {"cancel": "cancelled", "pause": "paused", "resume": "queued"}
    if job.status not in allowed.get(action, ("paused",)):
        reason = f"Job {job_id} has status '{job.status}' and cannot be {done[action].replace('queued', 'resumed')}."
        raise ApiError(400, reason, param="fine_tuning_job_id")
    number = change.count_events(job_id, action) + 1
    if action == "cancel":
        job.status, job.finished_at = "cancelled", int(time.time())
    elif action == "pause":
        job.status = "paused"
    else:
        job.status, entry.plan.alone = "queued", 0
    job.estimated_finish = None
    change.save(entry)
    text = {"cancel": "cancelled", "pause": "paused", "resume": "resumed"}[action]
    change.add_event(job_id, f"{action} {number}", f"Fine-tuning job {text}")
    return job.model_dump_json()


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


def _file(id_: str, fields: dict[str, str], filename: str, size: int) -> File:
    """The object of an upload; ApiError where the form's fields are wrong."""
    purpose = fields.get("purpose")
    if purpose is None:
        raise ApiError(400, "Missing required parameter: 'purpose'.", param="purpose")
    if purpose not in PURPOSES:
        raise ApiError(400, f"'{purpose[:64]}' is not one of {list(PURPOSES)} - 'purpose'", param="purpose")
    now = int(time.time())
    seconds = fields.get("expires_after[seconds]")
    if fields.get("expires_after[anchor]", "created_at") != "created_at":
        raise ApiError(400, "expires_after[anchor] can only be 'created_at'.", param="expires_after[anchor]")
    if seconds is not None and not (seconds.isascii() and seconds.isdigit() and 3600 <= int(seconds[:9]) <= 2_592_000):
        message = "expires_after[seconds] must be a number from 3600 to 2592000."
        raise ApiError(400, message, param="expires_after[seconds]")
    lives = int(seconds) if seconds else 2_592_000 if purpose == "batch" else None
    expires_at = now + lives if lives else None
    return File(
        id=id_, purpose=purpose, filename=filename, bytes=size, created_at=now, expires_at=expires_at
    )  # fmt: skip


def _add_file(store: Store, file: File, sha256: str, retried: bool) -> str | None:
    """None, or the JSON of the file that this very request has uploaded before."""
    with store.change() as change:
        earlier = change.same_file(file, sha256, file.created_at - RETRY_WINDOW) if retried else None
        if earlier is None:
            change.add_file(file, sha256)
    return earlier


def _metadata_filter(request: Request) -> list[tuple[str, Any]]:
    """metadata[k]=v for each pair; metadata=null for jobs without any."""
    where: list[tuple[str, Any]] = []
    for name, value in request.query_params.multi_items():
        if name == "metadata" and value == "null":
            where.append(("json_type(object, '$.metadata') = ?", "null"))
        elif name.startswith("metadata[") and name.endswith("]"):
            pairs = "json_each(object, '$.metadata') AS pair WHERE pair.key = ? AND pair.value = ?"
            where.append((f"EXISTS (SELECT 1 FROM {pairs})", (name[len("metadata[") : -1], value)))
    return where


def _list(
    store: Store,
    table: str,
    where: list[tuple[str, Any]],
    after: str | None,
    limit: int,
    *,
    oldest_first: bool = False,
    ends: bool = False,
) -> Response:
    """The list envelope; `ends`: with first_id and last_id."""
    try:
        page = store.page(table, where, after=after, limit=limit, oldest_first=oldest_first)
    except NoSuchCursorError:
        raise ApiError(400, f"No object with the id '{after}' in this list: 'after'.", param="after") from None
    more = f',"has_more":{"true" if page.has_more else "false"}'
    if ends:
        more += f',"first_id":{_id(page, 0)},"last_id":{_id(page, -1)}'
    return _json(f'{{"object":"list","data":[{",".join(page.objects)}]{more}}}')


def _id(page: Page, at: int) -> str:
    return json.dumps(json.loads(page.objects[at])["id"]) if page.objects else "null"


def _json(text: str) -> Response:
    return Response(text.encode(), media_type="application/json")


def _download(path: Path, file: File) -> Response:
    """The contents as they are, under the client's own name for them."""
    try:
        opened = path.open("rb")
    except FileNotFoundError:
        raise _no_file(file.id) from None
    plain = "".join(letter if letter.isascii() and letter not in '"\\' else "_" for letter in file.filename)
    disposition = f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(file.filename, safe='')}"

    def blocks() -> Iterable[bytes]:
        with opened:
            while block := opened.read(2**18):
                yield block

    headers = {"content-disposition": disposition, "content-length": str(file.bytes)}
    return StreamingResponse(blocks(), media_type="application/octet-stream", headers=headers)


def _read(kind: type[JobRequest], raw: bytes) -> JobRequest:
    """The request of a JSON body; ApiError 400 that names the field."""
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
    first, param = errors[0], _param(errors[0]["loc"])
    said = [f"{e['msg'][0].lower()}{e['msg'][1:]}" for e in errors if _param(e["loc"]) == param]
    if first["type"] == "json_invalid":
        raise ApiError(400, "We could not parse the JSON body of your request.")
    if first["type"] == "extra_forbidden":
        raise ApiError(400, f"Unrecognized request argument supplied: {param}", param=param)
    if first["type"] == "missing":
        raise ApiError(400, f"Missing required parameter: '{param}'.", param=param)
    if param == "suffix":
        raise ApiError(400, "suffix: 1 to 64 letters a-z, A-Z, digits, `_` and `-`.", param=param)
    raise ApiError(400, f"Invalid {repr(param) if param else 'request'}: {', or '.join(said)}.", param=param)


def _param(at: tuple[int | str, ...]) -> str | None:
    """The field's name; pydantic adds the branch of a union to the place."""
    return ".".join(str(part) for part in at if not str(part).startswith(("literal[", "constrained-"))) or None


def _retries(request: Request) -> int:
    count = request.headers.get("x-stainless-retry-count", "0")
    return int(count) if count.isascii() and count.isdigit() and len(count) < 9 else 0


def _change(store: Store, what: Callable[[Change], T]) -> T:
    with store.change() as change:
        return what(change)


def _found(text: str | None, otherwise: ApiError) -> str:
    if text is None:
        raise otherwise
    return text


def _no_file(id_: str) -> ApiError:
    return ApiError(404, f"No such File object: {id_}", param="id")


def _no_job(id_: str) -> ApiError:
    return ApiError(404, f"Could not find fine tune: {id_}", param="fine_tune_id", code="fine_tune_not_found")


def _body(kind: type[JobRequest]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": kind.model_json_schema()}}}}


UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["purpose", "file"],
                    "properties": {
                        "purpose": {"type": "string", "enum": list(PURPOSES)},
                        "file": {"type": "string", "format": "binary", "maxLength": LARGEST},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2_592_000},
                    },
                }
            }
        },
    }
}
CONTENT: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
}
