"""The thin app in front of the engines: names, requests in, answers out."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio
import httpx2
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from train.core.errors import DataError, MachineError
from train.serving.api_errors import ApiError, install_error_handlers, model_not_found, not_ready, read_request
from train.serving.chat_request import ChatRequest, sampling_of
from train.serving.engine import EngineRefusedError
from train.serving.engine_api import EngineApi, Served
from train.serving.guard import Access, guard
from train.serving.stream import THINK_START, join_chunks, open_stream, openai_chunks, read_chunks, sse_events

MAX_BODY_BYTES = 16 * 2**20
"""Most bytes that a request may have: far more text than any context holds."""
T = TypeVar("T")


def make_app(served: Iterable[Served], access: Access) -> FastAPI:
    """The app of `govor serve`."""
    by_name = {model.name: model for model in served}

    async def resolve(model_id: str) -> Served:
        if model_id not in by_name:
            raise model_not_found(model_id)
        return by_name[model_id]

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(chat_routes(resolve))
    app.include_router(model_routes(by_name.values))
    guard(app, access)
    install_error_handlers(app)

    @app.get("/health")
    async def health() -> Response:
        models = {model.name: model.engine.state for model in by_name.values()}
        engines = engines_now({model.engine_api.title: model.engine_api for model in by_name.values()}.values())
        ready = set(models.values()) == {"ready"}
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


def chat_routes(resolve: Callable[[str], Awaitable[Served]]) -> APIRouter:
    """The route POST /v1/chat/completions for the models that `resolve` finds; it raises ApiError for the others."""
    clients: list[httpx2.AsyncClient] = []

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=32)
        timeout = httpx2.Timeout(None, connect=10)  # an answer may take any time
        async with httpx2.AsyncClient(trust_env=False, limits=limits, timeout=timeout) as client:
            clients.append(client)
            yield
            clients.clear()

    routes = APIRouter(lifespan=lifespan)

    async def prepare(request: ChatRequest) -> tuple[Served, dict[str, Any], bool | None]:
        """The model, loaded, with what `engine_request` makes for its engine."""
        served = await resolve(request.model)
        if served.engine.state != "ready":
            raise not_ready()
        try:
            return served, *await asyncio.to_thread(engine_request, served, request)
        except MachineError:  # the engine has just died
            raise not_ready() from None

    @routes.post("/v1/chat/completions")
    async def chat(http: Request) -> Response:
        request = await asyncio.to_thread(read_request, ChatRequest, await read_body(http))
        served, body, thinking = await cancel_on_disconnect(http, prepare(request))
        url = f"{served.engine.url}/v1/chat/completions"
        upstream = await cancel_on_disconnect(http, open_stream(clients[0], url, served.engine.key, body))
        stops = [] if served.engine_api.strips_stop else request.stop_sequences()
        chunks = openai_chunks(read_chunks(upstream, served.engine), served.name, stops=stops, thinking=thinking)
        if request.stream:
            usage = bool(request.stream_options and request.stream_options.include_usage)
            return EventStream(sse_events(chunks, usage=usage), upstream)
        try:
            return JSONResponse(await cancel_on_disconnect(http, join_chunks(chunks)))
        finally:
            await upstream.aclose()

    return routes


def engine_request(served: Served, request: ChatRequest) -> tuple[dict[str, Any], bool | None]:
    """The body of the engine's request, and whether its prompt opens a thought (None: not known).

    ApiError where it cannot be answered. Tokenizes the prompt, so not for the event loop.
    """
    messages = served.conversation(request.plain_messages())
    tools = None if request.tool_choice == "none" else request.tools or None
    try:
        prompt = served.prompt(messages, tools)
    except DataError as error:
        raise ApiError(400, str(error), param="messages") from None
    if request.chat_template_kwargs:
        try:
            prompt = served.engine_api.prompt_ids(served, messages, tools, request.chat_template_kwargs)
        except EngineRefusedError:
            text = "The model's chat template refuses these chat_template_kwargs."
            raise ApiError(400, text, param="chat_template_kwargs") from None
    context = served.engine_api.context(served)
    if len(prompt) >= context:
        message = (
            f"This model's maximum context length is {context} tokens. However, your messages resulted in "
            f"{len(prompt)} tokens. Please reduce the length of the messages."
        )
        raise ApiError(400, message, param="messages", code="context_length_exceeded")
    sampling = sampling_of(request, served.generation, context - len(prompt))
    body = served.engine_api.body(served.model, request, sampling, served.stop)
    body |= {"messages": messages, "stream": True}
    if served.splits_thoughts:
        return body, False
    return body, True if served.tokenizer.decode(prompt[-8:]).rstrip().endswith(THINK_START) else None


async def read_body(http: Request, most: int = MAX_BODY_BYTES) -> bytes:
    """The body of a request; ApiError where it has more than `most` bytes."""
    body = bytearray()
    async for part in http.stream():
        body += part
        if len(body) > most:
            raise ApiError(413, f"The request is larger than {most // 2**10} KiB.")
    return bytes(body)


async def cancel_on_disconnect(http: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of the work, which is cancelled when the client hangs up."""

    async def gone() -> None:
        while (await http.receive())["type"] != "http.disconnect":
            pass

    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


class EventStream(StreamingResponse):
    """Server-sent events. The engine's response is closed with them, so it stops when the client is gone."""

    def __init__(self, events: AsyncIterator[str], upstream: httpx2.Response) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"cache-control": "no-cache"})
        self.upstream = upstream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                await self.upstream.aclose()
