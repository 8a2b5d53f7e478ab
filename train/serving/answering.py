"""How a chat request is answered: the model is found, its engine asked, and the answer comes as OpenAI's chunks."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeVar

import anyio
import httpx2
from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from train.chats.rows import Message
from train.core.errors import DataError, MachineError
from train.serving.api_errors import ApiError, not_ready
from train.serving.chat_request import ChatRequest, sampling_of
from train.serving.engine import EngineRefusedError
from train.serving.engine_api import Served
from train.serving.stream import THINK_START, Chunk, open_stream, openai_chunks, read_chunks

MAX_BODY_BYTES = 16 * 2**20
"""Most bytes that a request may have: far more text than any context holds."""
ANSWERING_PATHS = ("/v1/chat/completions", "/v1/responses", "/v1/responses/input_tokens", "/v1/completions")
"""Where a POST needs a model that is loaded."""
T = TypeVar("T")


class Answer(NamedTuple):
    """An answer that an engine has begun to write."""

    served: Served
    upstream: httpx2.Response
    """The engine's response; closing it ends the answer."""
    chunks: AsyncIterator[Chunk]


class Answering:
    """Has the models answer that `resolve` finds; it raises ApiError for the others."""

    def __init__(self, resolve: Callable[[str], Awaitable[Served]]) -> None:
        self.resolve = resolve
        self._client: httpx2.AsyncClient | None = None

    @asynccontextmanager
    async def lifespan(self, _: Any) -> AsyncIterator[None]:
        """Hold the connections to the engines open while the app runs."""
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=32)
        timeout = httpx2.Timeout(None, connect=10)  # an answer may take any time
        async with httpx2.AsyncClient(trust_env=False, limits=limits, timeout=timeout) as self._client:
            yield

    async def find(self, http: Request, model: str) -> Served:
        """The model of that name, loaded; once for each request of a client."""
        return await cancel_on_disconnect(http, self._found(model))

    async def _found(self, model: str) -> Served:  # an awaitable need not be a coroutine
        return await self.resolve(model)

    async def begin(self, http: Request, served: Served, request: ChatRequest) -> Answer:
        """The model's answer, once its engine begins to write it."""
        assert self._client is not None
        body, thinking = await cancel_on_disconnect(http, self._prepare(served, request))
        url = f"{served.engine.url}/v1/chat/completions"
        upstream = await cancel_on_disconnect(http, open_stream(self._client, url, served.engine.key, body))
        stops = [] if served.engine_api.strips_stop else request.stop_sequences()
        chunks = openai_chunks(read_chunks(upstream, served.engine), served.name, stops=stops, thinking=thinking)
        return Answer(served, upstream, chunks)

    async def _prepare(self, served: Served, request: ChatRequest) -> tuple[dict[str, Any], bool | None]:
        return await self._with_engine(engine_request, served, request)

    async def count(self, http: Request, request: ChatRequest) -> dict[str, Any]:
        """Tokens of the prompt as the model is fed it, see `count_prompt`."""
        served = await self.find(http, request.model)
        return await cancel_on_disconnect(http, self._with_engine(count_prompt, served, request))

    async def _with_engine(self, work: Callable[[Served, ChatRequest], T], served: Served, request: ChatRequest) -> T:
        if served.engine.state != "ready":
            raise not_ready()
        try:
            return await asyncio.to_thread(work, served, request)
        except MachineError:  # the engine has just died
            raise not_ready() from None


async def finish(http: Request, answer: Answer, work: Coroutine[Any, Any, T]) -> T:
    """The result of the work, which reads the whole answer; the engine stops when the client hangs up."""
    try:
        return await cancel_on_disconnect(http, work)
    finally:
        await answer.upstream.aclose()


def engine_request(served: Served, request: ChatRequest) -> tuple[dict[str, Any], bool | None]:
    """The body of the engine's request, and whether its prompt opens a thought (None: not known).

    ApiError where it cannot be answered. Tokenizes the prompt, so not for the event loop.
    """
    messages, prompt = prompt_of(served, request)
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
    thinking = served.tokenizer.decode(prompt[-8:]).rstrip().endswith(THINK_START)
    if thinking and (request.response_format or {}).get("type", "text") != "text":
        text = "The model thinks before it answers, and a thought cannot be held to JSON: leave 'response_format' out."
        raise ApiError(400, text, param="response_format", code="unsupported_parameter")
    return body, thinking or None


def prompt_of(served: Served, request: ChatRequest) -> tuple[list[Message], list[int]]:
    """(messages, token ids) that the model is fed; ApiError where its template refuses them. Tokenizes the prompt."""
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
    return messages, prompt


def count_prompt(served: Served, request: ChatRequest) -> dict[str, Any]:
    """OpenAI's response.input_tokens, and beside it what the count is for: the context, and the longest answer.

    Tokenizes the prompt, and may ask the engine, so not for the event loop.
    """
    return {
        "object": "response.input_tokens",
        "input_tokens": len(prompt_of(served, request)[1]),
        "context_length": served.engine_api.context(served),
        "max_output_tokens": served.generation.max_new_tokens,
    }


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
