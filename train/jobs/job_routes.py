"""The routes of fine-tuning jobs and of models: what was fine-tuned, and the bases."""

import asyncio
import time
from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response

from train.jobs import wire
from train.jobs.bases import Base, Catalogue
from train.jobs.change import Change
from train.jobs.create_job import create_job
from train.jobs.route_helpers import (
    After,
    apply_change,
    is_retry,
    json_response,
    list_response,
    request_body,
    require_found,
)
from train.jobs.store import Store
from train.jobs.wire import JobRequest
from train.serving.answering import read_body
from train.serving.api_errors import ApiError, model_not_found, read_request

Action = Literal["cancel", "pause", "resume"]
MAX_JOB_BYTES = 2**18
"""Most bytes that the request for a job may have."""


def add_job_routes(routes: APIRouter, store: Store, catalogue: Catalogue, wake: Callable[[], None]) -> None:
    """Add the routes of jobs, with their events and checkpoints. `wake` tells the worker that there is news."""

    @routes.post("/fine_tuning/jobs", response_model=wire.Job, openapi_extra=request_body(JobRequest))
    async def create(request: Request) -> Response:
        raw = await read_body(request, MAX_JOB_BYTES)
        job_request = await asyncio.to_thread(read_request, JobRequest, raw)
        key = request.headers.get("idempotency-key")
        if key is not None and len(key) > 255:
            raise ApiError(400, "An Idempotency-Key has at most 255 characters.", param="idempotency-key")
        retried = is_retry(request)
        text = await asyncio.to_thread(create_job, store, catalogue, job_request, raw, key=key, retried=retried)
        wake()
        return json_response(text)

    @routes.get("/fine_tuning/jobs", response_model=wire.Jobs)
    async def jobs(request: Request, after: After = None, limit: Annotated[int, Query(ge=1, le=1000)] = 20) -> Response:
        return list_response(store, "jobs", _metadata_filter(request), after, limit)

    @routes.get("/fine_tuning/jobs/{job_id}", response_model=wire.Job)
    async def job(job_id: str) -> Response:
        return json_response(require_found(store.object_json("jobs", job_id), _no_job(job_id)))

    async def act(job_id: str, action: Action) -> Response:
        require_found(store.object_json("jobs", job_id), _no_job(job_id))
        text = await asyncio.to_thread(apply_change, store, lambda change: _act(change, job_id, action))
        wake()
        return json_response(text)

    @routes.post("/fine_tuning/jobs/{job_id}/cancel", response_model=wire.Job)
    async def cancel(job_id: str) -> Response:
        return await act(job_id, "cancel")

    @routes.post("/fine_tuning/jobs/{job_id}/pause", response_model=wire.Job)
    async def pause(job_id: str) -> Response:
        return await act(job_id, "pause")

    @routes.post("/fine_tuning/jobs/{job_id}/resume", response_model=wire.Job)
    async def resume(job_id: str) -> Response:
        return await act(job_id, "resume")

    @routes.get("/fine_tuning/jobs/{job_id}/events", response_model=wire.Events)
    async def events(job_id: str, after: After = None, limit: Annotated[int, Query(ge=1, le=1000)] = 20) -> Response:
        require_found(store.object_json("jobs", job_id), _no_job(job_id))
        return list_response(store, "events", [("job = ?", job_id)], after, limit)

    @routes.get("/fine_tuning/jobs/{job_id}/checkpoints", response_model=wire.Checkpoints)
    async def checkpoints(
        job_id: str, after: After = None, limit: Annotated[int, Query(ge=1, le=1000)] = 10
    ) -> Response:
        require_found(store.object_json("jobs", job_id), _no_job(job_id))
        return list_response(store, "checkpoints", [("job = ?", job_id)], after, limit, with_ids=True)


