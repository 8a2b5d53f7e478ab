"""The routes of fine-tuning jobs."""

import asyncio
import time
from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response

from train.jobs import wire
from train.jobs.bases import Catalogue
from train.jobs.change import Change
from train.jobs.create_job import create_job
from train.jobs.route_helpers import After, as_json, changed, found, is_retry, listed, read_request
from train.jobs.store import Store
from train.jobs.wire import JobRequest
from train.serving.api_errors import ApiError
from train.serving.routes import read_body

Action = Literal["cancel", "pause", "resume"]


def job_routes(routes: APIRouter, store: Store, catalogue: Catalogue, wake: Callable[[], None]) -> None:
    """Create, list, retrieve, cancel, pause, resume, events, checkpoints. `wake`: there is news for the worker."""

    @routes.post("/fine_tuning/jobs", response_model=wire.Job, openapi_extra=_body(JobRequest))
    async def create(request: Request) -> Response:
        raw = await read_body(request)
        asked = read_request(JobRequest, raw)
        key = request.headers.get("idempotency-key")
        text = await asyncio.to_thread(create_job, store, catalogue, asked, raw, key=key, retried=is_retry(request))
        wake()
        return as_json(text)

    @routes.get("/fine_tuning/jobs", response_model=wire.Jobs)
    async def jobs(request: Request, after: After = None, limit: Annotated[int, Query(ge=1, le=1000)] = 20) -> Response:
        return listed(store, "jobs", _metadata_filter(request), after, limit)

    @routes.get("/fine_tuning/jobs/{job_id}", response_model=wire.Job)
    async def job(job_id: str) -> Response:
        return as_json(found(store.text("jobs", job_id), _no_job(job_id)))

    async def act(job_id: str, action: Action) -> Response:
        found(store.text("jobs", job_id), _no_job(job_id))
        text = await asyncio.to_thread(changed, store, lambda change: _act(change, job_id, action))
        wake()
        return as_json(text)

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
        found(store.text("jobs", job_id), _no_job(job_id))
        return listed(store, "events", [("job = ?", job_id)], after, limit)

    @routes.get("/fine_tuning/jobs/{job_id}/checkpoints", response_model=wire.Checkpoints)
    async def checkpoints(
        job_id: str, after: After = None, limit: Annotated[int, Query(ge=1, le=1000)] = 10
    ) -> Response:
        found(store.text("jobs", job_id), _no_job(job_id))
        return listed(store, "checkpoints", [("job = ?", job_id)], after, limit, ends=True)


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


def _no_job(id_: str) -> ApiError:
    return ApiError(404, f"Could not find fine tune: {id_}", param="fine_tune_id", code="fine_tune_not_found")


def _body(kind: type[JobRequest]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": kind.model_json_schema()}}}}
