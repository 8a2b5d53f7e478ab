"""OpenAI's error envelope: {"error": {"message", "type", "param", "code"}}, on every answer that is none."""

from uuid import uuid4

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class ApiError(Exception):
    """What a client did wrong, or what we cannot do for it now."""

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
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, headers=self.headers)


def model_not_found(model_id: str) -> ApiError:
    message = f"The model `{model_id}` does not exist or you do not have access to it."
    return ApiError(404, message, param="model", code="model_not_found")


def not_ready(seconds: int = 5) -> ApiError:
    """The engine starts, restarts or has given its memory to a job: the SDKs ask again after that time."""
    message = "The model is being loaded. Ask again in a moment."
    return ApiError(503, message, code="model_not_ready", headers={"retry-after": str(seconds)})


def envelope_errors(app: FastAPI) -> None:
    """Every error of the app in the envelope, and x-request-id on every answer."""

    @app.exception_handler(ApiError)
    async def own(_: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        at = ".".join(str(part) for part in first["loc"][1:])
        return ApiError(400, f"{at}: {first['msg']}" if at else str(first["msg"]), param=at or None).response()

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        what = f"{request.method} {request.url.path}"
        known = {404: f"Unknown request URL: {what}.", 405: f"Method not allowed: {what}."}
        headers = dict(error.headers or {})
        return ApiError(error.status_code, known.get(error.status_code, error.detail), headers=headers).response()

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, error: ClientDisconnect) -> Response:  # nobody reads it
        return Response(status_code=499)

    @app.exception_handler(Exception)
    async def ours(_: Request, error: Exception) -> Response:  # its traceback is on stderr, not for the client
        return ApiError(500, "The server had an error while processing your request.").response()

    app.add_middleware(RequestId)


class RequestId:
    """x-request-id on every answer: the SDKs show it with an error."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = f"req_{uuid4().hex}"
            await send(message)

        await self.app(scope, receive, send_with_id if scope["type"] == "http" else send)
