"""The thin app in front of the engines: names, requests in, answers out."""

import asyncio
import math
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse

from train.serving.answering import Answering, EventStream, finish, read_body
from train.serving.api_errors import ApiError, install_error_handlers, model_not_found, not_ready, read_request
from train.serving.chat_request import ChatRequest
from train.serving.completions import add_completion_route
from train.serving.engine_api import EngineApi, Served
from train.serving.guard import Access, guard
from train.serving.response_store import ResponseStore
from train.serving.responses import add_response_routes
from train.serving.stream import join_chunks, sse_events

ABSENT = {
    "/v1/embeddings": "makes no embeddings: it serves models that write text",
    "/v1/batches": "runs no batches: ask one by one, at /v1/chat/completions",
    "/v1/moderations": "judges no texts: it has no moderation model",
}
"""OpenAI's routes that clients may try → what this server does not do, as a phrase."""
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


WAIT_FOR_START = 10.0
"""Seconds that a question waits for an engine that is being started."""
USUAL_START = 20.0
"""Seconds that they may take, as a guess."""


class Start:
    """The start of a server, which listens before its models may answer."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._over = threading.Event()

    def end(self) -> None:
        """Let the models answer."""
        self._over.set()

    @property
    def is_over(self) -> bool:
        return self._over.is_set()

    async def wait(self) -> None:
        """Return when the models may answer; ApiError 503 where that takes longer than WAIT_FOR_START."""
        until = time.monotonic() + WAIT_FOR_START
        while not self.is_over:
            if time.monotonic() > until:
                elapsed = time.monotonic() - self._began
                raise not_ready(min(120, math.ceil(max(USUAL_START - elapsed, elapsed / 2, 1))))
            await asyncio.sleep(0.1)


def make_app(served: Iterable[Served], access: Access, start: Start | None = None) -> FastAPI:
    """The app of `govor serve`; who asks before the end of `start` waits a little and then gets 503."""
    by_name = {model.name: model for model in served}

    async def resolve(model_id: str) -> Served:
        if model_id not in by_name:
            raise model_not_found(model_id)
        if start is not None:
            await start.wait()
        served, until = by_name[model_id], time.monotonic() + WAIT_FOR_START
        while served.engine.state == "starting" and time.monotonic() < until:  # it has died and comes up again
            await asyncio.sleep(0.1)
        return served

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(chat_routes(resolve, ResponseStore(None)))
    app.include_router(model_routes(by_name.values))
    guard(app, access)
    install_error_handlers(app)

    @app.get("/health")
    async def health() -> Response:
        models = {model.name: model.engine.state for model in by_name.values()}
        engines = engines_now({model.engine_api.title: model.engine_api for model in by_name.values()}.values())
        ready = (start is None or start.is_over) and set(models.values()) == {"ready"}
        content = {"status": "ok" if ready else "starting", "models": models, "engines": engines}
        return JSONResponse(content, 200 if ready else 503)

    return app


def engines_now(kinds: Iterable[type[EngineApi] | EngineApi]) -> dict[str, str]:
    """For /health: each engine's name and how many answers it writes at once."""
    return {kind.title: kind.at_once for kind in kinds}


def model_routes(served: Callable[[], Iterable[Served]]) -> APIRouter:
    """The routes GET /v1/models and /v1/models/{id}."""
    routes = APIRouter()

    def model_object(model: Served) -> dict[str, Any]:
        about = {"id": model.name, "object": "model", "created": model.created, "owned_by": "govor"}
        return {**about, "metadata": {"system_message": model.system}}

    @routes.get("/v1/models")
    async def models() -> Any:
        return {"object": "list", "data": [model_object(model) for model in served()]}

    @routes.get("/v1/models/{model_id:path}")
    async def retrieve(model_id: str) -> Any:
        for model in served():
            if model.name == model_id:
                return model_object(model)
        raise model_not_found(model_id)

    return routes


def chat_routes(resolve: Callable[[str], Awaitable[Served]], responses: ResponseStore) -> APIRouter:
    """The routes that ask for an answer, of the models that `resolve` finds; it raises ApiError for the others."""
    answering = Answering(resolve)
    routes = APIRouter(lifespan=answering.lifespan)

    @routes.post("/v1/chat/completions")
    async def chat(http: Request) -> Response:
        request = await asyncio.to_thread(read_request, ChatRequest, await read_body(http))
        served = await answering.find(http, request.model)
        answer = await answering.begin(http, served, request)
        if request.stream:
            usage = bool(request.stream_options and request.stream_options.include_usage)
            return EventStream(sse_events(answer.chunks, usage=usage), answer.upstream)
        return JSONResponse(await finish(http, answer, join_chunks(answer.chunks)))

    add_response_routes(routes, answering, responses)
    add_completion_route(routes, answering)
    for path, what in ABSENT.items():
        routes.add_api_route(path, _absent(what), methods=METHODS, include_in_schema=False)
        routes.add_api_route(f"{path}/{{rest:path}}", _absent(what), methods=METHODS, include_in_schema=False)
    return routes


def _absent(what: str) -> Callable[[], None]:
    def absent() -> None:
        raise ApiError(404, f"This server {what}.", code="not_available")

    return absent