def add_model_routes(
    routes: APIRouter, store: Store, catalogue: Catalogue, system_message: Callable[[str], str | None]
) -> None:
    """Add the routes of models: list, retrieve, delete.

    `system_message`: what a conversation with a job's model gets that brings none. Listed is what can be chatted with
    now; a base that is not on this machine yet can be named by a job, which fetches it.
    """
    started = int(time.time())

    def tuned(text: str, job: str) -> str:
        model = wire.ModelObject.model_validate_json(text)
        model.metadata = wire.ModelMetadata(system_message=system_message(job))
        return model.model_dump_json()

    def base(found: Base, name: str, why_not_tuned: str | None = None) -> str:
        metadata = wire.ModelMetadata(system_message=None, cannot_be_tuned=why_not_tuned)
        owner = "catalogue" if name == found.name else f"catalogue: {found.name}"
        return wire.ModelObject(id=name, created=started, owned_by=owner, metadata=metadata).model_dump_json()

    @routes.get("/models", response_model=wire.Models)
    async def models() -> Response:
        listed = [
            *(tuned(text, job) for text, job in store.all_models()),
            *(base(catalogue.bases[name], name) for name in catalogue.here()),
        ]
        return json_response(f'{{"object":"list","data":[{",".join(listed)}]}}')

    @routes.get("/models/{model:path}", response_model=wire.ModelObject)
    async def model(model: str) -> Response:
        text = store.object_json("models", model)
        if text is None and (found := catalogue.find(model)) is not None:  # aliases are not listed, but known
            why = await asyncio.to_thread(catalogue.why_not_here, model)
            if why is not None and model not in catalogue.here():  # those are listed, since they answer
                raise ApiError(404, why, param="model", code="model_not_found")
            return json_response(base(found, model, why))
        origin = store.model_origin(model)
        text = require_found(text, model_not_found(model))
        return json_response(tuned(text, origin.job) if origin else text)

    @routes.delete("/models/{model:path}", response_model=wire.Deleted)
    async def delete_model(model: str) -> Response:
        if model in catalogue.bases:
            raise ApiError(403, f"{model} is a base of the server's catalogue: only fine-tuned models can be deleted.")
        deleted = await asyncio.to_thread(apply_change, store, lambda change: change.delete_model(model))
        if deleted is None:
            raise model_not_found(model)
        job, step, last = deleted
        if last:
            store.forget_run(job)
        elif step is not None:
            store.discard(store.checkpoint_run(job, step))
        return json_response(wire.Deleted(id=model, object="model").model_dump_json())


def _act(change: Change, job_id: str, action: Action) -> str:
    """Cancel, pause or resume a job; its JSON then. The worker brings the processes into line within seconds."""
    entry = change.entry(job_id)
    assert entry is not None
    job = entry.job
    allowed = {"cancel": ("validating_files", "queued", "running", "paused"), "pause": ("queued", "running")}
    participles = {"cancel": "cancelled", "pause": "paused", "resume": "resumed"}
    if job.status not in allowed.get(action, ("paused",)):
        reason = f"Job {job_id} has status '{job.status}' and cannot be {participles[action]}."
        raise ApiError(400, reason, param="fine_tuning_job_id")
    number = change.count_events(job_id, action) + 1
    if action == "cancel":
        job.status, job.finished_at = "cancelled", max(int(time.time()), job.created_at)
    elif action == "pause":
        job.status = "paused"
    else:
        job.status, entry.state.deaths_in_a_row = "queued", 0
    job.estimated_finish = None
    change.save(entry)
    change.add_event(job_id, f"{action} {number}", f"Fine-tuning job {participles[action]}")
    return job.model_dump_json()


def _metadata_filter(request: Request) -> list[tuple[str, Any]]:
    """The conditions of a query's metadata[k]=v, one for each pair; metadata=null means jobs without metadata."""
    where: list[tuple[str, Any]] = []
    for name, value in request.query_params.multi_items():
        if name == "metadata" and value == "null":
            where = [("json_type(object, '$.metadata') = ?", "null")]
        elif name.startswith("metadata[") and name.endswith("]"):
            if len(where) == 16 or len(name) > len("metadata[]") + 64 or len(value) > 512:
                message = "A filter has at most 16 pairs, with keys of 64 and values of 512 characters: 'metadata'."
                raise ApiError(400, message, param="metadata")
            pairs = "json_each(object, '$.metadata') AS pair WHERE pair.key = ? AND pair.value = ?"
            where.append((f"EXISTS (SELECT 1 FROM {pairs})", (name[len("metadata[") : -1], value)))
    return where


def _no_job(id_: str) -> ApiError:
    return ApiError(404, f"Could not find fine tune: {id_}", param="fine_tune_id", code="fine_tune_not_found")
