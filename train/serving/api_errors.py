"""OpenAI's error envelope, {"error": {"message", "type", "param", "code"}}: every response of 400 and above has it."""

import asyncio
import json
import math
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeVar
from uuid import uuid4

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, BaseModel, ValidationError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

RequestT = TypeVar("RequestT", bound=BaseModel)


class ApiError(Exception):
    """What a client did wrong, or what we cannot do for it now, as one error response."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.headers = headers or {}

    def body(self) -> dict[str, dict[str, str | None]]:
        """The envelope."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The envelope with its status and headers."""
        return JSONResponse(self.body(), self.status, headers=self.headers)


@contextmanager
def errors_renamed(names: Mapping[str, str]) -> Iterator[None]:
    """Have the errors of a request that was translated name the fields that the client sent."""
    try:
        yield
    except ApiError as error:
        if error.param is None or error.param not in names:
            raise
        param = names[error.param]
        text = str(error).replace(f"'{error.param}'", f"'{param}'")
        raise ApiError(error.status, text, param=param, code=error.code, headers=error.headers) from None


def model_not_found(model_id: str) -> ApiError:
    """404 for a model that is not here."""
    message = f"The model `{model_id}` does not exist or you do not have access to it."
    return ApiError(404, message, param="model", code="model_not_found")


def not_ready(seconds: int = 5) -> ApiError:
    """503 while the engine starts or restarts: the SDKs ask again after so many seconds."""
    message = "The model is being loaded. Ask again in a moment."
    return ApiError(503, message, code="model_not_ready", headers={"retry-after": str(seconds)})


def unloaded() -> ApiError:
    """503 for an answer that did not end before its engine had to."""
    message = "The model was unloaded before its answer was whole: a training needs the card, or the server ends."
    return ApiError(503, message, code="model_unloaded", headers={"retry-after": "5"})


Location = tuple[int | str, ...]
UNUSUAL = re.compile(r"\\u[dD][89a-fA-F]|NaN|Infinity|[0-9.]{300}|[0-9][eE]\+?[0-9]{3}")
"""What a JSON body has somewhere that holds half an emoji or a number that is none; others need no second look."""
MOST_NESTED = 32


def read_request(kind: type[RequestT], raw: bytes) -> RequestT:
    """The request of a JSON body; ApiError 400 that names the field."""
    try:
        text = raw.decode("utf-8")
        tree = json.loads(text)
        found = next(_no_json(tree, ()), None) if UNUSUAL.search(text) else None
    except (ValueError, RecursionError):  # also what is no UTF-8, and digits beyond any use
        raise ApiError(400, "We could not parse the JSON body of your request: it is not valid JSON.") from None
    if found:
        param = _param(found[0])
        raise ApiError(400, f"Invalid '{param}': {found[1]}.", param=param, code="invalid_value")
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
    reason, location = errors[0]["type"], errors[0]["loc"]
    param = _param(location)
    if not location:
        raise ApiError(400, "The body of your request must be a JSON object.")
    if reason == "extra_forbidden":
        raise ApiError(400, f"Unrecognized request argument supplied: {param}", param=param)
    if reason == "missing":
        message = f"Missing required parameter: '{param}'."
        raise ApiError(400, message, param=param, code="missing_required_parameter")
    texts = [e["msg"].removeprefix("Value error, ") for e in errors if _param(e["loc"]) == param]
    messages = dict.fromkeys(f"{text[0].lower()}{text[1:]}" for text in texts)
    if reason == "string_pattern_mismatch":  # people are not shown a regular expression
        field = kind.model_fields.get(param)
        messages = {f"expected {field.description if field and field.description else 'another form'}": None}
    raise ApiError(400, f"Invalid '{param}': {', or '.join(messages)}.", param=param, code="invalid_value")


def without_nulls(kind: type[BaseModel], body: Any) -> Any:
    """A request's fields less those that are null, as clients write what they do not use; required ones stay."""
    if not isinstance(body, dict):
        return body
    required = {name for name, field in kind.model_fields.items() if field.is_required()}
    return {name: value for name, value in body.items() if value is not None or name in required}


