"""The thin app in front of the engines: names, keys, what may be asked, what is answered."""

import asyncio
import hmac
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
from train.serving.api_errors import ApiError, envelope_errors, model_not_found, not_ready
from train.serving.chat_request import ChatRequest, plain_messages, read_request, sampling_of
from train.serving.engine_api import Served
from train.serving.stream import OPEN, Chunk, as_events, as_openai, open_stream, read_chunks, whole

LONGEST_BODY = 16 * 2**20
"""Bytes of a request: far more text than any context holds."""
T = TypeVar("T")


def make_app(served: Iterable[Served], key: str | None) -> FastAPI:
    """The app of `govor serve`. `key`: what clients must show; None: nothing."""
    by_name = {one.name: one for one in served}

    async def resolve(model_id: str) -> Served:
        if model_id not in by_name:
            raise model_not_found(model_id)
        return by_name[model_id]

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(chat_routes(resolve))
    app.include_router(model_routes(by_name.values))
    require_key(app, key)
    envelope_errors(app)

    @app.get("/health")
    async def health() -> Response:
        states = {one.name: one.engine.state for one in by_name.values()}
        return JSONResponse(states, 200 if set(states.values()) == {"ready"} else 503)

    return app


def require_key(app: FastAPI, key: str | None) -> None:
    """Answer 401 to whatever comes without `Authorization: Bearer KEY`, but for /health."""
    if key is None:
        return
    expected = f"Bearer {key}".encode()

    class Keyed:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            given = dict(scope.get("headers", ())).get(b"authorization", b"")
            if scope["type"] != "http" or scope["path"] == "/health" or hmac.compare_digest(given, expected):
                await self.app(scope, receive, send)
                return
            message = "Incorrect API key provided." if given else "You didn't provide an API key."
            error = ApiError(401, f"{message} Send it as Authorization: Bearer KEY.", code="invalid_api_key")
            await error.response()(scope, receive, send)

    app.add_middleware(Keyed)


def model_routes(served: Callable[[], Iterable[Served]]) -> APIRouter:
    """GET /v1/models and /v1/models/{id}."""
    routes = APIRouter()

    def shown(one: Served) -> dict[str, Any]:
        return {"id": one.name, "object": "model", "created": one.created, "owned_by": "govor"}

    @routes.get("/v1/models")
    async def models() -> Any:
        return {"object": "list", "data": [shown(one) for one in served()]}

    @routes.get("/v1/models/{model_id:path}")
    async def model(model_id: str) -> Any:
        for one in served():
            if one.name == model_id:
                return shown(one)
        raise model_not_found(model_id)

    return routes


def chat_routes(resolve: Callable[[str], Awaitable[Served]]) -> APIRouter:
    """POST /v1/chat/completions for the models that `resolve` finds; it raises ApiError for the others."""
    clients: list[httpx2.AsyncClient] = []

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=32)
        timeout = httpx2.Timeout(None, connect=10)  # an answer takes the time that it takes
        async with httpx2.AsyncClient(trust_env=False, limits=limits, timeout=timeout) as client:
            clients.append(client)
            yield
            clients.clear()

    routes = APIRouter(lifespan=lifespan)

    @routes.post("/v1/chat/completions")
    async def chat(http: Request) -> Response:
        request = read_request(await read_body(http))
        served = await resolve(request.model)
        if served.engine.state != "ready":
            raise not_ready()
        try:
            body, thinking = await asyncio.to_thread(translate, served, request)
        except MachineError:  # the engine has just died
            raise not_ready() from None
        url = f"{served.engine.url}/v1/chat/completions"
        upstream = await unless_gone(http, open_stream(clients[0], url, served.engine.key, body))
        stops = [] if served.dialect.cuts_stop else request.stops()
        chunks = as_openai(read_chunks(upstream), served.name, stops=stops, thinking=thinking)
        if request.stream:
            usage = bool(request.stream_options and request.stream_options.include_usage)
            return Events(as_events(chunks, usage=usage), upstream)
        try:
            return JSONResponse(await unless_gone(http, whole(chunks)))
        finally:
            await upstream.aclose()

    return routes


def translate(served: Served, request: ChatRequest) -> tuple[Chunk, bool | None]:
    """The request in the engine's words, and whether its prompt opens a thought; ApiError where it cannot be answered.

    Takes the time of tokenizing the prompt.
    """
    messages = plain_messages(request.messages)
    tools = None if request.tool_choice == "none" else request.tools or None
    try:
        prompt = served.prompt(messages, tools)
    except DataError as error:
        raise ApiError(400, str(error), param="messages") from None
    context = served.dialect.context(served)
    if len(prompt) >= context:
        message = (
            f"This model's maximum context length is {context} tokens. However, your messages resulted in "
            f"{len(prompt)} tokens. Please reduce the length of the messages."
        )
        raise ApiError(400, message, param="messages", code="context_length_exceeded")
    sampling = sampling_of(request, served.generation, context - len(prompt))
    body = served.dialect.body(served.model, request, sampling, served.stop)
    body |= {"messages": messages, "stream": True}
    if served.thoughts_apart:
        return body, False
    return body, True if served.tokenizer.decode(prompt[-8:]).rstrip().endswith(OPEN) else None


async def read_body(http: Request) -> bytes:
    body = bytearray()
    async for part in http.stream():
        body += part
        if len(body) > LONGEST_BODY:
            raise ApiError(413, f"The request is larger than {LONGEST_BODY // 2**20} MiB.")
    return bytes(body)


async def unless_gone(http: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of the work; it is cancelled when the client hangs up."""

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


class Events(StreamingResponse):
    """Server-sent events. The engine's response is closed with them: it stops when the client is gone."""

    def __init__(self, events: AsyncIterator[str], upstream: httpx2.Response) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"cache-control": "no-cache"})
        self.upstream = upstream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                await self.upstream.aclose()
