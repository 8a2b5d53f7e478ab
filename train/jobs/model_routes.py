"""The routes of models: what was fine-tuned, and the bases."""

import asyncio
import time
from collections.abc import Iterable

from fastapi import APIRouter, Response

from train.jobs import wire
from train.jobs.bases import Catalogue
from train.jobs.route_helpers import as_json, changed, found
from train.jobs.store import Store
from train.serving.api_errors import ApiError, model_not_found


def model_routes(routes: APIRouter, store: Store, catalogue: Catalogue) -> None:
    """List, retrieve, delete."""
    began = int(time.time())

    def bases() -> Iterable[str]:
        for name in catalogue.bases:
            yield wire.Model(id=name, created=began, owned_by="catalogue").model_dump_json()

    @routes.get("/models", response_model=wire.Models)
    async def models() -> Response:
        return as_json(f'{{"object":"list","data":[{",".join([*store.all_models(), *bases()])}]}}')

    @routes.get("/models/{model:path}", response_model=wire.Model)
    async def model(model: str) -> Response:
        base = next((text for name, text in zip(catalogue.bases, bases(), strict=True) if name == model), None)
        return as_json(found(store.text("models", model) or base, model_not_found(model)))

    @routes.delete("/models/{model:path}", response_model=wire.Deleted)
    async def delete_model(model: str) -> Response:
        if model in catalogue.bases:
            raise ApiError(403, f"{model} is a base of the server's catalogue: only fine-tuned models can be deleted.")
        deleted = await asyncio.to_thread(changed, store, lambda change: change.delete_model(model))
        if deleted is None:
            raise model_not_found(model)
        job, step, last = deleted
        if last:
            store.forget_run(job)
        elif step is not None:
            store.discard(store.checkpoint_run(job, step))
        return as_json(wire.Deleted(id=model, object="model").model_dump_json())