def bounded_json(most: int) -> AfterValidator:
    """Annotation of a field whose JSON may have so many characters, and be nested MOST_NESTED deep."""

    def require_small(value: Any) -> Any:
        if not _nested_less(value, MOST_NESTED):
            raise ValueError(f"expected JSON nested at most {MOST_NESTED} deep")
        if len(json.dumps(value, ensure_ascii=False)) > most:
            raise ValueError(f"expected at most {most} characters of JSON")
        return value

    return AfterValidator(require_small)


def _nested_less(value: Any, depth: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth > 0 and all(_nested_less(one, depth - 1) for one in inner)


def _no_json(value: Any, at: Location) -> Iterator[tuple[Location, str]]:
    """(place, problem) of what Python's JSON reader takes and no JSON is: half an emoji, NaN, infinite numbers."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _no_json(key, at)
            yield from _no_json(inner, (*at, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _no_json(inner, (*at, index))
    elif isinstance(value, str):
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            yield at, "the text holds half a character (a lone surrogate, as cutting through an emoji leaves it)"
    elif isinstance(value, float) and not math.isfinite(value):
        yield at, "expected a finite number"


PARAM = re.compile(r"input\[\d+\]|messages\[\d+\]\.(?:tool_calls\[\d+\]|\w+)|[^\[]*")
"""The part of a field's path that an error names: a message's field or an item of the input, else what stands before
the first index."""


def _param(location: Location) -> str:
    """The field's path, as far as PARAM goes.

    pydantic adds the branch of a union to the location, as in ("stop", "list[str]", 0).
    """
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif not path or (
            part != "str" and not part.startswith(("literal[", "constrained-", "list[", "dict[", "[key]"))
        ):
            path += f".{part.encode(errors='replace').decode()}" if path else part.encode(errors="replace").decode()
    match = PARAM.match(path)
    return match[0] if match else path


def install_error_handlers(app: FastAPI) -> None:
    """Put every error of the app into the envelope, and x-request-id on every response."""

    @app.exception_handler(ApiError)
    async def api_error(_: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def validation_error(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"][1:])
        message = f"{param}: {first['msg']}" if param else str(first["msg"])
        return ApiError(400, message, param=param or None).response()

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        route = f"{request.method} {request.url.path}"
        messages = {404: f"Unknown request URL: {route}.", 405: f"Method not allowed: {route}."}
        message = messages.get(error.status_code, error.detail)
        return ApiError(error.status_code, message, headers=dict(error.headers or {})).response()

    @app.exception_handler(ClientDisconnect)
    async def disconnected(_: Request, error: ClientDisconnect) -> Response:  # nobody reads it
        return Response(status_code=499)

    app.add_middleware(Outermost)


DRAIN_SECONDS = 30
"""How long the rest of a refused request is read before it is answered."""


class Outermost:
    """Middleware around all others: x-request-id on every response, and no error without its response.

    The SDKs show the id with an error. Where a request is refused before its body has come, the rest of the body is
    read first: a connection that is closed while the client still sends is reset, and the client never sees the answer.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False
        # who waits for "100 Continue" sends no body that was not asked for
        ended = any(name == b"expect" for name, _ in scope["headers"])

        async def receive_on() -> Message:
            nonlocal ended
            message = await receive()
            ended = not message.get("more_body", False)
            return message

        async def drain() -> None:
            while not ended:
                await receive_on()

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)["x-request-id"] = f"req_{uuid4().hex}"
                if message["status"] >= 400:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(drain(), DRAIN_SECONDS)
            await send(message)

        try:
            await self.app(scope, receive_on, send_with_id)
        except Exception as error:
            if started:  # of an answer that breaks off the client must see that it is not whole
                raise
            if not isinstance(error, ClientDisconnect):
                traceback.print_exc(file=sys.stderr)  # ours to mend, not for the client
            failure = ApiError(500, "The server had an error while processing your request.")
            await failure.response()(scope, receive_on, send_with_id)
